"""ComfyUI's types and the engine's, into each other: values of 8 bits stay as they are.

IMAGE is float32 [B, H, W, 3] in [0, 1], MASK float32 [B, H, W] where 1 may change, LATENT a dict whose
"samples" [B, 4, h, w] are those of the VAE, without its scaling factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from icd_engine.errors import ImageError

STAND_IN = (64, 64)  # the empty mask that ComfyUI loads with a picture that has none


def to_pictures(images: Tensor) -> list[Image.Image]:
    """IMAGE -> RGB pictures. A fourth channel is left out: ComfyUI has masks for that. ImageError."""
    if images.ndim != 4 or images.shape[-1] not in (3, 4) or not images.numel():
        raise ImageError(f"expected an IMAGE [B, H, W, 3], got shape {list(images.shape)}")
    values = images[..., :3].detach().to("cpu", torch.float32)
    if not torch.isfinite(values).all():
        raise ImageError("the picture holds NaN or infinite values")
    # Scaling with sharp filters overshoots; ComfyUI cuts that where it saves
    pixels = (values.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return [Image.fromarray(picture) for picture in pixels]


def to_image(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of one size -> IMAGE."""
    arrays = [np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))


def to_masks(mask: Tensor | None, count: int) -> list[np.ndarray | None]:
    """MASK [B, H, W] or [H, W] -> one [H, W] for each of `count` pictures; one serves all of them.

    None where there is no mask, or the stand-in for one. ImageError.
    """
    if mask is None:
        return [None] * count
    values = mask.detach().to("cpu", torch.float32)
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or len(values) not in (1, count):
        raise ImageError(f"expected a MASK [{count}, H, W], got shape {list(mask.shape)}")
    if tuple(values.shape[1:]) == STAND_IN and not values.any():
        return [None] * count
    return [one.clamp(0, 1).numpy() for one in values.expand(count, -1, -1)]


def to_mask(masks: Sequence[np.ndarray | None], size: tuple[int, int]) -> Tensor:
    """Where pictures of `size` = (w, h) may have changed -> MASK; everywhere where nothing says."""
    everywhere = np.ones(size[::-1], np.float32)
    return torch.from_numpy(np.stack([everywhere if one is None else one for one in masks]))


def to_latent(latents: Sequence[Tensor], scaling_factor: float) -> dict[str, Tensor]:
    """Latents [1, 4, h, w] of the engine -> LATENT, which a VAE Decode of the same VAE decodes."""
    samples = torch.cat([torch.as_tensor(one) for one in latents])
    return {"samples": samples.to("cpu", torch.float32) / scaling_factor}
