"""One JSON line for every measurement: what was measured, on what, with which versions, at which
commit."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "torch",
    "triton",
    "diffusers",
    "transformers",
    "numpy",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "stable-diffusion-cpp-python",
)
CLOCKS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.draw",
    "temperature.gpu",
    "driver_version",
)


def environment(device: torch.device) -> dict[str, Any]:
    """Where and with what a number was measured."""
    return {
        "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "clocks": clocks(device),
    }


def append(folder: Path, benchmark: str, result: dict[str, Any], where: dict[str, Any]) -> Path:
    """Adds one line to the device's file in `folder` and returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{slug(where['device'])}.jsonl"
    line = json.dumps(
        {"benchmark": benchmark, **where, "result": result}, sort_keys=False, allow_nan=False
    )
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    return path


def read(folder: Path) -> list[dict[str, Any]]:
    """All records of a folder, file by file, in the order they were written."""
    return [
        json.loads(line)
        for path in sorted(folder.glob("*.jsonl"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.strip()
    ]


def slug(name: str) -> str:
    """A device's name as a file name: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def commit() -> str:
    """The commit, with "-dirty" where tracked files differ from it; records themselves do not
    count.

    A copy without its history takes $ICD_COMMIT, else it is "unknown".
    """
    git = ["git", "-C", str(ROOT)]
    head = _output([*git, "rev-parse", "--short=12", "HEAD"])
    if head is None:
        return os.environ.get("ICD_COMMIT", "unknown")
    changed = _output([*git, "status", "--porcelain", "--", ".", ":!benchmarks/results"])
    return head if changed == "" else f"{head}-dirty"


def device_name(device: torch.device) -> str:
    """The card, or the processor with its cores: "AMD EPYC 7B13, 2 cores"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = f"{os.cpu_count()} cores"
    try:
        match = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
    except OSError:
        match = None
    return f"{match[1].strip() if match else platform.processor() or platform.machine()}, {cores}"


def versions() -> dict[str, str | None]:
    """Installed versions by package, None for what is not there."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["torch"] = torch.__version__  # with the build: +cpu, +cu130
    if torch.version.cuda is not None:
        found["cuda"] = torch.version.cuda
    return found


def clocks(device: torch.device) -> dict[str, str]:
    """Clocks, power and driver as nvidia-smi tells them, empty where it does not."""
    if device.type != "cuda":
        return {}
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
    text = _output([*query, f"--id={device.index or 0}"])
    values = [] if text is None else [value.strip() for value in text.splitlines()[0].split(",")]
    return dict(zip(CLOCKS, values, strict=True)) if len(values) == len(CLOCKS) else {}


def note(text: str) -> None:
    """Whatever is not the result: to stderr, at once."""
    print(text, file=sys.stderr, flush=True)


def complain(text: str, red: bool = False) -> None:
    """One line about what is wrong, red on a terminal where it is a result that is."""
    before, after = ("\033[31m", "\033[0m") if red and sys.stderr.isatty() else ("", "")
    note(f"{before}benchmarks: error: {' '.join(text.split())}{after}")


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
