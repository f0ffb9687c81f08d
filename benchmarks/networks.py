"""One UNet call and the halves of the VAE, alone: eager and compiled and, on CUDA, each replayed
from a graph; on the CPU by OpenVINO too, ours and diffusers' own of the same weights, and by
stable-diffusion.cpp."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import in_stable_diffusion_cpp as ggml
from benchmarks.architectures import ARCHITECTURES
from benchmarks.checks import EXACT, ROUNDED, Refused, exact_float32, require_equal
from benchmarks.counting import Work, flops, unet_work, vae_decoder_work, vae_encoder_work
from benchmarks.record import note
from benchmarks.roofline import peak
from benchmarks.timing import Times, default_warmup, measure, peak_memory_mib, reset_peak_memory
from icd_engine.loading import choose_device, choose_dtype, placed
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.unet import AddedConditions, UNet
from icd_engine.networks.vae import VAE
from icd_engine.runners.inductor import LEVELS

TOKENS = 77
ROWS = (1, 2)
RUNNERS = {
    "cpu": ("eager", "compiled", "openvino", "diffusers-openvino"),
    "cuda": ("eager", "eager-graph", "compiled", "compiled-graph"),
}


@dataclass(frozen=True)
class Piece:
    """One call of one network: its inputs, and its counted work."""

    name: str
    network: Any
    call: Callable[[Any, Sequence[Tensor]], Tensor]
    inputs: list[Tensor]
    work: list[Work]
    theirs: Callable[[], Any]  # diffusers' network of the same weights
    call_theirs: Callable[[Any, Sequence[Tensor]], Tensor]


def measure_networks(
    part: str,
    *,
    architecture: str = "sd15",
    size: int | None = None,
    runner: str = "auto",
    device: str = "auto",
    dtype: str = "auto",
    baseline: str | None = None,
    repeats: int = 10,
    warmup: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Results of the UNet at 1 and 2 rows, or of the VAE's halves, one by one. part: "unet" or
    "vae".

    runner: one of RUNNERS, or "auto" for all of the device's; here they are plain torch.compile,
    plain CUDA graphs and plain OpenVINO. baseline: "stable-diffusion.cpp", on the CPU, after them;
    left out where it is not installed. Raises Refused where a result differs from the eager
    network's in float32.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, device)
    known = RUNNERS[place.type]
    if architecture not in ARCHITECTURES or runner not in ("auto", *known):
        raise Refused(
            f"architecture must be one of {', '.join(ARCHITECTURES)}, runner auto, {', '.join(known)}"
        )
    if baseline is not None and (baseline, place.type) != (ggml.NAME, "cpu"):
        raise Refused(f"the baseline of {part} is {ggml.NAME}, on the CPU")
    warmup = default_warmup(place) if warmup is None else warmup
    model = {"model": f"{architecture} (random weights)"}
    pieces = (_unet_pieces if part == "unet" else _vae_pieces)(architecture, size, place, precision)
    for name in known if runner == "auto" else (runner,):
        for result in filter(None, (_measure(p, name, place, repeats, warmup) for p in pieces)):
            yield model | result
    if baseline is not None:
        works = {piece.name: piece.work for piece in pieces}
        pieces.clear()  # it loads networks of its own
        side = size or ARCHITECTURES[architecture]["size"]
        timed = ggml.measure_pieces(part, architecture, side, precision, repeats, warmup)
        for name, times in timed:
            about = {"piece": name, "runner": ggml.NAME, "note": ggml.NOTES[name]}
            yield model | about | _figures(works[name], times, place, precision)


@torch.inference_mode()
def _measure(
    piece: Piece, runner: str, device: torch.device, repeats: int, warmup: int
) -> dict[str, Any] | None:
    dtype = piece.inputs[0].dtype
    reset_peak_memory(device)
    try:
        call = _prepared(piece, runner, device)
        got = call().clone()
    except RuntimeError as error:
        note(f"{piece.name} by {runner} cannot run here: {' '.join(str(error).split())[:200]}")
        return None
    exact = dtype == torch.float32 and device.type == "cpu"
    if not (exact and runner == "eager"):
        with exact_float32():
            expected = piece.call(_in_float32(piece.network), [x.float() for x in piece.inputs])
        require_equal(
            f"{piece.name} by {runner}", got, expected, EXACT if exact else ROUNDED[dtype]
        )
        del expected
    times = measure(lambda i: call(), device, repeats, warmup)
    return {"piece": piece.name, "runner": runner, **_figures(piece.work, times, device, dtype)}


def _figures(
    work: list[Work], times: Times, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """What a result says of a piece beside its name and runner."""
    floor = peak(device, dtype).floor_ms(work, dtype.itemsize)
    took = times.as_dict("call")
    return {
        "device_type": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        **took,
        "tflop": round(flops(work) / 1e12, 4),
        "floor_ms": round(floor, 4),
        "roofline_share": round(floor / (took["call_device_ms"] or times.p50), 4),
        "peak_memory_mib": peak_memory_mib(device),
        "repeats": len(times.wall),
    }


def _prepared(piece: Piece, runner: str, device: torch.device) -> Callable[[], Tensor]:
    """The call with everything done that is done once: compilation, capture."""
    if runner.endswith("openvino"):
        return _by_openvino(piece, theirs=runner.startswith("diffusers"))
    call: Any = piece.call
    if runner.startswith("compiled"):
        # Tuned by nothing, as the engine does by itself: more takes minutes of every run.
        options = LEVELS["cheap"] if device.type == "cuda" else None
        call = torch.compile(piece.call, dynamic=False, options=options)
    if not runner.endswith("graph"):
        return lambda: call(piece.network, piece.inputs)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(3):
            call(piece.network, piece.inputs)
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(piece.network, piece.inputs)

    def replay() -> Tensor:
        graph.replay()
        return out

    return replay


def _by_openvino(piece: Piece, theirs: bool) -> Callable[[], Tensor]:
    """In float32 tensors: OpenVINO computes in the precision it is told."""
    from benchmarks.in_openvino import InOpenVino

    dtype = piece.inputs[0].dtype
    network: Any = _in_float32(piece.network)
    call = piece.call
    if theirs:
        weights = network.state_dict()
        network = piece.theirs()
        network.load_state_dict(weights, strict=True, assign=True)
        network.requires_grad_(False)
        call = piece.call_theirs
    run = InOpenVino(lambda *inputs: call(network, inputs), dtype)
    inputs = [x.float() for x in piece.inputs]
    run(*inputs)
    return lambda: run(*inputs)


def _in_float32(network: nn.Module) -> nn.Module:
    """A copy that computes with the very weights, but does not round their sums."""
    made = copy.deepcopy(network).float()
    keep_filters(made)
    return made


def _diffusers(kind: str, config: dict[str, Any]) -> Any:
    """diffusers' network of a configuration, without weights. Refused without diffusers."""
    try:
        import diffusers
    except ImportError as error:
        raise Refused(f"diffusers is not installed: {error}") from None
    with torch.device("meta"):
        return getattr(diffusers, kind).from_config(config).eval()


