"""Styles on engines: the numbers of diffusers' fused networks, and nothing left where they go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.files import read_shapes
from icd_engine.bundles.styles import bare_shapes
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError, SettingsError
from icd_engine.sampling.guidance import guidance_embedding
from tests.icd_engine.plain_loops import SOURCE, TARGET
from tests.icd_engine.style_files import (
    Factors,
    random_factors,
    write_diffusers,
    write_kohya,
    write_old_diffusers,
    write_peft,
)

DATA = Path(__file__).parents[1] / "data" / "golden"
PICTURE = Image.open(DATA / "square.png").convert("RGB").resize((64, 64))
SIZE = (64, 64)
ROUNDING = 1e-5


def shapes_of(bundle: Bundle) -> dict:
    parts = ["unet", *(part for part in bundle.configs if part.startswith("text_encoder"))]
    return bare_shapes({part: read_shapes(bundle.weights(part)) for part in parts})


@pytest.fixture(scope="module")
def factors(published) -> Factors:
    return random_factors(shapes_of(published))


@pytest.fixture(scope="module")
def kohya(factors, tmp_path_factory) -> Path:
    return write_kohya(tmp_path_factory.mktemp("styles") / "kohya.safetensors", factors)


@pytest.fixture(scope="module")
def unet_alone(factors, tmp_path_factory) -> Path:
    own = {"unet": factors["unet"]}
    return write_kohya(tmp_path_factory.mktemp("styles") / "unet.safetensors", own)


@pytest.fixture(scope="module", params=["fused", "switch"])
def loaded(request, published) -> Engine:
    return Engine.from_pretrained(published.path, device="cpu", weights=request.param)


@pytest.fixture
def engine(loaded) -> Iterator[Engine]:
    yield loaded
    for name in loaded.styles:
        loaded.unload_style(name)


def fused_by_diffusers(bundle: Bundle, path: Path, scale: float):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(bundle.path)
    pipe.load_lora_weights(path)
    pipe.fuse_lora(lora_scale=scale)
    pipe.unload_lora_weights()
    return pipe


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """Every weight as it computes, whether or not something is added while it runs."""
    found = {}
    for name, module in network.named_modules():
        for kind in ("weight", "bias"):
            value = getattr(module, kind, None)
            if isinstance(value, Tensor) and "parametrizations" not in name:
                found[f"{name}.{kind}"] = value.detach().clone()
    return found


def assert_same(got: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        difference = float((got[key] - value).abs().max())
        assert difference <= tolerance * float(value.abs().max()), key


def edited(engine: Engine) -> Tensor:
    return engine.edit(PICTURE, SOURCE, TARGET, size=SIZE, seed=1, output_type="latent").latents


@pytest.mark.parametrize("write", [write_kohya, write_diffusers, write_old_diffusers])
def test_the_decode_network_is_diffusers_fused_one(engine, published, factors, tmp_path, write):
    path = write(tmp_path / "style.safetensors", factors)
    pipe = fused_by_diffusers(published, path, 0.8)
    encode = weights_of(engine.runner.encode_network)
    before = weights_of(engine.runner.decode_network)
    engine.load_style(path, 0.8)
    got = weights_of(engine.runner.decode_network)
    expected = {key: value for key, value in pipe.unet.state_dict().items() if key in got}
    assert_same(got, expected, ROUNDING)
    assert any((got[key] != before[key]).any() for key in got)
    assert_same(weights_of(engine.runner.encode_network), encode, 0)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([519.0])
    w = torch.from_numpy(guidance_embedding([3.0], pipe.unet.config.time_cond_proj_dim))
    with torch.no_grad():
        prompt = pipe.text_encoder(torch.tensor([engine.model.tokens(SOURCE).ids]))[0]
        ours = engine.runner.decode_network(x, t, prompt, w).eps
        theirs = pipe.unet(x, t, prompt, timestep_cond=w).sample
    assert float((ours - theirs).abs().max() / theirs.abs().max()) <= ROUNDING


@pytest.mark.parametrize("write", [write_kohya, write_diffusers])
def test_prompts_are_those_of_diffusers_fused_encoder(engine, published, factors, tmp_path, write):
    path = write(tmp_path / "style.safetensors", factors)
    pipe = fused_by_diffusers(published, path, 1.0)
    ids = torch.tensor([engine.model.tokens(SOURCE).ids])
    with torch.no_grad():
        own = engine.runner.text_encoder.encode(ids).tokens
        theirs = pipe.text_encoder(ids).last_hidden_state
        engine.load_style(path)
        decoded = engine.runner.networks.decode_text_encoder.encode(ids).tokens
        assert torch.equal(engine.runner.text_encoder.encode(ids).tokens, own)
    assert float((decoded - theirs).abs().max()) <= ROUNDING * float(theirs.abs().max())
    assert float((decoded - own).abs().max()) > 1e-3 * float(own.abs().max())


def test_a_peft_adapter_counts_as_its_configuration_says(engine, factors, tmp_path):
    plain = weights_of(engine.runner.decode_network)
    engine.load_style(write_peft(tmp_path / "adapter", factors), 1.0)
    got = weights_of(engine.runner.decode_network)
    for module, (down, up) in factors["unet"].items():
        update = (up.flatten(1) @ down.flatten(1)) * 2 / 3  # alpha by rank
        key = f"{module}.weight"
        difference = got[key] - plain[key] - update.reshape(plain[key].shape)
        assert float(difference.abs().max()) <= ROUNDING * float(plain[key].abs().max())


def test_at_scale_0_and_taken_away_nothing_is_changed(engine, kohya):
    expected = edited(engine)
    engine.load_style(kohya, 0)
    assert torch.equal(edited(engine), expected)
    engine.unload_style("kohya.safetensors")
    engine.load_style(kohya, 1)
    assert engine.styles == ("kohya.safetensors",)
    assert not torch.allclose(edited(engine), expected, rtol=0, atol=1e-4)
    engine.unload_style("kohya.safetensors")
    assert torch.equal(edited(engine), expected)


def test_a_style_on_both_networks_is_on_both(engine, published, kohya):
    from icd_engine.bundles.lora import fused
    from icd_engine.bundles.styles import read_style

    style = read_style(kohya, shapes_of(published), published.config("unet"))
    runner = engine.runner
    plain = [weights_of(network) for network in (runner.decode_network, runner.encode_network)]
    engine.load_style(kohya, 0.5, both=True)
    styled = [weights_of(network) for network in (runner.decode_network, runner.encode_network)]
    for before, after in zip(plain, styled, strict=True):
        for key, value in before.items():
            pair = style.of("unet").get(key.removesuffix(".weight"))
            wanted = value if pair is None else fused(value, [(0.5, pair)])
            assert float((after[key] - wanted).abs().max()) <= ROUNDING * float(value.abs().max())
    assert runner.networks.decode_text_encoder is None


def test_styles_add_up_in_any_order(engine, kohya, unet_alone):
    def weights(*paths: Path) -> dict[str, Tensor]:
        for path in paths:
            engine.load_style(path, 0.7)
        found = weights_of(engine.runner.decode_network)
        for path in paths:
            engine.unload_style(path.name)
        return found

    together = weights(kohya, unet_alone)
    assert_same(weights(unet_alone, kohya), together, 1e-6)
    assert any((weights(kohya)[key] != value).any() for key, value in together.items())


def test_inversions_of_before_fit_where_encoding_is_the_same(engine, kohya, tmp_path):
    kept = engine.invert(PICTURE, SOURCE, size=SIZE, seed=1)
    saved = kept.save(tmp_path / "kept.safetensors")
    kept.edit(TARGET)  # leaves its source branch, which the style makes another
    engine.load_style(kohya)
    again = engine.invert(PICTURE, SOURCE, size=SIZE, seed=1)
    assert torch.equal(kept.latents, again.latents)
    expected = again.edit(TARGET).latents
    assert torch.equal(kept.edit(TARGET).latents, expected)
    loaded = engine.load_inversion(saved)
    assert torch.equal(loaded.edit(TARGET).latents, expected)
    engine.unload_style(kohya.name)
    engine.load_style(kohya, both=True)
    with pytest.raises(SettingsError, match="invert the picture again"):
        kept.edit(TARGET)
    with pytest.raises(BundleError, match="another model"):
        engine.load_inversion(saved)
    styled = engine.invert(PICTURE, SOURCE, size=SIZE, seed=1)
    assert not torch.equal(styled.latents, kept.latents)
    engine.unload_style(kohya.name)
    assert torch.equal(kept.edit(TARGET).latents, engine.load_inversion(saved).edit(TARGET).latents)
    with pytest.raises(SettingsError, match="invert the picture again"):
        styled.edit(TARGET)


def test_what_cannot_be_is_refused_and_changes_nothing(engine, factors, kohya, tmp_path):
    expected = edited(engine)
    engine.load_style(kohya)
    with pytest.raises(SettingsError, match=r"'kohya.safetensors' is on already"):
        engine.load_style(kohya)
    with pytest.raises(SettingsError, match=r"no style 'other' is on \(there is kohya"):
        engine.unload_style("other")
    engine.unload_style(kohya.name)
    with pytest.raises(SettingsError, match="scale is a number"):
        engine.load_style(kohya, float("nan"))
    huge = {"unet": {m: (d * 1e3, u * 3e38) for m, (d, u) in list(factors["unet"].items())[:1]}}
    path = write_kohya(tmp_path / "huge.safetensors", huge)
    with pytest.raises(BundleError, match="holds NaN or infinity"):
        engine.load_style(path, 100)
    assert engine.styles == ()
    assert torch.equal(edited(engine), expected)


def test_exported_folders_take_none(exported, kohya):
    with pytest.raises(RunnerError, match="icd convert --style"):
        Engine.from_pretrained(exported).load_style(kohya)
