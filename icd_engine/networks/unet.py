"""The conditional UNet of Stable Diffusion; loads diffusers' UNet2DConditionModel weights
unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from icd_engine.bundles.fields import UNET_FIXED, check_fields
from icd_engine.editing.plan import EditStep
from icd_engine.networks.attention import (
    PassState,
    TransformerBlock,
    prompt_tables,
    word_columns,
)
from icd_engine.networks.blocks import (
    GroupNormSiLU,
    ResidualBlock,
    join_weights,
    sinusoid,
)
from icd_engine.networks.levels import (
    DownLevel,
    MidLevel,
    UpLevel,
    down_channels,
    per_level,
    up_channels,
)
from icd_engine.networks.resizing import Downsample, Upsample
from icd_engine.networks.sums import convolution


class UNetOutput(NamedTuple):
    """Predicted noise [B, 4, h, w], and what else a pass was asked for."""

    eps: Tensor
    # [2, T, h, w]: attention to source and target blend words, mean over heads and layers
    word_maps: Tensor | None
    # Each transformer block's Q (and K where self-attention is shared) of the source rows
    kept: list[Tensor] | None


class AddedConditions(NamedTuple):
    """SDXL's further conditions: pooled prompt features [B, P] and sizes and crops [B, 6]."""

    text_embeds: Tensor
    time_ids: Tensor


class TimeEmbedding(nn.Module):
    """Two linear layers over a sinusoid; `cond_proj` adds the guidance embedding first."""

    def __init__(self, in_channels: int, channels: int, cond_channels: int | None = None):
        super().__init__()
        self.linear_1 = nn.Linear(in_channels, channels)
        self.linear_2 = nn.Linear(channels, channels)
        if cond_channels is not None:
            self.cond_proj = nn.Linear(cond_channels, in_channels, bias=False)

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        if cond is not None:
            x = x + self.cond_proj(cond)
        return self.linear_2(F.silu(self.linear_1(x)))


