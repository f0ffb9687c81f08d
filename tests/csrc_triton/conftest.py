"""How kernels are tested: compiled in this process, interpreted in a child process.

Triton decides when it is imported whether `@triton.jit` compiles or interprets (TRITON_INTERPRET=1), so one process
cannot do both. This process keeps compiling: cross-compilation (test_cross_compile.py) and, where there is a GPU, the
real kernels run here. The `interpret` fixture owns one child with TRITON_INTERPRET=1 for the whole session and sends
it launch functions with CPU tensors: tests stay ordinary tests, with their own ids, grids and tracebacks.
Start pytest itself without TRITON_INTERPRET; it refuses otherwise.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context

import pytest
import torch
from torch import Tensor

if os.environ.get("TRITON_INTERPRET", "0") != "0":
    raise pytest.UsageError("unset TRITON_INTERPRET: the tests start the interpreter in a process of its own")


@pytest.fixture(scope="session")
def interpret() -> Iterator[Callable[..., object]]:
    """interpret(launch, *arguments): what the kernel's launch function returns on CPU tensors, interpreted."""
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
        pool.submit(os.getpid).result()  # the child has started and has its environment
    with pool:
        yield lambda launch, *arguments: pool.submit(launch, *arguments).result(timeout=600)


@pytest.fixture(params=["cpu", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def implementation(request: pytest.FixtureRequest) -> Callable[[Callable, str], Callable]:
    """implementation(op, module of its kernel) -> the op, executed in one of three ways, CPU tensors in and out.

    cpu: the public call, which runs the reference. interpreter: the module's `launch`, interpreted. cuda: the public
    call on the GPU.
    """
    if request.param == "cpu":
        return lambda op, kernel: op
    if request.param == "interpreter":
        interpret = request.getfixturevalue("interpret")
        return lambda op, kernel: partial(interpret, import_module(kernel).launch)
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    return lambda op, kernel: partial(_on_gpu, op)


def _on_gpu(op: Callable[..., Tensor], *arguments: Tensor | None) -> Tensor:
    return op(*(None if argument is None else argument.cuda() for argument in arguments)).cpu()
