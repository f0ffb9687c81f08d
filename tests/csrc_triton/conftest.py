"""How kernels are tested: compiled in this process, interpreted in a child process.

Triton decides when it is imported whether `@triton.jit` compiles or interprets
(TRITON_INTERPRET=1), so one process cannot do both. This process keeps compiling: cross-compilation
(test_cross_compile.py) and, where there is a GPU, the real kernels run here. The `interpret`
fixture owns one child with TRITON_INTERPRET=1 for the whole session and sends it launch functions
with CPU tensors: tests stay ordinary tests, with their own ids, grids and tracebacks. Start pytest
itself without TRITON_INTERPRET; it refuses otherwise.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

if os.environ.get("TRITON_INTERPRET", "0") != "0":
    raise pytest.UsageError(
        "unset TRITON_INTERPRET: the tests start the interpreter in a process of its own"
    )


@pytest.fixture(scope="session")
def interpret() -> Iterator[Callable[..., object]]:
    """interpret(launch, arguments...): what the kernel's launch function returns on CPU tensors,
    interpreted."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        pool.submit(os.getpid).result()  # the child has started and has its environment
    with pool:
        yield lambda launch, *args, **keywords: pool.submit(launch, *args, **keywords).result(
            timeout=600
        )


@pytest.fixture(params=["cpu", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def implementation(request: pytest.FixtureRequest) -> Callable[[Callable, str], Callable]:
    """implementation(op, module of its kernel) -> the op, executed in one of three ways, CPU
    tensors in and out.

    cpu: the public call, which runs the reference. interpreter: the module's `launch` (or the
    function named third), interpreted. cuda: the public call on the GPU.
    """
    if request.param == "cpu":
        return lambda op, kernel, launch="launch": op
    if request.param == "interpreter":
        interpret = request.getfixturevalue("interpret")
        return lambda op, kernel, launch="launch": partial(
            interpret, getattr(import_module(kernel), launch)
        )
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return lambda op, kernel, launch="launch": partial(_on_gpu, op)


def _on_gpu(op: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    with torch.no_grad():  # with gradients on the public call runs the reference
        args, keywords = tree_map_only(Tensor, _as_it_lies_on_gpu, (args, keywords))
        return tree_map_only(Tensor, Tensor.cpu, op(*args, **keywords))


def _as_it_lies_on_gpu(x: Tensor) -> Tensor:
    """Tensor.cuda would close the gaps of a sliced tensor, and the kernel would never see its
    strides."""
    memory = x.untyped_storage().cuda()
    return torch.empty(0, dtype=x.dtype, device=memory.device).set_(
        memory, x.storage_offset(), x.shape, x.stride()
    )
