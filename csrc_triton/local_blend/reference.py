"""The definition of local_blend in plain PyTorch; it is also the CPU implementation and what
exporters see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def local_blend_reference(
    latents: Tensor,
    maps_source: Tensor,
    maps_target: Tensor,
    source_row: Tensor,
    use_blend: Tensor,
    user_mask: Tensor | None = None,
    threshold: float = 0.3,
    source_latents: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t <- x_s + mask (x_t - x_s). Shapes as `csrc_triton.local_blend.local_blend`, unchecked."""
    height, width = latents.shape[2:]
    opened = word_mask(maps_source, height, width, threshold) | word_mask(
        maps_target, height, width, threshold
    )
    mask = (opened | ~use_blend[:, None, None]).float()
    if user_mask is not None:
        mask = mask * user_mask

    copied, targets = latents.split([latents.shape[0] - source_row.shape[0], source_row.shape[0]])
    sources = copied if source_latents is None else source_latents
    # lerp is that formula, and exact at mask 0 and 1: a row that blends nothing is bit-equal to the
    # plain path.
    blended = torch.lerp(sources[source_row], targets, mask[:, None])
    return torch.cat([copied, blended]).contiguous(), mask.contiguous()


def word_mask(maps: Tensor, height: int, width: int, threshold: float) -> Tensor:
    """[T, h, w] word maps -> [T, height, width] bool: where the pooled map exceeds `threshold` of
    its maximum."""
    maps = F.max_pool2d(maps[:, None], kernel_size=3, stride=1, padding=1)
    maps = F.interpolate(maps, size=(height, width), mode="nearest")[:, 0]
    # A maximum of 0, inf or NaN leaves quotients that are 0, -inf or NaN: none of them is above a
    # threshold >= 0.
    return maps / maps.amax(dim=(1, 2), keepdim=True) > threshold
