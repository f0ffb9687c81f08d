"""The paper's claims about which is better, each looked up in what was measured: it holds, or it
does not, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from icd_engine.errors import SettingsError

StudyRow = Mapping[str, Any]
Studies = Mapping[str, Sequence[StudyRow]]
LEVEL = 0.25  # dB: less is no difference over some dozen scenes
NEAR = 1.0  # dB
ABLATED = {  # figure -> what it is of
    "inversion_psnr_unguided": "unguided inversion",
    "inversion_psnr_guided_dynamic": "guided inversion",
    "edit_psnr_to_truth": "edits",
}


class Ordering(NamedTuple):
    """A claim, whether it holds here, and the figures it was read from."""

    claim: str
    holds: bool
    figures: str


def orderings(result: StudyRow, table: Mapping[str, StudyRow], studies: Studies) -> list[Ordering]:
    """All claims that the result of a run and recorded studies have figures for; those of studies
    say `recorded`.

    SettingsError where rows of the studies are not theirs.
    """
    try:
        recorded = [
            *_encoding(studies.get("encoding", ())),
            *_ablation(studies.get("ablation", ())),
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise SettingsError(f"rows of the studies are not as they were written: {error}") from None
    marked = [one._replace(figures=f"{one.figures}; recorded") for one in recorded]
    return [*_guidance(result), *marked, *_methods(table)]


def read_studies(paths: Sequence[Path]) -> dict[str, list[StudyRow]]:
    """Study -> rows, of files that `python -m benchmarks.evaluation.studies` printed.

    SettingsError.
    """
    found: dict[str, list[StudyRow]] = {}
    for path in paths:
        try:
            studies = json.loads(path.read_text(encoding="utf-8"))
            found |= {name: rows for name, rows in studies.items() if isinstance(rows, list)}
        except (OSError, ValueError, AttributeError) as error:
            raise SettingsError(f"{path} holds no studies: {error}") from None
    return found


def _guidance(result: StudyRow) -> Iterator[Ordering]:
    if "inversion_psnr_unguided" not in result:
        return
    unguided, dynamic, constant = (
        float(result[f"inversion_psnr_{form}"])
        for form in ("unguided", "guided_dynamic", "guided_constant")
    )
    figures = f"unguided {unguided:.1f} dB, dynamic {dynamic:.1f} dB, constant {constant:.1f} dB"
    yield Ordering(
        "Dynamic guidance keeps at least as much as constant guidance", dynamic >= constant, figures
    )
    yield Ordering("Unguided decoding keeps the most", unguided >= max(dynamic, constant), figures)


def _encoding(rows: Sequence[StudyRow]) -> Iterator[Ordering]:
    by_scale = {row["w_encode"]: row["psnr"] for row in rows}
    if 0.0 in by_scale and len(by_scale) > 1:
        best = max(value for w, value in by_scale.items() if w)
        figures = f"unguided {by_scale[0.0]:.1f} dB, guided at best {best:.1f} dB"
        yield Ordering("Unguided encoding beats guided encoding", by_scale[0.0] > best, figures)


def _ablation(rows: Sequence[StudyRow]) -> Iterator[Ordering]:
    """Rows of bundles called s<steps>_<preservation losses>."""
    bundles = {tuple(row["model"].split("_")): row for row in rows}
    plain = {int(name[0][1:]): row for name, row in bundles.items() if name[1:] == ("plain",)}
    both = {int(name[0][1:]): row for name, row in bundles.items() if name[1:] == ("both",)}
    compared = [steps for steps in sorted(plain) if steps in both]
    for figure, of in ABLATED.items():
        if compared:
            changes = {steps: (plain[steps][figure], both[steps][figure]) for steps in compared}
            figures = ", ".join(
                f"{steps} steps {a:.1f} -> {b:.1f} dB" for steps, (a, b) in changes.items()
            )
            helped = all(b > a + LEVEL for a, b in changes.values())
            yield Ordering(f"Preservation losses help {of}", helped, figures)
        if len(plain) > 1:
            values = [plain[steps][figure] for steps in sorted(plain)]
            figures = ", ".join(
                f"{n} steps {value:.1f} dB" for n, value in zip(sorted(plain), values, strict=True)
            )
            rising = all(b > a for a, b in pairwise(values))
            yield Ordering(f"More steps help {of} without preservation losses", rising, figures)


def _methods(table: Mapping[str, StudyRow]) -> Iterator[Ordering]:
    """Ours against every method of a hundred calls and more."""
    own = table.get("icd")
    slow = {
        name: row
        for name, row in table.items()
        if not name.startswith("icd-") and (row.get("network_calls") or 0) >= 100
    }
    if own is None or not slow or own.get("edit_psnr_to_truth") is None:
        return
    better = {
        name: row["edit_psnr_to_truth"] - own["edit_psnr_to_truth"] for name, row in slow.items()
    }
    figures = ", ".join(
        f"{name} {gain:+.1f} dB, {slow[name]['seconds'] / own['seconds']:.0f} x the time"
        for name, gain in better.items()
    )
    claim = f"{own['network_calls']:.0f} calls edit within {NEAR:g} dB of every method of 100 calls and more"
    yield Ordering(claim, max(better.values()) <= NEAR, figures)
