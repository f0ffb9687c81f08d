"""What libraries give for the shapes of an edit: convolutions of small maps, attention, and what a
kernel costs that does nothing. These choose what is worth writing, and what is called."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.checks import ROUNDED, Refused, exact_float32, require_equal
from benchmarks.counting import Work, attention, conv
from benchmarks.op_cases import HEADS, Shapes
from benchmarks.ops import captured, time_call
from benchmarks.record import complain, device_name, note
from benchmarks.roofline import peak
from benchmarks.timing import quantile, timed
from csrc_triton.measured import PATH, shape_key
from icd_engine.loading import choose_device, choose_dtype
from icd_engine.runners.inductor import cudnn_searches

# Side of the result, channels in and out, and stride of SD1.5's 3x3 convolutions below 64x64: what a
# library that does not split K leaves most of a large device idle at.
CONVOLUTIONS = (
    *((8, 1280, 1280, 1), (8, 2560, 1280, 1), (8, 1280, 1280, 2)),
    *((16, 640, 1280, 1), (16, 1280, 1280, 1), (16, 1920, 1280, 1), (16, 2560, 1280, 1)),
    *((16, 640, 640, 2), (32, 320, 320, 2), (32, 320, 640, 1), (32, 640, 640, 1)),
    *((32, 960, 640, 1), (32, 1280, 640, 1), (32, 1920, 640, 1)),
)
# Heads, positions and channels of a head: SD1.5's four levels at 512x512, SDXL's two at 1024x1024,
# the VAE's middle
ATTENTIONS = (
    *((HEADS, 64, 40), (HEADS, 32, 80), (HEADS, 16, 160), (HEADS, 8, 160)),
    *((10, 64, 64), (20, 32, 64), (1, 64, 512)),
)
SDPA = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
ROWS = (1, 2)
NODES = 1000
WIDEST = 160  # channels of the heads that our kernel is for
GAIN = 0.03  # share of PyTorch's time that ours must save to be chosen
Way = Callable[..., Tensor]


def measure_backends(
    *,
    only: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    repeats: int = 10,
    quick: bool = False,
    folder: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of every table, or of `only` one, one by one: milliseconds of a call by each way, None
    where it cannot run or is wrong.

    folder: takes measured.json, which csrc_triton's own becomes where our kernels are faster. Raises
    Refused for an unknown table, and last where ways are wrong.
    """
    shapes = Shapes(choose_device(device), choose_dtype(dtype, device), quick)
    if only not in (None, *TABLES):
        raise Refused(f"no table {only!r} (known: {', '.join(TABLES)})")
    wrong = 0
    for name, table in TABLES.items():
        if only in (None, name):
            for row in table(shapes, repeats):
                wrong += len(row.get("wrong", ()))
                if folder is not None and row.get("tiling"):
                    _keep(folder, shapes.device, row)
                yield {
                    "table": name,
                    "device_type": shapes.device.type,
                    "dtype": str(shapes.dtype).removeprefix("torch."),
                    **row,
                    "repeats": repeats,
                }
    if wrong:
        raise Refused(f"{wrong} ways are wrong: see above")


# --- convolutions ---------------------------------------------------------------------------------


