"""Prompt-to-prompt the way it was published: attention maps in memory, edited by a processor,
stored for local blend.

Only a baseline does this. The engine computes the same edit without a map
(icd_engine/networks/attention.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from icd_engine.editing.plan import align, cross_windows, make_plan
from icd_engine.editing.words import Tokens
from icd_engine.settings import EditSettings

THRESHOLD = 0.3  # share of a word map's maximum above which local blend opens


@dataclass(frozen=True)
class Control:
    """The numbers of one edit as the published controllers hold them; K decode steps, n tokens."""

    alpha: Tensor  # [K, n]: 1 where a token's map still comes from the source
    equalizer: Tensor  # [n]: factors of amplified words
    share_self: list[bool]  # [K]
    replace_mapper: Tensor | None  # [n, n], source token -> target token; None: refine
    refine_from: Tensor | None  # [n] int64: the source token of each target token
    refine_aligned: Tensor | None  # [n]: 0 where the target token is new
    words: Tensor | None  # [2, n]: blend words of source and target

    def cross(self, k: int, source: Tensor, target: Tensor) -> Tensor:
        """The edited map [heads, N, n] of the target row, from the maps of both rows."""
        if self.replace_mapper is not None:
            edited = torch.einsum("hpw,wn->hpn", source, self.replace_mapper)
        else:
            assert self.refine_from is not None and self.refine_aligned is not None
            edited = source[..., self.refine_from] * self.refine_aligned + target * (
                1 - self.refine_aligned
            )
        edited = edited * self.equalizer
        return edited * self.alpha[k] + target * (1 - self.alpha[k])


def make_control(
    source: Tokens, target: Tokens, settings: EditSettings, steps: int, device: torch.device
) -> Control:
    """From resolved settings: replace for prompts of equal word counts, else refine."""
    mapper = found = aligned = words = None
    if len(source.words) == len(target.words):
        plain = replace(settings, control="replace", cross_replace=1.0, amplify=None, blend=None)
        mapper = torch.from_numpy(make_plan(source, target, plain, 1).source_mix[0]).to(device)
    else:
        found, aligned = (torch.from_numpy(array).to(device) for array in align(source, target))
    equalizer = torch.ones(len(target.ids), device=device)
    for word, factor in (settings.amplify or {}).items():
        equalizer[list(target.find(word))] = factor
    if settings.blend is not None:
        words = torch.zeros(2, len(target.ids), device=device)
        words[0, list(source.find(settings.blend[0]))] = 1
        words[1, list(target.find(settings.blend[1]))] = 1
    shared = make_plan(source, target, replace(settings, blend=None), steps).share_self
    alpha = torch.from_numpy(cross_windows(target, settings.cross_replace, steps)).to(device)
    return Control(alpha, equalizer, shared.tolist(), mapper, found, aligned, words)


@dataclass(frozen=True)
class Layer:
    """Where an attention layer stands: what its map is used for."""

    cross: bool
    small: bool  # at most as fine as shared self-attention: its map is stored
    blends: bool


@dataclass
class Controller:
    """Edits and stores the maps of the rows [source, target], the last two of every batch, during
    one decode."""

    control: Control | None = None  # None: the maps are made and left alone, as while encoding
    step: int = 0
    new: dict[str, Tensor] = field(default_factory=dict)
    total: dict[str, Tensor] = field(default_factory=dict)

    def start(self, control: Control | None) -> None:
        self.control = control
        self.step = 0
        self.new = {}
        self.total = {}

    def see(self, name: str, layer: Layer, probabilities: Tensor, heads: int) -> None:
        """Edits the maps [rows * heads, N, M] in place."""
        if self.control is None:
            return
        both = probabilities[-2 * heads :].unflatten(0, (2, heads))
        source, target = both
        if layer.cross:
            target.copy_(self.control.cross(self.step, source, target))
        elif layer.small and self.control.share_self[self.step]:
            target.copy_(source)
        if layer.small:
            self.new[name] = both

    def end_step(self) -> None:
        for name, maps in self.new.items():
            if name in self.total:
                self.total[name] += maps
            else:
                self.total[name] = maps
        self.new = {}
        self.step += 1

    def blend(self, latents: Tensor, layers: dict[str, Layer], height: int, width: int) -> Tensor:
        """Keeps the source where neither prompt's blend words look; the maps are height x width."""
        if self.control is None or self.control.words is None:
            return latents
        maps = torch.stack([self.total[name] for name, layer in layers.items() if layer.blends])
        looked = (
            (maps * self.control.words[:, None, None])
            .sum(-1)
            .mean((0, 2))
            .unflatten(-1, (height, width))
        )
        pooled = F.max_pool2d(looked[:, None], 3, stride=1, padding=1)
        mask = F.interpolate(pooled, size=latents.shape[-2:])
        mask = mask / mask.amax((2, 3), keepdim=True) > THRESHOLD
        opened = (mask[:1] | mask[1:]).float()
        return latents[:1] + opened * (latents - latents[:1])


class MapsProcessor:
    """A diffusers attention processor that makes the whole map and shows it to the controller."""

    def __init__(self, name: str, layer: Layer, controller: Controller):
        self.name = name
        self.layer = layer
        self.controller = controller

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            attn.head_to_batch_dim(project(x))
            for project, x in (
                (attn.to_q, hidden_states),
                (attn.to_k, context),
                (attn.to_v, context),
            )
        )
        probabilities = attn.get_attention_scores(q, k)
        self.controller.see(self.name, self.layer, probabilities, attn.heads)
        out = attn.batch_to_head_dim(torch.bmm(probabilities, v))
        return attn.to_out[1](attn.to_out[0](out))


def find_layers(unet: Any, blend_downscale: int, share_downscale: int) -> dict[str, Layer]:
    """All attention layers of a diffusers UNet, by the names of their processors."""
    lowest = len(unet.config.block_out_channels) - 1
    layers = {}
    for name in unet.attn_processors:
        place, number = name.split(".")[:2]
        level = {"down_blocks": lambda i: i, "up_blocks": lambda i: lowest - i}.get(
            place, lambda i: lowest
        )(int(number) if number.isdecimal() else 0)
        cross = ".attn2." in name
        blends = cross and place != "mid_block" and 2**level == blend_downscale
        layers[name] = Layer(cross=cross, small=2**level >= share_downscale, blends=blends)
    return layers
