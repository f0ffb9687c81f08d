"""`python -m benchmarks.evaluation`: edits a suite, measures it, and writes a table, results.json
and a page."""

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
from benchmarks.evaluation.choosing import Networks, chosen
from benchmarks.evaluation.features import FIGURES, absent, learned
from benchmarks.evaluation.options import instructed, parser
from benchmarks.evaluation.orderings import Studies, orderings, read_studies
from benchmarks.evaluation.run import (
    Method,
    ResultRow,
    evaluate,
    generated,
    inversions,
    summary,
)
from benchmarks.evaluation.suites import Item, Metric
from icd_engine.endings import exit_code
from icd_engine.engine import Engine
from icd_engine.errors import IcdError, SettingsError
from icd_engine.settings import EditSettings

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "benchmarks" / "results" / "quality"
GUIDANCE = ("guidance_scale", "tau", "tau_low")  # the settings that generating has


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured. 1: one line on stderr says why not."""
    options = parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        result, rows, where = _measured(options)
    except IcdError as error:
        record.complain(str(error))
        return 1
    _report(options, result, rows, where)
    if options.json:
        print(json.dumps(result), flush=True)
    return 0


def _measured(
    options: argparse.Namespace,
) -> tuple[dict[str, Any], list[ResultRow], dict[str, Any]]:
    """The result, its rows, and what it was measured with. IcdError."""
    items = _items(options)
    settings = _settings(options)
    studies = _studies(options)
    engine = Engine.from_pretrained(
        options.model, device=options.device, dtype=options.dtype, runner=options.runner
    )
    methods = _methods(engine, options, settings)
    device = torch.device(engine.runner.device)
    metrics = _metrics(options, device)
    progress = record.note if not options.quiet else lambda text: None
    rows = evaluate(
        items, methods, options.out, metrics, progress, _about(options, engine, settings)
    )
    table = summary(rows)
    result: dict[str, Any] = {"suite": options.suite, "model": options.model, "items": len(items)}
    result |= {
        "weights": {name: str(path) for name, path in _weights(options).items() if path},
        "methods": table,
    }
    if options.suite == "tiny":
        result = _flat(table) | inversions(engine, items) | result
        result["orderings"] = [claim._asdict() for claim in orderings(result, table, studies)]
    elif options.suite == "generate":
        result = _flat_prompts(table) | result
    return result, rows, record.environment(device)


def _items(options: argparse.Namespace) -> list[Item]:
    if options.suite == "tiny":
        return suites.tiny(options.count, options.seed)
    if options.suite == "generate":
        found = suites.prompts(options.path, options.count, options.seed)
    elif options.path is None:
        raise SettingsError(f"the suite {options.suite} needs --path")
    else:
        found = suites.pie(options.path) if options.suite == "pie" else suites.pairs(options.path)
    if not found:
        raise SettingsError(f"{options.path} has nothing in it for the suite {options.suite}")
    return found[: options.count]


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    try:
        given = json.loads(options.settings)
    except ValueError as error:
        raise SettingsError(f"--settings is not JSON: {error}") from None
    EditSettings.from_mapping(given)
    unused = [name for name in given if options.suite == "generate" and name not in GUIDANCE]
    if unused:
        raise SettingsError(
            f"--settings: generating has no {unused[0]!r} (it has {', '.join(GUIDANCE)})"
        )
    return given


def _studies(options: argparse.Namespace) -> Studies:
    recorded = [
        path for name in ("ablation", "studies") if (path := RECORDED / f"{name}.json").is_file()
    ]
    return read_studies([options.studies] if options.studies else recorded)


def _weights(options: argparse.Namespace) -> dict[str, Path | None]:
    return {name: getattr(options, name) for name in FIGURES}


def _looked_at(options: argparse.Namespace) -> dict[str, Path | None]:
    """The weights whose figures the table has.

    The world's own pictures need none of them: only those given are.
    """
    return {
        name: path for name, path in _weights(options).items() if path or not _of_the_world(options)
    }


def _of_the_world(options: argparse.Namespace) -> bool:
    return options.suite == "tiny" or (options.suite == "generate" and options.path is None)


def _metrics(options: argparse.Namespace, device: torch.device) -> list[Metric]:
    """The world's judge where it knows what is wanted, and what looks through trained networks."""
    judge = [suites.judged()] if _of_the_world(options) else []
    return [*judge, *learned(_looked_at(options), device)]


