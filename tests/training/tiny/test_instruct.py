"""The world's InstructPix2Pix: what it is shown, what it starts as, and that it trains."""

import functools
import json
import operator
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.files import read_json, read_weights
from icd_engine.loading import load_network
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.sampling.schedule import NoiseSchedule
from training.losses import Boundaries
from training.processes import device
from training.tiny import instruct, teacher
from training.tiny.bundle import INSTRUCT, TEACHERS, WEIGHTS
from training.tiny.vae import to_pictures
from training.world.drawing import draw_batch
from training.world.scenes import parse_caption

ROUNDING = 1e-5  # of float32 over a pass


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.safetensors"
    instruct.make_pairs(path, count=3, seed=4)
    return path


@pytest.fixture(scope="module")
def pool(pairs) -> instruct.PairPool:
    return instruct.PairPool(pairs)


def changed(one: str, other: str) -> list[str]:
    first, second = parse_caption(one), parse_caption(other)
    return [kind for kind in first if first[kind] != second[kind]]


def test_variants_differ_from_the_scene_by_one_word_each():
    scene, *others = instruct.variants(np.random.default_rng(1))
    assert [changed(scene.caption, other.caption) for other in others] == [
        [kind] for kind in instruct.KINDS
    ]


def test_the_cache_is_the_embedded_vaes_and_is_made_once(pairs):
    """Half precision: 2^-11 of values up to 8."""
    scenes = instruct.variants(np.random.default_rng(4))
    vae = load_network(read_bundle("tiny"), "vae", VAE, device(), torch.float32)
    with torch.no_grad(), safe_open(pairs, "pt") as file:
        mean, _ = vae.moments(to_pictures(draw_batch(scenes)).to(device())).chunk(2, dim=1)
        assert json.loads(file.metadata()["captions"])[0] == [scene.caption for scene in scenes]
        torch.testing.assert_close(
            file.get_tensor("mean")[0].float(), mean.cpu(), atol=4e-3, rtol=0
        )
    before = pairs.read_bytes()
    instruct.make_pairs(pairs, count=9)
    assert pairs.read_bytes() == before


def test_a_pair_is_two_ends_of_one_edit(pool):
    """The picture's latents are the posterior's mean, not scaled; the edited ones are of the
    caption, scaled, with the posterior's noise."""
    flat = pool.mean.float().flatten(0, 1)
    captions = functools.reduce(operator.iadd, pool.captions, [])
    prompts = pool.prompts(captions)
    batch = pool.draw(np.random.default_rng(2), 64)
    kinds = set()
    for edited, picture, prompt in zip(*batch, strict=True):
        distances = (flat - edited / pool.scale).square().mean((1, 2, 3))
        target = captions[int(distances.argmin())]
        texts = [captions[k] for k in range(len(flat)) if torch.equal(prompts[k], prompt)]
        shown = [captions[k] for k in range(len(flat)) if torch.equal(flat[k], picture)]
        assert texts in ([], [target]) and (shown or not picture.any())
        kinds |= {(texts != [], *changed(source, target)) for source in shown}
    assert {(True, kind) for kind in instruct.KINDS} <= kinds
    assert all(len(found) == 2 for found in kinds)  # one word


def test_conditions_are_dropped_as_in_the_paper():
    """A twentieth each: text alone, picture alone, both; four deviations of 40,000 draws."""
    no_text, no_picture = instruct.dropped(np.random.default_rng(0), 40_000)
    deviation = (0.05 * 0.95 / 40_000) ** 0.5
    for share in (no_text & ~no_picture, no_picture & ~no_text, no_text & no_picture):
        assert share.mean() == pytest.approx(0.05, abs=4 * deviation)


def test_it_starts_as_the_teacher_whatever_the_picture_is():
    weights = read_weights(TEACHERS / WEIGHTS)
    wide, narrow = UNet(instruct.CONFIG).eval(), UNet(teacher.CONFIG).eval()
    wide.load_state_dict(instruct.widened(weights))
    narrow.load_state_dict({key: value.float() for key, value in weights.items()})
    x, prompt = torch.randn(2, 8, 16, 16), torch.randn(2, 9, 64)
    t = torch.tensor([300.0, 700.0])
    with torch.no_grad():
        expected = narrow(x[:, :4], t, prompt).eps
        torch.testing.assert_close(wide(x, t, prompt).eps, expected, rtol=0, atol=ROUNDING * 10)


def test_it_trains_and_goes_on(tmp_path):
    """Two steps, then two more of the same run; the picture's channels have begun to count."""
    recipe = replace(instruct.RECIPE, samples=4, batch=2)
    instruct.train(tmp_path, recipe, scenes=2)
    unet = instruct.train(tmp_path, replace(recipe, samples=8), scenes=2)
    lines = [json.loads(line) for line in (tmp_path / "instruct.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 4 and sum(line["step"] == 2 for line in lines) == 1
    assert all(np.isfinite(line["loss"]) for line in lines)
    assert unet.conv_in.weight[:, 4:].abs().max() > 0


@pytest.mark.skipif(not INSTRUCT.is_dir(), reason="the stage instruct has not been run")
def test_the_shipped_network_looks_at_the_picture(pool):
    """At high noise the picture alone says where things are: without it, with all prompts, the
    error is at least a quarter larger."""
    unet = UNet(read_json(INSTRUCT, "config.json")).eval()
    weights = read_weights(INSTRUCT / WEIGHTS)
    assert unet.in_channels == 8 and {value.dtype for value in weights.values()} == {torch.float16}
    unet.load_state_dict({key: value.float() for key, value in weights.items()})
    rng = np.random.default_rng(7)
    batch = pool.draw(rng, 16)
    noise = torch.from_numpy(rng.standard_normal(batch.edited.shape, dtype=np.float32))
    t = torch.full((16,), 900)
    noised = Boundaries(NoiseSchedule.scaled_linear()).noised(batch.edited, noise, t)
    errors = []
    for picture in (batch.picture, torch.zeros_like(batch.picture)):
        with torch.no_grad():
            eps = unet(torch.cat([noised, picture], dim=1), t, batch.prompts).eps
        errors.append(float((eps - noise).square().mean()))
    assert errors[1] > 1.25 * errors[0]
