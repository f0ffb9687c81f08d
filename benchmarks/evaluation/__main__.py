"""`python -m benchmarks.evaluation SUITE`: edits a suite, measures it, and writes a table, results.json and a page."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.evaluation import page, suites
from benchmarks.evaluation.diffusion import Diffusion
from benchmarks.evaluation.features import FIGURES, learned
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.orderings import Ordering, orderings
from benchmarks.evaluation.run import Method, generated, icd, icd_auto, inversions, other, run, summary
from benchmarks.evaluation.suites import Item, Metric
from icd_engine.engine import Engine
from icd_engine.errors import IcdError, SettingsError

ROOT = Path(__file__).resolve().parents[2]
TEACHER = ROOT / "training" / "tiny_teacher_weights"
SUITES = ("tiny", "pie", "pairs", "generate")
RECORDED = ROOT / "benchmarks" / "results" / "quality"


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured. 1: one line on stderr says why not."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    claims: list[Ordering] = []
    try:
        items = _items(options)
        engine = Engine.from_pretrained(
            options.model, device=options.device, dtype=options.dtype, runner=options.runner
        )
        methods = _methods(engine, options)
        metrics = _metrics(options, items)
        rows = run(items, methods, options.out, metrics, record.note if not options.quiet else lambda text: None)
        table = summary(rows)
        result = {"suite": options.suite, "model": options.model, "items": len(items), "methods": table}
        if options.suite == "tiny":
            result = _flat(table) | inversions(engine, items) | result
            claims = orderings(result, table, RECORDED)
            result["orderings"] = [claim._asdict() for claim in claims]
    except IcdError as error:
        record.complain(str(error))
        return 1
    where = record.environment(engine.runner.device)
    about = {"suite": options.suite, "items": len(items), "device": where["device"], "commit": where["commit"]}
    (options.out / "results.json").write_text(json.dumps(result | {"where": where}, indent=1) + "\n")
    written = page.write(
        options.out / "report.html", f"icd eval: {options.suite}", about, table, options.out / "pictures", claims
    )
    record.note(_text(table))
    missing = [f"--{name}" for name in FIGURES if getattr(options, name) is None]
    if missing:
        record.note(f"n/a: weights not given ({', '.join(missing)})")
    for claim in claims:
        record.note(f"{'holds' if claim.holds else 'does not hold'}: {claim.claim} ({claim.figures})")
    record.note(f"wrote {written}")
    if options.json:
        print(json.dumps(result), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="icd eval", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--suite", choices=SUITES, default="tiny")
    parser.add_argument("--path", type=Path, help="PIE-Bench's folder, the CSV file of pairs, or prompts a line each")
    parser.add_argument("--count", type=int, default=100, help="items at most")
    parser.add_argument("--seed", type=int, default=2025, help="of scenes that are drawn")
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--methods", default="icd", help=f"of icd, icd-auto, {', '.join(METHODS)}; all")
    parser.add_argument("--teacher", type=Path, default=TEACHER, help="UNet folder for the other methods")
    for name, figures in FIGURES.items():
        kind = "AlexNet weights file of torchvision" if name == "lpips" else "model folder"
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"{kind}, for {', '.join(figures)}")
    parser.add_argument("--settings", type=json.loads, default={}, help="EditSettings of icd as JSON")
    parser.add_argument("--out", type=Path, default=Path("out/eval"), help="rows, results.json, report.html; resumable")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--runner", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def _items(options: argparse.Namespace) -> list[Item]:
    if options.suite == "tiny":
        return suites.tiny(options.count, options.seed)
    if options.suite == "generate":
        return suites.prompts(options.path, options.count, options.seed)
    if options.path is None:
        raise SettingsError(f"the suite {options.suite} needs --path")
    found = suites.pie(options.path) if options.suite == "pie" else suites.pairs(options.path)
    return found[: options.count]


def _metrics(options: argparse.Namespace, items: Sequence[Item]) -> list[Metric]:
    """The world's judge where it knows what is wanted, and what looks through trained networks.

    On the world's own pictures, which need none of them, only those that were asked for.
    """
    judge = [suites.judged()] if items and items[0].words else []
    paths = {name: getattr(options, name) for name in FIGURES}
    return judge + (learned(paths) if not judge or any(paths.values()) else [])


def _methods(engine: Engine, options: argparse.Namespace) -> dict[str, Method]:
    if options.suite == "generate":
        forms = {"icd": {}, "icd, unguided": {"guidance_scale": 0.0}, "icd, constant guidance": {"tau": 1.0}}
        return {name: generated(engine, **options.settings | form) for name, form in forms.items()}
    own = {"icd": icd, "icd-auto": icd_auto}
    names = [*own, *METHODS] if options.methods == "all" else options.methods.split(",")
    unknown = [name for name in names if name not in own and name not in METHODS]
    if unknown:
        raise SettingsError(f"unknown method {unknown[0]!r} (known: {', '.join((*own, *METHODS))})")
    methods = {name: own[name](engine, **options.settings) for name in names if name in own}
    others = [name for name in names if name in METHODS]
    if others:
        model, w = Diffusion.load(engine, options.teacher), float(engine.default_settings.guidance_scale or 0.0)
        methods |= {name: other(model, name, w) for name in others}
    return methods


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """The figures of our own edit, by the names people ask for."""
    own = table.get("icd")
    if own is None:
        return {}
    success = {"all": own["edit_success"]} | {kind: row["edit_success"] for kind, row in own["kinds"].items()}
    names = ("edit_psnr_to_truth", "changed_share", "background_psnr", "network_calls")
    return {"edit_success": success} | {name: own[name] for name in names} | {"seconds_per_edit": own["seconds"]}


def _text(table: dict[str, Any]) -> str:
    """The table for a terminal; n/a where weights or an extra were not given."""
    names = [name for name in page.COLUMNS if any(name in row for row in table.values())]
    lines = [["method", *names]]
    for method, row in table.items():
        lines.append([method, *("n/a" if row.get(n) is None else f"{row[n]:.{page.COLUMNS[n][1]}f}" for n in names)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


if __name__ == "__main__":
    sys.exit(main())
