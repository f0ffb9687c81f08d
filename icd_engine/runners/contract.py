"""What every runner takes and gives: batches of rows as tensors, one row an image at some noise
level.

Tensors are torch's, on the runner's device; the runner that works without torch takes and gives
numpy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from icd_engine.editing.plan import EditStep
from icd_engine.sampling.schedule import Hop

Tensor = Any
# SDXL's size conditioning: original size, crop corner, target size. Always the training size, as in
# the reference.
TIME_IDS = (1024.0, 1024.0, 0.0, 0.0, 1024.0, 1024.0)
# callback(k, t, latents [rows, 4, h, w] float32) after hop k -> latents to go on with, or None;
# t: the time step that the hop led to, Hop.s
StepCallback = Callable[[int, int, Tensor], Tensor | None]


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts, one a row; what a runner keeps for a prompt it keeps under its token ids."""

    ids: tuple[tuple[int, ...], ...]
    features: Tensor  # [B, n, C]
    pooled: Tensor | None = None  # [B, P]: SDXL's

    def __len__(self) -> int:
        return len(self.ids)


class Blend(NamedTuple):
    """Where targets may differ from their source; T target rows."""

    source_row: Tensor  # [T] int64
    active: Tensor  # [T] bool: the row has blend words
    user_mask: Tensor | None = None  # [T, h, w] float32, 1 = may change


class SourceBranch(NamedTuple):
    """What the source rows of a decoding leave for re-edits of the same pictures; K hops."""

    latents: list[Tensor]  # [K] of [S, 4, h, w] float32, after each hop
    features: list[list[Tensor]]  # [K] of UNetOutput.kept


@dataclass(frozen=True)
class DecodeInputs:
    """One batch of decode rows, sources first, then targets: R = S + T rows, K hops, n tokens.

    Without edits, rows are independent of each other and all count as sources. With `source`,
    latents and guidance are those of the T target rows alone.
    """

    latents: Tensor  # [R, 4, h, w] float32, at the first hop's t
    prompts: Prompts  # R
    guidance: Sequence[Sequence[float]]  # [K][R]: w(t) of every hop and row, 0 = unguided
    edits: Sequence[EditStep] | None = None  # [K], None: no attention is edited
    blend: Blend | None = None
    empty_prompt: Prompts | None = (
        None  # one row; needed where the network is not guidance-distilled
    )
    source: SourceBranch | None = None
    keep: bool = False  # hand the source branch back
    # [K] of R: what text attention sees, where that changes by hop
    hop_prompts: Sequence[Prompts] | None = None


@dataclass(frozen=True)
class Decoded:
    """Final latents [R, 4, h, w] float32 ([T, ...] where the source was given) and what else was
    asked for."""

    latents: Tensor
    masks: Tensor | None = None  # [K, T, h, w]: used after each hop; None without blending
    source: SourceBranch | None = None


class Runner(Protocol):
    """A way to execute the networks of one model.

    Tensors stay on its device; it may be called from several threads.
    """

    name: str  # for people; what a runner can do is said by the attributes below
    device: Any  # torch.device, or its name where there is no torch
    torch_tensors: bool  # its tensors are torch's; else they are numpy arrays
    warms_up: bool  # the first call at every batch and picture size waits: compiles or captures
    reference: bool  # its answers define those of every other runner

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array as a tensor on the device."""
        ...

    def join(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors one after the other along the first axis."""
        ...

    def host(self, tensor: Tensor) -> Tensor:
        """A copy on the CPU."""
        ...

    def free_memory(self) -> None:
        """Lets go of what is kept for reuse."""
        ...

    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        """Token ids of each prompt (of every text encoder, one after the other) -> text
        features."""
        ...

    def to_latents(self, pixels: Tensor, noise: Tensor | None = None) -> Tensor:
        """Pictures [B, H, W, 3] uint8 -> scaled latents [B, 4, h, w] float32: the posterior's mean.

        With `noise` [B, 4, h, w] float32, of normal distribution, a sample of the posterior.
        """
        ...

    def to_image(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> pictures [B, 3, H, W] float32, about in [-1, 1], not
        clamped.

        ImageError where they are not finite.
        """
        ...

    def to_pixels(self, latents: Tensor) -> Tensor:
        """Scaled latents [B, 4, h, w] -> pictures [B, H, W, 3] uint8.

        ImageError where they are not finite.
        """
        ...

    def encode(
        self, latents: Tensor, prompts: Prompts, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Tensor:
        """The encode network up its hops, unguided: latents [B, 4, h, w] float32 in and out."""
        ...

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        """The decode network down its hops."""
        ...
