"""The OpenVINO runner on an exported bundle answers what the eager runner answers on the bundle it was
made of: the same cases, to the same tolerance, as for onnxruntime."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openvino")
pytest.importorskip("onnx")  # for the cases of its tests
pytest.importorskip("onnxruntime")

from icd_engine import EditRequest, Engine
from icd_engine.errors import BundleError, RunnerError
from icd_engine.runners import openvino as room
from tests.icd_engine.runners.test_onnx import (
    EDITS,
    LONGER,
    SOURCE,
    TARGET,
    TOLERANCE,
    check_edit,
    check_re_edit,
    difference,
)


@pytest.fixture(scope="module")
def engine(exported_for_openvino: Path) -> Engine:
    return Engine.from_pretrained(exported_for_openvino, dtype="float32")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [None, (96, 64)], ids=["own size", "wide"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit(engine, small_engine, picture, edit, size):
    check_edit(engine, small_engine, picture, edit, size)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_re_edit_runs_targets_alone(engine, picture, edit):
    check_re_edit(engine, picture, edit)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_re_edit_takes_what_an_edit_left(engine, small_engine, picture, edit):
    """Source rows ran beside target rows there, hop by hop."""
    ours, theirs = (
        e.edit(picture, SOURCE, LONGER, seed=3, anchor=edit.get("anchor")).inversion.edit(**edit)
        for e in (engine, small_engine)
    )
    assert difference(ours.latents, theirs.latents) <= TOLERANCE
    assert ours.network_calls == theirs.network_calls


def test_onnx_graphs_run_as_well_and_by_themselves(exported, small_engine, picture):
    engine = Engine.from_pretrained(exported, device="cpu", dtype="float32")
    assert engine.runner.name == "openvino"
    check_edit(engine, small_engine, picture, EDITS["blend and mask"], None)


def test_automatic_settings_several_pictures_and_prompts(engine, small_engine, picture):
    ours, theirs = (
        e.edit(picture, SOURCE, TARGET, settings="auto") for e in (engine, small_engine)
    )
    assert len(ours.candidates) == len(theirs.candidates)
    assert difference(ours.latents, theirs.latents) <= TOLERANCE
    requests = [
        EditRequest(picture, SOURCE, TARGET, {"seed": 1}),
        EditRequest(picture[::-1].copy(), LONGER, [SOURCE, TARGET], {"blend": "blue"}),
    ]
    both = zip(engine.edit_many(requests), small_engine.edit_many(requests), strict=True)
    assert all(difference(one.latents, other.latents) <= TOLERANCE for one, other in both)
    made, wanted = (
        e.generate([SOURCE, LONGER], seed=5, output_type="np") for e in (engine, small_engine)
    )
    assert difference(made, wanted) <= TOLERANCE


def test_threads_share_an_engine(engine, picture):
    expected = engine.edit(picture, SOURCE, TARGET, seed=3).latents
    found = []

    def edit() -> None:
        found.append(engine.edit(picture, SOURCE, TARGET, seed=3).latents)

    threads = [threading.Thread(target=edit) for _ in range(6)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(found) == 6 and all(difference(one, expected) <= TOLERANCE for one in found)


def test_graphs_take_turns_and_the_threads_they_are_told(
    exported_for_openvino, picture, monkeypatch
):
    """Eight callers at once compute with as many threads as one."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    engine = Engine.from_pretrained(exported_for_openvino, dtype="float32")
    at_once = []
    told = []
    request = room.GraphInOpenVino._request

    def watched(graph, sizes):
        at_once.append(sum(one._running.locked() for one in graphs()) / len(graphs()))
        found = request(graph, sizes)
        told.append(found.get_compiled_model().get_property("INFERENCE_NUM_THREADS"))
        return found

    def graphs():
        return list(engine.runner._sessions._made.values())

    monkeypatch.setattr(room.GraphInOpenVino, "_request", watched)
    assert len({id(graph._running) for graph in graphs()}) == 1
    edits = [threading.Thread(target=engine.edit, args=(picture, SOURCE, TARGET)) for _ in range(8)]
    for one in edits:
        one.start()
    for one in edits:
        one.join()
    assert set(at_once) == {1.0} and set(told) == {1}


