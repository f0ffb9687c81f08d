"""Counted work: the formulas against torch's own counter on diffusers' networks, and against the
published figures."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.architectures import ARCHITECTURES
from benchmarks.counting import (
    edit_work,
    floor_ms,
    flops,
    reference_work,
    text_work,
    unet_work,
    vae_decoder_work,
    vae_encoder_work,
)

SD15, SDXL = ARCHITECTURES["sd15"], ARCHITECTURES["sdxl"]
UNET = unet_work(SD15["unet"], 64, 64)
H200 = (790e12, 4.3e12)  # FLOP/s in bfloat16, bytes/s


def counted(call) -> int:
    """FLOPs torch sees in a call on the meta device: shapes only, any size costs nothing."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def on_meta(kind: str, config: dict):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        return getattr(diffusers, kind).from_config(config)


@pytest.mark.parametrize(("name", "rows"), [("sd15", 2), ("sdxl", 1), ("small", 3)])
def test_unet_is_what_torch_counts(name, rows):
    config = ARCHITECTURES[name]["unet"]
    unet, height, width = on_meta("UNet2DConditionModel", config), 64, 32
    empty = lambda *shape: torch.empty(shape, device="meta")  # noqa: E731
    added = None
    if "addition_embed_type" in config:
        pooled = (
            config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        )
        added = {"text_embeds": empty(rows, pooled), "time_ids": empty(rows, 6)}
    seen = counted(
        lambda: unet(
            empty(rows, 4, height, width),
            empty(rows),
            empty(rows, 77, config["cross_attention_dim"]),
            timestep_cond=empty(rows, config["time_cond_proj_dim"]),
            added_cond_kwargs=added,
        )
    )
    assert flops(unet_work(config, height, width, rows)) == seen


@pytest.mark.parametrize("name", ["sd15", "small"])
def test_vae_is_what_torch_counts(name):
    config = ARCHITECTURES[name]["vae"]
    vae = on_meta("AutoencoderKL", config)
    # The encoder's halves of stride 2 pad by one pixel on one side, so its output is as large as
    # counted.
    encoded = counted(
        lambda: vae.quant_conv(vae.encoder(torch.empty(2, 3, 128, 64, device="meta")))
    )
    decoded = counted(
        lambda: vae.decoder(vae.post_quant_conv(torch.empty(2, 4, 16, 8, device="meta")))
    )
    assert flops(vae_encoder_work(config, 128, 64, 2)) == encoded
    assert flops(vae_decoder_work(config, 128, 64, 2)) == decoded


@pytest.mark.parametrize(
    ("work", "gflop"),
    [
        (UNET, 803),
        (unet_work(SD15["unet"], 64, 64, 2), 1607),
        (vae_encoder_work(SD15["vae"], 512, 512), 1117),
        (vae_decoder_work(SD15["vae"], 512, 512), 2515),
        (text_work(SD15["text_encoder"], 2), 27),
        (unet_work(SDXL["unet"], 128, 128), 6761),
        (vae_encoder_work(SDXL["vae"], 1024, 1024), 4879),
        (vae_decoder_work(SDXL["vae"], 1024, 1024), 10470),
        (reference_work(SD15, (512, 512)), 27_900),
    ],
    ids=[
        "unet-1",
        "unet-2",
        "vae-encoder",
        "vae-decoder",
        "clip",
        "sdxl-unet",
        "sdxl-encoder",
        "sdxl-decoder",
        "ref",
    ],
)
def test_published_figures(work, gflop):
    assert flops(work) / 1e9 == pytest.approx(gflop, rel=0.02)


@pytest.mark.parametrize(("kind", "gflop"), [("conv", 444), ("linear", 233), ("attention", 126)])
def test_the_unet_by_kind(kind, gflop):
    assert flops(UNET, kind) / 1e9 == pytest.approx(gflop, rel=0.02)


@pytest.mark.parametrize(
    ("hops", "kept", "tflop", "roofline_ms"),
    [(4, False, 13.27, 17.8), (4, True, 5.73, 8.0), (3, False, 10.86, 14.5)],
    ids=["4+4", "further", "3+3"],
)
def test_whole_edits_on_an_h200(hops, kept, tflop, roofline_ms):
    work = edit_work(SD15, (512, 512), encode_hops=hops, decode_hops=hops, kept=kept)
    every = [one for stage in work.values() for one in stage]
    assert flops(every) / 1e12 == pytest.approx(tflop, rel=0.02)
    assert floor_ms(every, 2, *H200) == pytest.approx(roofline_ms, rel=0.02)
    assert ("encode" in work) != kept
