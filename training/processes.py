"""This process among those that train together: its device, its precision, and gradients averaged
over all of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from accelerate import PartialState

Model = TypeVar("Model", bound=nn.Module)


def processes() -> PartialState:
    """This process among the others, which the first call joins."""
    from accelerate import PartialState  # here, for machines that evaluate and do not train

    return PartialState(cpu=not torch.cuda.is_available())


def rank() -> int:
    return processes().process_index


def world_size() -> int:
    return processes().num_processes


def device() -> torch.device:
    found = processes().device
    assert found is not None
    return found


def autocast(precision: str = "bf16") -> torch.autocast:
    """Where matrix products run in half precision ("fp32": nowhere); weights, losses and latents
    stay float32."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device().type, half, enabled=half is not None)


def channels_last(module: Model) -> Model:
    """The module with its weights channels-last, the faster layout for convolutions."""
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs lack it


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Mean of the gradients over all processes, as one flat message."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if world_size() == 1 or not gradients:
        return
    from accelerate.utils import reduce

    flat = reduce(torch.cat([g.flatten() for g in gradients]), "mean")
    assert isinstance(flat, Tensor)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
