"""onnxruntime beside torch: the figures are there, and what differs is not timed.

The export is that of the fixture.
"""

import json
import shutil

import pytest

from benchmarks import exports
from benchmarks.checks import Refused
from icd_engine.errors import RunnerError


@pytest.fixture
def ready(exported, monkeypatch):
    """Exporting takes a minute: the folder is copied instead."""

    def copy(bundle, folder, precision):
        assert precision == "fp32"
        shutil.copytree(exported, folder)
        return json.loads((folder / "manifest.json").read_text())

    monkeypatch.setattr(exports, "_export", copy)


def options(bundle, dtype="float32") -> dict:
    return {
        "model": str(bundle),
        "architecture": None,
        "size": None,
        "device": "cpu",
        "dtype": dtype,
        "runner": "eager",
    }


def test_whole_edits(ready, small_bundle):
    result = exports.measure_onnx(
        model=str(small_bundle), device="cpu", runner="eager", repeats=1, warmup=0
    )
    assert result["provider"] == "cpu" and result["opset"] == 20 and result["graphs"] == 8
    assert 0 < result["agreement"]["onnxruntime"] < 1e-3
    assert result["ratio"] == pytest.approx(result["torch_ms"] / result["onnx_ms"], rel=1e-2)
    assert (
        result["onnx_further_ms"] > 0 and result["torch_further_ms"] > 0 and result["disk_mib"] > 1
    )


def test_one_hop_of_each(ready, small_bundle):
    result = exports.measure_export(**options(small_bundle))
    for hop in ("encode_hop", "decode_hop"):
        assert result[f"{hop}_ms"] > 0 and 0 < result[f"{hop}_error"] < 1e-3
    assert result["peak_memory_mib"] > 0


def test_what_differs_is_refused(ready, small_bundle, monkeypatch):
    monkeypatch.setattr(exports, "EXACT", 1e-9)
    with pytest.raises(Refused, match="onnxruntime's edit is off by"):
        exports.measure_onnx(
            model=str(small_bundle), device="cpu", runner="eager", repeats=1, warmup=0
        )
    with pytest.raises(Refused, match="encode_hop is off by"):
        exports.measure_export(**options(small_bundle))


def test_bfloat16_is_no_export(small_bundle):
    with pytest.raises(RunnerError, match="float32 or float16"):
        exports.measure_export(**options(small_bundle, dtype="bfloat16"))
