"""Where memory is short: one error in place of every framework's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from icd_engine.errors import OutOfMemoryError

Method = TypeVar("Method", bound=Callable[..., Any])
Result = TypeVar("Result")

# What frameworks write when memory is short, in lower case; only CUDA's allocator has a class for
# it. The others are torch on the CPU, cuBLAS and cuDNN, onnxruntime, C++ itself.
SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "failed to allocate memory",
    "smaller than requested bytes",
    "bad_alloc",
    "bad allocation",
)


def attempt(
    work: Callable[[], Result], free: Callable[[], object], what: str = "out of memory"
) -> Result:
    """work(); where a framework says that memory is short, `free` and OutOfMemoryError."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        if not is_short(error):
            raise
        reason = str(error)
    # Outside of the handler: a traceback would hold on to all that the work had made.
    free()
    raise OutOfMemoryError(f"{what}: {reason[:200]}")


def within_memory(method: Method) -> Method:
    """Decorates methods that call networks: where memory is short, the object's `free_memory()` is
    called and OutOfMemoryError raised."""

    @wraps(method)
    def call(self: Any, *arguments: Any, **options: Any) -> Any:
        return attempt(lambda: method(self, *arguments, **options), self.free_memory)

    return cast(Method, call)


def is_short(error: BaseException) -> bool:
    """Whether an exception of any framework says that memory is short, or one that hid it does: where
    memory ends while a CUDA graph is captured, torch raises what ending the capture then says."""
    if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in SIGNS):
        return True
    return error.__context__ is not None and is_short(error.__context__)
