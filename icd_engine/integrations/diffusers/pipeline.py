"""`pipe.invert(image, source_prompt=...)`, then `pipe(prompt=[...])`: the engine with diffusers' names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.pull import located
from icd_engine.engine import Engine
from icd_engine.errors import RunnerError, SettingsError, shown
from icd_engine.placement import Placement
from icd_engine.reporting import Progress
from icd_engine.results import EditResult, Inversion
from icd_engine.runners.contract import StepCallback

# callback(pipe, step, timestep, {"latents": ...}) returns a dict, which may hold other latents
Callback = Callable[[Any, int, int, dict[str, Any]], Mapping[str, Any] | None]
DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
NOT_INVERTED = (
    "nothing is inverted: call pipe.invert(image, source_prompt=...) first, or give image="
)


@dataclass
class ICDInversionOutput(BaseOutput):
    """images: the picture, upright and in sRGB, as it was inverted. vae_reconstruction_images: what the
    VAE keeps of it, at the size the model works at. inversion: what `pipe(inversion=...)` takes."""

    images: list[Any]
    vae_reconstruction_images: list[Any]
    inversion: Inversion


@dataclass
class ICDPipelineOutput(BaseOutput):
    """images: one for each prompt, of the output type asked for. result: the engine's own, with the
    settings that were used, masks, latents and timings."""

    images: Any
    result: EditResult


class ICDPipeline(DiffusionPipeline):
    """One engine, loaded when it is first used, and the picture inverted last.

    Its networks are the engine's, not diffusers' modules, so `components` is empty and `save_pretrained`,
    offloading and schedulers of diffusers do not apply; `Placement` has what does.
    """

    def __init__(self) -> None:
        self.register_to_config()  # an empty one, that diffusers asks for
        self._model: str | Path = "tiny"
        self._placement = Placement()
        self._engine: Engine | None = None
        self._inversion: Inversion | None = None

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] = "tiny",
        *,
        torch_dtype: torch.dtype | str | None = None,
        device: str = "auto",
        **placement: Any,
    ) -> Self:
        """A pipeline of the embedded model "tiny", a published one by its name, or a model folder.

        torch_dtype: precision of the networks. device, placement: see `Engine.from_pretrained`. Raises
        BundleError, RunnerError.
        """
        made = cls()
        made._model = located(os.fspath(pretrained_model_name_or_path))
        read_bundle(made._model)
        try:
            made._placement = Placement(device=device, dtype=_dtype(torch_dtype), **placement)
        except TypeError:
            unknown = ", ".join(sorted(placement.keys() - vars(Placement()).keys()))
            raise RunnerError(f"no options of this pipeline: {unknown}") from None
        return made

    @property
    def engine(self) -> Engine:
        """The engine; loaded by the first call that needs it."""
        if self._engine is None:
            self._engine = Engine.load(self._model, self._placement)
        return self._engine

    @property
    def device(self) -> torch.device:
        """Where the networks are, or will be."""
        return torch.device(str(self.engine.runner.device))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Another device, precision, or both, as diffusers takes them. A loaded engine goes, and so does
        the picture inverted last. RunnerError for what is neither."""
        wanted = {**kwargs, **{_field(value): value for value in args}}
        wanted.pop("silence_dtype_warnings", None)
        changed = {}
        if (device := wanted.pop("device", None)) is not None:
            changed["device"] = str(device)
        if (dtype := wanted.pop("dtype", None)) is not None:
            changed["dtype"] = _dtype(dtype)
        if wanted:
            raise RunnerError(f"to() takes a device and a dtype, not {shown(next(iter(wanted)))}")
        placement = replace(self._placement, **changed)
        if placement != self._placement:
            self._placement = placement
            self._engine = self._inversion = None
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """RunnerError: the model is a folder already."""
        raise RunnerError(f"the model is the folder {self._model}: copy that")

    # --- the calls --------------------------------------------------------------------------------

    def invert(
        self,
        image: Any,
        source_prompt: str | None = "",
        *,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
    ) -> ICDInversionOutput:
        """Encodes one picture, which later calls edit. source_prompt: what it shows; without one, edits
        keep less of it. height, width: to work at and to return. generator: its seed is taken, and its
        state stays. Raises ImageError, PromptError, SettingsError.
        """
        engine = self.engine
        hops = len(engine.model.encode_hops)
        with self._bar(hops) as bar:
            inversion = engine.invert(
                _one(image),
                source_prompt or None,
                seed=_seed(generator, seed),
                size=_size(width, height),
                progress=bar.update,
            )
        self._inversion = inversion
        return ICDInversionOutput(
            images=[inversion.picture],
            vae_reconstruction_images=[inversion.reconstruction],
            inversion=inversion,
        )

    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        inversion: Inversion | None = None,
        image: Any = None,
        source_prompt: str | None = "",
        mask_image: Any = None,
        height: int | None = None,
        width: int | None = None,
        generator: torch.Generator | None = None,
        seed: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        **settings: Any,
    ) -> Any:
        """Edits towards each prompt, in one pass: the picture inverted last, that of `inversion`, or
        `image` with its source_prompt, size and seed.

        mask_image: where it is white, the picture may change. settings: fields of EditSettings
        (guidance_scale, cross_replace, blend, ...), or `settings="auto"`. callback_on_step_end(pipe,
        step, timestep, {"latents": [1 + prompts, 4, h, w]}), the source's first, may return a dict with
        other latents. Returns an output with `.images`, or a tuple of them. Raises ImageError,
        PromptError, SettingsError.
        """
        if list(callback_on_step_end_tensor_inputs) not in ([], ["latents"]):
            raise SettingsError(
                f"callbacks are shown latents, not {shown(callback_on_step_end_tensor_inputs)}"
            )
        if mask_image is not None:
            settings["mask"] = mask_image
        if image is not None:
            seen = self.invert(
                image, source_prompt, height=height, width=width, generator=generator, seed=seed
            )
            inversion = seen.inversion
        elif source_prompt or any(one is not None for one in (height, width, generator, seed)):
            raise SettingsError(
                "source_prompt, height, width, generator and seed belong to a picture: give image=, or "
                "give them to pipe.invert"
            )
        kept = inversion or self._inversion
        if kept is None:
            raise SettingsError(NOT_INVERTED)
        result = self._edit(kept, prompt, output_type, callback_on_step_end, settings)
        return ICDPipelineOutput(result.images, result) if return_dict else (result.images,)

    def _edit(
        self,
        inversion: Inversion,
        prompt: str | Sequence[str],
        output_type: str,
        callback: Callback | None,
        settings: Mapping[str, Any],
    ) -> EditResult:
        hops = len(self.engine.model.decode_hops)
        with self._bar(hops) as bar:
            progress: Progress = bar.update
            return self.engine.edit_inversion(
                inversion,
                prompt,
                output_type=output_type,
                callback_on_step_end=self._adapted(callback),
                progress=progress,
                **settings,
            )

    def _bar(self, hops: int) -> Any:
        """diffusers' own bar, which `set_progress_bar_config` is for."""
        return self.progress_bar(total=hops)  # pyright: ignore[reportCallIssue]

    def _adapted(self, callback: Callback | None) -> StepCallback | None:
        """A callback of the engine that calls one of diffusers."""
        if callback is None:
            return None

        def call(step: int, t: int, latents: Any) -> Any:
            return (callback(self, step, t, {"latents": latents}) or {}).get("latents")

        return call


