"""What a device can do at most: measured peaks of known ones, a probe in the same run for any
other."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

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
    """The best of half a second of matrix products, and of copies larger than a cache."""
    on_gpu = device.type == "cuda"
    n, count = (8192, 1 << 30) if on_gpu else (768, 1 << 25)
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    source = torch.ones(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product = _best_seconds(lambda: torch.mm(a, b, out=out), device)
    copy = _best_seconds(lambda: target.copy_(source), device)
    return Peak(
        2 * n**3 / product,
        2 * count / copy,
        source="probed in this run: one matrix product, one copy",
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
