"""The paper's claims about which is better, each looked up in what was measured: it holds, or it does not, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
LEVEL = 0.25  # dB: less is no difference over some dozen scenes
NEAR = 1.0  # dB


class Ordering(NamedTuple):
    """A claim, whether it holds here, and the figures it was read from."""

    claim: str
    holds: bool
    figures: str


def orderings(result: Row, table: Mapping[str, Row], recorded: Path) -> list[Ordering]:
    """All claims that the result of a run and the recorded studies have figures for.

    recorded: folder of ablation.json and studies.json, written by `benchmarks.evaluation.studies`.
    """
    studies = {name: _rows(recorded / file, name) for name, file in (("ablation", "ablation"), ("encoding", "studies"))}
    return [*_guidance(result), *_encoding(studies["encoding"]), *_ablation(studies["ablation"]), *_methods(table)]


def _rows(path: Path, study: str) -> list[Row]:
    if not path.with_suffix(".json").is_file():
        return []
    return json.loads(path.with_suffix(".json").read_text(encoding="utf-8")).get(study, [])


def _guidance(result: Row) -> Iterator[Ordering]:
    if "inversion_psnr_unguided" not in result:
        return
    unguided, dynamic, constant = (
        float(result[f"inversion_psnr_{form}"]) for form in ("unguided", "guided_dynamic", "guided_constant")
    )
    figures = f"unguided {unguided:.1f} dB, dynamic {dynamic:.1f} dB, constant {constant:.1f} dB"
    yield Ordering("Dynamic guidance keeps more of a picture than constant guidance", dynamic > constant, figures)
    yield Ordering("Unguided decoding keeps the most", unguided > max(dynamic, constant), figures)


def _encoding(rows: list[Row]) -> Iterator[Ordering]:
    by_scale = {row["w_encode"]: row["psnr"] for row in rows}
    if 0.0 in by_scale and len(by_scale) > 1:
        best = max(value for w, value in by_scale.items() if w)
        figures = f"unguided {by_scale[0.0]:.1f} dB, guided at best {best:.1f} dB"
        yield Ordering("Unguided encoding beats guided encoding", by_scale[0.0] > best, figures)


def _ablation(rows: list[Row]) -> Iterator[Ordering]:
    """Rows of bundles called s<steps>_<preservation losses>."""
    found = {tuple(row["model"].split("_")): row["inversion_psnr_unguided"] for row in rows}
    steps = sorted({name[0] for name in found}, key=lambda name: int(name[1:]))
    pairs = [(s, found[s, "plain"], found[s, "both"]) for s in steps if (s, "plain") in found and (s, "both") in found]
    if pairs:
        figures = ", ".join(f"{s[1:]} steps {plain:.1f} -> {both:.1f} dB" for s, plain, both in pairs)
        helped = all(both > plain + LEVEL for _, plain, both in pairs)
        yield Ordering("Preservation losses help inversion", helped, figures)
    plain = [(s, found[s, "plain"]) for s in steps if (s, "plain") in found]
    if len(plain) > 1:
        figures = ", ".join(f"{s[1:]} steps {value:.1f} dB" for s, value in plain)
        rising = all(b[1] > a[1] for a, b in pairwise(plain))
        yield Ordering("More steps help where they are missing", rising, figures)


def _methods(table: Mapping[str, Row]) -> Iterator[Ordering]:
    """Ours against every method of a hundred calls and more."""
    own = table.get("icd")
    slow = {name: row for name, row in table.items() if name != "icd-auto" and (row.get("network_calls") or 0) >= 100}
    if own is None or not slow or own.get("edit_psnr_to_truth") is None:
        return
    better = {name: row["edit_psnr_to_truth"] - own["edit_psnr_to_truth"] for name, row in slow.items()}
    figures = ", ".join(
        f"{name} {gain:+.1f} dB, {slow[name]['seconds'] / own['seconds']:.0f} x the time"
        for name, gain in better.items()
    )
    claim = f"{own['network_calls']:.0f} calls edit within {NEAR:g} dB of every method of 100 calls and more"
    yield Ordering(claim, max(better.values()) <= NEAR, figures)
