"""`icd bench`: one JSON object on stdout, everything else on stderr, errors as one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icd_engine.cli import main

ROOT = Path(__file__).resolve().parents[2]
WANTED = {
    "ours_ms",
    "ours_p99_ms",
    "baseline_ms",
    "ratio",
    "reedit_ms",
    "decode_ms",
    "stages_ms",
    "cold_ms",
    "peak_memory_mib",
    "runner",
    "device",
    "dtype",
    "threads",
    "versions",
    "commit",
}


def icd(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-c",
        "import sys; from icd_engine.cli import main; sys.exit(main())",
        *arguments,
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=1200
    )


def test_an_edit_beside_the_reference(tmp_path):
    """From any folder; paths are the user's."""
    pytest.importorskip("diffusers")
    options = [
        "--model",
        "tiny",
        "--baseline",
        "reference",
        "--repeats",
        "1",
        "--device",
        "cpu",
        "--runner",
        "eager",
    ]
    run = icd("bench", "edit", *options, "--json", "--record", "kept", folder=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert set(result) >= WANTED
    assert result["ratio"] == pytest.approx(result["baseline_ms"] / result["ours_ms"], rel=1e-3)
    assert result["agreement"]["baseline"] < 1e-3
    assert "edit: model tiny" in run.stderr
    (line,) = next((tmp_path / "kept").glob("*.jsonl")).read_text().splitlines()
    assert json.loads(line)["result"]["ours_ms"] == result["ours_ms"]


def test_a_mistake_is_one_line(tmp_path):
    run = icd("bench", "edit", "--model", "nowhere", "--json", folder=tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    assert (
        run.stderr.startswith("benchmarks: error: no model folder at nowhere")
        and run.stderr.count("\n") == 1
    )


@pytest.mark.parametrize(
    ("command", "what"), [(["bench", "edit"], "benchmarks"), (["eval"], "evaluations")]
)
def test_outside_the_repository_it_says_so(tmp_path, monkeypatch, capsys, command, what):
    monkeypatch.setattr("icd_engine.cli.child.ROOT", tmp_path)
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert (
        out == ""
        and err.startswith(f"icd: error: {what} run from a checkout")
        and err.count("\n") == 1
    )


def test_help_has_an_example_and_every_option(capfd):
    assert main(["bench", "--help"]) == 0
    out = capfd.readouterr().out
    assert "icd bench edit --model tiny --baseline reference --json" in out
    assert "--architecture NAME" in out and "--record" in out


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["bench"], "required: what"),
        (["bench", "edit", "--repeats", "0"], "--repeats: '0' is not a whole number above 0"),
        (["bench", "edit", "--colour"], "unrecognized arguments: --colour"),
        (["eval", "--suite", "attic"], "--suite: invalid choice: 'attic'"),
        (["eval", "--count", "x"], "--count: 'x' is not a whole number above 0"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_one_line(capfd, command, message):
    assert main(command) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("benchmarks: error: ") and err.count("\n") == 1
    assert message in err


def gpu_run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """A command of the GPU run, without a GPU."""
    environment |= {"QUICK": "1", "LIMIT": "3000", "PYTHON": sys.executable}
    environment |= {"ICD_BENCHMARK_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": ""}
    command = ["bash", str(ROOT / "benchmarks" / "gpu_run.sh"), *arguments]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def recorded(folder: Path) -> set[str]:
    (records,) = folder.glob("*.jsonl")
    return {json.loads(line)["benchmark"] for line in records.read_text().splitlines()}


def test_a_part_of_the_gpu_run_records_and_is_told(tmp_path):
    out = tmp_path / "out"
    run = gpu_run(tmp_path, "1", str(out), ONLY="nodes")
    assert run.returncode == 0, run.stdout[-5000:]
    assert recorded(out) == {"backends"}
    assert "backends: table node" in run.stdout.split("=== results")[1]
    assert (out / "gpu_run_1.log").read_text().count("=== nodes") == 1


def test_a_part_that_fails_is_told_and_fails_the_run(tmp_path):
    run = gpu_run(tmp_path, "1", str(tmp_path / "out"), ONLY="nodes", PYTHONHASHSEED="no number")
    assert run.returncode == 1
    assert "FAILED (1)" in run.stdout.split("=== summary")[1]


@pytest.mark.parametrize("wrong", [[], ["4"], ["out"]], ids=" ".join)
def test_the_gpu_run_has_three_commands(tmp_path, wrong):
    run = gpu_run(tmp_path, *wrong)
    assert run.returncode == 2 and run.stderr.startswith("usage: benchmarks/gpu_run.sh 1|2|3")


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "benchmarks"),
    [
        ("1", {"ops", "backends", "unet", "vae"}),
        ("2", {"bundle", "edit", "profile"}),
        ("3", {"bundle", "edit", "throughput"}),
    ],
)
def test_the_gpu_run_comes_to_its_end_without_a_gpu(tmp_path, command, benchmarks):
    run = gpu_run(tmp_path, command, str(tmp_path / "out"))
    assert run.returncode == 0, run.stdout[-5000:]
    assert "FAILED" not in run.stdout and "summary after" in run.stdout
    assert recorded(tmp_path / "out") == benchmarks
