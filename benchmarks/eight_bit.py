"""What numbers of eight bits would cost: inversions and edits whose networks multiply in float8,
imitated on any device, against float32.

Products in float8 are the fastest of recent GPUs, and an inversion is a worse judge of rounding than
a picture: it runs a network backwards, and what it loses is lost. So float8 is worth building for a
model whose errors here stay near bfloat16's, and for no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.checks import difference, exact_float32
from benchmarks.subject import Subject, open_subject
from benchmarks.timing import quantile
from benchmarks.workload import Case, make_cases
from icd_engine.images import psnr

LARGEST = 448.0  # of float8_e4m3fn
# Precision of the networks, and what of them multiplies in eight bits besides
WAYS = {
    "bfloat16": ("bfloat16", None),
    "float8 products": ("bfloat16", False),
    "float8 products and convolutions": ("bfloat16", True),
}
# Back to the picture by the decode network alone: nothing holds it to the encode trajectory.
ROUND_TRIP: dict[str, Any] = {"guidance_scale": 0.0, "control": "none", "anchor": 0.0}


def measure_eight_bits(
    *,
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    device: str = "auto",
    repeats: int = 10,
) -> Iterator[dict[str, Any]]:
    """A result for bfloat16 and for each use of float8, medians over `repeats` pictures.

    inversion_error: relative difference of the inversion from float32's. round_trip_db: PSNR of the
    picture that the inversion decodes to, to float32's. edit_db: the same of an edit with all of its
    control. IcdError for what cannot be loaded.
    """
    opened = partial(open_subject, model, architecture, size, device=device, runner="eager")
    truth = opened(dtype="float32")
    cases = make_cases(repeats, truth.size)
    with exact_float32():
        wanted = [_taken(truth, case) for case in cases]
    for name, (dtype, convolutions) in WAYS.items():
        subject = opened(dtype=dtype)
        if convolutions is not None:
            multiply_in_eight_bits(subject, convolutions)
        found = [
            _distances(_taken(subject, case), true)
            for case, true in zip(cases, wanted, strict=True)
        ]
        inversions, trips, edits = zip(*found, strict=True)
        yield {
            **subject.as_dict(),
            "dtype": name,
            "inversion_error": float(f"{quantile(inversions, 0.5):.2e}"),
            "round_trip_db": round(quantile(trips, 0.5), 2),
            "edit_db": round(quantile(edits, 0.5), 2),
            "repeats": repeats,
        }


def _taken(subject: Subject, case: Case) -> tuple[Tensor, Any, Any]:
    """The inversion's latents, the picture they decode to, and the edited one."""
    kept = subject.engine.invert(
        case.picture, case.source, seed=case.settings["seed"], size=subject.size
    )
    back = kept.edit(case.source, **ROUND_TRIP, detail=0.0)
    return torch.as_tensor(kept.latents), back.image, subject.edit(case).image


def _distances(ours: tuple[Tensor, Any, Any], true: tuple[Tensor, Any, Any]) -> tuple[float, ...]:
    return difference(ours[0], true[0]), psnr(ours[1], true[1]), psnr(ours[2], true[2])


def multiply_in_eight_bits(subject: Subject, convolutions: bool) -> None:
    """From now on, the encode and decode network's products are of numbers of eight bits; their
    convolutions too, where asked for. Prompts and the VAE stay as they are."""
    runner = subject.engine.runner
    stages = runner.stages  # pyright: ignore[reportAttributeAccessIssue]

    def imitated(predict: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(predict)
        def call(*given: Any, **named: Any) -> Any:
            with EightBit(convolutions):
                return predict(*given, **named)

        return call

    runner.stages = stages._replace(  # pyright: ignore[reportAttributeAccessIssue]
        encode_pass=imitated(stages.encode_pass), decode_pass=imitated(stages.decode_pass)
    )


class EightBit(TorchFunctionMode):
    """Inside, operands of products are rounded to float8_e4m3fn, and multiplied as they were.

    Each row of activations and each output's weights have a scale of their own; of 3x3 convolutions
    each picture has one. A 1x1 convolution is a product. Attention is left alone.
    """

    def __init__(self, convolutions: bool):
        super().__init__()
        self._convolutions = convolutions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.linear:
            args = (in_eight_bits(args[0], -1), in_eight_bits(args[1], -1), *args[2:])
        elif func is torch.addmm:
            args = (args[0], in_eight_bits(args[1], -1), in_eight_bits(args[2], 0), *args[3:])
        elif func is F.conv2d and (self._convolutions or args[1].shape[2:] == (1, 1)):
            over = 1 if args[1].shape[2:] == (1, 1) else (1, 2, 3)
            args = (in_eight_bits(args[0], over), in_eight_bits(args[1], (1, 2, 3)), *args[2:])
        return func(*args, **(kwargs or {}))


def in_eight_bits(x: Tensor, over: int | tuple[int, ...]) -> Tensor:
    """x as float8_e4m3fn holds it, scaled so that the largest over these axes is the largest there
    is."""
    wide = x.float()
    scale = wide.abs().amax(over, keepdim=True).clamp_min(1e-12) / LARGEST
    return ((wide / scale).to(torch.float8_e4m3fn).float() * scale).to(x.dtype)