def _their_unet(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    latents, t, prompt, guidance, *added = inputs
    names = ("text_embeds", "time_ids")
    return network(
        latents,
        t,
        prompt,
        timestep_cond=guidance,
        added_cond_kwargs=dict(zip(names, added, strict=False)),
    ).sample


def _their_latents(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    mode = network.encode(inputs[0]).latent_dist.mode()
    return mode * network.config.scaling_factor


def _their_pictures(network: Any, inputs: Sequence[Tensor]) -> Tensor:
    return network.decode(inputs[0] / network.config.scaling_factor).sample


def _made(network: Callable[[], nn.Module], device: torch.device, dtype: torch.dtype) -> Any:
    """A network with its plain initialisation, in the layout the engine gives it."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(0)
        made = placed(network(), device, dtype)
    keep_filters(made)
    return made


def _unet_pieces(
    architecture: str, size: int | None, device: torch.device, dtype: torch.dtype
) -> list[Piece]:
    parts = ARCHITECTURES[architecture]
    config = parts["unet"]
    side = (size or parts["size"]) // 8
    unet = _made(lambda: UNet(config), device, dtype)
    pooled = config.get("projection_class_embeddings_input_dim", 0) - 6 * config.get(
        "addition_time_embed_dim", 0
    )

    def call(network: UNet, inputs: Sequence[Tensor]) -> Tensor:
        latents, t, prompt, guidance, *added = inputs
        return network(
            latents, t, prompt, guidance, None, AddedConditions(*added) if added else None
        ).eps

    pieces = []
    for rows in ROWS:
        latents = torch.randn(rows, config["in_channels"], side, side, device=device).to(dtype)
        t = torch.full((rows,), 519.0, device=device)
        prompt = torch.randn(rows, TOKENS, config["cross_attention_dim"], device=device).to(dtype)
        guidance = torch.randn(rows, config["time_cond_proj_dim"], device=device).to(dtype)
        inputs = [latents, t, prompt, guidance]
        if "addition_embed_type" in config:
            sizes = torch.tensor(
                [[8.0 * side, 8.0 * side, 0, 0, 8.0 * side, 8.0 * side]] * rows, device=device
            )
            inputs += [torch.randn(rows, pooled, device=device).to(dtype), sizes]
        name = f"UNet, {rows} row{'s' if rows > 1 else ''}"
        work = unet_work(config, side, side, rows, TOKENS)
        theirs = partial(_diffusers, "UNet2DConditionModel", config)
        pieces.append(Piece(name, unet, call, inputs, work, theirs, _their_unet))
    return pieces


def _vae_pieces(
    architecture: str, size: int | None, device: torch.device, dtype: torch.dtype
) -> list[Piece]:
    parts = ARCHITECTURES[architecture]
    config = parts["vae"]
    side = size or parts["size"]
    vae = _made(lambda: VAE(config), device, torch.float32 if dtype == torch.float16 else dtype)
    dtype = vae.decoder.conv_in.weight.dtype
    theirs = partial(_diffusers, "AutoencoderKL", config)
    pictures = (2 * torch.rand(1, 3, side, side, device=device) - 1).to(dtype)
    latents = torch.randn(1, config["latent_channels"], side // 8, side // 8, device=device).to(
        dtype
    )
    return [
        Piece(
            "VAE encoder",
            vae,
            lambda n, x: n.to_latents(x[0]),
            [pictures],
            vae_encoder_work(config, side, side),
            theirs,
            _their_latents,
        ),
        Piece(
            "VAE decoder",
            vae,
            lambda n, x: n.to_image(x[0]),
            [latents],
            vae_decoder_work(config, side, side),
            theirs,
            _their_pictures,
        ),
    ]