def _methods(
    engine: Engine, options: argparse.Namespace, settings: dict[str, Any]
) -> dict[str, Method]:
    if options.suite == "generate":
        if options.methods != "icd":
            raise SettingsError(
                "--methods are ways to edit: the suite generate has forms of guidance instead"
            )
        forms = {
            "icd": {},
            "icd, unguided": {"guidance_scale": 0.0},
            "icd, constant guidance": {"tau": 1.0},
        }
        return {name: generated(engine, **settings | form) for name, form in forms.items()}
    return chosen(engine, options.methods, _networks(options), settings)


def _networks(options: argparse.Namespace) -> Networks:
    found = instructed(options.ip2p, options.ip2p_scales, options.suite == "tiny")
    return Networks(options.teacher, *found)


def _about(options: argparse.Namespace, engine: Engine, settings: dict[str, Any]) -> str:
    """What decides the figures of a row, besides its item and method; the model by its weights, not
    by its name."""
    names = ("suite", "path", "seed", "device", "dtype", "runner", *FIGURES)
    given = {name: str(getattr(options, name)) for name in names}
    given |= {name: str(value) for name, value in _networks(options)._asdict().items()}
    return json.dumps([given, settings, engine.bundle.sha256], sort_keys=True)


def _flat(table: dict[str, Any]) -> dict[str, Any]:
    """The figures of our own edit, by the names people ask for."""
    own = table.get("icd")
    if own is None:
        return {}
    success = {"all": own.get("edit_success")} | {
        kind: row["edit_success"] for kind, row in own["kinds"].items()
    }
    names = ("edit_psnr_to_truth", "changed_share", "background_psnr", "network_calls")
    flat = {name: own.get(name) for name in names}
    return {"edit_success": success} | flat | {"seconds_per_edit": own.get("seconds")}


def _flat_prompts(table: dict[str, Any]) -> dict[str, Any]:
    """The same of generated pictures; which words came out right only the world's judge knows."""
    own = table["icd"]
    flat = {"network_calls": own.get("network_calls"), "seconds_per_picture": own.get("seconds")}
    if "prompt_success" not in own:
        return flat
    kinds = {name.removesuffix("_right"): own[name] for name in own if name.endswith("_right")}
    return {"prompt_success": {"all": own["prompt_success"]} | kinds} | flat


def _report(
    options: argparse.Namespace,
    result: dict[str, Any],
    rows: Sequence[ResultRow],
    where: dict[str, Any],
) -> None:
    """results.json and the page; on stderr the table, what it lacks, and which claims hold."""
    (options.out / "results.json").write_text(
        json.dumps(result | {"where": where}, indent=1) + "\n"
    )
    table = result["methods"]
    lacking = absent(_looked_at(options))
    pictures = {
        method: [
            options.out / row["picture"]
            for row in rows
            if row["method"] == method and "picture" in row
        ]
        for method in table
    }
    about = {name: result[name] for name in ("suite", "model", "items")}
    about |= {name: where[name] for name in ("device", "commit")}
    claims = result.get("orderings", [])
    title = f"icd eval: {options.suite}"
    written = page.write(
        options.out / "report.html", title, about, table, pictures, claims, lacking
    )
    record.note(page.markdown(table, lacking))
    missing = [f"--{name}" for name, path in _weights(options).items() if path is None]
    if missing:
        record.note(f"weights not given: {', '.join(missing)}")
    for claim in claims:
        record.note(
            f"{'holds' if claim['holds'] else 'does not hold'}: {claim['claim']} ({claim['figures']})"
        )
    record.note(f"wrote {written}")


if __name__ == "__main__":
    sys.exit(exit_code(main))
