"""The KL autoencoder of Stable Diffusion: pictures <-> latents; loads diffusers' AutoencoderKL
weights unchanged."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csrc_triton import fused
from csrc_triton.add_product import add_product
from icd_engine.networks.blocks import (
    GroupNorm,
    GroupNormSiLU,
    ResidualBlock,
    merge_heads,
    split_heads,
    to_map,
    to_tokens,
)
from icd_engine.networks.resizing import Downsample, Upsample
from icd_engine.networks.sums import Map, convolution, taken

EPS = 1e-6
MOST_POSITIONS = 4096  # whose attention map is kept, 67 MB in float32: a picture of 512x512


class SpatialAttention(nn.Module):
    """One-headed self-attention over all positions, with its own norm and residual."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = GroupNorm(groups, channels, EPS)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Map) -> Tensor:
        last = self.to_out[0]
        assert isinstance(last, nn.Linear)
        if isinstance(x, Tensor):
            out = self._attended(self.group_norm(x))
            return x + to_map(last(out), *x.shape[-2:])
        x, normed = self.group_norm.taking(x, carry=last.bias)
        total = add_product(to_tokens(x), self._attended(normed), last.weight)
        return to_map(total, *x.shape[-2:])

    def _attended(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        q, k, v = (project(tokens) for project in (self.to_q, self.to_k, self.to_v))
        if fused(x) and tokens.shape[1] <= MOST_POSITIONS:
            return attend_by_products(q, k, v)
        q, k, v = (split_heads(own, 1) for own in (q, k, v))
        return merge_heads(F.scaled_dot_product_attention(q, k, v))


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(C)) V for [B, N, C], its map in memory. Heads as wide as these, 512, fit no
    fast attention kernel; products are as fast as any. The map is float32, as it is in those kernels."""
    if q.dtype in (torch.float16, torch.bfloat16) and q.is_cuda:
        scores = torch.bmm(q, k.transpose(1, 2), out_dtype=torch.float32)
    else:
        scores = torch.bmm(q, k.transpose(1, 2))
    return torch.bmm((scores * q.shape[-1] ** -0.5).softmax(dim=-1).to(v.dtype), v)


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the smallest size."""

    def __init__(self, channels: int, groups: int, attention: bool):
        super().__init__()
        self.resnets = nn.ModuleList(
            ResidualBlock(channels, channels, groups=groups, eps=EPS) for _ in range(2)
        )
        self.attentions = nn.ModuleList([SpatialAttention(channels, groups)] if attention else [])

    def forward(self, x: Map) -> Map:
        _, x = self.resnets[0](x)
        for attention in self.attentions:
            x = attention(x)
        return self.resnets[1](x)[1]


class VAELevel(nn.Module):
    """Residual blocks at one size, then a change of size unless it is the last level."""

    def __init__(
        self, in_channels: int, out_channels: int, layers: int, groups: int, **resize: nn.Module
    ):
        super().__init__()
        widths = [in_channels] + [out_channels] * layers
        self.resnets = nn.ModuleList(
            ResidualBlock(a, b, groups=groups, eps=EPS) for a, b in itertools.pairwise(widths)
        )
        for name, module in resize.items():
            self.add_module(name, nn.ModuleList([module]))
        self.resize = next(iter(resize), None)

    def forward(self, x: Map) -> Map:
        for block in self.resnets:
            _, x = block(x)
        return getattr(self, self.resize)[0](taken(x)) if self.resize else x