def _convolutions(shapes: Shapes, repeats: int) -> Iterator[dict[str, Any]]:
    """cuDNN by its heuristics and by its search, and a product of gathered columns: with the
    gathering, and alone."""
    for side, inner, outer, stride in CONVOLUTIONS:
        if shapes.quick:
            inner, outer = inner // 8, outer // 8
        for rows in ROWS:
            x = shapes.map(rows, inner, side * stride)
            weight = shapes.normal(outer, inner, 3, 3) * (9 * inner) ** -0.5
            weight = weight.contiguous(memory_format=torch.channels_last)
            matrix = weight.permute(0, 2, 3, 1).reshape(outer, -1).contiguous()
            columns = _columns(x, stride)
            ways: dict[str, tuple[Way, list[Tensor]]] = {
                "cudnn": (partial(_convolution, stride), [x, weight]),
                "searched": (partial(_searched, stride), [x, weight]),
                "im2col": (lambda x, m, by=stride: F.linear(_columns(x, by), m), [x, matrix]),
                "product": (F.linear, [columns, matrix]),
            }
            for tiling in _tilings("conv3x3", shapes):
                ways[_named(tiling)] = (partial(_ours, stride, tiling), [x, weight])
            h = shapes.side(side)
            shape = f"{rows}x{inner}x{x.shape[-1]}x{x.shape[-1]} to {outer}x{h}x{h}"
            work = conv(rows, h, h, inner, outer, stride=stride)
            row = _row(shape, ways, work, shapes, repeats)
            key = shape_key(shapes.dtype, *x.shape, outer, stride)
            yield row | _choice("conv3x3", key, row, ("cudnn", "searched"))


def _convolution(stride: int, x: Tensor, weight: Tensor) -> Tensor:
    """As rows of pixels, which is how products give it."""
    return F.conv2d(x, weight, None, stride, padding=1).permute(0, 2, 3, 1).flatten(0, 2)


def _searched(stride: int, x: Tensor, weight: Tensor) -> Tensor:
    with cudnn_searches(True):
        return _convolution(stride, x, weight)


def _ours(stride: int, tiling: tuple[int, ...], x: Tensor, weight: Tensor) -> Tensor:
    """Without the norm and the additions, which the kernel has in addition."""
    y = torch.ops.icd.conv3x3(x, weight, *[None] * 5, stride, list(tiling))
    return y.permute(0, 2, 3, 1).flatten(0, 2)


def _columns(x: Tensor, stride: int) -> Tensor:
    """[B h w, 9 C]: the 3x3 neighbours of every pixel of the result."""
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    windows = padded.unfold(1, 3, stride).unfold(2, 3, stride).permute(0, 1, 2, 4, 5, 3)
    return windows.reshape(-1, 9 * x.shape[1])


# --- attention ------------------------------------------------------------------------------------


def _attentions(shapes: Shapes, repeats: int) -> Iterator[dict[str, Any]]:
    """What PyTorch chooses, each of its libraries, and two products with a softmax."""
    for heads, side, size in ATTENTIONS:
        n = shapes.side(side) ** 2
        for rows in ROWS if heads > 1 else (1,):
            given = [
                shapes.normal(rows, n, heads * size).unflatten(-1, (heads, size)).transpose(1, 2)
                for _ in range(3)
            ]
            ways: dict[str, tuple[Way, list[Tensor]]] = {
                "chosen": (F.scaled_dot_product_attention, given),
                **{name: (partial(_attend, by), given) for name, by in SDPA.items()},
                "bmm": (_products, given),
            }
            for tiling in _tilings("self_attention", shapes) if size <= WIDEST else ():
                ways[_named(tiling)] = (partial(_attend_ourselves, tiling), given)
            work = attention(rows, n, n, heads * size)
            row = _row(f"{rows}x{heads}x{n}x{size}", ways, work, shapes, repeats)
            key = shape_key(shapes.dtype, rows, heads, n, n, size)
            yield row | _choice("self_attention", key, row, ("chosen", *SDPA, "bmm"))


