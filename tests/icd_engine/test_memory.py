"""One base for both networks, VAE tiles, float32 after overflows, networks on the host: same
answers, less memory."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import read_weights
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, ImageError, RunnerError
from icd_engine.networks.difference import share_weights
from icd_engine.runners.compiled import can_compile
from icd_engine.runners.memory import Residence, in_tiles, tile_starts
from icd_engine.runners.pictures import wants_tiles
from training.world.drawing import draw
from training.world.scenes import sample_scene

DATA = Path(__file__).parents[1] / "data" / "golden"
SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"
PICTURE = Image.open(DATA / "square.png").convert("RGB").resize((128, 128))


def picture(width: int = 64, height: int = 64) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).abs().max() / expected.abs().max())


# --- one base and a difference --------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Bundle:
    golden = DATA / "sd15"
    files = [golden / "base", golden / "sd15_cfg_distill.pt"]
    loras = [golden / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse")]
    return convert(*files, *loras, tmp_path_factory.mktemp("published") / "bundle")


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
    same = switched.load_inversion(
        expected.inversion.save(Path(expected.inversion.engine.bundle.path) / "i.safetensors")
    )
    assert torch.equal(same.edit(TARGET).latents, expected.latents)


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
        return engine.runner.encode(latents, prompts, engine.model.encode_hops, None)

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


# --- tiles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "tile", "expected"),
    [(8, 8, [0]), (5, 8, [0]), (9, 8, [0, 1]), (20, 8, [0, 6, 12]), (24, 8, [0, 5, 11, 16])],
)
def test_tiles_cover_a_side_and_overlap(side, tile, expected):
    assert tile_starts(side, tile) == expected
    assert all(later - first <= tile - tile // 4 for first, later in pairwise(expected))


@pytest.mark.parametrize(
    ("scale", "height", "width"), [((2, 1), 20, 9), ((1, 2), 40, 18), ((1, 1), 8, 30)]
)
def test_tiles_of_a_local_function_are_the_whole(scale, height, width):
    """What each output pixel takes from its own input alone is not changed by tiles, whatever their
    weights."""
    up, down = scale

    def local(x: Tensor) -> Tensor:
        small = x[..., ::down, ::down]
        return (3 * small + 1).repeat_interleave(up, -1).repeat_interleave(up, -2)

    x = torch.rand(2, 3, height, width)
    torch.testing.assert_close(in_tiles(local, x, 8, scale), local(x), rtol=1e-6, atol=1e-6)


def test_tiles_have_one_shape_and_are_small():
    seen = set()
    in_tiles(lambda x: seen.add(x.shape) or x, torch.zeros(1, 4, 37, 50), 16, (1, 1))
    assert seen == {(1, 4, 16, 16)}


def test_tiles_fade_without_a_seam():
    """Tiles of another level each: the step between neighbours is spread over the overlap."""
    levels = iter(range(100))
    whole = in_tiles(lambda x: x + next(levels), torch.zeros(1, 1, 16, 100), 16, (1, 1))[0, 0, 0]
    assert float(whole.diff().abs().max()) <= 1 / 3


@pytest.mark.parametrize(
    ("size", "tiling", "expected"),
    [
        ((16, 16), True, False),
        ((16, 17), True, True),
        ((32, 32), None, False),
        ((32, 33), None, True),
        ((90, 90), False, False),
    ],
)
def test_when_tiles_are_used(size, tiling, expected):
    assert wants_tiles(size, 16, tiling) is expected


def test_a_trained_vae_keeps_large_pictures_as_well_in_tiles():
    """Better, if anything: each tile is of the size that its norms have seen."""
    scenes = [draw(sample_scene(np.random.default_rng(seed))) for seed in range(6)]
    pixels = torch.from_numpy(
        np.concatenate([np.concatenate(scenes[i : i + 3], axis=1) for i in (0, 3)])
    )[None]
    tiled = Engine.from_pretrained("tiny", device="cpu", vae_tiling=True).runner
    whole = Engine.from_pretrained("tiny", device="cpu", vae_tiling=False).runner
    # Of more than four tiles' pixels: tiled
    auto = Engine.from_pretrained("tiny", device="cpu").runner

    def psnr(runner: Any) -> float:
        kept = runner.to_pixels(runner.to_latents(pixels)).float()
        return float(-10 * ((kept - pixels) / 255).square().mean().log10())

    assert psnr(tiled) > psnr(whole) - 0.5 > 24
    assert torch.equal(auto.to_latents(pixels), tiled.to_latents(pixels))


def test_a_level_picture_has_no_seams(published):
    tiled = Engine.from_pretrained(published.path, device="cpu", vae_tiling=True).runner
    tiled.vae.sample_size = 64
    image = tiled.to_image(torch.full((1, 4, 24, 24), 0.3))
    inner = image[..., 32:-32, 32:-32]
    assert float(inner.diff(dim=-1).abs().max()) <= 2 * float(
        tiled.vae.to_image(torch.full((1, 4, 8, 8), 0.3)).diff(dim=-1).abs().max()
    )


# --- half precision -------------------------------------------------------------------------------


@pytest.fixture
def overflowing(small_bundle) -> Iterator[Engine]:
    """Its VAE overflows in float16, on the way in and on the way out, and nowhere in float32."""
    engine = Engine.from_pretrained(small_bundle, device="cpu")
    vae = engine.runner.vae
    with torch.no_grad():
        for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
            layer.weight *= 3e5
    vae.half()
    yield engine


@pytest.mark.filterwarnings("ignore:the VAE overflowed")
def test_what_overflows_is_computed_again_in_float32(overflowing):
    runner = overflowing.runner
    exact = Engine.from_pretrained(overflowing.bundle.path, device="cpu").runner
    exact.vae.load_state_dict(
        {key: value.float() for key, value in runner.vae.state_dict().items()}
    )
    pixels = torch.from_numpy(np.asarray(picture()).copy())[None]
    latents = exact.to_latents(pixels)
    assert not runner.stages.to_moments(pixels).isfinite().all()
    assert torch.equal(runner.to_latents(pixels), latents)
    assert torch.equal(runner.to_pixels(latents), exact.to_pixels(latents))
    assert torch.equal(runner.to_image(latents), exact.to_image(latents))
    assert runner.pictures.retries == 3 and exact.pictures.retries == 0
    # And not black
    assert len(overflowing.edit(picture(), SOURCE, TARGET).image.getcolors(10_000)) > 10


def test_the_first_overflow_is_told(overflowing):
    with pytest.warns(UserWarning, match="overflowed in half precision") as told:
        for _ in range(2):
            overflowing.runner.to_image(torch.randn(1, 4, 8, 8))
    assert len(told) == 1


@pytest.mark.filterwarnings("ignore:the VAE overflowed")
def test_what_is_not_finite_in_float32_either_is_an_error(overflowing):
    for decode in (overflowing.runner.to_pixels, overflowing.runner.to_image):
        with pytest.raises(ImageError, match="NaN"):
            decode(torch.full((1, 4, 8, 8), torch.nan))
    assert overflowing.runner.pictures.retries == 2


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
def test_no_output_type_hands_out_nan(small_engine, kind):
    def broken(step, t, latents):
        latents.fill_(torch.nan)

    with pytest.raises(ImageError, match="NaN"):
        small_engine.edit(picture(), SOURCE, TARGET, output_type=kind, callback_on_step_end=broken)


# --- networks that wait on the host ---------------------------------------------------------------


class Moved(nn.Module):
    """Notes where it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []

    def to(self, device):
        self.places.append(str(device))
        return self


def test_networks_come_and_go():
    text, vae = Moved(), Moved()
    residence = Residence(torch.device("cuda:0"), text, vae)
    assert text.places == vae.places == ["cpu"]
    with residence.of(vae):
        assert vae.places == ["cpu", "cuda:0"]
        with residence.of(vae):  # another thread's use
            pass
        assert vae.places == ["cpu", "cuda:0"]
    assert vae.places == ["cpu", "cuda:0", "cpu"] and text.places == ["cpu"]
    with pytest.raises(ZeroDivisionError), residence.of(text):
        raise ZeroDivisionError
    assert text.places == ["cpu", "cuda:0", "cpu"]


def test_offloading_changes_nothing_on_the_cpu(small_bundle, small_engine):
    offloaded = Engine.from_pretrained(small_bundle, device="cpu", offload=True)
    assert offloaded.runner.name == "eager"
    expected = small_engine.edit(picture(), SOURCE, TARGET).latents
    assert torch.equal(offloaded.edit(picture(), SOURCE, TARGET).latents, expected)
