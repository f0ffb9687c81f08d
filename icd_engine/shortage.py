"""Where memory is short: one error in place of every framework's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

from icd_engine.errors import OutOfMemoryError

if TYPE_CHECKING:
    from icd_engine.engine import Engine

Method = TypeVar("Method", bound=Callable[..., Any])

# Only CUDA's allocator has a class for it. The others are torch on the CPU, cuBLAS and cuDNN,
# onnxruntime, C++ itself.
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


def within_memory(method: Method) -> Method:
    """Decorates methods of Engine that call networks: OutOfMemoryError where a framework says that
    memory is short.

    All that the engine keeps for reuse is freed then.
    """

    @wraps(method)
    def call(engine: Engine, *arguments: Any, **options: Any) -> Any:
        try:
            return method(engine, *arguments, **options)
        except (MemoryError, RuntimeError) as error:
            if not is_short(error):
                raise
            reason = str(error)
        # Outside of the handler: a traceback would hold on to all that the call had made.
        engine.free_memory()
        raise OutOfMemoryError(f"out of memory: {reason[:200]}")

    return cast(Method, call)


def is_short(error: BaseException) -> bool:
    """Whether an exception of any framework says that memory is short."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in SIGNS)
