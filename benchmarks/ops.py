"""Every operation of csrc_triton: right first, then timed against its definition, eager and
compiled."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.checks import Refused
from benchmarks.counting import Work
from benchmarks.op_cases import CASES, Call, OpCase, Shapes
from benchmarks.record import complain, note
from benchmarks.roofline import peak
from benchmarks.timing import default_warmup, quantile, timed
from icd_engine.loading import choose_device, choose_dtype

# Bytes of inputs that calls in turn go through: four times the L2 cache of an H200
BEYOND_CACHE = 256 * 2**20
MOST_SETS = 24
GRAPH_CALLS = 24  # calls in one graph, so that a replay's own start does not count


def measure_ops(
    *,
    only: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    repeats: int = 10,
    quick: bool = False,
    compiled: bool = True,
) -> Iterator[dict[str, Any]]:
    """Results of every case of every operation, or of `only` one, one by one.

    Raises Refused last if one is wrong.
    """
    shapes = Shapes(choose_device(device), choose_dtype(dtype, device), quick)
    chosen = [case for case in CASES if only in (None, case.op)]
    if not chosen:
        raise Refused(
            f"no operation {only!r} (known: {', '.join(dict.fromkeys(case.op for case in CASES))})"
        )
    wrong: list[str] = []
    for case in chosen:
        with torch.inference_mode():
            try:
                result = _measure(case, case.make(shapes), shapes, repeats, compiled)
            except ImportError as error:
                note(f"{case} is left out: {error}")
                continue
            except Refused as error:
                complain(str(error), red=True)
                wrong.append(str(case))
                continue
        yield result
    if wrong:
        raise Refused(f"{len(wrong)} of {len(chosen)} are wrong: {', '.join(wrong)}")


def check(case: OpCase, call: Call) -> float:
    """The operation on the benchmark's own inputs against its definition in float32: the largest
    error over the limit.

    The limit is two roundings of the output's dtype, or of the inputs' where products of matrices
    round them, of the largest value (2e-5 for float32, whose sums may run in another order); bytes
    may differ by one, where a half rounds the other way. Refused above it.
    """
    wide = [
        x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in call.arguments
    ]
    worst = 0.0
    for got, expected in zip(
        _tensors(call.op(*call.arguments)), _tensors(call.reference(*wide)), strict=True
    ):
        if got.dtype.is_floating_point:
            dtype = call.arguments[0].dtype if call.flops else got.dtype
            limit = max(2 * torch.finfo(dtype).eps, 2e-5) * float(
                expected.abs().max().clamp_min(1e-6)
            )
        else:
            limit = 1.0
        error = float((got.double() - expected.double()).abs().max())
        worst = max(worst, error / limit if math.isfinite(error) else math.inf)
    if not worst <= 1:
        raise Refused(
            f"{case} is wrong: its error is {worst:.1f} times what rounding allows; nothing was timed"
        )
    return worst


def _measure(
    case: OpCase, call: Call, shapes: Shapes, repeats: int, compiled: bool
) -> dict[str, Any]:
    error = check(case, call)
    moved = _bytes(call.arguments) + _bytes(_tensors(call.op(*call.arguments)))
    most = peak(shapes.device, shapes.dtype)
    floor = most.floor_ms([Work("op", call.flops, moved)], 1)
    op_ms = time_call(call.op, call.arguments, shapes.device, repeats)
    return {
        "op": case.op,
        "shape": case.shape + (" / 8" if shapes.quick else ""),
        "device_type": shapes.device.type,
        "dtype": str(shapes.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "error_of_limit": round(error, 4),
        "bytes": moved,
        "flops": call.flops,
        "op_ms": op_ms,
        "eager_ms": _other_ms(case, call.eager or call.reference, call, shapes.device, repeats),
        "compiled_ms": _compiled_ms(case, call, shapes.device, repeats) if compiled else None,
        "floor_ms": round(floor, 6),
        "roofline_share": round(floor / op_ms, 4),
        "repeats": repeats,
    }


def _compiled_ms(case: OpCase, call: Call, device: torch.device, repeats: int) -> float | None:
    torch.compiler.reset()
    return _other_ms(case, torch.compile(call.reference, dynamic=False), call, device, repeats)


def _other_ms(
    case: OpCase, function: Callable[..., Any], call: Call, device: torch.device, repeats: int
) -> float | None:
    """What the operation is compared with; None where that cannot run here, for want of a compiler,
    say."""
    try:
        return time_call(function, call.arguments, device, repeats)
    except RuntimeError as error:
        note(
            f"{case}: {getattr(function, '__name__', 'the other')} cannot run: {' '.join(str(error).split())[:200]}"
        )
        return None


def time_call(
    call: Callable[..., Any], arguments: Sequence[Any], device: torch.device, repeats: int
) -> float:
    """Median milliseconds of one call: wall on the CPU; on CUDA device time of calls replayed from
    a graph.

    Calls take turns over copies of the arguments larger than the cache together (as many as 24), so
    that large ones come from memory; small ones stay in the cache, as they do in an edit.
    """
    if device.type != "cuda":
        for _ in range(default_warmup(device)):
            call(*arguments)
        return round(
            quantile([timed(lambda: call(*arguments), device)[0] for _ in range(repeats)], 0.5), 5
        )
    count = min(MOST_SETS, math.ceil(BEYOND_CACHE / max(1, _bytes(arguments))))
    sets = [
        [x.clone() if isinstance(x, Tensor) else x for x in arguments] for _ in range(max(1, count))
    ]

    def calls() -> None:
        for i in range(GRAPH_CALLS):
            call(*sets[i % len(sets)])

    graph = captured(calls, device)
    for _ in range(3):
        graph.replay()
    spans = [timed(graph.replay, device)[1] or 0.0 for _ in range(repeats)]
    return round(quantile(spans, 0.5) / GRAPH_CALLS, 6)


def captured(calls: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """A CUDA graph of the calls, which have run twice before."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(2):
            calls()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        calls()
    return graph


def _tensors(result: Any) -> list[Tensor]:
    """The tensors of a call's result, in order."""
    given = result if isinstance(result, tuple | list) else [result]
    return [x for x in given if isinstance(x, Tensor)]


def _bytes(values: Iterable[Any]) -> int:
    return sum(x.numel() * x.element_size() for x in values if isinstance(x, Tensor))
