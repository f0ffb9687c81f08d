"""LPIPS (Zhang et al., arXiv 1801.03924): torchmetrics' fitted heads on a backbone of torchvision
given by path.

torchmetrics takes its backbone from torchvision, which downloads it, and whose wheels fit only one
build of torch. PIE-Bench measures with SqueezeNet, most papers with AlexNet, iCD's code with VGG16:
figures of one are not the other's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
# Names of layers in torchvision, and in a whole LPIPS as others save it
LAYOUTS = re.compile(r"^(?:features|net\.slices?\.?\d)\.")


class Fire(nn.Module):
    """SqueezeNet's block, by torchvision's names: 1x1 down, then 1x1 and 3x3 side by side."""

    def __init__(self, inner: int, squeezed: int, width: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inner, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, width, 1)
        self.expand3x3 = nn.Conv2d(squeezed, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


def alexnet() -> nn.Sequential:
    layers: list[nn.Module] = []
    inner = 3
    for i, (width, kernel) in enumerate(
        zip((64, 192, 384, 256, 256), (11, 5, 3, 3, 3), strict=True)
    ):
        layers += [
            nn.Conv2d(inner, width, kernel, 1 if i else 4, padding=1 if i > 1 else 2),
            nn.ReLU(),
        ]
        if i in (0, 1):
            layers.append(nn.MaxPool2d(3, 2))
        inner = width
    return nn.Sequential(*layers)


def squeezenet() -> nn.Sequential:
    """Version 1.1."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU()]
    inner = 64
    for stage in ((64, 64), (128, 128), (192, 192, 256, 256)):
        layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for width in stage:
            layers.append(Fire(inner, width // 4, width))
            inner = 2 * width
    return nn.Sequential(*layers)


def vgg16() -> nn.Sequential:
    """Without the last pooling, after which nothing is compared."""
    layers: list[nn.Module] = []
    inner = 3
    for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(depth):
            layers += [nn.Conv2d(inner, width, 3, padding=1), nn.ReLU()]
            inner = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers[:-1])


# And the layers that are compared
BACKBONES: dict[str, tuple[Callable[[], nn.Sequential], tuple[int, ...]]] = {
    "alex": (alexnet, (1, 4, 7, 9, 11)),
    "squeeze": (squeezenet, (1, 4, 7, 9, 10, 11, 12)),
    "vgg": (vgg16, (3, 8, 15, 22, 29)),
}


class Lpips(nn.Module):
    """Distance of two pictures [1, 3, h, w] in [-1, 1]; a float, 0 for equal ones. `backbone` says
    which it is.

    weights: torchvision's AlexNet, SqueezeNet 1.1 or VGG16, or a whole LPIPS on one of them, as
    torchmetrics and lpips save it (tensors only). ValueError or RuntimeError for other files,
    ImportError without torchmetrics.
    """

    def __init__(self, weights: Path):
        super().__init__()
        from torchmetrics.functional.image import lpips as torchmetrics_lpips

        state = torch.load(weights, map_location="cpu", weights_only=True)
        state = {LAYOUTS.sub("", key): value for key, value in state.items() if LAYOUTS.match(key)}
        if not state:
            raise ValueError(
                "no convolutions of AlexNet, SqueezeNet or VGG16 (the fitted heads alone are not enough)"
            )
        self.backbone = _backbone(state)
        make, self.compared = BACKBONES[self.backbone]
        self.features = make()
        self.features.load_state_dict(state)
        heads = Path(torchmetrics_lpips.__file__).parent / "lpips_models" / f"{self.backbone}.pth"
        fitted = torch.load(heads, map_location="cpu", weights_only=True)
        for i in range(len(self.compared)):
            self.register_buffer(f"head{i}", fitted[f"lin{i}.model.1.weight"])
        self.requires_grad_(False).eval()

    def forward(self, one: Tensor, other: Tensor) -> float:
        distances = []
        for i, (a, b) in enumerate(zip(self._seen(one), self._seen(other), strict=True)):
            distances.append(((a - b).square() * self.get_buffer(f"head{i}")).sum(dim=1).mean())
        return float(sum(distances))

    def _seen(self, picture: Tensor) -> list[Tensor]:
        """The compared layers' outputs, of unit length at every place."""
        shift, scale = (picture.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        x = (picture - shift) / scale
        kept = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.compared:
                kept.append(x / (x.square().sum(dim=1, keepdim=True) + 1e-8).sqrt())
        return kept


def _backbone(state: dict[str, Tensor]) -> str:
    """Which of BACKBONES has these weights: only SqueezeNet has blocks, and only VGG16 a 29th
    layer."""
    if any("squeeze" in key for key in state):
        return "squeeze"
    return "vgg" if "28.weight" in state else "alex"
