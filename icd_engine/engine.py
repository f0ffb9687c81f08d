"""The path of one edit: picture -> latents -> noise -> edited latents -> pictures; it alone knows
all parts."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from icd_engine.bundles.bundle import Bundle, read_bundle
from icd_engine.bundles.family import FAMILIES
from icd_engine.compositing import finish
from icd_engine.editing.plan import EditPlan, make_plan
from icd_engine.editing.words import PromptTokenizer, Tokens
from icd_engine.errors import (
    BundleError,
    OutOfMemoryError,
    PromptError,
    RunnerError,
    SettingsError,
    shown,
)
from icd_engine.images import fitted_size, load_image, load_mask, to_size
from icd_engine.placement import Placement
from icd_engine.reporting import Progress, reporting
from icd_engine.results import (
    EditRequest,
    EditResult,
    Inversion,
    as_pictures,
    check_output_type,
    read_inversion,
)
from icd_engine.rows import MOST_TARGETS, SourceBranches, blend, edit_steps, passes
from icd_engine.runners.contract import DecodeInputs, Prompts, Runner, StepCallback, Tensor
from icd_engine.sampling.guidance import dynamic_guidance
from icd_engine.sampling.noise import normal_noise
from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.settings import EditSettings
from icd_engine.shortage import is_short, within_memory
from icd_engine.stopwatch import Stopwatch

ENCODE_STAGES = ("text", "vae_encode", "encode")
Plans = list[tuple[Tokens, EditPlan]]  # one for each target


class _Checked(NamedTuple):
    """One request of an edit, read and found right."""

    picture: Image.Image  # at the size its edits come back in
    size: tuple[int, int]  # that the model works at
    source: str
    plans: Plans
    settings: EditSettings


class Engine:
    """One model on one device. All methods may be called from several threads at once."""

    def __init__(self, bundle: Bundle, runner: Runner, tokenizer: PromptTokenizer):
        self.bundle = bundle
        self.runner = runner
        self.tokenizer = tokenizer
        vae = bundle.config("vae")
        unet = bundle.config("unet")
        self._latent_channels: int = vae["latent_channels"]
        self._downscale = 2 ** (len(vae["block_out_channels"]) - 1)
        self._size_step = self._downscale * 2 ** (len(unet["block_out_channels"]) - 1)
        # Of each text encoder; what else a tokenizer does they have in common.
        others = FAMILIES[bundle.family].tokenizers[1:]
        self._paddings = [
            tokenizer.pad,
            *(PromptTokenizer.from_folder(bundle.path / part).pad for part in others),
        ]
        if tokenizer.vocabulary > bundle.config("text_encoder")["vocab_size"]:
            raise BundleError(
                f"{bundle.path}: tokenizer.json has token ids beyond the text encoder's vocab_size"
            )
        self._schedule = _schedule(bundle)
        try:
            self._encode_hops = self._schedule.encode_hops(bundle.encode_times, bundle.encode_end)
            self._decode_hops = self._schedule.decode_hops(bundle.decode_times)
        except SettingsError as error:
            raise BundleError(f"{bundle.path}: {error}") from None
        self._branches = SourceBranches()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path = "tiny",
        *,
        device: str = "auto",
        dtype: str = "auto",
        runner: str = "auto",
        weights: str = "fused",
        offload: bool = False,
        vae_tiling: bool | None = None,
    ) -> Engine:
        """Loads the embedded model "tiny" or a bundle folder.

        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1". dtype: "auto" (float32 on
        CPU, bfloat16 on CUDA), "float32", "float16", "bfloat16". runner: "eager", "compiled"
        (torch.compile), "graph" (CUDA graphs of compiled code) or "auto", which is "graph" on CUDA
        where it can be and "eager" elsewhere; `engine.runner.name` says which.

        Less memory: weights "switch" holds the encode network as the decode network's weights plus
        low-rank updates, which are added as each layer runs ("fused": two whole networks). offload:
        text encoders and VAE wait in host memory between uses; not with "graph", no effect on the
        CPU. vae_tiling: pictures pass the VAE in overlapping tiles of the size it was trained at,
        which changes them a little; None: those of more than four times its pixels.

        An exported folder runs by onnxruntime (runner "onnx") in the precision it was exported in,
        without torch; its tensors are numpy arrays. What is asked for by name and cannot run raises
        RunnerError; a missing or damaged bundle raises BundleError.
        """
        return cls.load(
            model,
            Placement(
                device=device,
                dtype=dtype,
                runner=runner,
                weights=weights,
                offload=offload,
                vae_tiling=vae_tiling,
            ),
        )

    @classmethod
    def load(cls, model: str | Path, placement: Placement) -> Engine:
        """`from_pretrained`, with its options in one piece."""
        bundle = read_bundle(model)
        tokenizer = PromptTokenizer.from_folder(bundle.path / "tokenizer")
        if bundle.exported is not None:
            from icd_engine.runners.onnx import load_onnx_runner as load_runner
        else:
            load_runner = _torch_loader()
        try:
            return cls(bundle, load_runner(bundle, placement), tokenizer)
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            raise OutOfMemoryError(
                f"out of memory while {bundle.path} was loaded: {error}"
            ) from None

    @property
    def fingerprint(self) -> str:
        """What tells this model from others: inversions made with one do not fit another."""
        about = [self.bundle.sha256, self.bundle.encode_times, self.bundle.encode_end]
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def default_settings(self) -> EditSettings:
        """The bundle's defaults, with every remaining field filled."""
        plain = EditSettings(
            guidance_scale=1.0,
            tau=1.0,
            tau_low=0.0,
            control="auto",
            cross_replace=0.0,
            self_replace=0.0,
            paste_back=False,
            seed=0,
        )
        return self.bundle.defaults.resolve(plain)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """(1, 4, h, w) of pictures of `size` = (width, height)."""
        return (1, self._latent_channels, size[1] // self._downscale, size[0] // self._downscale)

    def free_memory(self) -> None:
        """Lets go of all that is kept for reuse; later calls make it again.

        Done by itself where memory is short.
        """
        self._branches.clear()
        self.runner.free_memory()

    # --- one picture ------------------------------------------------------------------------------

    @within_memory
    def invert(
        self,
        image: Any,
        source: str,
        *,
        seed: int | None = None,
        size: tuple[int, int] | None = None,
        callback_on_step_end: StepCallback | None = None,
        progress: Progress | None = None,
    ) -> Inversion:
        """Encodes a picture with its source prompt to noise: the forward network, unguided.

        image: path, bytes, PIL picture, numpy array or torch tensor. size: (width, height) the
        picture is resized to, multiples of the model's step, and edits come back in. None: edits
        come back at the picture's own size, and the model works at its own area in about the
        picture's aspect. Raises ImageError, PromptError, SettingsError.
        """
        picture, size = self._picture(image, size)
        chosen = self._settings(EditSettings(seed=seed), size)
        watch = Stopwatch(self.runner.device)
        report = reporting(self.runner, callback_on_step_end, progress)
        inversion = self._invert([picture], [source], [chosen.seed or 0], size, watch, report)[0]
        inversion.timings.update(watch.timings())
        return inversion

    def edit(
        self,
        image: Any,
        source: str,
        target: str | Sequence[str],
        *,
        size: tuple[int, int] | None = None,
        settings: str | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "pil",
        progress: Progress | None = None,
        **chosen: Any,
    ) -> EditResult:
        """Inverts a picture and decodes it towards one target prompt or several, in one pass.

        size: see `invert`. chosen: fields of EditSettings. settings "auto": the best of some thirty
        settings is taken for the fields that were not chosen (`Inversion.search`; pictures, one
        target). callback_on_step_end(step, t, latents) is called after each decode hop with latents
        [1 + targets, 4, h, w], source row first, and may return others to go on with. Raises
        ImageError, PromptError, SettingsError.
        """
        check_output_type(output_type, self.runner)
        if settings is None:
            request = EditRequest(image, source, target, chosen)
            return self._edit([request], size, callback_on_step_end, output_type, progress)[0]
        if settings != "auto":
            raise SettingsError(f"settings must be 'auto' or left out, not {shown(settings)}")
        if not isinstance(target, str) or output_type != "pil" or callback_on_step_end is not None:
            raise SettingsError(
                "settings 'auto' is for one target, gives pictures and takes no callback"
            )
        seed = EditSettings.from_mapping(chosen).seed
        return (
            self.invert(image, source, seed=seed, size=size)
            .search(target, progress=progress, **chosen)
            .result
        )

    @within_memory
    def edit_inversion(
        self,
        inversion: Inversion,
        target: str | Sequence[str],
        *,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "pil",
        progress: Progress | None = None,
        **settings: Any,
    ) -> EditResult:
        """Decodes a kept inversion towards one target or several: see `edit`.

        Its seed is already in it.
        """
        check_output_type(output_type, self.runner)
        given = EditSettings.from_mapping(settings)
        if given.seed not in (None, inversion.seed):
            raise SettingsError(
                f"seed is {inversion.seed} in this inversion and cannot become {given.seed}"
            )
        chosen = self._settings(replace(given, seed=inversion.seed), inversion.size)
        if chosen.paste_back and inversion.picture is None:
            raise SettingsError(
                "paste_back needs the picture, which saved inversions do not carry: edit the picture"
            )
        plans = self._plans(self._tokens(inversion.source), target, chosen)
        watch = Stopwatch(self.runner.device)
        report = reporting(self.runner, callback_on_step_end, progress)
        untouched = callback_on_step_end is None
        return self._decode(
            [inversion], [plans], [chosen], watch, report, untouched, output_type, 0
        )[0]

    def load_inversion(self, path: str | Path) -> Inversion:
        """Reads an inversion that `Inversion.save` wrote with this model. Raises BundleError."""
        return read_inversion(self, path)

    # --- many pictures ----------------------------------------------------------------------------

    def edit_many(
        self,
        requests: Sequence[EditRequest],
        *,
        size: tuple[int, int] | None = None,
        output_type: str = "pil",
        progress: Progress | None = None,
    ) -> list[EditResult]:
        """Different pictures, prompts and settings in shared passes; results in the order of the
        requests.

        Pictures share a pass where the model works at the same size: see `invert` for what `size`
        does. Equal to the same edits one by one, but for the rounding of another batch size. All
        requests are checked before the first network call.
        """
        check_output_type(output_type, self.runner)
        if not isinstance(requests, list | tuple) or not all(
            isinstance(one, EditRequest) for one in requests
        ):
            raise SettingsError(f"edit_many takes a list of EditRequest, not {shown(requests)}")
        return self._edit(requests, size, None, output_type, progress)

    @within_memory
    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int = 0,
        guidance_scale: float | None = None,
        tau: float | tuple[float, float] | None = None,
        tau_low: float | None = None,
        size: tuple[int, int] | None = None,
        callback_on_step_end: StepCallback | None = None,
        output_type: str = "pil",
        progress: Progress | None = None,
    ) -> Any:
        """Pictures of prompts, from noise, by the reverse network alone; prompt i takes the i-th
        draw of noise."""
        check_output_type(output_type, self.runner)
        size = self._size(size)
        given = EditSettings(guidance_scale=guidance_scale, tau=tau, tau_low=tau_low, seed=seed)
        settings = self._settings(given, size)
        texts = _texts(prompts)
        encoded = self._encoded([self._tokens(text) for text in texts])
        shape = (len(texts), *self.latent_shape(size)[1:])
        inputs = DecodeInputs(
            latents=self.runner.tensor(normal_noise(settings.seed or 0, shape)),
            prompts=encoded,
            guidance=[[self._w(hop.t, settings)] * len(texts) for hop in self._decode_hops],
            empty_prompt=self._empty_prompt(),
        )
        decoded = self.runner.decode(
            inputs, self._decode_hops, reporting(self.runner, callback_on_step_end, progress)
        )
        return as_pictures(self.runner, decoded.latents, output_type)

    @within_memory
    def to_pictures(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Latents [N, 4, h, w] decoded: see `as_pictures`."""
        return as_pictures(self.runner, latents, output_type)

    # --- the steps --------------------------------------------------------------------------------

    def _edit(
        self,
        requests: Sequence[EditRequest],
        size: tuple[int, int] | None,
        callback: StepCallback | None,
        output_type: str,
        progress: Progress | None,
    ) -> list[EditResult]:
        """Everything of every request is checked before the first network call.

        A pass that memory does not hold is tried again with half its rows, and so are those after
        it.
        """
        up = reporting(self.runner, None, progress)
        down = reporting(self.runner, callback, progress)
        untouched = callback is None
        checked = [self._checked(request, size) for request in requests]
        results: dict[int, EditResult] = {}
        most = MOST_TARGETS
        for works_at in dict.fromkeys(one.size for one in checked):
            waiting = [i for i, one in enumerate(checked) if one.size == works_at]
            while waiting:
                rows = [len(checked[i].plans) for i in waiting]
                together = waiting[passes(rows, most)[0]]
                try:
                    done = self._edit_together(
                        [checked[i] for i in together], up, down, untouched, output_type
                    )
                except OutOfMemoryError as error:
                    if len(together) == 1:
                        raise
                    most = sum(rows[: len(together)]) // 2
                    warnings.warn(
                        f"{error}; going on in passes of at most {most} target rows", stacklevel=3
                    )
                    continue
                results.update(zip(together, done, strict=True))
                waiting = waiting[len(together) :]
        return [results[i] for i in range(len(requests))]

    @within_memory
    def _edit_together(
        self,
        own: Sequence[_Checked],
        up: StepCallback | None,
        down: StepCallback | None,
        untouched: bool,
        output_type: str,
    ) -> list[EditResult]:
        """Requests that the model works at one size for, in one pass up and one down."""
        watch = Stopwatch(self.runner.device)
        settings = [one.settings for one in own]
        pictures, sources, seeds = zip(
            *((one.picture, one.source, one.settings.seed or 0) for one in own), strict=True
        )
        inversions = self._invert(pictures, sources, seeds, own[0].size, watch, up)
        plans = [one.plans for one in own]
        calls = len(self._encode_hops)
        return self._decode(inversions, plans, settings, watch, down, untouched, output_type, calls)

    def _checked(self, request: EditRequest, size: tuple[int, int] | None) -> _Checked:
        given = request.checked_settings()
        picture, size = self._picture(request.image, size)
        settings = self._settings(given, size)
        plans = self._plans(self._tokens(request.source), request.target, settings)
        return _Checked(picture, size, request.source, plans, settings)

    def _picture(
        self, image: Any, size: tuple[int, int] | None
    ) -> tuple[Image.Image, tuple[int, int]]:
        """The picture at the size its edits come back in, and the size the model works at."""
        asked = None if size is None else self._size(size)
        picture = load_image(image)
        if asked is not None:
            return Image.fromarray(to_size(picture, asked)[0]), asked
        # Models of the published sizes were trained on multiples of 64.
        step = max(self._size_step, 64) if min(self.bundle.size) >= 256 else self._size_step
        return picture, fitted_size(picture.size, self.bundle.size, step)

    def _invert(
        self,
        pictures: Sequence[Image.Image],
        sources: Sequence[str],
        seeds: Sequence[int],
        size: tuple[int, int],
        watch: Stopwatch,
        callback: StepCallback | None,
    ) -> list[Inversion]:
        with watch.stage("text"):
            prompts = self._encoded([self._tokens(source) for source in sources])
        with watch.stage("vae_encode"):
            of_posterior, of_start = self._noise(seeds, size)
            pixels = np.concatenate([to_size(picture, size) for picture in pictures])
            latents = self.runner.to_latents(self.runner.tensor(pixels), of_posterior)
        with watch.stage("encode"):
            start = self._encode_hops[0].t
            if start > 0:
                latents = self._schedule.a(start) * latents + self._schedule.sigma(start) * of_start
            noised = self.runner.encode(latents, prompts, self._encode_hops, callback)
        return [
            # Copies: a kept inversion must not hold its whole batch.
            Inversion(
                self,
                self.runner.join([noised[i : i + 1]]),
                source,
                seed,
                size,
                picture.size,
                picture,
            )
            for i, (picture, source, seed) in enumerate(zip(pictures, sources, seeds, strict=True))
        ]

    def _noise(self, seeds: Sequence[int], size: tuple[int, int]) -> tuple[Tensor | None, Tensor]:
        """Of the VAE's posterior (None where its mean is taken) and of the first time step,
        [len(seeds), 4, h, w] each.

        A seed's draws follow each other, as in the reference.
        """
        _, *shape = self.latent_shape(size)
        draws = [normal_noise(seed, (1 + self.bundle.samples_posterior, *shape)) for seed in seeds]
        of_posterior, of_start = (
            self.runner.tensor(np.stack([draw[k] for draw in draws])) for k in (0, -1)
        )
        return of_posterior if self.bundle.samples_posterior else None, of_start

    def _decode(
        self,
        inversions: Sequence[Inversion],
        plans: Sequence[Plans],
        settings: Sequence[EditSettings],
        watch: Stopwatch,
        report: StepCallback | None,
        untouched: bool,
        output_type: str,
        calls_before: int,
    ) -> list[EditResult]:
        """Rows: all sources, then the targets of the first, of the second and so on.

        The source branch of a single picture is kept, and its next edit runs target rows alone. A
        user's callback may change source rows, so with one nothing is kept or taken; `untouched`
        says that there is none.
        """
        runner = self.runner
        count = len(inversions)
        owner = [i for i, own in enumerate(plans) for _ in own]
        flat = [plan for own in plans for _, plan in own]
        alone = count == 1 and untouched
        branch = self._branches.get(inversions[0]) if alone else None
        with watch.stage("text_target"):
            sources = [self._tokens(inversion.source) for inversion in inversions]
            targets = [tokens for own in plans for tokens, _ in own]
            prompts = self._encoded([*sources, *targets])
            hop_prompts = self._hop_prompts(sources, targets, owner, settings)
        guided = [[self._w(hop.t, settings[i]) for i in owner] for hop in self._decode_hops]
        rows = [inversions[i].noised for i in owner]
        with watch.stage("decode"):
            inputs = DecodeInputs(
                latents=runner.join(
                    rows if branch else [inversion.noised for inversion in inversions] + rows
                ),
                prompts=prompts,
                guidance=guided if branch else [[0.0] * count + row for row in guided],
                edits=edit_steps(flat, owner, runner.tensor),
                blend=blend(flat, [settings[i].mask for i in owner], owner, runner.tensor),
                empty_prompt=self._empty_prompt(),
                source=branch,
                keep=alone and branch is None,
                hop_prompts=hop_prompts,
            )
            decoded = runner.decode(inputs, self._decode_hops, report)
        if decoded.source is not None:
            self._branches.put(inversions[0], decoded.source)
        kept = branch.latents[-1] if branch else decoded.latents[:count]
        edited = decoded.latents if branch else decoded.latents[count:]
        spans = [slice(owner.index(i), owner.index(i) + len(own)) for i, own in enumerate(plans)]
        with watch.stage("vae_decode"):
            pictures = as_pictures(runner, edited, output_type)
            # waits: after the VAE is under way
            masks = None if decoded.masks is None else runner.host(decoded.masks)
            images = [
                pictures[span]
                if output_type == "latent"
                else _finished(pictures[span], inversion, chosen, masks, span)
                for span, inversion, chosen in zip(spans, inversions, settings, strict=True)
            ]
        latents = runner.host(edited)
        source_latents = runner.host(kept)
        timings = watch.timings()
        results = []
        for i, inversion in enumerate(inversions):
            if calls_before:
                inversion.timings.update({name: timings[name] for name in ENCODE_STAGES})
            restricted = settings[i].blend is not None or settings[i].mask is not None
            results.append(
                EditResult(
                    images=images[i],
                    latents=latents[spans[i]],
                    settings=settings[i],
                    timings=dict(timings),
                    network_calls=calls_before + self._decode_calls(settings[i]),
                    inversion=inversion,
                    masks=masks[:, spans[i]] if masks is not None and restricted else None,
                    source_latents=source_latents[i : i + 1],
                )
            )
        return results

    def _hop_prompts(
        self,
        sources: Sequence[Tokens],
        targets: Sequence[Tokens],
        owner: Sequence[int],
        settings: Sequence[EditSettings],
    ) -> list[Prompts] | None:
        """The prompts of every hop where targets with control "switch" begin with the source's;
        None without any."""
        if not any(one.control == "switch" for one in settings):
            return None

        def seen(t: int, row: int) -> Tokens:
            chosen = settings[owner[row]]
            low = chosen.tau[0] if isinstance(chosen.tau, tuple) else chosen.tau
            assert low is not None  # default_settings has it
            return (
                sources[owner[row]]
                if chosen.control == "switch" and t > 1000 * low
                else targets[row]
            )

        hops = ([seen(hop.t, row) for row in range(len(targets))] for hop in self._decode_hops)
        return [self._encoded([*sources, *row]) for row in hops]

    def _plans(self, source: Tokens, target: str | Sequence[str], settings: EditSettings) -> Plans:
        tokens = [self._tokens(text) for text in _texts(target)]
        return [(t, make_plan(source, t, settings, len(self._decode_hops))) for t in tokens]

    def _tokens(self, prompt: str) -> Tokens:
        if isinstance(prompt, str) and not prompt.strip():
            raise PromptError("the prompt is empty")
        return self.tokenizer.encode(prompt)

    def _encoded(self, tokens: Sequence[Tokens]) -> Prompts:
        return self.runner.encode_prompts(
            [sum((t.padded(pad) for pad in self._paddings), ()) for t in tokens]
        )

    def _empty_prompt(self) -> Prompts | None:
        return None if self.bundle.guidance_embedded else self._encoded([self.tokenizer.encode("")])

    def _settings(self, given: EditSettings, size: tuple[int, int]) -> EditSettings:
        """What an edit will use: the defaults filled in, and the mask read once (a stream gives its
        bytes once)."""
        settings = given.resolve(self.default_settings)
        if settings.paste_back and settings.blend is None and settings.mask is None:
            raise SettingsError(
                "paste_back needs blend words or a mask: they say what is not to change"
            )
        if settings.mask is None:
            return settings
        _, _, height, width = self.latent_shape(size)
        return replace(settings, mask=load_mask(settings.mask, (width, height)))

    def _w(self, t: int, settings: EditSettings) -> float:
        w = settings.guidance_scale
        tau = settings.tau
        tau_low = settings.tau_low
        # default_settings has them all
        assert w is not None and tau is not None and tau_low is not None
        return dynamic_guidance(t, w, tau, tau_low)

    def _decode_calls(self, settings: EditSettings) -> int:
        """Network calls of one decoding: a two-pass model predicts twice on guided hops."""
        second = (
            0
            if self.bundle.guidance_embedded
            else sum(self._w(hop.t, settings) > 0 for hop in self._decode_hops)
        )
        return len(self._decode_hops) + second

    def _size(self, size: tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            return self.bundle.size
        step = self._size_step
        fits = isinstance(size, tuple | list) and len(size) == 2
        if not fits or not all(
            isinstance(n, int) and 0 < n <= 4096 and n % step == 0 for n in size
        ):
            raise SettingsError(
                f"size must be (width, height) in multiples of {step} up to 4096, not {shown(size)}"
            )
        return size[0], size[1]


def _finished(
    pictures: Any, inversion: Inversion, settings: EditSettings, masks: Tensor | None, span: slice
) -> Any:
    """The pictures of one inversion's targets as they are returned."""
    if not settings.paste_back or masks is None:
        return finish(pictures, inversion.picture_size)
    return finish(
        pictures, inversion.picture_size, inversion.picture, list(np.asarray(masks[-1, span]))
    )


def _torch_loader() -> Callable[..., Runner]:
    """What loads weights. RunnerError where torch is not installed."""
    try:
        from icd_engine.loading import load_runner
    except ModuleNotFoundError as error:
        raise RunnerError(
            f"a folder of weights needs torch and transformers ({error}); without them, edit with a folder that "
            "`icd export` made elsewhere"
        ) from None
    return load_runner


def _schedule(bundle: Bundle) -> NoiseSchedule:
    """The noise schedule of scheduler/scheduler_config.json.

    BundleError unless it is a scaled linear one.
    """
    config = bundle.config("scheduler")
    if config.get("beta_schedule") != "scaled_linear":
        raise BundleError(
            f"scheduler_config.json: beta_schedule {shown(config.get('beta_schedule'))} is not supported"
        )
    try:
        steps = config.get("num_train_timesteps", 1000)
        return NoiseSchedule.scaled_linear(config["beta_start"], config["beta_end"], steps)
    except (KeyError, TypeError, SettingsError) as error:
        raise BundleError(
            f"scheduler_config.json: no schedule can be made of it: {error}"
        ) from None


def _texts(prompts: str | Sequence[str]) -> list[str]:
    """One prompt or several as a list. PromptError if there is none."""
    texts = (
        [prompts]
        if isinstance(prompts, str)
        else list(prompts)
        if isinstance(prompts, list | tuple)
        else []
    )
    if not texts:
        raise PromptError(f"a prompt, or a list of prompts, is needed, not {shown(prompts)}")
    return texts