def test_first_sizes_have_a_program_of_their_own_and_others_share_one(
    exported_for_openvino, small_engine, picture
):
    engine = Engine.from_pretrained(exported_for_openvino, dtype="float32")
    sizes = [None, (96, 64), (64, 96), None]
    for size in sizes:
        check_edit(engine, small_engine, picture, {"target": TARGET}, size)
    decode = engine.runner._sessions["decode_hop"]
    assert decode._first[0]["latents"] == (2, 4, 8, 8)
    assert {port.get_partial_shape().is_static for port in decode._first[1].model_inputs} == {True}
    assert {port.get_partial_shape().is_static for port in decode._others.model_inputs} == {False}


def test_it_says_what_it_is_and_takes_bfloat16_where_the_processor_does(
    engine, exported_for_openvino, picture
):
    assert (engine.runner.name, engine.runner.device, engine.runner.dtype) == (
        "openvino",
        "cpu",
        "float32",
    )
    able = room.abilities(room.openvino_core(), "CPU")
    if "bfloat16" not in able:
        with pytest.raises(RunnerError, match="not in 'bfloat16'"):
            Engine.from_pretrained(exported_for_openvino, runner="openvino", dtype="bfloat16")
        return
    half = Engine.from_pretrained(exported_for_openvino, runner="openvino", dtype="bfloat16")
    assert half.runner.dtype == "bfloat16"
    exact, rounded = (e.invert(picture, SOURCE, seed=3).latents for e in (engine, half))
    assert 0 < difference(rounded, exact) <= 2**15 * 1e-5  # bfloat16's rounding is 2^15 float32's


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"device": "cuda"}, "OpenVINO takes auto, cpu or openvino:NAME"),
        ({"device": "openvino:"}, "openvino:NAME"),
        ({"device": "openvino:ABACUS"}, r"has only .*CPU"),
        ({"weights": "switch"}, "no weights"),
        ({"dtype": "float64"}, "dtype must be one of"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(exported_for_openvino, options, text):
    with pytest.raises(RunnerError, match=text):
        Engine.from_pretrained(exported_for_openvino, **{"runner": "openvino", **options})


def test_without_openvino_one_line_says_so(exported_for_openvino, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(RunnerError, match=r"pip install 'icd-engine\[openvino\]'"):
        Engine.from_pretrained(exported_for_openvino, runner="openvino")


def test_a_graph_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"a\.onnx cannot be loaded by OpenVINO: "):
        room.GraphInOpenVino(
            tmp_path / "a.onnx", None, room.openvino_core(), "CPU", {}, threading.Lock()
        )


def test_it_needs_neither_torch_nor_onnxruntime(exported_for_openvino):
    code = f"""
import sys
for name in ("torch", "transformers", "onnx", "onnxruntime"):
    sys.modules[name] = None
import numpy as np, icd_engine
engine = icd_engine.Engine.from_pretrained({str(exported_for_openvino)!r}, runner="openvino")
picture = np.full((64, 64, 3), 90, np.uint8)
print(engine.edit(picture, {SOURCE!r}, {TARGET!r}).image.size)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "(64, 64)", done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="signals are not raised there")
def test_ctrl_c_is_a_ctrl_c_after_engines_have_gone(exported_for_openvino):
    """OpenVINO's cores left a freed signal stack behind where they went in the order they came."""
    code = f"""
import gc, signal
import numpy as np
from icd_engine import Engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
picture = np.full((64, 64, 3), 90, np.uint8)
engines = [Engine.from_pretrained({str(exported_for_openvino)!r}) for _ in range(2)]
for engine in engines:
    engine.invert(picture, {SOURCE!r}, prepare_edits=False)
del engine
while engines:
    del engines[0]
    gc.collect()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_latents_and_callbacks_are_arrays(engine, picture):
    seen = []
    result = engine.edit(
        picture, SOURCE, TARGET, callback_on_step_end=lambda k, t, x: seen.append(type(x))
    )
    assert set(seen) == {np.ndarray} and isinstance(result.latents, np.ndarray)
