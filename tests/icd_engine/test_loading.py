"""Weights become networks strictly, on the device and in the precision that was asked for."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.bundle import read_bundle
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError
from icd_engine.loading import choose_device, choose_dtype, load_runner
from icd_engine.placement import Placement

NETWORKS = ("text_encoder", "vae", "encode_network", "decode_network")


@pytest.fixture
def unsealed(small_bundle, tmp_path):
    """A copy whose files may be changed: its icd.json lists no digests."""
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)
    record = json.loads((folder / "icd.json").read_text())
    (folder / "icd.json").write_text(json.dumps(record | {"sha256": {}}))
    return folder


def test_every_weight_of_the_files_arrives(small_bundle):
    runner = load_runner(read_bundle(small_bundle), Placement(device="cpu"))
    for part, network in (
        ("unet", runner.decode_network),
        ("unet_forward", runner.encode_network),
        ("vae", runner.vae),
    ):
        stored = load_file(small_bundle / part / "diffusion_pytorch_model.safetensors")
        loaded = network.state_dict()
        assert stored.keys() == loaded.keys()
        assert all(torch.equal(stored[key], loaded[key]) for key in stored)
    assert not torch.equal(
        runner.decode_network.conv_in.weight, runner.encode_network.conv_in.weight
    )


def test_networks_are_ready_to_run(small_bundle):
    runner = load_runner(read_bundle(small_bundle), Placement(device="cpu"))
    for name in NETWORKS:
        network = getattr(runner, name)
        assert not network.training
        assert not any(p.requires_grad or p.is_meta for p in network.parameters())


@pytest.mark.parametrize(
    "dtype, unet, vae",
    [
        ("auto", torch.float32, torch.float32),
        ("bfloat16", torch.bfloat16, torch.bfloat16),
        # The VAE of Stable Diffusion overflows in float16
        ("float16", torch.float16, torch.float32),
    ],
)
def test_precision(small_bundle, dtype, unet, vae):
    runner = load_runner(read_bundle(small_bundle), Placement(device="cpu", dtype=dtype))
    wanted = {"text_encoder": unet, "vae": vae, "encode_network": unet, "decode_network": unet}
    assert {name: {p.dtype for p in getattr(runner, name).parameters()} for name in NETWORKS} == {
        name: {precision} for name, precision in wanted.items()
    }
    assert (runner.dtype, runner.vae.dtype) == (unet, vae)


def test_half_precision_files_load_as_float32(unsealed):
    path = unsealed / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {key: value.half() for key, value in load_file(path).items()}
    save_file(weights, path)
    runner = load_runner(read_bundle(unsealed), Placement(device="cpu"))
    assert torch.equal(runner.decode_network.conv_in.weight, weights["conv_in.weight"].float())


def change_weights(folder, part, change):
    path = folder / part / ("model" if part == "text_encoder" else "diffusion_pytorch_model")
    path = path.with_suffix(".safetensors")
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.mark.parametrize("part", ["unet", "unet_forward", "vae", "text_encoder"])
@pytest.mark.parametrize(
    "change",
    [
        lambda w, key: w.pop(key),
        lambda w, key: w.update({"further.weight": torch.zeros(1)}),
        lambda w, key: w.update({key: w[key][:1].clone()}),
        lambda w, key: w.update({key: torch.full_like(w[key], torch.nan)}),
        lambda w, key: w.update({key: torch.ones(w[key].shape, dtype=torch.int8)}),
        lambda w, key: w.update({key: torch.ones(w[key].shape, dtype=torch.complex64)}),
        lambda w, key: w.update({key: torch.full(w[key].shape, torch.nan).to(torch.float8_e4m3fn)}),
    ],
    ids=["missing", "further", "shape", "nan", "integers", "complex", "float8 nan"],
)
def test_weights_that_do_not_fit_are_named(unsealed, part, change):
    named = []

    def apply(weights):
        key = max(weights)
        change(weights, key)
        named.append(
            "further.weight" if "further.weight" in weights else key.removeprefix("text_model.")
        )

    change_weights(unsealed, part, apply)
    with pytest.raises(BundleError) as caught:
        load_runner(read_bundle(unsealed), Placement(device="cpu"))
    assert named[0] in str(caught.value)
    assert f"{part}/" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_beyond_half_precision_are_named(unsealed):
    change_weights(
        unsealed,
        "unet",
        lambda w: w.update({"conv_in.bias": torch.full_like(w["conv_in.bias"], 1e5)}),
    )
    assert (
        load_runner(
            read_bundle(unsealed), Placement(device="cpu")
        ).decode_network.conv_in.bias.max()
        == 1e5
    )
    with pytest.raises(BundleError, match=r"in float16: 'conv_in\.bias' holds NaN or infinity"):
        load_runner(read_bundle(unsealed), Placement(device="cpu", dtype="float16"))


def test_token_ids_beyond_the_text_encoder_are_refused(unsealed):
    path = unsealed / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["zebra</w>"] = 10_000
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(BundleError, match="token ids beyond the text encoder's vocab_size"):
        Engine.from_pretrained(unsealed)


def test_time_steps_that_the_schedule_lacks_are_refused(unsealed):
    path = unsealed / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_train_timesteps": 500}))
    with pytest.raises(BundleError, match=r"time step \d+ is not a whole number in 0\.\.499"):
        Engine.from_pretrained(unsealed)


def test_far_more_weights_than_the_file_holds_are_never_made(unsealed, monkeypatch):
    """A text encoder of 2 ** 20 x 32768 values would take 137 GB before its file is looked at."""
    path = unsealed / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"vocab_size": 2**20, "hidden_size": 2**15}))
    for part in ("unet", "unet_forward"):
        file = unsealed / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"cross_attention_dim": 2**15}))
    with pytest.raises(
        BundleError,
        match=r"text_encoder/model\.safetensors does not fit its config\.json: size mismatch",
    ):
        load_runner(read_bundle(unsealed), Placement(device="cpu"))


@pytest.mark.parametrize("part", ["unet", "unet_forward", "vae"])
def test_missing_field_of_a_configuration_is_named(unsealed, part):
    path = unsealed / part / "config.json"
    config = json.loads(path.read_text())
    del config["block_out_channels"]
    path.write_text(json.dumps(config))
    with pytest.raises(BundleError, match=rf"{part}/config\.json: 'block_out_channels' is missing"):
        load_runner(read_bundle(unsealed), Placement(device="cpu"))


def test_changed_file_is_refused(small_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(small_bundle, folder)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match="vae/diffusion_pytorch_model"):
        read_bundle(folder)


def test_loading_leaves_the_random_numbers_alone(small_bundle):
    before = torch.random.get_rng_state()
    load_runner(read_bundle(small_bundle), Placement(device="cpu"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_auto_becomes_concrete():
    cuda = torch.cuda.is_available()
    assert choose_device("auto").type == ("cuda" if cuda else "cpu")
    assert choose_dtype("auto", "cpu") == torch.float32
    assert choose_dtype("auto", "auto") == (torch.bfloat16 if cuda else torch.float32)
    assert choose_dtype("float16", "cpu") == torch.float16


@pytest.mark.parametrize(
    "device", ["tpu", "", "mps", "meta", f"cuda:{torch.cuda.device_count()}", None]
)
def test_device_that_is_not_there_is_refused(device):
    with pytest.raises(RunnerError, match="device"):
        choose_device(device)


@pytest.mark.parametrize("dtype", ["float64", "half", torch.float16], ids=str)
def test_unknown_dtype_is_refused(dtype):
    with pytest.raises(RunnerError, match="dtype"):
        choose_dtype(dtype, "cpu")


def test_unknown_runner_is_refused(small_bundle):
    with pytest.raises(RunnerError, match="runner must be one of auto, eager"):
        load_runner(read_bundle(small_bundle), Placement(runner="fast"))
