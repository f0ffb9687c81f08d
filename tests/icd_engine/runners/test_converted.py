"""A folder of weights run by OpenVINO: converted once, kept, and the same model as before."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("openvino")
pytest.importorskip("onnx")  # for the cases of its tests
pytest.importorskip("onnxruntime")

import icd_engine
from icd_engine import Engine
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.kept_graphs import converted_folder
from icd_engine.errors import BundleError, RunnerError
from icd_engine.placement import Placement
from icd_engine.runners import converted as room
from icd_engine.runners.converted import runs_converted
from icd_engine.runners.openvino import abilities, openvino_core
from tests.icd_engine.runners.test_onnx import EDITS, SOURCE, TARGET, check_edit, check_re_edit

DEMO = Path(icd_engine.__file__).parent / "bundles" / "tiny" / "demo.png"
needs_bfloat16 = pytest.mark.skipif(
    "bfloat16" not in abilities(openvino_core(), "CPU"), reason="no bfloat16 on this processor"
)


@pytest.fixture(scope="module", autouse=True)
def home_of_its_own(tmp_path_factory):
    """Where a model is converted, all that load it by "auto" run it so: not the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICD_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def engine(small_bundle: Path) -> Engine:
    """Converts it, in a process of its own: half a minute."""
    return Engine.from_pretrained(small_bundle, runner="openvino", dtype="float32")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def test_nobody_waits_for_a_conversion_unasked(small_bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_HOME", str(tmp_path))
    monkeypatch.setattr(room, "_export", None)
    assert Engine.from_pretrained(small_bundle, device="cpu").runner.name == "eager"


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edits_are_the_eager_runners(engine, small_engine, picture, edit):
    check_edit(engine, small_engine, picture, edit, None)
    check_re_edit(engine, picture, edit)


def test_it_is_converted_once_and_then_taken_by_itself(engine, small_bundle, monkeypatch):
    monkeypatch.setattr(room, "_export", None)  # a second conversion would call it
    again = Engine.from_pretrained(small_bundle, device="cpu", dtype="float32")
    assert (again.runner.name, again.runner.dtype) == ("openvino", "float32")
    assert again.fingerprint == engine.fingerprint == read_bundle(small_bundle).fingerprint


@pytest.mark.parametrize(
    "placement",
    [
        Placement(runner="eager"),
        Placement(device="cuda"),
        Placement(device="cpu", weights="switch"),
        Placement(device="cpu", offload=True),
        Placement(device="cpu", vae_tiling=True),
    ],
    ids=["eager", "cuda", "switch", "offload", "tiling"],
)
def test_what_asks_for_torch_gets_it(engine, small_bundle, placement):
    bundle = read_bundle(small_bundle)
    assert runs_converted(bundle, Placement(device="cpu", dtype="float32"))
    assert not runs_converted(bundle, replace(placement, dtype="float32"))


@needs_bfloat16
def test_each_precision_has_a_conversion_of_its_own(engine, small_bundle):
    """ "auto" takes the one that it would have converted, and no other."""
    bundle = read_bundle(small_bundle)
    assert not runs_converted(bundle, Placement(device="cpu"))
    assert not runs_converted(bundle, Placement(device="cpu", dtype="float16"))
    own = Engine.from_pretrained(small_bundle, runner="openvino")
    assert own.runner.dtype == "bfloat16" and runs_converted(bundle, Placement(device="cpu"))
    assert runs_converted(bundle, Placement(device="cpu", dtype="float32"))


@needs_bfloat16
def test_edits_in_bfloat16_are_the_eager_runners(home_of_its_own):
    """By the embedded model: one of random weights makes noise of its roundings."""
    engines = [
        Engine.from_pretrained("tiny", device="cpu", runner=name) for name in ("openvino", "eager")
    ]
    prompts = [
        f"a large {colour} heart on a plain orange background" for colour in ("purple", "blue")
    ]
    for settings in ({}, {"control": "replace", "anchor": 0.0}, {"control": "none"}):
        options = {"auto": False} | settings
        images = [e.edit(DEMO, *prompts, **options).image for e in engines]
        error = np.subtract(*(np.asarray(image, float) for image in images))
        assert 10 * np.log10(255**2 / np.square(error).mean()) >= 40


def test_cuda_goes_before_it(engine, small_bundle, monkeypatch):
    bundle = read_bundle(small_bundle)
    for there in (True, False):
        monkeypatch.setattr(room, "_has_cuda", lambda there=there: there)
        assert runs_converted(bundle, Placement(dtype="float32")) is not there


def test_loading_and_editing_need_no_torch(engine, small_bundle, tmp_path):
    code = f"""
import sys
import numpy as np
import icd_engine
from icd_engine import Engine
engine = Engine.from_pretrained({str(small_bundle)!r}, device="cpu", dtype="float32")
picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
engine.edit(picture, {SOURCE!r}, {TARGET!r}).save({str(tmp_path / "edit.png")!r})
print(engine.runner.name, sorted({{"torch", "onnxruntime", "onnx", "diffusers"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "openvino []\n", done.stderr
    assert (tmp_path / "edit.png").is_file()


def test_kept_inversions_go_from_one_runner_to_the_other(engine, small_engine, picture, tmp_path):
    for one, other in ((engine, small_engine), (small_engine, engine)):
        path = one.invert(picture, SOURCE, seed=1).save(tmp_path / "kept.safetensors")
        there = other.load_inversion(path).edit(TARGET).image
        here = one.load_inversion(path).edit(TARGET).image
        assert np.abs(np.asarray(there, int) - np.asarray(here, int)).max() <= 1


def test_torch_tensors_come_where_they_are_asked_for(engine, small_engine, picture):
    ours, theirs = (
        e.edit(picture, SOURCE, TARGET, output_type="pt").images for e in (engine, small_engine)
    )
    assert isinstance(ours, torch.Tensor)
    assert float((ours - theirs).abs().max()) <= 1e-4


# --- what cannot be -------------------------------------------------------------------------------


def test_networks_that_are_called_twice_a_hop_are_refused(two_pass_bundle):
    with pytest.raises(RunnerError, match="guidance-distilled"):
        Engine.from_pretrained(two_pass_bundle, runner="openvino")
    assert not runs_converted(read_bundle(two_pass_bundle), Placement(device="cpu"))


def test_without_openvino_the_extra_is_named(small_bundle, monkeypatch):
    monkeypatch.setattr(room, "is_installed", lambda: False)
    with pytest.raises(RunnerError, match=r"pip install 'icd-engine\[openvino\]'"):
        Engine.from_pretrained(small_bundle, runner="openvino")
    assert not runs_converted(read_bundle(small_bundle), Placement(device="cpu"))


def test_a_conversion_that_fails_is_one_line_and_leaves_nothing(
    small_bundle, tmp_path, monkeypatch
):
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "openvino.py").write_text("raise ImportError('no such library')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with (
        pytest.warns(UserWarning, match="is converted for OpenVINO now"),
        pytest.raises(
            RunnerError, match=r"could not be converted for OpenVINO: .*openvino"
        ) as told,
    ):
        Engine.from_pretrained(small_bundle, runner="openvino")
    assert "\n" not in str(told.value)
    assert [path.suffix for path in (tmp_path / "home" / "converted").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_written_is_named(small_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "file"))
    with pytest.raises(RunnerError, match="ICD_HOME names another folder"):
        Engine.from_pretrained(small_bundle, runner="openvino")


def test_graphs_that_were_changed_are_told(engine, small_bundle):
    path = converted_folder(read_bundle(small_bundle), "fp32") / "unet" / "decode_hop.xml"
    text = path.read_bytes()
    try:
        path.write_bytes(text + b" ")
        with pytest.raises(BundleError, match="was changed or damaged"):
            Engine.from_pretrained(small_bundle, runner="openvino", dtype="float32")
    finally:
        path.write_bytes(text)


def test_graphs_take_no_styles(engine, tmp_path):
    with pytest.raises(RunnerError, match="runner='eager'"):
        engine.load_style(tmp_path / "style.safetensors")
