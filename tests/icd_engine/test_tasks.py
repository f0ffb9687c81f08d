"""Requests are checked before any network is called."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError, PromptError, SettingsError
from icd_engine.results import EditRequest
from icd_engine.settings import EditSettings
from tests.icd_engine.plain_loops import OTHER, SOURCE, TARGET, picture, recorded


def test_mask_from_a_stream_is_read_once(small_engine):
    stream = io.BytesIO()
    Image.fromarray(np.tri(64, dtype=np.uint8) * 255).save(stream, "PNG")
    stream.seek(0)
    from_stream = small_engine.edit(picture(), SOURCE, TARGET, mask=stream)
    assert torch.equal(
        from_stream.latents, small_engine.edit(picture(), SOURCE, TARGET, mask=np.tri(64)).latents
    )


@pytest.mark.parametrize(
    "change, error",
    [
        ({"source": " "}, PromptError),
        ({"target": ""}, PromptError),
        ({"target": []}, PromptError),
        ({"image": b"no picture"}, ImageError),
        ({"settings": EditSettings(blend=("zebra", "dog"))}, PromptError),
        ({"settings": EditSettings(mask=b"no mask")}, ImageError),
    ],
    ids=["source", "target", "no_target", "image", "blend", "mask"],
)
def test_edit_many_checks_all_requests_first(small_engine, monkeypatch, change, error):
    monkeypatch.setattr("icd_engine.passes.MOST_TARGETS", 1)
    good = EditRequest(picture(), SOURCE, TARGET)
    with recorded(small_engine) as seen, pytest.raises(error):
        small_engine.edit_many([good, replace(good, **change)])
    assert seen["encode"] == []


@pytest.mark.parametrize(
    "requests",
    [5, None, "ab", [5], [EditRequest(picture(), SOURCE, TARGET), None]],
    ids=["number", "nothing", "text", "numbers", "nothing among requests"],
)
def test_edit_many_takes_requests_alone(small_engine, requests):
    with pytest.raises(SettingsError, match="edit_many takes a list of EditRequest"):
        small_engine.edit_many(requests)


@pytest.mark.parametrize(
    "change, error, named",
    [
        ({"source": ""}, PromptError, "empty"),
        ({"target": "  "}, PromptError, "empty"),
        ({"target": []}, PromptError, "prompt"),
        ({"target": None}, PromptError, "prompt"),
        ({"target": [TARGET, 5]}, PromptError, "5"),
        ({"blend": ("cat", "zebra")}, PromptError, "zebra"),
        ({"blend": ("zebra", "dog")}, PromptError, "zebra"),
        ({"amplify": {"zebra": 2.0}}, PromptError, "zebra"),
        ({"target": OTHER, "control": "replace"}, PromptError, "word"),
        ({"guidence_scale": 3.0}, SettingsError, "guidance_scale"),
        ({"size": (60, 64)}, SettingsError, "16"),
        ({"size": (64,)}, SettingsError, "size"),
        ({"size": 64}, SettingsError, "size"),
        ({"output_type": "jpg"}, SettingsError, "jpg"),
        ({"mask": np.full((64, 64), np.nan)}, ImageError, "mask"),
        ({"image": "nowhere.png"}, ImageError, "nowhere.png"),
    ],
    ids=str,
)
def test_bad_input_is_named_before_any_network_call(small_engine, change, error, named):
    arguments = {"image": picture(), "source": SOURCE, "target": TARGET} | change
    with recorded(small_engine) as seen, pytest.raises(error, match=named):
        small_engine.edit(**arguments)
    assert seen["encode"] == []


def test_a_kept_inversion_has_its_seed(inversion):
    assert inversion.edit(TARGET, seed=3).settings.seed == 3
    with pytest.raises(SettingsError, match="seed"):
        inversion.edit(TARGET, seed=4)


def test_generation_needs_a_prompt(small_engine):
    for prompts in ([], "", None, ["a cat", " "]):
        with pytest.raises(PromptError):
            small_engine.generate(prompts)


def test_each_prompt_is_read_once_an_edit(small_engine, monkeypatch):
    tokenizer = small_engine.model.tokenizer
    read: list[str] = []
    encode = tokenizer.encode
    monkeypatch.setattr(
        tokenizer, "encode", lambda text, name: read.append(text) or encode(text, name)
    )
    result = small_engine.edit(picture(), SOURCE, [TARGET, SOURCE])
    assert read == [SOURCE, TARGET, SOURCE]
    read.clear()
    result.inversion.edit(TARGET)
    assert read == [SOURCE, TARGET]


def test_a_prompt_that_is_too_long_warns_once_an_edit(small_engine):
    long = " ".join([SOURCE] * 20)
    with pytest.warns(UserWarning, match="is cut") as warned:
        small_engine.edit(picture(), long, TARGET)
    assert len([one for one in warned if "is cut" in str(one.message)]) == 1


# --- without a source prompt ----------------------------------------------------------------------


def test_without_a_source_prompt_the_empty_one_is_encoded(small_engine):
    """Its noise is that of the networks' own empty prompt, and no attention is controlled."""
    given = {"seed": 3, "guidance_scale": 4.0}
    result = small_engine.edit(picture(), None, TARGET, **given)
    assert result.settings.control == "none" and not result.settings.auto
    model = small_engine.model
    latents, start = model.vae_latents([picture()], [3], (64, 64))
    empty = model.encode_prompts([model.tokenizer.encode("")])
    passed = small_engine.runner.encode(
        model.noised(latents, start), empty, model.encode_hops, None
    )
    assert torch.equal(result.inversion.noised, passed[-1])
    assert result.inversion.source == ""
    with_source = small_engine.edit(picture(), SOURCE, TARGET, control="none", **given)
    assert not torch.equal(result.latents, with_source.latents)


def test_an_inversion_without_a_source_prompt_is_edited_again(small_engine, tmp_path):
    inversion = small_engine.invert(picture(), None, seed=3)
    first = inversion.edit(TARGET)
    inversion.save(tmp_path / "kept.safetensors")
    again = small_engine.load_inversion(tmp_path / "kept.safetensors").edit(TARGET)
    assert torch.equal(first.latents, again.latents) and again.settings.control == "none"


@pytest.mark.parametrize(
    "asked",
    [{"control": "refine"}, {"auto": True}, {"blend": ("cat", "dog")}, {"mask_from": "words"}],
    ids=str,
)
def test_what_follows_the_words_of_a_source_prompt_needs_one(small_engine, asked):
    with pytest.raises(SettingsError, match="follow the words of a source prompt: give one"):
        small_engine.edit(picture(), None, TARGET, **asked)