class Encoder(nn.Module):
    """Pictures [B, 3, H, W] -> posterior moments [B, 2 * latent, H / f, W / f]."""

    def __init__(
        self,
        channels: Sequence[int],
        layers: int,
        groups: int,
        colours: int,
        latent: int,
        attention: bool,
    ):
        super().__init__()
        self.conv_in = nn.Conv2d(colours, channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(zip([channels[0], *channels], channels, strict=False)):
            resize = (
                {"downsamplers": Downsample(b, symmetric=False)} if i + 1 < len(channels) else {}
            )
            self.down_blocks.append(VAELevel(a, b, layers, groups, **resize))
        self.mid_block = MidBlock(channels[-1], groups, attention)
        self.conv_norm_out = GroupNormSiLU(groups, channels[-1], EPS)
        self.conv_out = nn.Conv2d(channels[-1], 2 * latent, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        summed = convolution(self.conv_in, x)
        for block in self.down_blocks:
            summed = block(summed)
        _, normed = self.conv_norm_out.taking(self.mid_block(summed))
        return self.conv_out(normed)


class Decoder(nn.Module):
    """Latents [B, latent, h, w] -> pictures [B, 3, f * h, f * w]."""

    def __init__(
        self,
        channels: Sequence[int],
        layers: int,
        groups: int,
        colours: int,
        latent: int,
        attention: bool,
    ):
        super().__init__()
        widths = list(reversed(channels))
        self.conv_in = nn.Conv2d(latent, widths[0], 3, padding=1)
        self.mid_block = MidBlock(widths[0], groups, attention)
        self.up_blocks = nn.ModuleList()
        for i, (a, b) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            resize = {"upsamplers": Upsample(b)} if i + 1 < len(widths) else {}
            self.up_blocks.append(VAELevel(a, b, layers + 1, groups, **resize))
        self.conv_norm_out = GroupNormSiLU(groups, widths[-1], EPS)
        self.conv_out = nn.Conv2d(widths[-1], colours, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        summed = self.mid_block(convolution(self.conv_in, x))
        for block in self.up_blocks:
            summed = block(summed)
        _, normed = self.conv_norm_out.taking(summed)
        return self.conv_out(normed)


class VAE(nn.Module):
    """Pictures in [-1, 1] <-> scaled latents, built from diffusers' `vae/config.json`."""

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        channels = config["block_out_channels"]
        latent = config["latent_channels"]
        layers = config["layers_per_block"]
        groups = config["norm_num_groups"]
        attention = config.get("mid_block_add_attention", True)
        self.scaling_factor: float = config["scaling_factor"]
        self.downscale = 2 ** (len(channels) - 1)
        # Side of the pictures it was trained on
        self.sample_size: int = config.get("sample_size", 512)
        self.encoder = Encoder(channels, layers, groups, config["in_channels"], latent, attention)
        self.decoder = Decoder(channels, layers, groups, config["out_channels"], latent, attention)
        self.quant_conv = (
            nn.Conv2d(2 * latent, 2 * latent, 1)
            if config.get("use_quant_conv", True)
            else nn.Identity()
        )
        self.post_quant_conv = (
            nn.Conv2d(latent, latent, 1)
            if config.get("use_post_quant_conv", True)
            else nn.Identity()
        )

    @property
    def dtype(self) -> torch.dtype:
        return self.decoder.conv_in.weight.dtype

    def moments(self, pictures: Tensor) -> Tensor:
        """Mean, then log-variance of the unscaled posterior, [B, 2 latent, H / f, W / f], of
        pictures [B, 3, H, W]."""
        mean, log_variance = self.quant_conv(self.encoder(pictures)).chunk(2, dim=1)
        return torch.cat([mean, log_variance.clamp(-30.0, 20.0)], dim=1)

    def sample(self, moments: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled latents: the posterior mean, or with `noise` [B, latent, h, w] a sample."""
        mean, log_variance = moments.chunk(2, dim=1)
        if noise is not None:
            mean = mean + (0.5 * log_variance).exp() * noise
        return mean * self.scaling_factor

    def to_latents(self, pictures: Tensor, noise: Tensor | None = None) -> Tensor:
        """Scaled posterior mean of pictures [B, 3, H, W] in [-1, 1]; with `noise` a posterior
        sample instead."""
        return self.sample(self.moments(pictures), noise)

    def to_image(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, f * h, f * w], about in [-1, 1] and not clamped, of scaled latents [B,
        latent, h, w]."""
        return self.decoder(self.post_quant_conv(latents / self.scaling_factor))
