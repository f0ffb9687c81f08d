"""SDXL on small random weights in the published formats: the public reference's numbers, and what
it has not.

In fp32 to 1e-4 of the largest value. The reference edits SDXL without attention control: it shows
the network the source prompt above tau and the target below it ("switch"); pooled features stay the
target's.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.convert import convert
from icd_engine.engine import Engine
from icd_engine.errors import SettingsError
from icd_engine.results import EditRequest, Inversion
from icd_engine.runners.compiled import can_compile

DATA = Path(__file__).parents[1] / "data" / "golden"
GOLDEN = DATA / "sdxl"
CASE = json.loads((GOLDEN / "cases.json").read_text())[0]
SWITCH = {"guidance_scale": CASE["guidance"], "tau": tuple(CASE["tau"]), "control": "switch"}
MASK = np.eye(16, dtype=np.float32)
CONTROLLED = {
    "guidance_scale": 7.0,
    "tau": 0.8,
    "cross_replace": 0.5,
    "self_replace": 0.5,
    "mask": MASK,
}
CONTROLLED |= {"blend": ("bird", "bird")}  # random weights attend evenly: everywhere
OTHER = "a photo of a red bird standing on a branch"
TOLERANCE = 1e-4
ROUNDING = 1e-5  # of another batch size, magnified by the hops


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return convert(
        base=GOLDEN / "base",
        teacher=GOLDEN / "sdxl_cfg_distill.pt",
        forward=GOLDEN / "iCD-SDXL-forward.safetensors",
        reverse=GOLDEN / "iCD-SDXL-reverse.safetensors",
        out=tmp_path_factory.mktemp("golden") / "bundle",
        encode_times=CASE["forward"],
        decode_times=CASE["reverse"],
    )


@pytest.fixture(scope="module")
def engine(bundle) -> Engine:
    return Engine.from_pretrained(bundle.path, device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module")
def inversion(engine) -> Inversion:
    return invert(engine)


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{CASE['name']}.safetensors")


def invert(engine: Engine) -> Inversion:
    return engine.invert(DATA / CASE["image"], CASE["source"], seed=CASE["seed"], size=(128, 128))


def error(got, expected) -> float:
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    assert got.shape == expected.shape
    return float((got - expected).abs().max() / expected.abs().max())


def test_the_references_edit(inversion, golden):
    assert error(inversion.latents, golden["inverted_latents"]) <= TOLERANCE
    result = inversion.edit(CASE["target"], **SWITCH, anchor=0.0)
    assert error(result.latents, golden["edited_latents"]) <= TOLERANCE
    assert result.network_calls == len(CASE["reverse"])
    theirs = np.asarray(Image.open(GOLDEN / f"{CASE['name']}_edited.png")).astype(int)
    assert np.abs(np.asarray(result.image) - theirs).max() <= 1  # SDXL's reference rounds, as we do


def test_the_start_is_a_sample_of_the_posterior(engine, golden):
    """Its noise is drawn first, then that of t = 19, from one generator."""
    of_posterior, of_start = engine.model.noise([CASE["seed"]], engine.bundle.size)
    pixels = np.array(
        Image.open(DATA / CASE["image"]).convert("RGB").resize(engine.bundle.size, Image.BICUBIC)
    )
    latents = engine.runner.to_latents(torch.from_numpy(pixels)[None], of_posterior)
    start = engine.model.schedule.a(19) * latents + engine.model.schedule.sigma(19) * of_start
    assert error(start, golden["start_latents"]) <= TOLERANCE
    # And not its mean
    assert error(engine.runner.to_latents(torch.from_numpy(pixels)[None]), latents) > 1e-3


def test_the_source_prompt_rules_above_tau_only(inversion):
    """With tau 0 the target is never seen but for its pooled features; with tau 1 the source is
    not."""
    never, always = (
        inversion.edit(CASE["target"], **SWITCH | {"tau": tau}).latents for tau in (0.0, 1.0)
    )
    plain = inversion.edit(CASE["target"], **SWITCH | {"tau": 1.0, "control": "none"}).latents
    assert torch.equal(always, plain)
    assert error(never, plain) > 0.01
    with pytest.raises(SettingsError, match="switch"):
        inversion.edit(CASE["target"], **SWITCH, blend="bird")


def test_attention_control_and_blend(inversion):
    controlled = inversion.edit(CASE["target"], **CONTROLLED)
    assert controlled.hop_masks is not None and torch.equal(
        controlled.hop_masks[-1, 0], torch.from_numpy(MASK)
    )
    kept = controlled.hop_masks[-1, 0] == 0
    assert torch.equal(controlled.latents[0][:, kept], controlled.source_latents[0][:, kept])
    for off in ({"cross_replace": 0.0}, {"self_replace": 0.0}, {"mask": None}):
        assert (
            error(inversion.edit(CASE["target"], **CONTROLLED | off).latents, controlled.latents)
            > 1e-3
        )
    same = inversion.edit(CASE["source"], **CONTROLLED | {"guidance_scale": 0.0, "anchor": 0.0})
    assert error(same.latents, same.source_latents) <= ROUNDING


# Random weights miss the encode trajectory by many times the latents; so much is added, and rounded.
@pytest.mark.parametrize(("anchor", "rounding"), [(0.0, ROUNDING), (1.0, 10 * ROUNDING)])
def test_several_targets_and_further_edits(engine, inversion, anchor, rounding):
    controlled = CONTROLLED | {"anchor": anchor}
    both = invert(engine).edit([CASE["target"], OTHER], **controlled)
    again = both.inversion.edit([CASE["target"], OTHER], **controlled)  # target rows alone
    assert error(again.latents, both.latents) <= rounding
    for i, target in enumerate((CASE["target"], OTHER)):
        assert (
            error(both.latents[i : i + 1], inversion.edit(target, **controlled).latents) <= rounding
        )


def test_batches_of_different_edits(engine):
    edits = [
        (CASE["target"], CONTROLLED),
        (OTHER, CONTROLLED | {"tau": 0.5}),
        (CASE["target"], SWITCH),
    ]
    picture = DATA / CASE["image"]
    requests = [
        EditRequest(picture, CASE["source"], target, chosen | {"seed": 4})
        for target, chosen in edits
    ]
    for request, result in zip(
        requests, engine.edit_many(requests, output_type="latent"), strict=True
    ):
        alone = engine.edit(
            picture, request.source, request.target, output_type="latent", **request.settings
        )
        # From the picture: two magnifications
        assert error(result.latents, alone.latents) <= 10 * ROUNDING


def test_generate(engine):
    images = engine.generate(
        [CASE["target"], OTHER], seed=1, guidance_scale=7.0, tau=0.7, output_type="latent"
    )
    alone = engine.generate(
        CASE["target"], seed=1, guidance_scale=7.0, tau=0.7, output_type="latent"
    )
    assert error(images[:1], alone) <= ROUNDING and error(images[1:], alone) > 0.01


@pytest.mark.long
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_compiled(bundle, inversion, golden):
    compiled = Engine.from_pretrained(bundle.path, device="cpu", dtype="float32", runner="compiled")
    assert (
        error(invert(compiled).edit(CASE["target"], **SWITCH).latents, golden["edited_latents"])
        <= TOLERANCE
    )
    expected = inversion.edit(CASE["target"], **CONTROLLED).latents
    assert error(invert(compiled).edit(CASE["target"], **CONTROLLED).latents, expected) <= TOLERANCE


@pytest.mark.long
def test_exported(bundle, inversion, golden, tmp_path):
    pytest.importorskip("export.folder").export_bundle(bundle, tmp_path / "exported")
    exported = invert(Engine.from_pretrained(tmp_path / "exported"))
    assert error(exported.edit(CASE["target"], **SWITCH).latents, golden["edited_latents"]) <= 1e-3
    expected = inversion.edit(CASE["target"], **CONTROLLED).latents
    for _ in range(2):  # a first and a further edit
        assert error(exported.edit(CASE["target"], **CONTROLLED).latents, expected) <= 1e-3
