"""The pipeline against the engine it wraps: same pictures, diffusers' names, clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import DiffusionPipeline

from icd_engine.errors import BundleError, RunnerError, SettingsError
from icd_engine.integrations.diffusers import ICDPipeline
from tests.icd_engine.plain_loops import OTHER, SOURCE, TARGET, picture


@pytest.fixture(scope="module")
def loaded(small_bundle):
    pipe = ICDPipeline.from_pretrained(small_bundle, device="cpu", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded):
    loaded._inversion = None
    return loaded


def same(one, other) -> bool:
    return np.array_equal(np.asarray(one), np.asarray(other))


def test_invert_then_edit(pipe, small_engine):
    seen = pipe.invert(picture(), source_prompt=SOURCE, generator=torch.Generator().manual_seed(3))
    inversion = small_engine.invert(picture(), SOURCE, seed=3)
    assert same(seen.images[0], picture())
    assert same(seen.vae_reconstruction_images[0], inversion.reconstruction)
    out = pipe(prompt=[TARGET, OTHER], guidance_scale=5.0, blend="sits")
    expected = inversion.edit([TARGET, OTHER], guidance_scale=5.0, blend="sits")
    assert len(out.images) == 2 and all(map(same, out.images, expected.images))
    assert out.result.settings == expected.settings
    (images,) = pipe(TARGET, inversion=seen.inversion, return_dict=False)
    assert same(images[0], inversion.edit(TARGET).image)


def test_one_call_with_a_mask_and_a_size(pipe, small_engine):
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    arguments = {"source_prompt": SOURCE, "seed": 4, "width": 128, "height": 64}
    out = pipe(TARGET, image=[picture()], mask_image=mask, **arguments)
    inversion = small_engine.invert(picture(), SOURCE, seed=4, size=(128, 64))
    assert same(out.images[0], inversion.edit(TARGET, mask=mask).image)


@pytest.mark.parametrize("kind", ["np", "pt", "latent"])
def test_output_types(pipe, small_engine, kind):
    images = pipe(TARGET, image=picture(), source_prompt=SOURCE, output_type=kind).images
    inversion = small_engine.invert(picture(), SOURCE)
    assert same(images, inversion.edit(TARGET, output_type=kind).images)


def test_a_callback_sees_and_changes_latents(pipe, small_engine):
    seen = []

    def look(given, step, timestep, tensors):
        assert given is pipe
        seen.append((step, timestep, tuple(tensors["latents"].shape)))

    def stop(given, step, timestep, tensors):
        return {"latents": torch.zeros_like(tensors["latents"])}

    pipe.invert(picture(), SOURCE)
    looked = pipe(TARGET, callback_on_step_end=look)
    hops = small_engine.model.decode_hops
    assert [one[:2] for one in seen] == [(i, hop.s) for i, hop in enumerate(hops)]
    assert {one[2] for one in seen} == {(2, 4, 8, 8)}
    assert same(
        looked.images[0],
        small_engine.invert(picture(), SOURCE)
        .edit(TARGET, callback_on_step_end=lambda *_: None)
        .image,
    )
    stopped = pipe(TARGET, callback_on_step_end=stop, output_type="latent")
    assert not np.asarray(stopped.images).any()


def test_it_is_a_pipeline_of_diffusers(pipe):
    assert isinstance(pipe, DiffusionPipeline)
    assert pipe.components == {} and pipe.device == torch.device("cpu")
    bars = []

    class Bar:
        def __init__(self, total):
            bars.append([total, 0])

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, n):
            bars[-1][1] += n

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipe, "progress_bar", lambda total: Bar(total), raising=False)
        pipe(TARGET, image=picture(), source_prompt=SOURCE)
    assert bars == [[4, 4], [4, 4]]


def test_another_place_loads_the_engine_anew(small_bundle):
    pipe = ICDPipeline.from_pretrained(small_bundle, device="cpu", runner="eager")
    first = pipe.engine
    assert pipe.to("cpu") is pipe and pipe.engine is first
    pipe.to(torch.device("cpu"), torch.bfloat16)
    assert pipe.engine is not first
    assert next(iter(pipe.engine.runner.decode_network.parameters())).dtype == torch.bfloat16
    with pytest.raises(RunnerError, match="memory_format"):
        pipe.to(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({}, "nothing is inverted"),
        ({"source_prompt": SOURCE}, "belong to a picture"),
        ({"generator": torch.Generator()}, "belong to a picture"),
        ({"image": picture(), "width": 64}, "belong together"),
        ({"image": [picture()] * 2}, "one picture"),
        ({"image": picture(), "generator": [torch.Generator()]}, "one torch.Generator"),
        ({"image": picture(), "generator": torch.Generator(), "seed": 1}, "not both"),
        ({"image": picture(), "num_inference_steps": 50}, "unknown setting 'num_inference_steps'"),
        ({"callback_on_step_end_tensor_inputs": ["prompt_embeds"]}, "shown latents"),
        ({"image": picture(), "output_type": "jpg"}, "output_type"),
    ],
)
def test_what_is_refused(pipe, arguments, why):
    with pytest.raises(SettingsError, match=why):
        pipe(TARGET, **arguments)


def test_a_wrong_model_or_place(small_bundle, tmp_path):
    with pytest.raises(BundleError):
        ICDPipeline.from_pretrained(tmp_path)
    with pytest.raises(RunnerError, match="safety_checker"):
        ICDPipeline.from_pretrained(small_bundle, safety_checker=None)
    with pytest.raises(RunnerError, match="torch_dtype"):
        ICDPipeline.from_pretrained(small_bundle, torch_dtype=torch.int8)
    with pytest.raises(RunnerError, match="copy that"):
        ICDPipeline.from_pretrained(small_bundle).save_pretrained(tmp_path / "x")
