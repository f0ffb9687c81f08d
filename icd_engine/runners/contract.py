"""What every runner takes and gives: batches of rows as tensors, one row an image at some noise level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from icd_engine.networks.attention import EditStep
from icd_engine.sampling.schedule import Hop

# callback(step, t, latents [rows, 4, h, w] float32) -> latents to go on with, or None
StepCallback = Callable[[int, int, Tensor], Tensor | None]


@dataclass(frozen=True)
class Blend:
    """Where targets may differ from their source; T target rows."""

    source_row: Tensor  # [T] int64
    active: Tensor  # [T] bool: the row has blend words
    user_mask: Tensor | None = None  # [T, h, w] float32, 1 = may change


@dataclass(frozen=True)
class DecodeInputs:
    """One batch of decode rows, sources first, then targets: R = S + T rows, K hops, n tokens."""

    latents: Tensor  # [R, 4, h, w] float32, at the first hop's t
    prompt: Tensor  # [R, n, C] text features
    guidance: Sequence[Sequence[float]]  # [K][R]: w(t) of every hop and row, code notation
    edits: Sequence[EditStep] | None = None  # [K], None: no attention is edited
    blend: Blend | None = None
    empty_prompt: Tensor | None = None  # [1, n, C]: needed where the network is not guidance-distilled


@dataclass(frozen=True)
class Decoded:
    """Final latents [R, 4, h, w] float32 and the masks used after each hop [K, T, h, w] (None without blending)."""

    latents: Tensor
    masks: Tensor | None = None


class Runner(Protocol):
    """A way to execute the networks of one model."""

    name: str

    def encode_prompts(self, ids: Tensor) -> Tensor:
        """Token ids [B, n] -> text features [B, n, C]."""
        ...

    def to_latents(self, pictures: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in [-1, 1] -> scaled latents [B, 4, h, w] float32."""
        ...

    def to_image(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> pictures [B, 3, H, W] float32, not clamped."""
        ...

    def encode(self, latents: Tensor, prompt: Tensor, hops: Sequence[Hop], callback: StepCallback | None) -> Tensor:
        """The forward network up its hops, unguided: latents [B, 4, h, w] float32 in and out."""
        ...

    def decode(self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None) -> Decoded:
        """The reverse network down its hops."""
        ...
