"""`python -m benchmarks.report`: the tables of docs/performance.md and two plots, from records
only."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots, record

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
Record = dict[str, Any]


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


def _edit_row(result: Record) -> dict[str, str]:
    return {
        "edit": f"{result['model']}, {_size(result)}, {result['runner']}, {result['dtype']}",
        "first edit p50 / p99, ms": f"{_ms(result['ours_ms'])} / {_ms(result['ours_p99_ms'])}",
        "on the device, ms": _ms(result["ours_device_ms"]),
        "re-edit, ms": _ms(result["reedit_ms"]),
        "re-edit over the first edit's decode part (counted)": _share(
            result["reedit_share"], result.get("counted_reedit_share")
        ),
        "share of roofline": f"{100 * result['roofline_share']:.0f} %",
        "cold, s": f"{result['cold_ms'] / 1000:.1f}",
        "memory, MiB": f"{result['peak_memory_mib']:.0f}",
        "baseline, ms": ""
        if result["ratio"] is None
        else f"{result['baseline']} {_ms(result['baseline_ms'])}",
        "times faster": "" if result["ratio"] is None else f"{result['ratio']:.2f}",
    }


def _share(measured: float, counted: float | None) -> str:
    return f"{measured:.2f}" if counted is None else f"{measured:.2f} ({counted:.2f})"


def _throughput_row(result: Record) -> dict[str, str]:
    return {
        "throughput": f"{result['model']}, {_size(result)}, {result['runner']}, {result['dtype']}",
        "batch": str(result["batch"]),
        "edits/s": f"{result['edits_per_s']:.2f}",
        "batch p50 / p99, ms": f"{_ms(result['batch_ms'])} / {_ms(result['batch_p99_ms'])}",
        "memory, MiB": f"{result['peak_memory_mib']:.0f}",
    }


def _onnx_row(result: Record) -> dict[str, str]:
    return {
        "onnxruntime against torch": f"{result['model']}, {_size(result)}, {result['dtype']}, {result['provider']}",
        "onnxruntime p50 / p99, ms": f"{_ms(result['onnx_ms'])} / {_ms(result['onnx_p99_ms'])}",
        "re-edit, ms": _ms(result["onnx_further_ms"]),
        "torch p50 / p99, ms": f"{result['runner']} {_ms(result['torch_ms'])} / {_ms(result['torch_p99_ms'])}",
        "torch re-edit, ms": _ms(result["torch_further_ms"]),
    }


def _export_row(result: Record) -> dict[str, str]:
    return {
        "export": f"{result['model']}, {result['dtype']}, opset {result['opset']}",
        "took, s": f"{result['export_s']:.0f}",
        "on disk, MiB": f"{result['disk_mib']:.0f}",
        "loads in, s": f"{result['onnx_load_ms'] / 1000:.1f}",
        "encode hop, ms (torch)": f"{_ms(result['encode_hop_ms'], 0)} ({_ms(result['encode_hop_torch_ms'], 0)})",
        "decode hop, ms (torch)": f"{_ms(result['decode_hop_ms'], 0)} ({_ms(result['decode_hop_torch_ms'], 0)})",
        "error": f"{max(result['encode_hop_error'], result['decode_hop_error']):.0e}",
        "memory, MiB": f"{result['peak_memory_mib']:.0f}",
    }


def _published_row(result: Record) -> dict[str, str]:
    stages = result.get("stages_ms")
    return {
        "published formats": f"{result['model']}, {_size(result)}, {result['dtype']}",
        "step": result["mode"] if stages is None else f"edit, {result['mode']}",
        "loading, s": "" if stages is None else f"{result['load_s']:.0f}",
        "took, s": f"{result['s'] if stages is None else stages['total'] / 1000:.0f}",
        "peak memory, MiB": f"{result.get('device_peak_memory_mib', result['peak_memory_mib']):.0f}",
    }


def _distil_row(result: Record) -> dict[str, str]:
    counted = result.get("counted_tflop_per_sample")
    return {
        "training stage": f"{result['model']}, {_size(result)}, {result['stage']}",
        "a step of one sample, s": f"{result['step_s']:.1f}" if "step_s" in result else "",
        "TFLOP (counted)": "" if counted is None else f"{counted:.1f}",
        "whole stage, s": f"{result['s']:.0f}",
        "peak memory, MiB": f"{result.get('device_peak_memory_mib', result['peak_memory_mib']):.0f}",
    }


def _load_row(result: Record) -> dict[str, str]:
    memory = [sum(parts.values()) for parts in result["memory_mib"]]
    times = {name: result.get(f"{name}_ms") for name in ("answered", "rejected")}
    shown = {
        name: "" if ms is None else f"{_ms(ms['p50'])} / {_ms(ms['p99'])}"
        for name, ms in times.items()
    }
    return {
        "service": f"{result['model']}, {result['runner']}, {result['dtype']}",
        "edits/s": f"{result['alone_edits_per_s']:.2f}",
        "sent/s": f"{result['offered_per_s']:.1f}",
        "sent": str(result["sent"]),
        "answered + rejected + lost + others": " + ".join(
            str(result[name]) for name in ("answered", "rejected", "lost", "others")
        ),
        "answered p50 / p99, ms": shown["answered"],
        "rejected p50 / p99, ms": shown["rejected"],
        "memory before / most / after, MiB": f"{memory[0]} / {max(memory)} / {memory[-1]}",
        "after a lost worker, s": f"{result['recovery_s']:.1f}",
        "drained in, s": f"{result['drain_s']:.1f}",
    }


def _batch_row(result: Record) -> dict[str, str]:
    return {
        "batch": f"{result['model']}, {result['runner']}, {result['dtype']}",
        "rows": str(result["rows"]),
        "pictures + errors": f"{result['pictures']} + {sum(result['errors'].values())}",
        "took, s": f"{result['seconds']:.0f}",
        "pictures/s": f"{result['pictures_per_s']:.2f}",
        "worker killed at row": str(result["worker_killed_at"]),
        "driver killed at row": str(result["driver_killed_at"]),
        "the rest took, s": f"{result['rest_seconds']:.0f}",
        "same bytes": "yes" if result["bit_identical"] else "no",
    }


def _piece_row(result: Record) -> dict[str, str]:
    return {
        "network": f"{result['model']}, {result['piece']}, {result['runner']}, {result['dtype']}",
        "p50 / p99, ms": f"{_ms(result['call_ms'])} / {_ms(result['call_p99_ms'])}",
        "on the device, ms": _ms(result["call_device_ms"]),
        "floor, ms": _ms(result["floor_ms"]),
        "share of roofline": f"{100 * result['roofline_share']:.0f} %",
    }


def _op_row(result: Record) -> dict[str, str]:
    times = {name: _ms(result[f"{name}_ms"], 4) for name in ("op", "eager", "compiled", "floor")}
    share = {"share of roofline": f"{100 * result['roofline_share']:.0f} %"}
    return (
        {"operation": f"{result['op']} {result['shape']}, {result['dtype']}"}
        | {f"{name}, ms": text for name, text in times.items()}
        | share
    )


TABLES = {
    "edit": _edit_row,
    "throughput": _throughput_row,
    "onnx": _onnx_row,
    "export": _export_row,
    "published": _published_row,
    "distil": _distil_row,
    "load": _load_row,
    "batch": _batch_row,
    "unet": _piece_row,
    "vae": _piece_row,
    "ops": _op_row,
}


def _size(result: Record) -> str:
    return "x".join(map(str, result["size"]))


def _ms(value: float | None, digits: int = 1) -> str:
    return "" if value is None else f"{value:.{digits}f}"


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
