"""What every runner takes and gives: batches of rows as tensors, one row an image at some noise
level.

Tensors are torch's, on the runner's device; the runner that works without torch takes and gives
numpy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.styles import UsedStyle
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
    # [K] of [S, 4, h, w] float32: what each hop missed the encode trajectory by; empty where the
    # decoding was not anchored
    residuals: list[Tensor]


class Anchor(NamedTuple):
    """The encode trajectory of S pictures, which their decoding is held to; K hops.

    Decoding jumps to boundaries that encoding has passed, so after every hop the error of the
    source rows is known, r = e_s - x_s. They are put onto the trajectory, and target rows take
    `share` of their source's r. (PnP Inversion, arXiv 2310.01506, corrects a source branch alone.)
    """

    boundaries: list[Tensor]  # [K] of [S, 4, h, w] float32: e_s at the s of every hop
    share: Tensor  # [S] float32


@dataclass(frozen=True)
class DecodeInputs:
    """One batch of decode rows, sources first, then targets: R = S + T rows, K hops, n tokens.

    Without edits, rows are independent of each other and all count as sources. With `source`,
    latents and guidance are those of the T target rows alone.

    With `anchor`, source rows begin every hop on the encode trajectory, so with `ahead` all of them,
    K S, run in the first call, and after it target rows alone. Nothing may then change source rows
    between hops: a callback sees the target rows.

    With `parents` the number of target rows grows from hop to hop, T_k in hop k, and T = T_0; all
    have one prompt. Rows that agree so far run once.
    """

    latents: Tensor  # [R, 4, h, w] float32, at the first hop's t
    prompts: Prompts  # R; with parents S + T of the last hop
    guidance: Sequence[Sequence[float]]  # [K][R]: w(t) of every hop and row, 0 = unguided
    edits: Sequence[EditStep] | None = None  # [K], None: no attention is edited
    blend: Sequence[Blend] | None = None  # [K]
    empty_prompt: Prompts | None = (
        None  # one row; needed where the network is not guidance-distilled
    )
    source: SourceBranch | None = None
    keep: bool = False  # hand the source branch back
    anchor: Anchor | None = None
    ahead: bool = False
    only_source: bool = False  # with ahead: the first call alone, for the source branch
    # [K] of [T_k] int64: the target row of the hop before that each one goes on from
    parents: Sequence[Tensor] | None = None
    # [K] of R: what text attention sees, where that changes by hop
    hop_prompts: Sequence[Prompts] | None = None

    def targets(self, hops: int) -> list[int]:
        """The number of target rows of every hop."""
        edits = self.edits
        return [0] * hops if edits is None else [len(edit.source_row) for edit in edits[:hops]]

    @property
    def sources(self) -> int:
        """The number of source rows, whether they run or have run before."""
        return len(self.prompts) - (0 if self.edits is None else len(self.edits[-1].source_row))


@dataclass(frozen=True)
class Decoded:
    """Final latents [R, 4, h, w] float32 ([T, ...] where the source was given or ran ahead) and
    what else was asked for."""

    latents: Tensor
    # [K] of [T, h, w]: used after each hop; None without blending
    masks: list[Tensor] | None = None
    source: SourceBranch | None = None
    # [2, T, h, w]: attention to the source's and the target's blend words, summed over the hops;
    # None without blending, or where no level has maps
    maps: Tensor | None = None


class Runner(Protocol):
    """A way to execute the networks of one model.

    Tensors stay on its device; it may be called from several threads.
    """

    name: str  # for people; what a runner can do is said by the attributes below
    device: Any  # torch.device, or its name where there is no torch
    gives_torch: bool  # it can hand values out as torch's tensors
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

    def as_torch(self, values: Tensor) -> Tensor:
        """What `host` gave as a tensor of torch's; only where it gives torch."""
        ...

    def free_memory(self) -> None:
        """Lets go of what is kept for reuse."""
        ...

    def encode_prompts(self, ids: Sequence[Sequence[int]]) -> Prompts:
        """Token ids of each prompt (of every text encoder, one after the other) -> text features.
        They may be what the runner keeps: for reading alone."""
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
    ) -> list[Tensor]:
        """The encode network up its hops, unguided: latents [B, 4, h, w] float32 -> the same after
        each hop."""
        ...

    def decode(
        self, inputs: DecodeInputs, hops: Sequence[Hop], callback: StepCallback | None
    ) -> Decoded:
        """The decode network down its hops."""
        ...


@runtime_checkable
class Restyles(Protocol):
    """A runner of networks whose weights may change: styles are put on and taken away."""

    def restyle(
        self,
        bundle: Bundle,
        before: Sequence[UsedStyle],
        after: Sequence[UsedStyle],
        ids: Mapping[str, int],
    ) -> None:
        """Networks of this bundle, with the styles of `after` in place of those of `before`; ids: of
        the tokens that they add. Not while another call runs. BundleError where weights overflow."""
        ...
