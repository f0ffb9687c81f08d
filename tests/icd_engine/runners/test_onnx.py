"""The onnxruntime runner on an exported bundle answers what the eager runner answers on the bundle
it was made of.

Both compute in float32 in another order, and these small networks magnify a rounding about ten
times (seen: 7e-6).
"""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine import EditRequest, Engine
from icd_engine.errors import BundleError, OutOfMemoryError, RunnerError, SettingsError
from icd_engine.model import Model
from icd_engine.runners.onnx import GraphedOnnxRunner
from icd_engine.runners.onnx_session import choose_onnx_device

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ROOT = Path(__file__).parents[3]
TOLERANCE = 5e-5
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"
LONGER = "a green star on a very dotted blue background"
LEFT = np.zeros((64, 64), dtype=np.float32)
LEFT[:, :32] = 1
EDITS = {
    "replace": {"target": TARGET},
    "refine": {"target": LONGER},
    "several targets": {"target": [TARGET, LONGER, SOURCE]},
    "windows and amplify": {
        "target": TARGET,
        "cross_replace": {"green": (0.2, 0.6)},
        "amplify": {"green": 3.0},
    },
    "blend": {"target": TARGET, "blend": ("red", "green")},
    "mask": {"target": TARGET, "mask": LEFT},
    "blend and mask": {"target": [TARGET, LONGER], "blend": "blue", "mask": LEFT},
    "strength": {"target": TARGET, "mask": LEFT * np.linspace(0, 1, 64, dtype=np.float32)},
    "mask from words": {"target": [TARGET, LONGER], "mask_from": "words", "paste_back": False},
    "no control": {"target": TARGET, "control": "none"},
    "unanchored": {"target": [TARGET, LONGER], "anchor": 0.0},
    "half anchored": {"target": TARGET, "anchor": 0.5},
    "ramp": {"target": TARGET, "tau": (0.5, 0.9), "tau_low": 0.1, "guidance_scale": 7.0},
}


@pytest.fixture(scope="module")
def engine(exported: Path) -> Engine:
    return Engine.from_pretrained(exported, runner="onnx")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def difference(ours, theirs) -> float:
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def check_edit(engine: Engine, reference: Engine, picture: np.ndarray, edit, size) -> None:
    """An edit is the reference's."""
    ours, theirs = (e.edit(picture, SOURCE, size=size, seed=3, **edit) for e in (engine, reference))
    assert difference(ours.inversion.latents, theirs.inversion.latents) <= TOLERANCE
    assert difference(ours.latents, theirs.latents) <= TOLERANCE
    assert (ours.masks is None) == (theirs.masks is None)
    assert ours.masks is None or difference(ours.hop_masks, theirs.hop_masks) <= 1e-6
    # Masks of words are cut: a pixel at the edge may fall on either side.
    assert ours.masks is None or np.abs(ours.masks - theirs.masks).mean() <= 0.01
    assert ours.network_calls == theirs.network_calls and ours.settings == theirs.settings
    for one, other in zip(
        [*ours.images, ours.reconstruction], [*theirs.images, theirs.reconstruction], strict=True
    ):
        assert np.abs(np.asarray(one).astype(int) - np.asarray(other)).max() <= 1


def check_re_edit(engine: Engine, picture: np.ndarray, edit) -> None:
    """It takes what the first edit of the inversion kept, and equals an edit that did not."""
    fresh = engine.edit(picture, SOURCE, seed=3, **edit)
    inversion = engine.invert(picture, SOURCE, seed=3)
    anchored = edit.get("anchor", 1.0) > 0
    if not anchored:
        inversion.edit(LONGER, anchor=0.0)
    assert engine._branches.get(inversion, anchored) is not None
    assert difference(inversion.edit(**edit).latents, fresh.latents) <= TOLERANCE


@pytest.mark.parametrize("size", [None, (96, 64)], ids=["own size", "wide"])
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit(engine, small_engine, picture, edit, size):
    check_edit(engine, small_engine, picture, edit, size)


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_re_edit_runs_targets_alone(engine, picture, edit):
    check_re_edit(engine, picture, edit)


def test_fixed_buffers_change_nothing(engine, exported, picture):
    """The runner of CUDA graphs, here without them: sessions for fixed sizes, and values in the
    same buffers."""
    bundle = engine.bundle
    runner = GraphedOnnxRunner(bundle, bundle.exported, choose_onnx_device("cpu"))
    fixed = Engine(Model(bundle, runner, engine.model.tokenizer))
    for seed, edit in enumerate(EDITS.values()):
        ours, theirs = (e.edit(picture, SOURCE, seed=seed, **edit) for e in (fixed, engine))
        assert difference(ours.latents, theirs.latents) <= TOLERANCE
        assert ours.masks is None or difference(ours.hop_masks, theirs.hop_masks) <= 1e-6
    assert fixed.runner._fixed.cache_info().misses == 4  # encode; decode with 1, 2 and 3 targets
    inversion = fixed.invert(picture, SOURCE)
    first = inversion.edit(TARGET)
    assert np.array_equal(inversion.edit(TARGET).latents, first.latents)


def test_many_pictures_at_once(engine, small_engine, picture):
    requests = [
        EditRequest(picture, SOURCE, TARGET, {"seed": 1}),
        EditRequest(
            picture[::-1].copy(), LONGER, [SOURCE, TARGET], {"blend": "blue", "guidance_scale": 0.0}
        ),
    ]
    for ours, theirs in zip(
        engine.edit_many(requests), small_engine.edit_many(requests), strict=True
    ):
        assert difference(ours.latents, theirs.latents) <= TOLERANCE


