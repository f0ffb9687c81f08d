"""An H200 for those who only ask: what dynamo, inductor and Triton look up of a device before they
write a program. Nothing can run. For a process of its own: nothing is put back."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch

PROPERTIES = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=141 * 10**9,
    L2_cache_size=60 * 2**20,
    regs_per_multiprocessor=65536,
    max_threads_per_block=1024,
    max_threads_per_multi_processor=2048,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    gcnArchName="",
)


class Driver:
    """Triton's driver of a device that cannot be launched on."""

    def __init__(self) -> None:
        known = {
            "multiprocessor_count": PROPERTIES.multi_processor_count,
            "max_shared_mem": PROPERTIES.shared_memory_per_block_optin,
            "max_num_regs": PROPERTIES.regs_per_multiprocessor,
            "warpSize": PROPERTIES.warp_size,
        }
        self.utils = SimpleNamespace(get_device_properties=lambda device: known)

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda

    @staticmethod
    def is_active() -> bool:
        return True


def pretend() -> None:
    """From now on torch.cuda speaks of one H200."""
    from torch._dynamo.device_interface import CudaInterface
    from triton.runtime import driver

    answers: dict[str, Any] = {
        "get_device_properties": lambda device=None: PROPERTIES,
        "get_device_capability": lambda device=None: (9, 0),
        "get_compute_capability": lambda device=None: 90,
        "get_device_name": lambda device=None: PROPERTIES.name,
        "current_device": lambda: 0,
        "device_count": lambda: 1,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_triton_capable": lambda device=None: True,
        "raise_if_triton_unavailable": lambda device=None: None,
        "get_raw_stream": lambda device: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "device": lambda device: nullcontext(),
        "_DeviceGuard": lambda device: nullcontext(),
        "_exchange_device": lambda device: 0,
        "_maybe_exchange_device": lambda device: 0,
        "_lazy_init": lambda: None,
    }
    for name, answer in answers.items():
        # FakeTensorMode would begin to use a device that is available
        if hasattr(torch.cuda, name) and name != "is_available":
            setattr(torch.cuda, name, answer)
        if name in vars(CudaInterface):
            setattr(CudaInterface, name, staticmethod(answer))
        if hasattr(CudaInterface.Worker, name):
            setattr(CudaInterface.Worker, name, staticmethod(answer))
    driver.set_active(Driver())
    # Which kernel takes an attention is asked of the device too: one launch, whichever
    torch.nn.functional.scaled_dot_product_attention = (  # pyright: ignore[reportAttributeAccessIssue]
        lambda q, k, v, is_causal=False: torch.ops.aten._scaled_dot_product_flash_attention(
            q, k, v, 0.0, is_causal
        )[0]
    )
    # cuDNN would be asked, and takes channels-last maps
    whole = torch._C._conv_determine_backend_memory_format
    torch._C._conv_determine_backend_memory_format = lambda x, weight, backend: (
        torch.channels_last if x.ndim == 4 else whole(x, weight, backend)
    )
