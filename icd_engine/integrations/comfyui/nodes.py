"""The nodes: Load iCD Model, Invert Picture, Edit, Auto Edit; for ComfyUI's V3 schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from comfy.utils import ProgressBar  # pyright: ignore[reportMissingImports]
from comfy_api.latest import ComfyExtension, io  # pyright: ignore[reportMissingImports]

from icd_engine.bundles.pull import located
from icd_engine.engine import Engine
from icd_engine.integrations.comfyui.conversions import (
    to_image,
    to_latent,
    to_mask,
    to_masks,
    to_pictures,
)
from icd_engine.integrations.comfyui.fields import OWN, OWN_NUMBER, settings
from icd_engine.placement import DTYPES, RUNNERS, WEIGHTS, Placement
from icd_engine.results import EditResult, Inversion
from icd_engine.settings import MAX_FEATHER, MAX_GUIDANCE, Control

CATEGORY = "iCD"
MODEL = io.Custom("ICD_MODEL")
INVERSION = io.Custom("ICD_INVERSION")
MOST_SEED = 2**53 - 1  # whole in the browser
SIDE = 8192


@dataclass(frozen=True)
class Inverted:
    """The pictures of one batch, each inverted."""

    engine: Engine
    each: Sequence[Inversion]


def _prompt(name: str, about: str) -> Any:
    return io.String.Input(name, multiline=True, default="", tooltip=about)


def _own(name: str, most: float, about: str, step: float = 0.05) -> Any:
    """A number, or the model's own."""
    return io.Float.Input(
        name,
        default=OWN_NUMBER,
        min=OWN_NUMBER,
        max=most,
        step=step,
        tooltip=f"{about} -1: the model's own.",
    )


def _seed() -> Any:
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=MOST_SEED,
        control_after_generate=False,  # a seed that moves at every run would invert anew each time
        tooltip="Of the noise that is added before encoding.",
    )


SOURCE = _prompt("source_prompt", "What the picture shows. Empty: edits keep less of it.")
TARGET = _prompt("prompt", "What it should show, in the same words but for the change.")
MASK = io.Mask.Input("mask", optional=True, tooltip="Where it is 1, the picture may change.")


class LoadModel(io.ComfyNode):
    """A model on a device."""

    @classmethod
    def define_schema(cls) -> Any:
        about = "tiny (embedded), a published model by its name (icd-sd15), or a model folder."
        return io.Schema(
            node_id="ICDLoadModel",
            display_name="Load iCD Model",
            category=CATEGORY,
            description="Loads a model that inverts and edits pictures in eight network calls.",
            inputs=[
                io.String.Input("model", default="tiny", tooltip=about),
                io.Combo.Input("device", options=["auto", "cpu", "cuda"], default="auto"),
                io.Combo.Input("dtype", options=["auto", *DTYPES], default="auto"),
                io.Combo.Input("runner", options=["auto", *RUNNERS], default="auto"),
                io.Combo.Input("weights", options=list(WEIGHTS), default="fused"),
                io.Boolean.Input("offload", default=False),
            ],
            outputs=[MODEL.Output(display_name="model")],
        )

    @classmethod
    def execute(cls, model: str, **placement: Any) -> Any:
        # Nobody is at a terminal to be asked about a download: what is not here is an error that says so
        folder = located(model, quiet=True)
        return io.NodeOutput(Engine.load(folder, Placement(**placement)))


