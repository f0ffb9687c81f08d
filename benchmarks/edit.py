"""The whole edit: first edits, re-edits of a kept inversion, and a baseline, turn by turn in
one run."""

from __future__ import annotations

import gc
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.baselines import WAYS, DiffusersEdit
from benchmarks.checks import EXACT, ROUNDED, Refused, exact_float32, require_equal
from benchmarks.counting import edit_work, flops, reference_work
from benchmarks.record import note
from benchmarks.roofline import peak
from benchmarks.subject import Subject, fastest, final_latents, open_subject
from benchmarks.timing import (
    Times,
    default_warmup,
    interleave,
    peak_memory_mib,
    quantile,
    reset_peak_memory,
    timed,
)
from benchmarks.workload import Case, further_cases, make_cases, unanchored, without_control
from icd_engine.results import EditResult


def measure_edit(
    *,
    model: str = "tiny",
    architecture: str | None = None,
    size: int | None = None,
    baseline: str | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    compile: str = "cheap",
    repeats: int = 10,
    warmup: int | None = None,
) -> dict[str, Any]:
    """Milliseconds of a first edit (PIL picture in, PIL picture out), of a re-edit, and of the
    baseline.

    Runner and dtype "auto" are the fastest of the machine: `benchmarks.subject.fastest`.

    Compared before timing: the baseline and the engine against each other or against the eager
    float32 runner. Raises Refused where they differ, IcdError for what cannot be loaded. Without
    diffusers the baseline is left out.
    """
    if baseline not in (None, *WAYS):
        raise Refused(f"the baseline of an edit is one of {', '.join(WAYS)}, not {baseline}")
    runner, dtype = fastest(runner, device, dtype)
    subject = open_subject(
        model, architecture, size, device=device, dtype=dtype, runner=runner, compile=compile
    )
    warmup = default_warmup(subject.device) if warmup is None else warmup
    cases = make_cases(warmup + repeats + 1, subject.size)
    reset_peak_memory(subject.device)
    cold_ms, _ = timed(lambda: subject.edit(cases[-1]), subject.device)
    note(f"loaded in {subject.load_ms:.0f} ms, first edit in {cold_ms:.0f} ms")
    kept = _Kept(subject, cases[-1], warmup + repeats)
    result = {**subject.as_dict(), "threads": torch.get_num_threads(), "load_ms": subject.load_ms}
    result |= {"cold_ms": round(cold_ms, 1), "peak_memory_mib": peak_memory_mib(subject.device)}

    other, agreement = _check(subject, cases[-1], _runnable(baseline))
    note(f"differences: {agreement or 'none to compare'}; timing")
    result |= {"baseline": baseline, "agreement": agreement | kept.check()}
    stages: list[EditResult] = []
    subjects = {"ours": lambda i: stages.append(subject.edit(cases[i])), "reedit": kept.edit}
    if other is not None:
        subjects["baseline"] = lambda i: other.edit(
            cases[i] if other.way.maps else without_control(cases[i])
        )
    times = interleave(subjects, subject.device, repeats, warmup)
    return (
        result | _summary(subject, times, stages[warmup:]) | {"repeats": repeats, "warmup": warmup}
    )


class _Kept:
    """A kept inversion and further targets for it; its first edit is over, so that whatever it
    keeps is kept."""

    def __init__(self, subject: Subject, case: Case, count: int):
        self.subject = subject
        self.cases = further_cases(case, count)
        seed = case.settings["seed"]
        self.inversion = subject.engine.invert(
            case.picture, case.source, seed=seed, size=subject.size
        )
        self.inversion.edit(case.target, **case.settings)

    def check(self) -> dict[str, float]:
        """A re-edit against the same edit as a first one; Refused where they differ."""
        limit = EXACT if self.subject.exact else ROUNDED[self.subject.dtype]
        first = final_latents(self.subject.edit(self.cases[0]))
        distance = require_equal("a further edit", final_latents(self.edit(0)), first, limit)
        return {"further edit": float(f"{distance:.2e}")}

    def edit(self, i: int) -> EditResult:
        return self.inversion.edit(self.cases[i].target, **self.cases[i].settings)


def _runnable(baseline: str | None) -> str | None:
    if baseline is not None and find_spec("diffusers") is None:
        note("diffusers is not installed: no baseline")
        return None
    return baseline


