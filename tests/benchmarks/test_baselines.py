"""The baselines compute the same edit as the engine: a benchmark against a wrong one would be worth
nothing."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("diffusers")

from benchmarks import edit
from benchmarks.baselines import WAYS, DiffusersEdit
from benchmarks.checks import Refused, difference
from benchmarks.maps import find_layers
from benchmarks.subject import final_latents, open_subject
from benchmarks.workload import Case, further_cases, make_cases, unanchored, without_control

CPU = torch.device("cpu")
AGREE = 1e-4  # float32 in another order of sums, through eight calls; seen: 2e-6


@pytest.fixture(scope="module")
def subject():
    return open_subject("tiny", device="cpu", dtype="float32", runner="eager")


@pytest.fixture(scope="module")
def case(subject) -> Case:
    """Another colour and shape: replace, amplified, blended."""
    return further_cases(make_cases(1, subject.size)[0], 9)[8]


def refined(case: Case) -> Case:
    """Prompts of different lengths, a window of steps and a word of its own."""
    colour = next(iter(case.settings["amplify"]))
    settings = case.settings | {
        "cross_replace": {"default": 0.8, colour: 0.2},
        "self_replace": (0.25, 0.75),
    }
    return replace(case, source=case.source.partition(" on ")[0], settings=settings)


def open_baseline(subject, way: str) -> DiffusersEdit:
    return DiffusersEdit(subject.engine.bundle, subject.engine.default_settings, way, CPU)


@pytest.fixture(scope="module")
def reference(subject) -> DiffusersEdit:
    return open_baseline(subject, "reference")


@pytest.mark.parametrize(
    "change", [lambda case: case, refined, without_control], ids=["replace", "refine", "plain"]
)
def test_the_references_way_equals_the_engine(subject, reference, case, change):
    told = change(case)
    ours, theirs = subject.edit(unanchored(told)), reference.edit(told)
    assert difference(theirs.latents, final_latents(ours)) <= AGREE
    assert theirs.picture.size == ours.image.size
    assert not reference.controller.total  # no map outlives its edit


def test_the_lean_way_equals_the_engine(subject, case):
    assert (
        difference(
            open_baseline(subject, "lean").edit(case).latents,
            final_latents(subject.edit(unanchored(case))),
        )
        <= AGREE
    )


def test_the_compiled_way_equals_the_engine_without_control(subject, case, monkeypatch):
    """Its wiring; that torch.compile keeps a network's results is torch's own affair, and takes
    minutes to see."""
    monkeypatch.setattr(DiffusersEdit, "_compile", lambda self: None)
    plain = without_control(case)
    theirs = open_baseline(subject, "compiled").edit(case)
    assert difference(theirs.latents, final_latents(subject.edit(unanchored(plain)))) <= AGREE


def test_openvino_equals_the_engine_without_control(subject, case):
    pytest.importorskip("openvino")
    theirs = open_baseline(subject, "openvino").edit(case)
    wanted = final_latents(subject.edit(unanchored(without_control(case))))
    assert difference(theirs.latents, wanted) <= AGREE


def test_the_reference_runs_twice_the_rows_and_decodes_three_pictures(reference, case, monkeypatch):
    rows: list[int] = []
    for unet in (reference.encode_unet, reference.decode_unet):
        unet.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    pictures: list[int] = []
    decode = reference.vae.decode
    monkeypatch.setattr(reference.vae, "decode", lambda z: pictures.append(len(z)) or decode(z))
    reference.edit(case)
    assert rows == [2] * 4 + [4] * 4
    assert sum(pictures) == 3


def test_a_wrong_baseline_is_refused(subject, reference, case, monkeypatch):
    monkeypatch.setattr(
        reference,
        "decode_hops",
        tuple(replace(hop, B=1.01 * hop.B) for hop in reference.decode_hops),
    )
    monkeypatch.setattr(edit, "_open_baseline", lambda subject, baseline: reference)
    with pytest.raises(Refused, match="the baseline 'reference' is off by"):
        edit._check(subject, case, "reference")


def test_a_wrong_further_edit_is_refused(subject, case, monkeypatch):
    kept = edit._Kept(subject, case, 1)
    assert kept.check()["further edit"] <= AGREE
    # Of the noise alone, source and target would be wrong alike, which anchoring mends.
    boundaries = [1.01 * latents for latents in kept.inversion.boundaries]
    wrong = replace(kept.inversion, boundaries=boundaries)
    monkeypatch.setattr(kept, "inversion", wrong)
    with pytest.raises(Refused, match="a further edit is off by"):
        kept.check()


def test_layers_of_sd15_that_blend_and_share():
    """At 64x64 latents: five cross-attention layers at 16x16 blend; maps of at most 32x32 are
    stored."""
    from diffusers import UNet2DConditionModel

    from benchmarks.architectures import UNET_SD15

    with torch.device("meta"):
        layers = find_layers(
            UNet2DConditionModel.from_config(UNET_SD15), blend_downscale=4, share_downscale=2
        )
    assert len(layers) == 32 and sum(layer.cross for layer in layers.values()) == 16
    assert sum(layer.blends for layer in layers.values()) == 5
    assert sum(layer.small for layer in layers.values()) == 32 - 2 * 5
    assert set(WAYS) == {"reference", "lean", "compiled", "openvino"}