class Invert(io.ComfyNode):
    """Pictures encoded, to be edited again and again."""

    @classmethod
    def define_schema(cls) -> Any:
        side = {"default": 0, "min": 0, "max": SIDE, "step": 8}
        about = "To work at and return. 0: the picture's own size."
        return io.Schema(
            node_id="ICDInvert",
            display_name="Invert Picture (iCD)",
            category=CATEGORY,
            description="Encodes a picture once; every edit of it then costs half.",
            inputs=[
                MODEL.Input("model"),
                io.Image.Input("image"),
                SOURCE,
                _seed(),
                io.Int.Input("width", optional=True, tooltip=about, **side),
                io.Int.Input("height", optional=True, tooltip=about, **side),
            ],
            outputs=[
                INVERSION.Output(display_name="inversion"),
                io.Image.Output(display_name="reconstruction"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: Engine,
        image: Any,
        source_prompt: str,
        seed: int,
        width: int = 0,
        height: int = 0,
    ) -> Any:
        inverted = _inverted(model, image, source_prompt, seed, (width, height))
        seen = [one.finished([one.reconstruction])[0] for one in inverted.each]
        return io.NodeOutput(inverted, to_image(seen))


class Edit(io.ComfyNode):
    """Edits of what was inverted, with every setting."""

    @classmethod
    def define_schema(cls) -> Any:
        controls = [OWN, *get_args(Control)]
        return io.Schema(
            node_id="ICDEdit",
            display_name="Edit (iCD)",
            category=CATEGORY,
            description="Edits an inverted picture by a prompt.",
            inputs=[
                INVERSION.Input("inversion"),
                TARGET,
                _own("guidance_scale", MAX_GUIDANCE, "Strength of the prompt; 0 is unguided."),
                _own("tau", 1, "Guidance is on while the time step is below this share."),
                io.Combo.Input("control", options=controls, default=OWN),
                _own("cross_replace", 1, "Share of steps whose cross-attention is the source's."),
                _own("self_replace", 1, "The same of self-attention."),
                io.String.Input(
                    "blend",
                    default="",
                    tooltip="Change only where these words look: cat, or source words: prompt words.",
                ),
                _own("anchor", 1, "How far the edit is held to the picture."),
                _own("detail", 1, "How much of the picture's fine detail comes back."),
                _own("feather", MAX_FEATHER, "Pixels over which a masked edit fades in.", 1),
                MASK,
                io.Combo.Input("mask_from", options=[OWN, "words"], default=OWN, optional=True),
                io.String.Input(
                    "more",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip='Other settings as JSON: {"amplify": {"red": 2}, "paste_back": true}',
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls, inversion: Inverted, prompt: str, mask: Any = None, more: str = "", **values: Any
    ) -> Any:
        return io.NodeOutput(*_edited(inversion, prompt, mask, settings(more, **values)))


class AutoEdit(io.ComfyNode):
    """An edit from a picture, whose settings are found."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ICDAutoEdit",
            display_name="Auto Edit (iCD)",
            category=CATEGORY,
            description="Edits a picture by two prompts, with settings that suit this edit.",
            inputs=[MODEL.Input("model"), io.Image.Input("image"), SOURCE, TARGET, _seed(), MASK],
            outputs=[*_outputs(), io.String.Output(display_name="settings")],
        )

    @classmethod
    def execute(
        cls,
        model: Engine,
        image: Any,
        source_prompt: str,
        prompt: str,
        seed: int,
        mask: Any = None,
    ) -> Any:
        inverted = _inverted(model, image, source_prompt, seed, (0, 0))
        found: list[Any] = []
        outputs = _edited(inverted, prompt, mask, {"settings": "auto"}, found.append)
        return io.NodeOutput(*outputs, json.dumps([one.settings.as_json() for one in found]))


class Extension(ComfyExtension):
    """What ComfyUI is told that there is."""

    async def get_node_list(self) -> list[Any]:
        return [LoadModel, Invert, Edit, AutoEdit]


def _outputs() -> list[Any]:
    return [
        io.Image.Output(display_name="image"),
        io.Mask.Output(display_name="mask"),
        io.Latent.Output(display_name="latent"),
    ]


def _inverted(
    engine: Engine, image: Any, source: str, seed: int, size: tuple[int, int]
) -> Inverted:
    pictures = to_pictures(image)
    bar = ProgressBar(len(pictures) * len(engine.model.encode_hops))
    chosen = size if any(size) else None
    made = [
        engine.invert(one, source.strip() or None, seed=seed, size=chosen, progress=bar.update)
        for one in pictures
    ]
    return Inverted(engine, made)


def _edited(
    inverted: Inverted,
    prompt: str,
    mask: Any,
    chosen: dict[str, Any],
    hear: Callable[[EditResult], Any] = lambda result: None,
) -> tuple[Any, Any, Any]:
    """IMAGE, MASK and LATENT of every picture's edit."""
    engine, each = inverted.engine, inverted.each
    bar = ProgressBar(len(each) * len(engine.model.decode_hops))
    results: list[EditResult] = []
    for one, own in zip(each, to_masks(mask, len(each)), strict=True):
        masked = chosen if own is None else {**chosen, "mask": own}
        results.append(one.edit(prompt, progress=bar.update, **masked))
        hear(results[-1])
    masks = [None if one.masks is None else one.masks[0] for one in results]
    scaling = engine.bundle.config("vae")["scaling_factor"]
    pictures = [one.image for one in results]
    latents = [one.latents for one in results]
    return to_image(pictures), to_mask(masks, pictures[0].size), to_latent(latents, scaling)
