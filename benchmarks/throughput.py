"""Edits per second over the batch: different pictures, prompts and seeds through
`Engine.edit_many`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.checks import EXACT, ROUNDED, require_equal
from benchmarks.counting import edit_work
from benchmarks.roofline import peak
from benchmarks.subject import final_latents, open_subject
from benchmarks.timing import default_warmup, measure, peak_memory_mib, reset_peak_memory
from benchmarks.workload import make_cases


def measure_throughput(
    *,
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    compile: str = "cheap",
    repeats: int = 10,
    warmup: int | None = None,
    batches: Sequence[int] = (1, 2, 4, 8, 16),
) -> Iterator[dict[str, Any]]:
    """A result for every batch size.

    Raises Refused unless a batch gives what the same edits give one by one.
    """
    subject = open_subject(
        model, architecture, size, device=device, dtype=dtype, runner=runner, compile=compile
    )
    warmup = default_warmup(subject.device) if warmup is None else warmup
    calls = warmup + repeats
    largest = max(batches)
    cases = make_cases(min(calls * largest, 512), subject.size)
    pair = cases[:2]
    together = subject.engine.edit_many([case.request for case in pair], size=subject.size)
    for case, result in zip(pair, together, strict=True):
        limit = EXACT if subject.exact else ROUNDED[subject.dtype]
        require_equal(
            "an edit in a batch", final_latents(result), final_latents(subject.edit(case)), limit
        )

    configs = subject.engine.bundle.configs
    most = peak(subject.device, subject.dtype)
    floor = sum(
        most.floor_ms(w, subject.dtype.itemsize) for w in edit_work(configs, subject.size).values()
    )
    for batch in batches:

        def edit(i: int, batch: int = batch) -> None:
            chosen = [cases[(i * batch + n) % len(cases)].request for n in range(batch)]
            subject.engine.edit_many(chosen, size=subject.size)

        reset_peak_memory(subject.device)
        times = measure(edit, subject.device, repeats, warmup)
        yield {
            **subject.as_dict(),
            "threads": torch.get_num_threads(),
            "batch": batch,
            **times.as_dict("batch"),
            "edits_per_s": round(1000 * batch / times.p50, 3),
            "roofline_share": round(floor * batch / times.p50, 4),
            "peak_memory_mib": peak_memory_mib(subject.device),
            "repeats": repeats,
            "warmup": warmup,
        }