def _open_baseline(subject: Subject, baseline: str) -> DiffusersEdit:
    engine = subject.engine
    return DiffusersEdit(
        engine.bundle, engine.default_settings, baseline, subject.device, subject.dtype
    )


def _check(
    subject: Subject, case: Case, baseline: str | None
) -> tuple[DiffusersEdit | None, dict[str, float]]:
    """The baseline, and relative differences of final latents; Refused where one is too large. Our
    edits are anchored where they are timed; baselines are compared with the published decoding.

    An exact engine is held to the published way directly. Every other one, and every baseline
    beside it, is held to the eager float32 runner, which is gone before the baseline is loaded: at
    full size both are too much.
    """
    way = None if baseline is None else WAYS[baseline]
    told = unanchored(case if way is None or way.maps else without_control(case))
    other = None
    found = dict[str, float]()
    with exact_float32():
        got = final_latents(subject.edit(case))
        if subject.exact and way is not None and way.maps:
            expected = final_latents(subject.edit(told))
        else:
            truth = subject.truth()
            expected = final_latents(subject.edit(told, truth))
            if truth is not subject.engine:
                limit = EXACT if subject.exact else ROUNDED[subject.dtype]
                wanted = final_latents(subject.edit(case, truth))
                found["engine"] = require_equal(
                    f"the runner {subject.engine.runner.name!r}", got, wanted, limit
                )
            del truth
            gc.collect()
        if baseline is not None:
            other = _open_baseline(subject, baseline)
            limit = EXACT if other.precision == torch.float32 else ROUNDED[other.precision]
            found["baseline"] = require_equal(
                f"the baseline {baseline!r}", other.edit(told).latents, expected, limit
            )
    return other, {name: float(f"{value:.2e}") for name, value in found.items()}


def _summary(subject: Subject, times: dict[str, Times], edits: list[EditResult]) -> dict[str, Any]:
    """Times, ratios, stages, and the share of the roofline that the counted work reaches."""
    ours = times["ours"]
    reedit = times["reedit"]
    baseline = times.get("baseline")
    stages = {
        name: _median([edit.timings[name] for edit in edits])
        for name in edits[0].timings
        if name != "total"
    }
    decode_ms = _median([_decode_ms(edit) for edit in edits])
    empty = {name: None for name in Times([1.0]).as_dict("baseline")}
    configs = subject.engine.bundle.configs
    bundle = subject.engine.bundle
    most = peak(subject.device, subject.dtype)
    hops: Any = {"encode_hops": len(bundle.encode_times), "decode_hops": len(bundle.decode_times)}
    first = edit_work(configs, subject.size, **hops)
    further = [
        w for work in edit_work(configs, subject.size, kept=True, **hops).values() for w in work
    ]
    decode_part = sum(flops(first[name]) for name in ("text_target", "decode", "vae_decode"))
    floors = {name: most.floor_ms(work, subject.dtype.itemsize) for name, work in first.items()}
    further_floor = most.floor_ms(further, subject.dtype.itemsize)
    return {
        **ours.as_dict("ours"),
        **(empty if baseline is None else baseline.as_dict("baseline")),
        "ratio": None if baseline is None else round(baseline.p50 / ours.p50, 3),
        **reedit.as_dict("reedit"),
        "decode_ms": decode_ms,
        "reedit_share": round(reedit.p50 / decode_ms, 3),
        # The same two by counted work alone: what equally good kernels would give.
        "counted_ratio": round(
            flops(reference_work(configs, subject.size)) / sum(map(flops, first.values())), 3
        ),
        "counted_reedit_share": round(flops(further) / decode_part, 3),
        "stages_ms": stages,
        "floors_ms": {name: round(ms, 4) for name, ms in floors.items()},
        "roofline_share": round(sum(floors.values()) / ours.p50, 4),
        "reedit_roofline_share": round(further_floor / reedit.p50, 4),
        "tflop": round(sum(flops(work) for work in first.values()) / 1e12, 4),
        "reedit_tflop": round(flops(further) / 1e12, 4),
        "peak": most.as_dict(),
    }


def _decode_ms(edit: EditResult) -> float:
    """The stages after those of the inversion."""
    before = edit.inversion.timings
    return sum(ms for name, ms in edit.timings.items() if name not in before and name != "total")


def _median(values: list[float]) -> float:
    return round(quantile(values, 0.5), 4)
