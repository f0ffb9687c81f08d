"""Networks of torch run by OpenVINO directly, as its users run them: the measure of our own runner."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.checks import Refused
from icd_engine.runners.openvino import HINTS, is_installed, openvino_core
from icd_engine.threads import compute_threads


class InOpenVino(nn.Module):
    """A function of tensors to one tensor, traced and compiled at the sizes of its first inputs, and
    of every others that come. Inputs and output are float32, whatever is computed in.

    Refused without OpenVINO.
    """

    def __init__(self, call: Callable[..., Tensor], dtype: torch.dtype):
        super().__init__()
        if not is_installed():
            raise Refused("openvino is not installed: pip install 'icd-engine[openvino]'")
        self._call = _Function(call)
        self._options = {
            "INFERENCE_PRECISION_HINT": HINTS[str(dtype).removeprefix("torch.")],
            "INFERENCE_NUM_THREADS": compute_threads(),
        }
        self._made: dict[tuple[torch.Size, ...], Any] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        given = tuple(x.float() if x.is_floating_point() else x for x in inputs)
        sizes = tuple(x.shape for x in given)
        if sizes not in self._made:
            self._made[sizes] = self._compiled(given)
        request = self._made[sizes]
        request.infer([x.contiguous().numpy() for x in given], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    def _compiled(self, inputs: tuple[Tensor, ...]) -> Any:
        core = openvino_core()  # first: it keeps the library quiet
        import openvino

        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracers warn of every Python number that they see
            traced = torch.jit.trace(self._call, inputs, check_trace=False)
            model = openvino.convert_model(traced, example_input=inputs)
        model.reshape({i: list(x.shape) for i, x in enumerate(inputs)})
        compiled = core.compile_model(model, "CPU", self._options)
        return compiled.create_infer_request()


class _Function(nn.Module):
    def __init__(self, call: Callable[..., Tensor]):
        super().__init__()
        self._call = call

    def forward(self, *inputs: Tensor) -> Tensor:
        return self._call(*inputs)


class DiffusersUNet(nn.Module):
    """diffusers' UNet, called as it is called, run by OpenVINO. Its networks are in float32."""

    def __init__(self, unet: Any, dtype: torch.dtype):
        super().__init__()
        self.config = unet.config
        self._run = InOpenVino(
            lambda x, t, prompt, w: unet(x, t, prompt, timestep_cond=w).sample, dtype
        )

    def forward(self, x: Tensor, t: Tensor, prompt: Tensor, timestep_cond: Tensor) -> Any:
        return SimpleNamespace(sample=self._run(x, t, prompt, timestep_cond))
