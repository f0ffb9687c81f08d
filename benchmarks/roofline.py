"""What a device can do at most: measured peaks of known ones, a probe in the same run for any
other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch
from torch.nn.functional import conv2d

from benchmarks.counting import Work, floor_ms

HALF = (torch.bfloat16, torch.float16)
# FLOP/s of a large half-precision matrix product and bytes/s of a large copy (read and written),
# both measured.
KNOWN = {"NVIDIA H200": (790e12, 4.3e12)}
PROBE_SECONDS = 0.5


@dataclass(frozen=True)
class Peak:
    """FLOP/s and bytes/s, and whether they are a known device's or were probed in this run."""

    flops: float
    bandwidth: float
    source: str

    def floor_ms(self, work: list[Work], itemsize: int) -> float:
        return floor_ms(work, itemsize, self.flops, self.bandwidth)

    def as_dict(self) -> dict[str, object]:
        return {
            "tflops": round(self.flops / 1e12, 3),
            "gigabytes_per_s": round(self.bandwidth / 1e9, 1),
            "source": self.source,
        }


@cache
def peak(device: torch.device, dtype: torch.dtype) -> Peak:
    """The device's peak in `dtype`, with the threads torch has now."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        if name in KNOWN and dtype in HALF:
            return Peak(*KNOWN[name], source=f"measured for {name}")
    return probe(device, dtype)


def probe(device: torch.device, dtype: torch.dtype) -> Peak:
    """The best of half a second of matrix products, of convolutions by 1x1, and of copies larger than
    a cache. A convolution of that kind is a product by another library: on AMD's processors by the
    one that is more than twice as fast in float32."""
    on_gpu = device.type == "cuda"
    n, side, count = (8192, 90, 1 << 30) if on_gpu else (768, 48, 1 << 25)
    rows = side * side
    a, b = (torch.randn(many, n, device=device).to(dtype) for many in (rows, n))
    maps, weights = a.view(1, side, side, n).permute(0, 3, 1, 2), b.view(n, n, 1, 1)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best_seconds(lambda: torch.mm(a, b), device)
    convolution = _best_seconds(lambda: conv2d(maps, weights), device)
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Peak(
        2 * rows * n**2 / min(product, convolution),
        2 * count / copy,
        source="probed in this run: one matrix product, one convolution, one copy",
    )


def _best_seconds(call, device: torch.device) -> float:
    best = float("inf")
    stop = time.perf_counter() + PROBE_SECONDS
    while time.perf_counter() < stop or best == float("inf"):
        started = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best
