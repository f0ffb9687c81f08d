"""`python -m tests.cuda_programs.milliseconds`: what an edit on an H200 should take, counted and not
measured: SD1.5 at 512 in bfloat16, one target, four hops each way, from graphs. As JSON.

A kernel takes START, then the longer of what its tiles take in whole waves over the chip and of what its
bytes take; GAP lies between two. The constants are of public measurements, shares of the peak a
judgement. Whether cuDNN splits K only a device tells: an edit is counted with a cuDNN that does not, with
one that does, and with the kernels of `csrc_triton.measured` wherever they are counted as faster than
the first. Needs a CUDA build of torch and no GPU.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from torch._inductor import config
from torch._subclasses.fake_tensor import FakeTensorMode

from csrc_triton.conv3x3 import TILINGS
from tests.cuda_programs.launches import STAGES, Operation, called, program
from tests.cuda_programs.pretended import PROPERTIES, pretend

SMS = PROPERTIES.multi_processor_count
PEAK = 790e12 / SMS  # bfloat16 FLOP/s of an SM
MEMORY = 4.3e12  # bytes/s
CACHE = 5.5e12  # bytes/s from the L2
CACHED = 25e6  # bytes of a map that is still in the L2 when it is read next
PORT = 64 * 1.755e9  # bytes/s of an SM from the L2: 64 a clock
EXPONENTIALS = SMS * 16 * 1.755e9  # a second: 16 a clock and SM
START = 2.0e-6  # seconds of a kernel in which nothing flows yet, or any more
GAP = 1.2e-6  # between two nodes of a graph
NODE = START + GAP
# Shares of the peak that tiles of pixels or tokens x channels reach: small ones wait for their operands
TILES = {
    **{(128, 256): 1.0, (256, 128): 1.0, (128, 128): 0.9},
    **{(64, 256): 0.8, (64, 128): 0.7, (128, 64): 0.7, (64, 64): 0.42},
}
IN_TRITON = 0.8  # of what a library's tile reaches
ATTENTION = 0.75  # share of the peak of an attention kernel
K_STEP = 64
SPLITS = (1, 2, 3, 4, 6, 8, 12, 16, 24)
LIBRARIES, SPLITTING, OURS = "libraries", "libraries splitting K", "our kernels where faster"
# Per edit, ms: nodes that only copy, and the device waiting for the host (tests/.../test_host.py)
BESIDE = {"copies": 0.2, "host": 0.4}
PASSES = {"text": 1, "vae_encode": 1, "unet_encode": 4, "unet_decode": 4, "vae_decode": 1}


def moved(count: float) -> float:
    """Seconds of so many bytes."""
    return count / (CACHE if count < CACHED else MEMORY)


def product(
    m: int, n: int, k: int, splits: Sequence[int] = (1,), read: float | None = None
) -> float:
    """Seconds of [m, k] @ [k, n] by a library; `read` bytes where that is no plain product."""
    stored = 2 * (m * k + k * n + m * n) if read is None else read
    return min(
        max(waved(m, n, k, tile, split), stored / MEMORY) + NODE + added_up(m * n, split)
        for tile in TILES
        for split in splits
    )


def waved(m: int, n: int, k: int, tile: tuple[int, int], split: int) -> float:
    tiles = math.ceil(m / tile[0]) * math.ceil(n / tile[1]) * split
    return math.ceil(tiles / SMS) * 2 * tile[0] * tile[1] * part(k, split) / (PEAK * TILES[tile])


def part(k: int, split: int) -> int:
    return math.ceil(k / split / K_STEP) * K_STEP


def added_up(numbers: int, split: int) -> float:
    """Seconds of a second launch that adds the parts, in float32, up."""
    return 0.0 if split == 1 else NODE + 2 * split * numbers * 4 / CACHE


def convolution(operation: Operation, way: str) -> float:
    x, weight = operation.shapes[:2]
    stride, padding = operation.arguments[3][0], operation.arguments[4][0]
    rows, channels, *size = x
    outer, _, side, _ = weight
    h, w = ((own + 2 * padding - side) // stride + 1 for own in size)
    m, k = rows * h * w, channels * side**2
    read = 2 * (rows * channels * size[0] * size[1] + outer * k + m * outer)
    theirs = product(m, outer, k, SPLITS if way == SPLITTING else (1,), read)
    if way != OURS or side != 3 or padding != 1 or max(h, w) > 32:
        return theirs
    ways = ((own[:2], own[3]) for own in TILINGS)  # pixels and channels of a tile, parts
    return min(theirs, *(own_convolution(m, outer, k, read, *own) for own in ways))


def own_convolution(
    m: int, n: int, k: int, read: float, tile: tuple[int, int], split: int
) -> float:
    """Seconds of conv3x3: its programs gather their operands themselves, from the L2."""
    tiles = math.ceil(m / tile[0]) * math.ceil(n / tile[1]) * split
    operands = sum(tile) * part(k, split) * 2
    bound = (
        waved(m, n, k, tile, split) / IN_TRITON,
        tiles * operands / CACHE,
        math.ceil(tiles / SMS) * operands / PORT,
        read / MEMORY,
    )
    return max(bound) + NODE + added_up(m * n, split)


def attention(operation: Operation, way: str) -> float:
    """Libraries compute heads of 40 as 64, and of 80 as 128."""
    (rows, heads, queries, size), (_, _, keys, _) = operation.shapes[:2]
    own = way == OURS and queries == keys
    width = {40: 48 if own else 64, 80: 80 if own else 128}.get(size, size)
    waves = math.ceil(math.ceil(queries / 128) * heads * rows / SMS)
    products = waves * 2 * 128 * keys * 2 * width / (PEAK * ATTENTION)
    exponentials = rows * heads * queries * keys / EXPONENTIALS
    # A quarter of what is less does not overlap
    longer, shorter = sorted((products, exponentials), reverse=True)
    return longer + shorter / 4 + NODE


def norm(operation: Operation, way: str) -> float:
    """Read for the statistics, and read and written once more; sums are written besides."""
    maps = [math.prod(shape) for shape in operation.shapes if len(shape) == 4]
    passes = 3 if operation.name == "group_norm_silu" else 4
    return passes * moved(2 * sum(maps)) + operation.launches * NODE


def tokens(operation: Operation, way: str) -> float:
    """Kernels that read and write tokens once."""
    read = sum(math.prod(shape) for shape in operation.shapes if len(shape) > 2)
    return moved(2 * 2 * read) + operation.launches * NODE


def products(operation: Operation, way: str) -> float:
    shapes = [shape for shape in operation.shapes if len(shape) > 1]
    if operation.name == "add_product":
        _, (*rows, k), (n, _) = shapes
        return product(math.prod(rows), n, k, (1, 2, 4))
    *batch, m, k = shapes[0]
    return math.prod(batch) * (product(m, shapes[1][-1], k, (1, 2, 4)) - NODE) + NODE


KINDS: dict[str, tuple[str, Callable[[Operation, str], float]]] = {
    "convolution": ("convolutions", convolution),
    **dict.fromkeys(("mm", "addmm", "add_product", "bmm", "bmm_dtype"), ("products", products)),
    "_scaled_dot_product_flash_attention": ("attention", attention),
    "edited_attention": ("attention", tokens),
    **dict.fromkeys(("group_norm_silu", "add_group_norm"), ("group norms", norm)),
    **dict.fromkeys(("layer_norm", "add_layer_norm", "geglu"), ("tokens", tokens)),
}


def kernels(text: str) -> float:
    """Seconds of inductor's kernels in a program, of the bytes that it notes: of those kernels that cut a
    map into parts it counts the whole once for each part."""
    noted = re.findall(r"^def (triton_\w+)\(|'kernel_num_gb': ([\d.e-]+)", text, re.MULTILINE)
    sizes = [1e9 * float(size) for _, size in noted if size]
    names = [name for name, _ in noted if name]
    stored = dict(zip(names, sizes, strict=True))
    seconds = 0.0
    for name, arguments in re.findall(r"(triton_\w+)\.run\((.*), stream=", text):
        numbers = math.prod(int(own) for own in arguments.split(", ") if own.isdigit())
        seconds += NODE + moved(min(stored[name], 6 * numbers))
    return seconds


def stage_seconds(stage: str) -> dict[str, dict[str, float]]:
    """By way, then by kind; of one pass."""
    with FakeTensorMode(), torch.no_grad():
        function, arguments = STAGES[stage]()
        found = called(function, arguments)
        compiled = stage != "text"
        between = kernels(program(function, arguments)) if compiled else 0.0
    taken: dict[str, dict[str, float]] = {
        way: defaultdict(float) for way in (LIBRARIES, SPLITTING, OURS)
    }
    for way, by_kind in taken.items():
        for own in found:
            if own.name in KINDS:
                kind, seconds = KINDS[own.name]
                by_kind[kind] += seconds(own, way)
            elif not compiled:
                by_kind["others"] += own.launches * NODE
        by_kind["inductor's"] = between
    return taken


def counted() -> dict[str, dict[str, dict[str, float]]]:
    """Milliseconds by way, stage and kind, of all passes of an edit; "edit" and "all" are the sums."""
    pretend()
    config.profile_bandwidth = True  # programs note their kernels' bytes
    edit: dict[str, dict[str, dict[str, float]]] = {way: {} for way in (LIBRARIES, SPLITTING, OURS)}
    for stage, passes in PASSES.items():
        for way, by_kind in stage_seconds(stage).items():
            own = {kind: 1000 * passes * seconds for kind, seconds in by_kind.items()}
            edit[way][stage] = own | {"all": sum(own.values())}
    for stages in edit.values():
        stages["beside"] = BESIDE | {"all": sum(BESIDE.values())}
        stages["edit"] = {"all": sum(own["all"] for own in stages.values())}
    return edit


if __name__ == "__main__":
    print(json.dumps(counted()))
