"""The embedded model, as shipped: whole, small, and really editing pictures of its world."""

import json

import numpy as np
import pytest
from PIL import Image

import icd_engine
from icd_engine.bundles.bundle import read_bundle
from icd_engine.images import psnr
from training.world.drawing import draw
from training.world.pairs import Pair, change_mask, sample_pairs
from training.world.quality import figures_of, inversion_psnr, run_edits, summary
from training.world.scenes import Scene, parse_caption, sample_scene

# Fresh scenes: training draws from other seeds. Everything is deterministic, so the bounds below
# are what this bundle does on these scenes less a margin for other processors' roundings; its model
# card has the figures.
SEED = 20_000
PLAIN = {"auto": False}  # what is chosen for an edit may hang on its last digits


@pytest.fixture(scope="module")
def engine():
    return icd_engine.Engine.from_pretrained("tiny", device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def edits(engine):
    pairs = sample_pairs(9, SEED)
    return pairs, run_edits(engine, pairs, {})


def test_bundle_is_whole_and_small():
    bundle = read_bundle("tiny", verify=True)
    size = sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())
    assert size <= 20_000_000
    listed = {
        str(path.relative_to(bundle.path)) for path in bundle.path.rglob("*") if path.is_file()
    }
    assert listed == {*bundle.sha256, "icd.json"}


def test_edits_change_what_they_should_and_keep_the_rest(edits):
    pairs, results = edits
    figures = summary(pairs, results)
    for kind in ("color", "background"):
        assert figures[kind]["changed_share"] >= 0.95, figures
        assert figures[kind]["psnr_to_truth"] >= 25, figures
    assert figures["all"]["reconstruction_psnr"] >= 30, figures
    assert figures["all"]["background_psnr"] >= 30, figures


def test_an_edit_takes_eight_network_calls_and_one_to_choose(engine, edits):
    assert {result.network_calls for result in edits[1]} == {9}
    assert {result.network_calls for result in run_edits(engine, edits[0][:1], PLAIN)} == {8}


def test_dynamic_guidance_inverts_better_than_constant(engine):
    """As in the paper: guidance where the noise is highest ruins the reconstruction most."""
    pairs = sample_pairs(6, SEED + 1)
    w = engine.default_settings.guidance_scale
    dynamic = inversion_psnr(engine, pairs, guidance_scale=w, tau=0.7)
    assert dynamic > inversion_psnr(engine, pairs, guidance_scale=w, tau=1.0) + 0.2


def test_contract_example(engine):
    rng = np.random.default_rng(SEED + 2)
    words = {
        "size": "small",
        "color": "red",
        "shape": "circle",
        "texture": "plain",
        "background": "blue",
    }
    scene = Scene(**(vars(sample_scene(rng)) | words))
    result = icd_engine.edit(
        draw(scene),
        source="a small red circle on a plain blue background",
        target="a small green circle on a plain blue background",
        model="tiny",
        seed=0,
    )
    truth = draw(scene.edited("color", "green"))
    assert result.image.size == (128, 128)
    assert psnr(np.asarray(result.image), truth) > psnr(draw(scene), truth) + 3
    assert psnr(np.asarray(result.reconstruction), draw(scene)) > 24


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_edits_stay_close(engine, dtype):
    """40 dB is half a percent of full scale: not to be seen."""
    pairs = sample_pairs(3, SEED + 3)
    half = icd_engine.Engine.from_pretrained("tiny", device="cpu", dtype=dtype)
    edits = (run_edits(one, pairs, PLAIN) for one in (half, engine))
    for ours, theirs in zip(*edits, strict=True):
        assert psnr(np.asarray(ours.image), np.asarray(theirs.image)) > 40


def test_demo_picture_is_the_world_s_and_its_edit_works(engine):
    folder = engine.bundle.path
    demo = json.loads((folder / "demo.json").read_text())
    picture = np.asarray(Image.open(folder / "demo.png"))
    source = parse_caption(demo["source"])
    (kind, word), *more = [
        item for item in parse_caption(demo["target"]).items() if item not in source.items()
    ]
    assert not more, "the demo changes one word"
    rng = np.random.default_rng(demo_seed())
    scene = Scene(**(vars(sample_scene(rng)) | source))
    assert np.array_equal(draw(scene), picture)
    truth = draw(scene.edited(kind, word))
    pair = Pair(picture, truth, change_mask(picture, truth), demo["source"], demo["target"], kind)
    result = engine.edit(picture, demo["source"], demo["target"], **demo["settings"])
    assert figures_of(pair, result)["changed_share"] > 0.9


def demo_seed() -> int:
    from training.tiny.bundle import DEMO

    return DEMO["scene_seed"]
