"""LPIPS on AlexNet (Zhang et al., arXiv 1801.03924), with torchmetrics' fitted heads and a backbone given by path.

torchmetrics takes its backbone from torchvision, which downloads it, and whose wheels fit only one build of torch.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
WIDTHS = (64, 192, 384, 256, 256)
AFTER = (1, 4, 7, 9, 11)  # the layers whose outputs are compared: each convolution's ReLU


def alexnet_features() -> nn.Sequential:
    """The convolutions of torchvision's AlexNet, by their names there."""
    layers: list[nn.Module] = []
    inner = 3
    for i, (width, kernel, stride) in enumerate(zip(WIDTHS, (11, 5, 3, 3, 3), (4, 1, 1, 1, 1), strict=True)):
        layers += [nn.Conv2d(inner, width, kernel, stride, padding=2 if kernel > 3 else 1), nn.ReLU()]
        if i in (0, 1):
            layers.append(nn.MaxPool2d(3, 2))
        inner = width
    return nn.Sequential(*layers)


class Lpips(nn.Module):
    """Distance of two pictures [1, 3, h, w] in [-1, 1]; a float, 0 for equal ones.

    weights: torchvision's AlexNet (`alexnet-owt-7be5be79.pth`; tensors only). ImportError without torchmetrics.
    """

    def __init__(self, weights: Path):
        super().__init__()
        from torchmetrics.functional.image import lpips as torchmetrics_lpips

        heads = Path(os.path.dirname(torchmetrics_lpips.__file__)) / "lpips_models" / "alex.pth"
        fitted = torch.load(heads, map_location="cpu", weights_only=True)
        for i in range(len(WIDTHS)):
            self.register_buffer(f"head{i}", fitted[f"lin{i}.model.1.weight"])
        self.features = alexnet_features()
        state = torch.load(weights, map_location="cpu", weights_only=True)
        prefix = "features."
        self.features.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        self.requires_grad_(False).eval()

    def forward(self, one: Tensor, other: Tensor) -> float:
        distances = []
        for i, (a, b) in enumerate(zip(self._seen(one), self._seen(other), strict=True)):
            distances.append(((a - b).square() * self.get_buffer(f"head{i}")).sum(dim=1).mean())
        return float(sum(distances))

    def _seen(self, picture: Tensor) -> list[Tensor]:
        """The compared layers' outputs, of unit length at every place."""
        shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x, kept = (picture - shift) / scale, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in AFTER:
                kept.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return kept
