"""One model on one device: its prompts, noise, hops, guidance and sizes, which every edit asks for."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.family import FAMILIES
from icd_engine.bundles.styles import UsedStyle
from icd_engine.editing.words import PromptTokenizer, Tokens
from icd_engine.errors import (
    BundleError,
    ImageError,
    PromptError,
    SettingsError,
    shown,
)
from icd_engine.images import to_size
from icd_engine.processes import forked
from icd_engine.runners.contract import Prompts, Runner, Tensor
from icd_engine.sampling.guidance import dynamic_guidance
from icd_engine.sampling.noise import normal_noise
from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.settings import CHOICES, EditSettings, is_a

OUTPUT_TYPES = ("pil", "np", "pt", "latent")
MOST_SIDE = 4096  # pixels
MOST_ASPECT = 4.0  # width by height, either way: models have seen none beyond it
PUBLISHED_STEP = 64  # pixels: models of the published sizes were trained on multiples of it
PUBLISHED_SIZE = 256  # pixels, the least side of such a model's pictures
# Defaults for what a model folder's own settings leave open.
PLAIN_EDIT = EditSettings(
    guidance_scale=1.0,
    tau=1.0,
    tau_low=0.0,
    control="auto",
    cross_replace=0.0,
    self_replace=0.0,
    seed=0,
    anchor=1.0,
    keep_alpha=True,
    auto=False,
)


class Model:
    """The networks of one model folder behind a runner, and the numbers that come with them.

    encode_hops, decode_hops: one network call each, up to the noisiest time step and down from it.
    anchors: whether decoding jumps to boundaries that encoding has passed, so that it can be held to
    them. steps: time steps of the noise schedule, 1000 of Stable Diffusion. default_settings: the
    folder's, completed by PLAIN_EDIT. styles: those that are on. Nothing of an edit is kept here, so
    all methods may be called from several threads at once.
    """

    def __init__(self, bundle: Bundle, runner: Runner, tokenizer: PromptTokenizer):
        vae = bundle.config("vae")
        unet = bundle.config("unet")
        self.bundle = bundle
        self._runner = runner
        self._process = os.getpid()
        self.tokenizer = tokenizer
        self.styles: Sequence[UsedStyle] = ()
        self._plain = bundle.fingerprint
        self.size = bundle.size
        self.default_settings = bundle.defaults.resolve(PLAIN_EDIT)
        self.samples_posterior = bundle.samples_posterior
        self.guidance_embedded = bundle.guidance_embedded
        self._latent_channels: int = vae["latent_channels"]
        self._downscale = 2 ** (len(vae["block_out_channels"]) - 1)
        self._size_step = self._downscale * 2 ** (len(unet["block_out_channels"]) - 1)
        # Text encoders pad each with a token of its own; all else their tokenizers have in common.
        others = FAMILIES[bundle.family].tokenizers[1:]
        folders = (PromptTokenizer.from_folder(bundle.path / part) for part in others)
        self._paddings = [tokenizer.pad, *(other.pad for other in folders)]
        if tokenizer.vocabulary > bundle.config("text_encoder")["vocab_size"]:
            raise BundleError(
                f"{bundle.path}: tokenizer.json has token ids beyond the text encoder's vocab_size"
            )
        try:
            self.schedule = NoiseSchedule.from_config(bundle.config("scheduler"))
        except SettingsError as error:
            raise BundleError(f"scheduler_config.json: {error}") from None
        try:
            self.encode_hops = self.schedule.encode_hops(bundle.encode_times, bundle.encode_end)
            self.decode_hops = self.schedule.decode_hops(bundle.decode_times)
        except SettingsError as error:
            raise BundleError(f"{bundle.path}: {error}") from None
        self.steps = self.schedule.steps
        passed = {0, *(hop.s for hop in self.encode_hops)}
        self.anchors = all(hop.s in passed for hop in self.decode_hops)
        self._a = self.schedule.a(self.encode_hops[0].t)
        self._sigma = self.schedule.sigma(self.encode_hops[0].t)

    @property
    def runner(self) -> Runner:
        """What executes network calls. RunnerError in a process that was forked since: whether or
        not the model has been used, loading it may have started threads."""
        if os.getpid() != self._process:
            raise forked()
        return self._runner

    def fingerprint(self, added: tuple[str, ...] = ()) -> str:
        """What tells encodings apart: of this model, and of the styles that a prompt with these added
        tokens is encoded with. Those on the decode network alone do not count."""
        counted = [one.record for one in self.styles if one.changes_encoding(added)]
        return self.bundle.fingerprint_with(counted) if counted else self._plain

    def check_encoding(self, made_with: str, source: Tokens) -> None:
        """SettingsError unless pictures of this source prompt are encoded as they were then."""
        if made_with != self.fingerprint(source.added):
            raise SettingsError(
                "this inversion was made without the styles that are on, or with others: invert the "
                "picture again"
            )

    # --- sizes, (width, height) in pixels ---------------------------------------------------------

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(1, 4, h, w) of pictures of `size`."""
        height = size[1] // self._downscale
        return (1, self._latent_channels, height, size[0] // self._downscale)

    def checked_size(self, size: Any) -> tuple[int, int]:
        """A size that a user asks for. SettingsError unless the model can work at it."""
        step = self._size_step
        fits = isinstance(size, tuple | list) and len(size) == 2
        if not fits or not all(
            is_a(n, Integral) and 0 < n <= MOST_SIDE and n % step == 0 for n in size
        ):
            raise SettingsError(
                f"size must be (width, height) in multiples of {step} up to {MOST_SIDE}, not {shown(size)}"
            )
        return int(size[0]), int(size[1])

    def working_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """What the model works at for a picture of `size`: its own area, in about that aspect."""
        published = min(self.size) >= PUBLISHED_SIZE
        step = max(self._size_step, PUBLISHED_STEP) if published else self._size_step
        return fitted_size(size, self.size, step)

    # --- prompts ----------------------------------------------------------------------------------

    def source_tokens(self, source: str | None) -> Tokens:
        """Those of a source prompt; without one, or with that of an inversion without one, of the
        empty prompt, which the networks know: they are trained to leave prompts out."""
        name = "the source prompt"
        return self.tokens(source, name) if source is not None else self.tokenizer.encode("", name)

    def tokens(self, prompt: str, name: str = "the prompt") -> Tokens:
        """A prompt's tokens and words; name: what errors call it. PromptError if it is empty; one too
        long is cut, with a warning."""
        if isinstance(prompt, str):
            prompt = str(prompt)  # numpy's texts are no plain ones
            if not prompt.strip():
                raise PromptError(f"{name} is empty")
        return self.tokenizer.encode(prompt, name)

    def encode_prompts(self, tokens: Sequence[Tokens]) -> Prompts:
        """What the networks see of prompts, one row a prompt."""
        return self.runner.encode_prompts(
            [sum((one.padded(pad) for pad in self._paddings), ()) for one in tokens]
        )

    def empty_prompt(self) -> Prompts | None:
        """What guidance is measured against; None where guidance is embedded in the network."""
        return None if self.guidance_embedded else self.encode_prompts([self.tokenizer.encode("")])

    # --- settings and guidance --------------------------------------------------------------------

    def settle(self, given: EditSettings) -> EditSettings:
        """What an edit will use, but for its mask: the defaults filled in. SettingsError."""
        settings = given.resolve(self.default_settings)
        if given.auto is None and not given.chosen.isdisjoint(CHOICES):
            settings = settings.with_values({"auto": False})
        if settings.anchor and not self.anchors:
            warnings.warn(
                "this model decodes to boundaries that its encoding does not pass: edits are not "
                "anchored (anchor=0)",
                stacklevel=2,
            )
            settings = settings.with_values({"anchor": 0.0})
        if settings.detail is None:
            settings = settings.with_values({"detail": settings.anchor})
        return settings

    def guidance(self, settings: EditSettings) -> list[float]:
        """w(t) of every decode hop, from settled settings."""
        w = settings.guidance_scale
        tau = settings.tau
        tau_low = settings.tau_low
        assert w is not None and tau is not None and tau_low is not None  # PLAIN_EDIT has them all
        return [dynamic_guidance(hop.t, w, tau, tau_low, self.steps) for hop in self.decode_hops]

    def decode_calls(self, settings: EditSettings) -> int:
        """Network calls of one decoding: a model without embedded guidance predicts twice on guided
        hops."""
        guided = 0 if self.guidance_embedded else sum(w > 0 for w in self.guidance(settings))
        return len(self.decode_hops) + guided

    # --- noise ------------------------------------------------------------------------------------

    def noise(self, seeds: Sequence[int], size: tuple[int, int]) -> tuple[Tensor | None, Tensor]:
        """Draws for the VAE's posterior (None where its mean is taken) and for the first time step,
        [len(seeds), 4, h, w] each. The draws of a seed follow each other, as in the reference."""
        _, *shape = self.latent_shape(size)
        draws = [normal_noise(seed, (1 + self.samples_posterior, *shape)) for seed in seeds]
        posterior, start = (
            self.runner.tensor(np.stack([draw[k] for draw in draws])) for k in (0, -1)
        )
        return posterior if self.samples_posterior else None, start

    def vae_inputs(
        self, pictures: Sequence[Image.Image], seeds: Sequence[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Pictures as the VAE takes them at `size`, and their noise: see `noise`."""
        posterior, start = self.noise(seeds, size)
        pixels = np.concatenate([to_size(picture, size) for picture in pictures])
        return self.runner.tensor(pixels), posterior, start

    def vae_latents(
        self, pictures: Sequence[Image.Image], seeds: Sequence[int], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Latents of pictures [N, 4, h, w] as the VAE encodes them at `size`, and the noise for the
        first time step."""
        pixels, posterior, start = self.vae_inputs(pictures, seeds, size)
        return self.runner.to_latents(pixels, posterior), start

    def noised(self, latents: Tensor, noise: Tensor) -> Tensor:
        """A picture's latents at the first encode time step; t = 0 is the picture itself."""
        return latents if self.encode_hops[0].t == 0 else self._a * latents + self._sigma * noise

    def start(self, seeds: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Noise [len(seeds), 4, h, w] that pictures are generated from."""
        shape = self.latent_shape(size)
        return self.runner.tensor(np.concatenate([normal_noise(seed, shape) for seed in seeds]))


def fitted_size(picture: tuple[int, int], area: tuple[int, int], step: int) -> tuple[int, int]:
    """(width, height) in multiples of `step` with the aspect of `picture` and about the pixels of
    `area`.

    A picture of the aspect of `area` gets `area` itself. Aspects beyond 4:1 count as that: models
    have seen none, and the short side would be a few cells of their latents.
    """
    if picture[0] * area[1] == picture[1] * area[0]:
        return area
    aspect = min(max(picture[0] / picture[1], 1 / MOST_ASPECT), MOST_ASPECT)
    height = (area[0] * area[1] / aspect) ** 0.5
    width, height = (max(1, round(side / step)) * step for side in (aspect * height, height))
    return width, height


def as_pictures(runner: Runner, latents: Tensor, output_type: str) -> Any:
    """Latents [N, 4, h, w] as pictures: a list of PIL pictures, numpy [N, H, W, 3] or torch
    [N, 3, H, W] in [0, 1], or the latents themselves.

    ImageError where they hold NaN or infinite values.
    """
    if output_type == "latent":
        copy = runner.host(latents)
        if not np.isfinite(np.asarray(copy)).all():
            raise ImageError("the latents hold NaN or infinite values")
        return copy
    if output_type == "pil":
        pixels = np.asarray(runner.host(runner.to_pixels(latents)))
        return [Image.fromarray(picture) for picture in pixels]
    pictures = (runner.host(runner.to_image(latents)) / 2 + 0.5).clip(0, 1)
    if output_type == "pt":
        return runner.as_torch(pictures)
    return np.asarray(pictures).transpose(0, 2, 3, 1)


def check_output_type(output_type: Any, runner: Runner) -> None:
    """SettingsError unless it is one of OUTPUT_TYPES, and one the runner has: "pt" is torch's."""
    known = [name for name in OUTPUT_TYPES if name != "pt" or runner.gives_torch]
    if output_type not in known:
        raise SettingsError(
            f"output_type must be one of {', '.join(known)}, not {shown(output_type)}"
        )
