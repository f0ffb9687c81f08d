"""Changes of size between the levels of UNet and VAE; parameter names are those of diffusers' modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from csrc_triton import fused
from icd_engine.networks.sums import Map, convolution


class Downsample(nn.Module):
    """Stride-2 convolution. `symmetric=False` pads right and bottom only, as the VAE's encoder
    does."""

    def __init__(self, channels: int, *, symmetric: bool):
        super().__init__()
        self.symmetric = symmetric
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1 if symmetric else 0)

    def forward(self, x: Tensor) -> Map:
        return convolution(self.conv, x if self.symmetric else F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution, as one 2x2 convolution of the small map.

    An output pixel sees 2x2 different inputs only; which, and with which sums of the 3x3 weights,
    depends on whether its row and column are even. So four sets of filters do 4/9 of the
    multiplications, exact up to the rounding of those sums.
    """

    phase_weight: Tensor | None
    phase_bias: Tensor | None

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        # Of the four sets together, once `keep_filters` has made them
        self.register_buffer("phase_weight", None, persistent=False)
        self.register_buffer("phase_bias", None, persistent=False)
        self.register_load_state_dict_post_hook(_keep_again)

    def forward(self, x: Tensor) -> Tensor:
        phases = F.conv2d(x, *self._filters(), padding=1).unflatten(1, (2, 2, -1))
        if fused(x):
            return _stacked(phases)
        # [B, O, H + 1, 2, W + 1, 2]: of pixels one further out, which are cut off
        wide = phases.permute(0, 3, 4, 1, 5, 2).flatten(4, 5).flatten(2, 3)
        return wide[..., 1:-1, 1:-1]

    def _filters(self) -> tuple[Tensor, Tensor]:
        if self.phase_weight is None or self.phase_bias is None or type(self.conv) is not nn.Conv2d:
            return self.made_filters()  # also where something is added to the weights
        return self.phase_weight, self.phase_bias

    def made_filters(self) -> tuple[Tensor, Tensor]:
        """Filters and bias of the four sets, of what the weights are now."""
        assert self.conv.bias is not None
        return phase_filters(self.conv.weight), self.conv.bias.repeat(4)


def _keep_again(module: nn.Module, *_: object) -> None:
    """After other weights were loaded."""
    assert isinstance(module, Upsample)
    if module.phase_weight is not None:
        keep_filters(module)


def _stacked(phases: Tensor) -> Tensor:
    """[B, 2, 2, O, H + 1, W + 1] -> [B, O, 2 H, 2 W], channels last: inductor writes that with one
    kernel, and a copy that is cut with two."""
    # Of odd rows and columns, which come first, and of even ones
    within = (slice(1, None), slice(None, -1))
    rows = []
    for i in (1, 0):
        cut = (phases[:, i, j, :, within[i], within[j]].permute(0, 2, 3, 1) for j in (1, 0))
        rows.append(torch.stack(tuple(cut), dim=3))  # [B, H, W, 2, O]
    return torch.stack(rows, dim=2).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def phase_filters(weight: Tensor) -> Tensor:
    """[O, I, 3, 3] -> [4 O, I, 2, 2]: filters of odd and even rows, in each of odd and even
    columns, in each all O."""
    summed = weight.float()
    for dim in (3, 2):
        first, middle, last = summed.split(1, dim)
        even = torch.cat([first, middle + last], dim)
        odd = torch.cat([first + middle, last], dim)
        summed = torch.cat([odd, even])
    return summed.to(weight.dtype)


@torch.no_grad()
def keep_filters(network: nn.Module) -> None:
    """Makes the filters of every `Upsample` now and not in each pass. To be called again once its
    weights were written into; then filters stay where they are."""
    for module in network.modules():
        if not isinstance(module, Upsample) or type(module.conv) is not nn.Conv2d:
            continue
        weight, bias = module.made_filters()
        if module.phase_weight is not None and module.phase_bias is not None:
            module.phase_weight.copy_(weight)
            module.phase_bias.copy_(bias)
            continue
        layout = torch.channels_last if weight.is_cuda else torch.preserve_format
        module.phase_weight = weight.to(memory_format=layout)
        module.phase_bias = bias
