"""The rows of the tables in docs/performance.md: what of each benchmark's results is shown, and how."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


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


def _first_row(result: Record) -> dict[str, str]:
    return {
        "first edit of a process": f"{result['model']}, {_size(result)}, {result['runner']}, {result['dtype']}",
        "from its start, s": f"{result['first_s']:.1f}",
        "the very first, s": f"{result['once_s']:.1f}",
        "most memory, MiB": f"{result['peak_memory_mib']:.0f}",
        "without mapped files, MiB": f"{result['own_memory_mib']:.0f}"
        if "own_memory_mib" in result
        else "",
    }


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
    "first": _first_row,
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
