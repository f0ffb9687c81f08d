"""The pair as training holds it: who learns, what is written, and that everybody reads it alike."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

pytest.importorskip("diffusers")

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from icd_engine.bundles.convert import convert
from icd_engine.engine import Engine
from icd_engine.errors import BundleError
from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.networks.unet import AddedConditions
from icd_engine.runners.contract import TIME_IDS
from icd_engine.sampling.guidance import guidance_embedding
from training.base import Base, load_unet
from training.networks import STUDENTS, Students, predict

PIPELINES = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def bases(base, sdxl_base):
    return {"sd15": base, "sdxl": sdxl_base}


@pytest.fixture(scope="module")
def teachers(bases, tmp_path_factory):
    """Guidance-distilled UNet folders, whose w matters."""
    folders = {}
    for family, folder in bases.items():
        student = Base(folder).guided_unet()
        torch.manual_seed(1)
        torch.nn.init.normal_(student.get_parameter("time_embedding.cond_proj.weight"), std=0.2)
        folders[family] = tmp_path_factory.mktemp("teacher") / family
        student.save_pretrained(folders[family])
    return folders


def students(teachers, family, rank, trained=STUDENTS, **options) -> Students:
    """With updates that are not zero, as after some training."""
    torch.manual_seed(0)
    networks = Students(
        load_unet(teachers[family]), rank, trained=trained, precision="fp32", **options
    )
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in networks.named_parameters():
            if parameter.requires_grad and (rank is None or "lora_B" in name):
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return networks


def inputs(family, channels):
    g = torch.Generator().manual_seed(3)
    x, tokens = torch.randn(2, 4, 8, 8, generator=g), torch.randn(2, 77, channels, generator=g)
    pooled = torch.randn(2, 32, generator=g) if family == "sdxl" else None
    return x, torch.tensor([259, 779]), PromptFeatures(tokens, pooled), torch.tensor([7.0, 0.0])


def _added(prompt):
    if prompt.pooled is None:
        return {}
    return {
        "added": AddedConditions(
            prompt.pooled, torch.tensor([TIME_IDS]).expand(len(prompt.pooled), -1)
        )
    }


def difference(one, other):
    """Relative to the larger."""
    return float((one - other).abs().max() / other.abs().max())


@pytest.fixture(params=["sd15", "sdxl"])
def family(request):
    return request.param


@pytest.mark.parametrize("alpha", [8.0, 4.0])
def test_lora_files_are_read_alike_everywhere(bases, teachers, family, tmp_path, alpha):
    """The pair while it trains, diffusers' own loader, and the engine on the converted bundle:
    equal outputs.

    SD1.5's factors are half precision in the file (2^-11 of each, as the published ones are
    rounded), so the pair itself, which trains in float32, differs by that; the readers differ by
    float32 arithmetic alone.
    """
    networks = students(teachers, family, 4, alpha=alpha)
    half = torch.float16 if family == "sd15" else torch.float32
    files = {
        role: tmp_path
        / "weights"
        / f"{role}_{'19_259' if role == 'forward' else '259_999'}.safetensors"
        for role in STUDENTS
    }
    for role, path in files.items():
        networks.save(role, path, half)
    bundle = convert(
        bases[family], teachers[family], files["forward"], files["reverse"], tmp_path / "bundle"
    )
    assert bundle.encode_times == (19, 259) and bundle.decode_times == (259, 999)
    engine = Engine.from_pretrained(bundle.path, device="cpu", dtype="float32", runner="eager")
    plain = load_unet(teachers[family])
    x, t, prompt, w = inputs(family, plain.config["cross_attention_dim"])
    embedded = torch.from_numpy(guidance_embedding(w.numpy(), plain.config["time_cond_proj_dim"]))
    with torch.no_grad():
        untrained = predict(plain, x, t, prompt, w, "fp32")
        for role, path in files.items():
            stock = load_unet(teachers[family])
            pipeline = PIPELINES[family].from_pretrained(
                bases[family], unet=stock, local_files_only=True
            )
            pipeline.load_lora_weights(path)
            by_diffusers = predict(pipeline.unet, x, t, prompt, w, "fp32")
            network = (
                engine.runner.encode_network if role == "forward" else engine.runner.decode_network
            )
            by_engine = network(x, t, prompt.tokens, embedded, **_added(prompt)).eps
            by_pair = networks.eps(role, x, t, prompt, w)
            assert difference(by_diffusers, untrained) > 0.01
            assert difference(by_engine, by_diffusers) < 2e-5
            assert difference(by_pair, by_diffusers) < (5e-3 if family == "sd15" else 2e-5)
        assert difference(networks.eps("teacher", x, t, prompt, w), untrained) < 1e-6


def test_whole_networks_are_converted_too(bases, teachers, tmp_path):
    networks = students(teachers, "sd15", None)
    files = [
        tmp_path / "weights" / name
        for name in ("forward_19_259.safetensors", "reverse_259_999.safetensors")
    ]
    for role, path in zip(STUDENTS, files, strict=True):
        networks.save(role, path)
    bundle = convert(bases["sd15"], teachers["sd15"], *files, tmp_path / "bundle")
    for part, path in zip(("unet_forward", "unet"), files, strict=True):
        written, read = load_file(path), load_file(bundle.weights(part))
        assert written.keys() == read.keys()
        assert all(torch.equal(read[key], value) for key, value in written.items())
    assert not torch.equal(read["conv_in.weight"], load_file(files[0])["conv_in.weight"])


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
@pytest.mark.parametrize("trained", [STUDENTS, ("forward",)], ids=["both", "forward"])
def test_who_learns(teachers, rank, trained):
    """Gradients reach the weights of the role that was asked, whatever was asked after; the
    teacher's never."""
    networks = students(teachers, "sd15", rank, trained)
    x, t, prompt, w = inputs("sd15", 16)
    first = networks.eps("forward", x, t, prompt, w)
    networks.eps("reverse", x, t, prompt, w)
    with torch.no_grad():
        networks.eps("teacher", x, t, prompt, w)
    first.square().mean().backward()
    reached = {
        name
        for name, p in networks.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    assert reached and all("forward_" in name for name in reached)
    learning = {name for name, p in networks.named_parameters() if p.requires_grad}
    assert all(any(role in name for role in trained) for name in learning) and learning >= reached


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
def test_checkpointing_changes_no_gradient(teachers, rank):
    """Also where another role ran between a forward pass and its backward pass."""
    found = []
    for checkpointing in (False, True):
        networks = students(teachers, "sd15", rank, checkpointing=checkpointing)
        x, t, prompt, w = inputs("sd15", 16)
        first = networks.eps("forward", x, t, prompt, w)
        second = networks.eps("reverse", x, t, prompt, w)
        (first.square().mean() + second.abs().mean()).backward()
        found.append(
            {name: p.grad for name, p in networks.named_parameters() if p.grad is not None}
        )
    plain, again = found
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("rank", [None, 4], ids=["full", "lora"])
def test_saved_weights_come_back(teachers, rank, tmp_path):
    networks = students(teachers, "sd15", rank, alpha=4.0)
    networks.save("forward", path := tmp_path / "w" / "forward.safetensors")
    fresh = Students(load_unet(teachers["sd15"]), rank, alpha=4.0, precision="fp32")
    fresh.load("forward", path)
    x, t, prompt, w = inputs("sd15", 16)
    with torch.no_grad():
        assert (
            difference(
                fresh.eps("forward", x, t, prompt, w), networks.eps("forward", x, t, prompt, w)
            )
            < 1e-6
        )
        assert (
            difference(
                fresh.eps("reverse", x, t, prompt, w), networks.eps("reverse", x, t, prompt, w)
            )
            > 0.01
        )


@pytest.mark.parametrize("spoil", ["missing", "unknown", "shape"])
def test_weights_of_something_else_are_refused(teachers, spoil, tmp_path):
    networks = students(teachers, "sd15", 4)
    networks.save("forward", path := tmp_path / "w" / "forward.safetensors")
    values = load_file(path)
    key = min(values)
    if spoil == "unknown":
        values["unet.more"] = torch.zeros(1)
    else:
        values[key] = values.pop(key)[:1].clone()
        if spoil == "missing":
            del values[key]
    save_file(values, path)
    with pytest.raises(BundleError, match="unet.more" if spoil == "unknown" else key):
        networks.load("forward", path)


def test_a_teacher_without_guidance_is_refused(base):
    with pytest.raises(ValueError, match="not guidance-distilled"):
        Students(load_unet(base / "unet"), 4)


@pytest.mark.parametrize("said", [True, False], ids=["null", "absent"])
def test_a_guided_student_starts_as_its_teacher(base, tmp_path, said):
    """Older configurations do not name the guidance embedding at all."""
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "unet" / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("time_cond_proj_dim") is None
    path.write_text(json.dumps(config | ({"time_cond_proj_dim": None} if said else {})))
    start = Base(tmp_path / "base")
    x, t, prompt, w = inputs("sd15", 16)
    with torch.no_grad():
        plain, guided = (
            predict(u, x, t, prompt, w, "fp32") for u in (start.unet(), start.guided_unet())
        )
    assert torch.equal(plain, guided)


def test_bases_that_are_none(base, tmp_path):
    with pytest.raises(BundleError):
        Base(tmp_path)
    spoiled = tmp_path / "base"
    shutil.copytree(base, spoiled)
    weights = spoiled / "unet" / "diffusion_pytorch_model.safetensors"
    values = load_file(weights)
    del values["conv_in.weight"]
    save_file(values, weights)
    with pytest.raises(BundleError, match=r"missing keys: 'conv_in.weight'"):
        Base(spoiled).unet()
