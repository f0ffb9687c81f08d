"""One base for both networks and the difference of one: the same answers, less memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from icd_engine.bundles.files import read_weights
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError
from icd_engine.networks.difference import share_weights
from icd_engine.runners.compiled import can_compile
from tests.icd_engine.plain_loops import SOURCE, TARGET

DATA = Path(__file__).parents[2] / "data" / "golden"
PICTURE = Image.open(DATA / "square.png").convert("RGB").resize((128, 128))


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.fixture(scope="module")
def fused(published) -> Engine:
    return Engine.from_pretrained(published.path, device="cpu")


@pytest.fixture(scope="module")
def switched(published) -> Engine:
    return Engine.from_pretrained(published.path, device="cpu", weights="switch")


def kept_bytes(*networks: nn.Module) -> int:
    """Of all tensors, those shared counted once."""
    tensors = [
        tensor for network in networks for tensor in (*network.parameters(), *network.buffers())
    ]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def test_the_difference_makes_the_forward_weights(published):
    reverse, forward = (read_weights(published.weights(part)) for part in ("unet", "unet_forward"))
    updates = read_weights(published.difference)
    modules = {key.rpartition(".")[0] for key in updates}
    assert len(modules) == 277
    for key, expected in forward.items():
        module, got = key.removesuffix(".weight"), reverse[key]
        if key.endswith(".weight") and module in modules:
            update = updates[f"{module}.up"].flatten(1) @ updates[f"{module}.down"].flatten(1)
            got = got + update.reshape(got.shape)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_both_networks_share_one_base(fused, switched):
    encode, decode = switched.runner.encode_network, switched.runner.decode_network
    whole = kept_bytes(fused.runner.encode_network)
    updates = kept_bytes(encode, decode) - whole
    assert encode.conv_in.weight.data_ptr() == decode.conv_in.weight.data_ptr()
    # Rank 4 + 4 beside 16 to 32 channels; 64 + 64 beside 320 to 1280: 16 %
    assert 0 < updates < 0.4 * whole


def test_switched_edits_equal_fused_ones(fused, switched, tmp_path):
    """Weights differ in their last bit: held to what that does to the fused network."""
    expected = fused.edit(PICTURE, SOURCE, TARGET, size=(128, 128))
    got = switched.edit(PICTURE, SOURCE, TARGET, size=(128, 128))
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: value.clone() for key, value in fused.runner.encode_network.state_dict().items()
    }
    noise = {
        key: 1 + 6e-8 * torch.randn(value.shape, generator=generator)
        for key, value in weights.items()
    }
    fused.runner.encode_network.load_state_dict(
        {key: value * noise[key] for key, value in weights.items()}
    )
    moved = fused.edit(PICTURE, SOURCE, TARGET, size=(128, 128))
    fused.runner.encode_network.load_state_dict(weights)
    limit = 10 * error(moved.inversion.latents, expected.inversion.latents)
    assert 0.0 < error(got.inversion.latents, expected.inversion.latents) <= limit <= 1e-1
    # The decode network is the bundle's own: from the same latents the same edit, bit for bit.
    kept = expected.inversion.save(tmp_path / "i.safetensors")
    own, same = (one.load_inversion(kept).edit(TARGET) for one in (fused, switched))
    assert torch.equal(same.latents, own.latents)


@pytest.mark.long
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_switched_networks_compile(published, switched):
    compiled = Engine.from_pretrained(
        published.path, device="cpu", runner="compiled", weights="switch"
    )
    latents = torch.randn(
        switched.latent_shape((64, 64)), generator=torch.Generator().manual_seed(0)
    )

    def encoded(engine: Engine) -> Tensor:
        prompts = engine.model.encode_prompts([engine.model.tokens(SOURCE)])
        return engine.runner.encode(latents, prompts, engine.model.encode_hops, None)[-1]

    # Seen: 6e-5; a rounding of the latents alone makes 9e-5.
    assert error(encoded(compiled), encoded(switched)) <= 1e-3


def test_updates_that_do_not_fit_are_named():
    base, network = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4))
    with pytest.raises(RuntimeError, match=r"^0: an update of \[4, 2\] @ \[2, 5\]"):
        share_weights(network, base, {"0.down": torch.zeros(2, 5), "0.up": torch.zeros(4, 2)})


def test_what_cannot_be_switched_is_refused(small_bundle):
    with pytest.raises(BundleError, match=r"difference\.safetensors"):
        Engine.from_pretrained(small_bundle, weights="switch")
    with pytest.raises(RunnerError, match="weights must be one of fused, switch"):
        Engine.from_pretrained(small_bundle, weights="both")