def _dtype(given: torch.dtype | str | None) -> str:
    if isinstance(given, torch.dtype):
        if given not in DTYPES:
            raise RunnerError(
                f"torch_dtype must be one of {', '.join(map(str, DTYPES))}, not {given}"
            )
        return DTYPES[given]
    return "auto" if given is None else given


def _field(value: Any) -> str:
    """What an argument of `to` is without its name."""
    return "dtype" if isinstance(value, torch.dtype) else "device"


def _one(image: Any) -> Any:
    """LEDITS++ takes lists; this takes one picture, in a list or not. SettingsError."""
    if not isinstance(image, list):
        return image
    if len(image) != 1:
        raise SettingsError(
            f"one picture is inverted at a time, not {len(image)}: Engine.edit_many takes many"
        )
    return image[0]


def _seed(generator: torch.Generator | None, seed: int | None) -> int | None:
    if generator is None:
        return seed
    if seed is not None:
        raise SettingsError("give a generator or a seed, not both")
    if not isinstance(generator, torch.Generator):
        raise SettingsError(f"generator must be one torch.Generator, not {shown(generator)}")
    return generator.initial_seed() % 2**63


def _size(width: int | None, height: int | None) -> tuple[int, int] | None:
    if (width is None) != (height is None):
        raise SettingsError("width and height belong together")
    return None if width is None or height is None else (width, height)