class UNet(nn.Module):
    """Noise prediction eps(x_t, t, prompt, w), built from diffusers' `unet/config.json`.

    `blend_downscale` names the level whose text attention local blend reads (4: a quarter of the
    latent's size; the middle block is never read), `share_downscale` the first level whose
    self-attention may come from the source. Raises BundleError on a configuration it does not
    cover.
    """

    joined: Tensor | None

    def __init__(
        self, config: Mapping[str, Any], *, blend_downscale: int = 4, share_downscale: int = 2
    ):
        super().__init__()
        check_fields("unet/config.json", config, UNET_FIXED)
        widths: list[int] = config["block_out_channels"]
        groups = config["norm_num_groups"]
        time_channels = 4 * widths[0]
        self.in_channels: int = config["in_channels"]
        self.time_channels = widths[0]
        self.guidance_channels: int | None = config.get("time_cond_proj_dim")
        self.conv_in = nn.Conv2d(self.in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], time_channels, self.guidance_channels)
        self.addition_channels: int = config.get("addition_time_embed_dim") or 0
        if config.get("addition_embed_type") == "text_time":
            self.add_embedding = TimeEmbedding(
                config["projection_class_embeddings_input_dim"], time_channels
            )
        self._add_levels(config, widths)
        self.conv_norm_out = GroupNormSiLU(groups, widths[0], config["norm_eps"])
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)
        self._mark_levels(blend_downscale, share_downscale)
        # Tuples: modules in them are not registered a second time
        self._residual = tuple(m for m in self.modules() if isinstance(m, ResidualBlock))
        self._transformers = tuple(m for m in self.modules() if isinstance(m, TransformerBlock))
        attentions = [block.attn2 for block in self._transformers]
        self._prompt_layers = (*(a.to_k for a in attentions), *(a.to_v for a in attentions))
        self._shift_widths = [block.out_channels for block in self._residual]
        self._value_widths = [block.channels for block in self._transformers]
        # The weights of all keys, then values of text attention, whose parts to_k and to_v then are
        self.register_buffer("joined", None, persistent=False)

    def _add_levels(self, config: Mapping[str, Any], widths: list[int]) -> None:
        levels = len(widths)
        layers = config["layers_per_block"]
        # Diffusers' historical name for the number of heads.
        heads = per_level(config["attention_head_dim"], levels)
        depths = per_level(config.get("transformer_layers_per_block", 1), levels)
        shared = {
            "time_channels": 4 * widths[0],
            "groups": config["norm_num_groups"],
            "eps": config["norm_eps"],
        }

        def transformer(level: int) -> dict[str, Any]:
            return {
                "heads": heads[level],
                "depth": depths[level],
                "context_channels": config["cross_attention_dim"],
                "linear_projection": config.get("use_linear_projection", False),
            }

        self.down_blocks = nn.ModuleList()
        for level, pairs in enumerate(down_channels(widths, layers)):
            text = "CrossAttn" in config["down_block_types"][level]
            block = DownLevel(pairs, transformer=transformer(level) if text else None, **shared)
            if level + 1 < levels:
                block.downsamplers = nn.ModuleList([Downsample(widths[level], symmetric=True)])
            self.down_blocks.append(block)
        self.mid_block = MidLevel(widths[-1], transformer=transformer(levels - 1), **shared)
        self.up_blocks = nn.ModuleList()
        for i, pairs in enumerate(up_channels(widths, layers)):
            level = levels - 1 - i
            text = "CrossAttn" in config["up_block_types"][i]
            block = UpLevel(pairs, transformer=transformer(level) if text else None, **shared)
            if level > 0:
                block.upsamplers = nn.ModuleList([Upsample(widths[level])])
            self.up_blocks.append(block)

    def _mark_levels(self, blend_downscale: int, share_downscale: int) -> None:
        """Which levels local blend reads, and which may take self-attention from the source."""
        levels = len(self.down_blocks)
        for level in range(levels):
            for block in (self.down_blocks[level], self.up_blocks[levels - 1 - level]):
                block.shares_self = 2**level >= share_downscale
                block.feeds_blend = 2**level == blend_downscale
        self.mid_block.shares_self = 2 ** (levels - 1) >= share_downscale

    def residual_blocks(self) -> Sequence[ResidualBlock]:
        """In the order they run in."""
        return self._residual

    def transformer_blocks(self) -> Sequence[TransformerBlock]:
        """In the order they run in."""
        return self._transformers

    def join_weights(self) -> None:
        """Fewer and larger products, for devices where each is a launch: layers that take one input
        keep their weights in one tensor. To be called once the weights are where they stay, and again
        for a copy: moving and copying take parameters one by one."""
        self.joined = join_weights(self._prompt_layers)
        for block in self._transformers:
            own = block.attn1
            own.joined = join_weights([own.to_q, own.to_k, own.to_v])

    def time_shifts(
        self, t: Tensor, guidance: Tensor | None = None, added: AddedConditions | None = None
    ) -> Tensor:
        """What the residual blocks add for time step t [B], guidance embedding [B, G] and SDXL's
        conditions, the bias of each one's first convolution included: [B, D].

        D is the sum of their widths. It depends on nothing else, so it can be kept for every (t, w)
        in use.
        """
        dtype = self.conv_in.weight.dtype
        guidance = None if guidance is None else guidance.to(dtype)
        features = self.time_embedding(sinusoid(t, self.time_channels).to(dtype), guidance)
        if added is not None:
            sizes = sinusoid(added.time_ids, self.addition_channels).flatten(1)
            both = torch.cat([added.text_embeds, sizes.to(added.text_embeds.dtype)], dim=-1)
            features = features + self.add_embedding(both.to(dtype))
        features = F.silu(features)
        return torch.cat([block.time_shift(features) for block in self._residual], dim=-1)

    def prompt_values(self, prompt: Tensor) -> Tensor:
        """Prompt features [B, n, C] -> keys, then values, of every text attention, [B, n, D]; kept
        for each prompt."""
        layers = self._prompt_layers
        if self.joined is not None and all(type(layer) is nn.Linear for layer in layers):
            return F.linear(prompt, self.joined)
        return torch.cat([layer(prompt) for layer in layers], dim=-1)

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        prompt: Tensor,
        guidance: Tensor | None = None,
        edit: EditStep | None = None,
        added: AddedConditions | None = None,
    ) -> UNetOutput:
        """Latents [B, 4, h, w] at time steps t [B], prompt features [B, n, C], guidance embedding
        [B, G] (or None).

        With `edit`, rows are sources then targets, and the maps of the blend words come back too.
        """
        return self.predict(
            latents, self.time_shifts(t, guidance, added), self.prompt_values(prompt), edit
        )

    def predict(
        self,
        latents: Tensor,
        shifts: Tensor,
        prompt: Tensor,
        edit: EditStep | None = None,
        source: Sequence[Tensor] | None = None,
        keep: bool = False,
    ) -> UNetOutput:
        """`forward` with its tables given: `time_shifts` [B, D] and `prompt_values` [R, n, D'].

        With `keep`, what the source rows contribute to target rows comes back; given as `source` to
        a later pass at the same step, latents and shifts hold the T target rows alone, the prompt
        still all R = S + T.
        """
        state = PassState(
            shifts=list(reversed(shifts.split(self._shift_widths, dim=-1))),
            prompt=list(reversed(prompt_tables(prompt, self._value_widths, edit))),
            edit=edit,
            columns=word_columns(edit),
            source=None if source is None else list(reversed(source)),
            kept=[] if keep else None,
            maps=[],
        )
        x = convolution(self.conv_in, latents)
        skips: list[Tensor] = []
        for block in self.down_blocks:
            x = block(x, state, skips)
        x = self.mid_block(x, state, skips)
        for block in self.up_blocks:
            x = block(x, state, skips)
        _, x = self.conv_norm_out.taking(x)
        eps = self.conv_out(x)
        state.check_taken()
        return UNetOutput(
            eps, torch.stack(state.maps).mean(dim=0) if state.maps else None, state.kept
        )