def test_generate(engine, small_engine):
    prompts = [SOURCE, LONGER]
    ours, theirs = (e.generate(prompts, seed=5, output_type="np") for e in (engine, small_engine))
    assert difference(ours, theirs) <= TOLERANCE


def test_callbacks_see_arrays_and_may_replace_them(engine, picture):
    seen = []

    def zero(step, t, latents):
        seen.append((step, t, latents.shape))
        return np.zeros_like(latents) if step == 3 else None

    result = engine.edit(picture, SOURCE, TARGET, callback_on_step_end=zero, output_type="latent")
    assert seen == [(k, t, (2, 4, 8, 8)) for k, t in enumerate((779, 519, 259, 0))]
    assert not result.latents.any()
    with pytest.raises(SettingsError, match="callback_on_step_end"):
        engine.edit(picture, SOURCE, TARGET, callback_on_step_end=lambda *_: "latents")


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_edit_that_is_ended_leaves_nothing_behind(engine, picture, error):
    def end(step, t, latents):
        latents[:] = 0
        if step == 2:
            raise error

    kept = engine.invert(picture, SOURCE)
    kept.edit(TARGET)
    before = kept.edit(TARGET)
    with pytest.raises(error):
        kept.edit(TARGET, callback_on_step_end=end)
    engine.free_memory()
    again = kept.edit(TARGET), kept.edit(TARGET)  # the source branch is made anew by the first
    assert np.array_equal(again[1].latents, before.latents)


@pytest.mark.parametrize(
    "replace",
    [lambda x: x * np.nan, lambda x: x.astype(np.float64), lambda x: x[:1], lambda x: x.tolist()],
)
def test_latents_that_cannot_go_on_are_refused(engine, picture, replace):
    with pytest.raises(SettingsError, match="callback_on_step_end"):
        engine.edit(
            picture, SOURCE, TARGET, callback_on_step_end=lambda step, t, latents: replace(latents)
        )


@pytest.mark.parametrize(
    "sign", ["Failed to allocate memory for requested buffer of size 4096", "std::bad_alloc"]
)
def test_a_shortage_is_its_own_error(engine, picture, monkeypatch, sign):
    before = engine.edit(picture, SOURCE, TARGET)

    def short(self, inputs, outputs):
        raise RunnerError(f"onnxruntime failed in {self._path.name}: {sign}")

    with monkeypatch.context() as patch:
        patch.setattr("icd_engine.runners.onnx_session.GraphSession.__call__", short)
        with pytest.raises(OutOfMemoryError):
            engine.edit(picture, SOURCE, TARGET)
    assert np.array_equal(engine.edit(picture, SOURCE, TARGET).latents, before.latents)


def test_kept_inversions_come_back_from_disk(engine, small_engine, picture, tmp_path):
    inversion = engine.invert(picture, SOURCE, seed=2)
    loaded = engine.load_inversion(inversion.save(tmp_path / "kept.safetensors"))
    assert np.array_equal(loaded.edit(TARGET).latents, inversion.edit(TARGET).latents)
    with pytest.raises(BundleError, match="another model"):
        small_engine.load_inversion(tmp_path / "kept.safetensors")


def test_output_types(engine, picture):
    assert isinstance(engine.edit(picture, SOURCE, TARGET, output_type="np").images, np.ndarray)
    with pytest.raises(SettingsError, match="pil, np, latent"):
        engine.edit(picture, SOURCE, TARGET, output_type="pt")


def test_it_edits_where_torch_cannot_be_imported(exported, picture, small_engine, tmp_path):
    """The command line in a process to which torch and what is built on it are not installed."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('torch', 'transformers', 'diffusers', 'peft', 'accelerate', 'triton', 'onnx'):\n"
        "    sys.modules[name] = None\n"
    )
    Image.fromarray(picture).save(tmp_path / "picture.png")
    options = [
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        str(exported),
        "--runner",
        "onnx",
        "--out",
        "edited.png",
    ]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    program = "from icd_engine.cli import main; raise SystemExit(main())"
    command = [sys.executable, "-c", program, "edit", "picture.png", *options]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    theirs = small_engine.edit(picture, SOURCE, TARGET).image
    ours = np.asarray(Image.open(tmp_path / "edited.png")).astype(int)
    assert np.abs(ours - np.asarray(theirs)).max() <= 1
    command[command.index(str(exported))] = "tiny"
    run = subprocess.run(
        [*command, "--quiet"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1 and "a folder of weights needs torch" in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("anew", [False, True], ids=["engine of before", "engine of its own"])
def test_a_forked_process(engine, exported, picture, anew):
    """onnxruntime's threads belong to an engine, and do not come along; one of its own has its own."""
    engine.edit(picture, SOURCE, TARGET)
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)

    def edit() -> None:
        try:
            own = Engine.from_pretrained(exported, runner="onnx") if anew else engine
            theirs.send(own.edit(picture, SOURCE, TARGET).image.size)
        except RunnerError as error:
            theirs.send(str(error))

    child = fork.Process(target=edit)
    child.start()
    try:
        assert ours.poll(60), "the forked process hangs"
        answer = ours.recv()
    finally:
        child.kill()
        child.join()
    assert answer == (64, 64) if anew else "'spawn'" in answer