def _attend(by: SDPBackend, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(by):
        return F.scaled_dot_product_attention(q, k, v)


def _attend_ourselves(tiling: tuple[int, ...], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.ops.icd.self_attention(q, k, v, list(tiling))


def _products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(dim=-1) @ v


# --- nothing --------------------------------------------------------------------------------------


def _nodes(shapes: Shapes, repeats: int) -> Iterator[dict[str, Any]]:
    """One addition to one number, a thousand times in a row: on CUDA as nodes of a graph, whose own
    start is subtracted; on the CPU as calls."""
    one = torch.zeros(1, device=shapes.device)

    def times(count: int) -> Callable[[], object]:
        def calls() -> None:
            for _ in range(count):
                one.add_(1)

        return captured(calls, shapes.device).replay if shapes.device.type == "cuda" else calls

    def took(call: Callable[[], object]) -> float:
        spans = [timed(call, shapes.device) for _ in range(repeats + 1)][1:]
        return quantile([wall if device is None else device for wall, device in spans], 0.5)

    long, short = took(times(2 * NODES)), took(times(NODES))
    yield {"shape": f"{NODES} times one number", "node_us": round(1000 * (long - short) / NODES, 4)}


# --- rows -----------------------------------------------------------------------------------------


def _row(
    shape: str,
    ways: dict[str, tuple[Way, list[Tensor]]],
    work: Work,
    shapes: Shapes,
    repeats: int,
) -> dict[str, Any]:
    """Each way in a thread of its own: what cuDNN has once chosen for a shape it keeps in the
    thread. All are held to the first, in float32."""
    (first, given), *_ = ways.values()
    with torch.inference_mode(), exact_float32():
        expected = first(*(x.float() for x in given))
    row: dict[str, Any] = {"shape": shape}
    wrong = []
    for name, (way, arguments) in ways.items():
        what = f"{shape} by {name}"
        with ThreadPoolExecutor(1) as alone:
            task = alone.submit(_timed_way, way, arguments, expected, what, shapes.device, repeats)
            try:
                row[f"{name}_ms"] = task.result()
            except Refused as error:
                complain(str(error), red=True)
                wrong.append(name)
                row[f"{name}_ms"] = None
    most = peak(shapes.device, shapes.dtype)
    floor = round(most.floor_ms([work], shapes.dtype.itemsize), 6)
    return row | {"floor_ms": floor} | ({"wrong": wrong} if wrong else {})


@torch.inference_mode()
def _timed_way(
    way: Way,
    arguments: list[Tensor],
    expected: Tensor,
    what: str,
    device: torch.device,
    repeats: int,
) -> float | None:
    try:
        got = way(*arguments)
    except Exception as error:  # whatever a library or a compiler raises
        note(f"{what} cannot run: {' '.join(str(error).split())[:200]}")
        return None
    require_equal(what, got, expected, ROUNDED[got.dtype])
    return time_call(way, arguments, device, repeats)


# --- what is chosen -------------------------------------------------------------------------------


def _tilings(op: str, shapes: Shapes) -> list[tuple[int, ...]]:
    """Our kernel's, where it runs; on the CPU all are the definition."""
    known = import_module(f"csrc_triton.{op}").TILINGS
    return known if shapes.device.type == "cuda" and shapes.dtype.itemsize == 2 else known[:1]


def _named(tiling: tuple[int, ...]) -> str:
    return "ours " + "-".join(map(str, tiling))


def _choice(op: str, key: str, row: dict[str, Any], theirs: Iterable[str]) -> dict[str, Any]:
    """The entry of measured.json: our fastest tiling where it is faster by more than GAIN."""
    given = [row[f"{name}_ms"] for name in theirs if row[f"{name}_ms"]]
    ours = {name: ms for name, ms in row.items() if name.startswith("ours ") and ms}
    if not ours or not given:
        return {}
    fastest = min(ours, key=lambda name: ours[name])
    if ours[fastest] > (1 - GAIN) * min(given):
        return {"op": op, "key": key, "tiling": None}
    numbers = fastest.removeprefix("ours ").removesuffix("_ms").split("-")
    return {"op": op, "key": key, "tiling": [int(number) for number in numbers]}


def _keep(folder: Path, device: torch.device, row: dict[str, Any]) -> None:
    """Adds the entry to measured.json in the folder, for what `device_name` calls the device."""
    path = folder / PATH.name
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    shapes = kept.setdefault(device_name(device), {}).setdefault(row["op"], {})
    shapes[row["key"]] = row["tiling"]
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


TABLES: dict[str, Callable[[Shapes, int], Iterator[dict[str, Any]]]] = {
    "node": _nodes,
    "convolution": _convolutions,
    "attention": _attentions,
}
