"""Counted work: FLOPs and bytes of the networks and of a whole edit, from their configurations
alone.

What the architecture asks for, whatever an implementation does: an optimised engine is held to the
same count as a wasteful one. A multiplication with its addition is two FLOPs. Norms, activations
and additions are not counted as FLOPs, and as bytes they count as fused into their neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NetworkConfig = Mapping[str, Any]
TOKENS = 77


@dataclass(frozen=True)
class Work:
    """One convolution, linear layer or attention: its FLOPs, and the elements it reads and writes
    once each."""

    kind: str  # "conv", "linear" or "attention"
    flops: int
    elements: int


def flops(work: Iterable[Work], kind: str | None = None) -> int:
    """All FLOPs, or those of one kind."""
    return sum(w.flops for w in work if kind in (None, w.kind))


def floor_ms(work: Iterable[Work], itemsize: int, peak_flops: float, bandwidth: float) -> float:
    """Milliseconds of the per-layer roofline: each layer takes the longer of computing and moving
    its data."""
    return 1000 * sum(max(w.flops / peak_flops, itemsize * w.elements / bandwidth) for w in work)


def conv(
    rows: int, height: int, width: int, inner: int, outer: int, kernel: int = 3, stride: int = 1
) -> Work:
    """`height` and `width` are those of the output."""
    pixels = rows * height * width
    weights = inner * outer * kernel**2
    return Work("conv", 2 * pixels * weights, pixels * (inner * stride**2 + outer) + weights)


def linear(rows: int, inner: int, outer: int) -> Work:
    return Work("linear", 2 * rows * inner * outer, rows * (inner + outer) + inner * outer)


def attention(rows: int, queries: int, keys: int, channels: int) -> Work:
    """Q K^T and P V over all heads; no map leaves the chip."""
    return Work(
        "attention", 4 * rows * queries * keys * channels, 2 * rows * (queries + keys) * channels
    )


# --- the UNet -------------------------------------------------------------------------------------


def unet_work(
    config: NetworkConfig, height: int, width: int, rows: int = 1, tokens: int = TOKENS
) -> list[Work]:
    """One call on latents [rows, 4, height, width], from diffusers' unet/config.json."""
    widths: Sequence[int] = config["block_out_channels"]
    levels = len(widths)
    layers = config["layers_per_block"]
    depths = _per_level(config.get("transformer_layers_per_block", 1), levels)
    time = 4 * widths[0]

    def block(inner: int, outer: int, level: int, text: bool) -> list[Work]:
        h = height >> level
        w = width >> level
        work = [*_residual(rows, h, w, inner, outer), linear(rows, time, outer)]
        return work + (
            _transformer(config, rows, h * w, outer, depths[level], tokens) if text else []
        )

    work = [
        *_time_embedding(config, rows, widths[0], time),
        conv(rows, height, width, config["in_channels"], widths[0]),
    ]
    channels = widths[0]
    kept = [widths[0]]
    for level, outer in enumerate(widths):
        for _ in range(layers):
            work += block(channels, outer, level, "CrossAttn" in config["down_block_types"][level])
            channels = outer
            kept.append(outer)
        if level + 1 < levels:
            work.append(conv(rows, height >> level + 1, width >> level + 1, outer, outer, stride=2))
            kept.append(outer)
    work += block(channels, channels, levels - 1, True) + block(
        channels, channels, levels - 1, False
    )
    for i, outer in enumerate(reversed(widths)):
        level = levels - 1 - i
        for _ in range(layers + 1):
            work += block(
                channels + kept.pop(), outer, level, "CrossAttn" in config["up_block_types"][i]
            )
            channels = outer
        if level:
            work.append(conv(rows, height >> level - 1, width >> level - 1, outer, outer))
    return [*work, conv(rows, height, width, widths[0], config["out_channels"])]


def _per_level(value: int | Sequence[int], levels: int) -> Sequence[int]:
    return [value] * levels if isinstance(value, int) else value


def _residual(rows: int, height: int, width: int, inner: int, outer: int) -> list[Work]:
    work = [conv(rows, height, width, inner, outer), conv(rows, height, width, outer, outer)]
    return work if inner == outer else [*work, conv(rows, height, width, inner, outer, kernel=1)]


def _time_embedding(config: NetworkConfig, rows: int, inner: int, outer: int) -> list[Work]:
    work = [linear(rows, inner, outer), linear(rows, outer, outer)]
    if config.get("time_cond_proj_dim"):
        work.append(linear(rows, config["time_cond_proj_dim"], inner))
    if config.get("addition_embed_type") == "text_time":
        added = config["projection_class_embeddings_input_dim"]
        work += [linear(rows, added, outer), linear(rows, outer, outer)]
    return work


def _transformer(
    config: NetworkConfig, rows: int, pixels: int, channels: int, depth: int, tokens: int
) -> list[Work]:
    """Projection in, `depth` blocks of self-attention, cross-attention and feed-forward, projection
    out."""
    n = rows * pixels
    context = linear(rows * tokens, config["cross_attention_dim"], channels)
    square = linear(n, channels, channels)
    block = [
        *[square] * 4,  # to_q, to_k, to_v, to_out
        attention(rows, pixels, pixels, channels),
        *[square] * 2,  # to_q, to_out
        *[context] * 2,  # to_k, to_v
        attention(rows, pixels, tokens, channels),
        linear(n, channels, 8 * channels),
        linear(n, 4 * channels, channels),
    ]
    projection = Work(
        "linear" if config.get("use_linear_projection") else "conv", square.flops, square.elements
    )
    return [projection, *block * depth, projection]


