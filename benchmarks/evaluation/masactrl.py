"""MasaCtrl (Cao et al., arXiv 2304.08465): the edit looks at the source picture in self-attention,
so that it keeps what things look like while their layout may change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from benchmarks.evaluation.diffusion import Diffusion, down, levels
from benchmarks.evaluation.inverting import ddim_inversion
from benchmarks.evaluation.tasks import EditTask, Outcome
from icd_engine.networks.attention import Attention, PassState, attend
from icd_engine.networks.unet import UNet

FIRST_STEP = 4  # of 50, as published
# Of the transformer blocks in the order they run in: 10 of SD1.5's 16 and 44 of SDXL's 70, as
# published; 4 of the embedded teacher's 7, the second of the four on its way up.
FIRST_LAYER = 10 / 16


def first_layer(blocks: int) -> int:
    """The first of so many transformer blocks whose self-attention is mutual."""
    return round(FIRST_LAYER * blocks)


@contextmanager
def mutual(unet: UNet, first: int) -> Iterator[None]:
    """Within, the self-attention of blocks from `first` on is mutual. For rows [source, target]
    without an edit plan; not for several threads at once."""
    layers = [block.attn1 for block in unet.transformer_blocks()[first:]]
    for layer in layers:
        layer.to_self = partial(_to_source, layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.to_self


def _to_source(layer: Attention, x: Tensor, state: PassState, shared: bool) -> Tensor:
    """Self-attention of rows [source, target], x [2, N, C], with the source's keys and values for
    both."""
    q = layer.split(layer.to_q(x))
    k = layer.split(layer.to_k(x[:1])).expand_as(q)
    v = layer.split(layer.to_v(x[:1])).expand_as(q)
    return layer.out(attend(q, k, v))


def masactrl(model: Diffusion, task: EditTask) -> Outcome:
    """DDIM inversion with the source prompt; the source row unguided, which keeps it nearest to
    the picture, the target row guided and, from FIRST_STEP and first_layer on, looking at it."""
    prompts = model.features(task.source, task.target)
    empty = model.features("", "")
    x = ddim_inversion(model, task)[-1].repeat(2, 1, 1, 1)
    weights = torch.tensor([0.0, task.w], device=x.device)
    first = first_layer(len(model.unet.transformer_blocks()))
    for k, (t, s) in enumerate(down(levels())):
        with mutual(model.unet, first) if k >= FIRST_STEP else nullcontext():
            eps = model.guided(x, t, prompts, empty, weights)
        x = model.step(x, eps, t, s)
    return Outcome(x[:1], x[1:])
