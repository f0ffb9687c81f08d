"""Models of Stable Diffusion 2.1's structure (linear projections, v-prediction): converted, loaded by
diffusers, exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.engine import Engine
from icd_engine.sampling.guidance import guidance_embedding
from tests.icd_engine.bundles.other_bases import as_v2, change
from tests.icd_engine.plain_loops import SOURCE, TARGET, picture

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "sd15"


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("v2")
    base = folder / "base"
    shutil.copytree(GOLDEN / "base", base, copy_function=shutil.copyfile)
    files = {role: GOLDEN / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse")}
    files["teacher"] = GOLDEN / "sd15_cfg_distill.pt"
    return convert(base, out=folder / "model", **as_v2(base, files, folder)).path


@pytest.mark.parametrize("part", ["unet", "unet_forward"])
def test_diffusers_loads_what_is_converted(converted, part):
    from diffusers import UNet2DConditionModel

    theirs = UNet2DConditionModel.from_pretrained(converted, subfolder=part).eval()
    assert theirs.config.use_linear_projection and theirs.config.upcast_attention
    engine = Engine.from_pretrained(converted, device="cpu", dtype="float32")
    assert engine.model.schedule.prediction == "v_prediction"
    runner = engine.runner
    ours = runner.decode_network if part == "unet" else runner.encode_network
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 16, 16, generator=generator)
    prompt = torch.randn(2, 77, theirs.config.cross_attention_dim, generator=generator)
    t = torch.tensor([259.0, 999.0])
    w = torch.from_numpy(guidance_embedding([0.0, 7.0], theirs.config.time_cond_proj_dim))
    with torch.no_grad():
        got = ours(x, t, prompt, w).eps
        single = theirs(x, t, prompt, timestep_cond=w).sample
        double = [given.double() for given in (x, t, prompt, w)]
        exact = theirs.double()(*double[:3], timestep_cond=double[3]).sample
    # These weights magnify roundings a hundred times and more: ours may not do worse than theirs,
    # but for the order of the roundings
    rounding = float((single - exact).abs().max())
    assert rounding <= 1e-3 * float(exact.abs().max())
    assert float((got - exact).abs().max()) <= 3 * rounding


@pytest.mark.parametrize(
    ("layout", "package", "runner"),
    [
        pytest.param("optimum", "onnxruntime", "onnx", marks=pytest.mark.long),
        ("openvino", "openvino", "openvino"),
    ],
)
def test_an_exported_model_edits_alike(small_bundle, tmp_path, layout, package, runner):
    """The small bundle taken for a v-model with linear projections."""
    pytest.importorskip(package)
    from export.folder import export_bundle

    model = tmp_path / "model"
    shutil.copytree(small_bundle, model)
    for part in ("unet", "unet_forward"):
        change(model / part / "config.json", use_linear_projection=True, upcast_attention=True)
        file = model / part / "diffusion_pytorch_model.safetensors"
        weights = load_file(file)
        flat = {k: v.flatten(1) if ".proj_" in k and v.ndim == 4 else v for k, v in weights.items()}
        save_file(flat, file)
    change(
        model / "scheduler/scheduler_config.json",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    record = json.loads((model / "icd.json").read_text()) | {"sha256": {}}
    (model / "icd.json").write_text(json.dumps(record))
    export_bundle(read_bundle(model), tmp_path / "exported", layout=layout)
    latents = []
    for folder, name in ((model, "eager"), (tmp_path / "exported", runner)):
        engine = Engine.from_pretrained(folder, device="cpu", dtype="float32", runner=name)
        assert engine.model.schedule.prediction == "v_prediction"
        result = engine.edit(picture(), SOURCE, TARGET, seed=3, auto=False)
        latents.append(np.asarray(result.latents))
    assert np.abs(latents[0] - latents[1]).max() <= 1e-3 * np.abs(latents[0]).max()