# --- the VAE and the text encoder -----------------------------------------------------------------


def vae_encoder_work(config: NetworkConfig, height: int, width: int, rows: int = 1) -> list[Work]:
    """Pictures [rows, 3, height, width] to latents, from diffusers' vae/config.json."""
    widths = config["block_out_channels"]
    latent = config["latent_channels"]
    work = [conv(rows, height, width, config["in_channels"], widths[0])]
    channels = widths[0]
    for level, outer in enumerate(widths):
        for _ in range(config["layers_per_block"]):
            work += _residual(rows, height >> level, width >> level, channels, outer)
            channels = outer
        if level + 1 < len(widths):
            work.append(conv(rows, height >> level + 1, width >> level + 1, outer, outer, stride=2))
    h = height >> len(widths) - 1
    w = width >> len(widths) - 1
    work += _vae_middle(config, rows, h, w, channels)
    return [
        *work,
        conv(rows, h, w, channels, 2 * latent),
        conv(rows, h, w, 2 * latent, 2 * latent, kernel=1),
    ]


def vae_decoder_work(config: NetworkConfig, height: int, width: int, rows: int = 1) -> list[Work]:
    """Latents to pictures [rows, 3, height, width]."""
    widths = config["block_out_channels"]
    latent = config["latent_channels"]
    lowest = len(widths) - 1
    channels = widths[-1]
    h = height >> lowest
    w = width >> lowest
    work = [conv(rows, h, w, latent, latent, kernel=1), conv(rows, h, w, latent, channels)]
    work += _vae_middle(config, rows, h, w, channels)
    for level in range(lowest, -1, -1):
        for _ in range(config["layers_per_block"] + 1):
            work += _residual(rows, height >> level, width >> level, channels, widths[level])
            channels = widths[level]
        if level:
            work.append(conv(rows, height >> level - 1, width >> level - 1, channels, channels))
    return [*work, conv(rows, height, width, channels, config["out_channels"])]


def _vae_middle(
    config: NetworkConfig, rows: int, height: int, width: int, channels: int
) -> list[Work]:
    work = _residual(rows, height, width, channels, channels) * 2
    if not config.get("mid_block_add_attention", True):
        return work
    pixels = height * width
    return [
        *work,
        *[linear(rows * pixels, channels, channels)] * 4,
        attention(rows, pixels, pixels, channels),
    ]


def text_work(config: NetworkConfig, prompts: int = 1, tokens: int = TOKENS) -> list[Work]:
    """CLIP's text encoder, from text_encoder/config.json."""
    channels = config["hidden_size"]
    n = prompts * tokens
    layer = [
        *[linear(n, channels, channels)] * 4,
        attention(prompts, tokens, tokens, channels),
        linear(n, channels, config["intermediate_size"]),
        linear(n, config["intermediate_size"], channels),
    ]
    return layer * config["num_hidden_layers"]


def prompt_work(configs: Mapping[str, NetworkConfig], prompts: int) -> list[Work]:
    """All text encoders of a bundle."""
    encoders = [config for part, config in configs.items() if part.startswith("text_encoder")]
    return [work for config in encoders for work in text_work(config, prompts)]


# --- a whole edit ---------------------------------------------------------------------------------


def edit_work(
    configs: Mapping[str, NetworkConfig],
    size: tuple[int, int],
    *,
    encode_hops: int = 4,
    decode_hops: int = 4,
    targets: int = 1,
    kept: bool = False,
) -> dict[str, list[Work]]:
    """What an edit needs, by stage: one source row and one row a target, one picture a target
    decoded.

    configs: those of a bundle's text encoders, vae and unet. kept: a re-edit of a kept
    inversion, whose source row is known. The stages are those of `EditResult.timings`.
    """
    width, height = size
    downscale = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    h = height // downscale
    w = width // downscale
    first = {
        "text": prompt_work(configs, 1),
        "vae_encode": vae_encoder_work(configs["vae"], height, width),
        "encode": encode_hops * unet_work(configs["unet"], h, w, 1),
    }
    rows = targets + (not kept)
    return ({} if kept else first) | {
        "text_target": prompt_work(configs, targets),
        "decode": decode_hops * unet_work(configs["unet"], h, w, rows),
        "vae_decode": vae_decoder_work(configs["vae"], height, width, targets),
    }


def reference_work(configs: Mapping[str, NetworkConfig], size: tuple[int, int]) -> list[Work]:
    """What the public reference computes for the same edit: twice the rows, three pictures
    decoded."""
    width, height = size
    downscale = 2 ** (len(configs["vae"]["block_out_channels"]) - 1)
    h = height // downscale
    w = width // downscale
    return [
        *prompt_work(configs, 4),
        *vae_encoder_work(configs["vae"], height, width),
        # 4 + 4 hops
        *4 * (unet_work(configs["unet"], h, w, 2) + unet_work(configs["unet"], h, w, 4)),
        *vae_decoder_work(configs["vae"], height, width, 3),
    ]
