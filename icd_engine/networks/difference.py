"""A network that is another one's weights plus low-rank updates: both in the memory of one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRankUpdate(nn.Module):
    """W + up @ down, summed in float32; down [R, in, (k, k)], up [out, R, (1, 1)]."""

    down: Tensor
    up: Tensor

    def __init__(self, down: Tensor, up: Tensor):
        super().__init__()
        self.register_buffer("down", down.flatten(1))
        self.register_buffer("up", up.flatten(1))

    def forward(self, weight: Tensor) -> Tensor:
        update = (self.up.float() @ self.down.float()).reshape(weight.shape)
        return (weight.float() + update).to(weight.dtype)


def share_weights(network: nn.Module, base: nn.Module, updates: Mapping[str, Tensor]) -> None:
    """Gives `network`, of the same architecture, the very tensors of `base`, and adds the updates
    as each module runs.

    updates: `<module>.down` and `<module>.up`. Nothing is switched and nothing kept: the sum of a
    module lives while it runs, so that passes of both networks may overlap. KeyError naming a
    module that is not there, RuntimeError where shapes do not fit.
    """
    network.load_state_dict(base.state_dict(), strict=True, assign=True)
    modules = dict(network.named_modules())
    for name in dict.fromkeys(key.rpartition(".")[0] for key in updates):
        module = modules[name]
        down = updates[f"{name}.down"]
        up = updates[f"{name}.up"]
        weight = module.weight
        assert isinstance(weight, Tensor)
        if up.shape[1] != down.shape[0] or (up.shape[0], *down.shape[1:]) != weight.shape:
            raise RuntimeError(
                f"{name}: an update of {list(up.shape)} @ {list(down.shape)} for {list(weight.shape)}"
            )
        update = LowRankUpdate(
            down.to(weight.device, weight.dtype), up.to(weight.device, weight.dtype)
        )
        parametrize.register_parametrization(module, "weight", update, unsafe=True)
    network.requires_grad_(False)
