"""The nodes beside a stand-in of ComfyUI: the engine's own pictures, in ComfyUI's types."""

from __future__ import annotations

import asyncio
import inspect
import json

import numpy as np
import pytest
import torch

from icd_engine.errors import BundleError, SettingsError
from icd_engine.integrations.comfyui.conversions import to_image
from icd_engine.settings import EditSettings
from tests.icd_engine.integrations.comfyui.conftest import Bar
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture

IMAGE = to_image([picture(0), picture(1)])


def test_schemas_and_calls_agree(nodes):
    listed = asyncio.run(nodes.Extension().get_node_list())
    schemas = [node.define_schema().told for node in listed]
    assert len({one["node_id"] for one in schemas}) == 4
    for node, schema in zip(listed, schemas, strict=True):
        names = [one.id for one in schema["inputs"]]
        assert len(set(names)) == len(names)
        inspect.signature(node.execute).bind(**dict.fromkeys(names))
        optional = {one.id for one in schema["inputs"] if one.told.get("optional")}
        inspect.signature(node.execute).bind(**dict.fromkeys(set(names) - optional))


def test_every_setting_can_be_chosen(nodes):
    schema = nodes.Edit.define_schema().told
    settings = {one.id for one in schema["inputs"]} - {"inversion", "prompt", "more"}
    assert settings <= set(EditSettings.__dataclass_fields__)


def test_invert_and_edit_a_batch(nodes, small_engine):
    Bar.made.clear()
    inverted, seen = nodes.Invert.execute(small_engine, IMAGE, SOURCE, 3)
    own = [small_engine.invert(picture(i), SOURCE, seed=3) for i in range(2)]
    assert torch.equal(seen, to_image([one.reconstruction for one in own]))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 32:] = 1
    image, changed, latent = nodes.Edit.execute(
        inverted, TARGET, mask=mask, guidance_scale=5.0, control="model's own", more='{"tau": 1}'
    )
    expected = [one.edit(TARGET, mask=mask[0].numpy(), guidance_scale=5.0, tau=1) for one in own]
    assert torch.equal(image, to_image([one.image for one in expected]))
    assert np.array_equal(changed, np.stack([one.masks[0] for one in expected]))
    scaling = small_engine.bundle.config("vae")["scaling_factor"]
    together = torch.cat([one.latents for one in expected])
    torch.testing.assert_close(latent["samples"] * scaling, together)
    assert [(bar.total, bar.done) for bar in Bar.made] == [(8, 8), (8, 8)]


def test_another_size(nodes, small_engine):
    inverted, seen = nodes.Invert.execute(small_engine, IMAGE[:1], "", 0, 128, 64)
    assert seen.shape == (1, 64, 128, 3)
    image, changed, _ = nodes.Edit.execute(inverted, TARGET)
    assert image.shape == (1, 64, 128, 3) and changed.shape == (1, 64, 128) and changed.all()


def test_automatic_settings(nodes, small_engine):
    image, _, _, told = nodes.AutoEdit.execute(small_engine, IMAGE[:1], SOURCE, TARGET, 3)
    expected = small_engine.invert(picture(), SOURCE, seed=3).edit(TARGET, settings="auto")
    assert torch.equal(image, to_image(expected.images))
    assert json.loads(told) == [expected.settings.as_json()]


def test_a_model_is_loaded_or_refused(nodes, small_bundle):
    (engine,) = nodes.LoadModel.execute(str(small_bundle), device="cpu", runner="eager")
    assert engine.bundle.path == small_bundle
    with pytest.raises(BundleError):
        nodes.LoadModel.execute("/no/such/folder")


def test_a_download_is_not_asked_about(nodes, monkeypatch, tmp_path):
    monkeypatch.setenv("ICD_HOME", str(tmp_path))
    monkeypatch.delenv("ICD_YES", raising=False)
    with pytest.raises(BundleError, match="icd pull icd-sd15"):
        nodes.LoadModel.execute("icd-sd15")


def test_a_wrong_setting_is_one_line(nodes, small_engine):
    inverted, _ = nodes.Invert.execute(small_engine, IMAGE[:1], SOURCE, 0)
    with pytest.raises(SettingsError, match="did you mean"):
        nodes.Edit.execute(inverted, TARGET, more='{"guidance": 3}')
