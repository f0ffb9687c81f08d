"""`python -m benchmarks.report`: the tables of docs/performance.md and two plots, from records
only."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks import plots, record
from benchmarks.tables import TABLES, Record

BEGIN = "<!-- performance -->"
END = "<!-- /performance -->"
PAGE = record.ROOT / "docs" / "performance.md"
KEYS = (
    "model",
    "size",
    "baseline",
    "runner",
    "dtype",
    "compile",
    "batch",
    "piece",
    "op",
    "shape",
    "mode",
    "stage",
)  # what tells results apart


def main(folder: Path | None = None, page: Path = PAGE) -> int:
    """Writes the tables into `page`, the plots beside the records. 1 where there is nothing to
    write or no place."""
    folder = folder or record.RESULTS
    records = latest(record.read(folder))
    if not records:
        record.complain(f"no records in {folder}")
        return 1
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(END) < text.index(BEGIN):
        record.complain(f"{page} must hold {BEGIN} and {END} once each, in that order")
        return 1
    pictures = plots.write(records, folder)
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    linked = "\n\n".join(
        f"![{path.stem}]({Path(os.path.relpath(path, page.parent)).as_posix()})"
        for path in pictures
    )
    page.write_text(
        f"{before}{BEGIN}\n{section(records)}\n{linked}\n{END}{after}", encoding="utf-8"
    )
    for path in (page, *pictures):
        record.note(f"wrote {path}")
    return 0


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of everything that was measured on every device, in the order of first
    appearance."""
    kept: dict[tuple, Record] = {}
    for one in records:
        kept[_key(one)] = one
    return list(kept.values())


def _key(one: Record) -> tuple:
    result = one["result"]
    return (
        one["benchmark"],
        one["device"],
        one["threads"],
        *(str(result.get(name)) for name in KEYS),
    )


def section(records: Sequence[Record]) -> str:
    """One table for each device and kind of benchmark, with the commit and versions each was
    measured with."""
    parts = []
    for device in dict.fromkeys(one["device"] for one in records):
        here = [one for one in records if one["device"] == device]
        parts.append(f"\n**{device}** ({_conditions(here)})\n")
        for kind, table in TABLES.items():
            rows = [table(one["result"]) for one in here if one["benchmark"] == kind]
            if rows:
                parts.append(_markdown(rows))
    return "\n".join(parts)


def _conditions(records: Sequence[Record]) -> str:
    """ "commit abc, 2026-11-24, torch 2.13.0, 2 threads": every value that occurs."""
    seen = {
        "commit": (one["commit"] for one in records),
        "": (one["date"][:10] for one in records),
        "torch": (one["versions"].get("torch") for one in records),
        "triton": (one["versions"].get("triton") for one in records),
        "threads": (
            one["threads"] for one in records if one["result"].get("device_type") != "cuda"
        ),
    }
    texts = []
    for name, values in seen.items():
        known = [str(value) for value in dict.fromkeys(values) if value is not None]
        if known:
            texts.append(f"{name} {' and '.join(known)}".strip())
    return ", ".join(texts)


def _markdown(rows: Sequence[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="folder of the records (default: benchmarks/results)",
    )
    parser.add_argument(
        "--page",
        type=Path,
        default=PAGE,
        metavar="FILE",
        help="Markdown file whose tables are rewritten (default: docs/performance.md)",
    )
    options = parser.parse_args()
    sys.exit(main(options.results, options.page))
