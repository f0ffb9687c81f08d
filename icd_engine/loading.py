"""A bundle's weights -> networks on a device -> the runner that executes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.family import DIFFERENCE
from icd_engine.bundles.files import check_finite, read_weights
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import BundleError, IcdError, RunnerError
from icd_engine.networks.difference import share_weights
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.text_encoder import (
    DualTextEncoder,
    PenultimateTextEncoder,
    PooledTextEncoder,
    TextEncoder,
)
from icd_engine.networks.unet import UNet
from icd_engine.networks.vae import VAE
from icd_engine.placement import DTYPES, PLAIN, Placement, check_name
from icd_engine.processes import first_process, forked
from icd_engine.runners.compiled import CompiledRunner, can_compile
from icd_engine.runners.contract import Runner
from icd_engine.runners.eager import EagerRunner
from icd_engine.runners.graph import GraphRunner
from icd_engine.runners.stages import TorchNetworks
from icd_engine.shortage import is_short

RUNNERS = {runner.name: runner for runner in (EagerRunner, CompiledRunner, GraphRunner)}
Network = TypeVar("Network", bound=nn.Module)


def load_runner(bundle: Bundle, placement: Placement = PLAIN) -> Runner:
    """Loads every network strictly and hands them to the runner that is asked for.

    Raises BundleError, and RunnerError, also where torch has computed in a process that this one
    was forked from.
    """
    if os.getpid() != first_process():  # a model of its own would need torch's threads, too
        raise forked()
    device = choose_device(placement.device)
    precision = choose_dtype(placement.dtype, placement.device)
    if placement.runner != "auto" and placement.runner not in RUNNERS:
        raise RunnerError(
            f"runner {placement.runner!r} runs exported folders: make one with `icd export`"
        )
    levels = {"blend_downscale": bundle.blend_downscale, "share_downscale": bundle.share_downscale}
    # float16 overflows in the VAE of Stable Diffusion: it stays in float32 there.
    vae_precision = torch.float32 if precision == torch.float16 else precision
    text_encoder = load_text_encoder(bundle, device, precision)
    vae = load_network(bundle, "vae", VAE, device, vae_precision)
    make_unet = partial(UNet, **levels)
    decode = load_network(bundle, "unet", make_unet, device, precision)
    if placement.weights == "switch":
        encode = load_encode_network_by_difference(bundle, make_unet, decode)
    else:
        encode = load_network(bundle, "unet_forward", make_unet, device, precision)
    for network in (vae, decode, encode):
        keep_filters(network)
    name = placement.runner
    if name == "auto":
        name = _best_runner(device, bundle.guidance_embedded, placement.offload)
    return RUNNERS[name](TorchNetworks(text_encoder, vae, encode, decode), placement)


def _best_runner(device: torch.device, guidance_embedded: bool, offload: bool) -> str:
    if device.type != "cuda" or not can_compile(device):
        return "eager"  # on the CPU compiling takes a minute, which one edit never earns back
    return "graph" if guidance_embedded and not offload else "eager"


def load_encode_network_by_difference(
    bundle: Bundle, make: Callable[[dict[str, Any]], UNet], decode: UNet
) -> UNet:
    """The encode network in the memory of the decode network.

    BundleError where the bundle has not what it takes.
    """
    path = bundle.difference
    if path is None:
        raise BundleError(
            f"{bundle.path}: weights 'switch' needs {DIFFERENCE}, which `icd convert` writes"
        )
    with torch.device("meta"):
        encode = make(bundle.config("unet_forward"))
    try:
        share_weights(encode, decode, read_weights(path))
    except (RuntimeError, KeyError) as error:
        raise BundleError(
            f"{path} does not fit the networks: {' '.join(str(error).split())[:300]}"
        ) from None
    return encode.eval()


def load_text_encoder(
    bundle: Bundle, place: torch.device, precision: torch.dtype
) -> TextEncoder | DualTextEncoder:
    """The text encoder of the bundle's family: SDXL has two."""
    if bundle.family != "sdxl":
        return load_network(bundle, "text_encoder", TextEncoder, place, precision)
    first = load_network(bundle, "text_encoder", PenultimateTextEncoder, place, precision)
    make_second = partial(
        PooledTextEncoder, end=PromptTokenizer.from_folder(bundle.path / "tokenizer").end
    )
    return DualTextEncoder(
        first, load_network(bundle, "text_encoder_2", make_second, place, precision)
    )


def load_network(
    bundle: Bundle,
    part: str,
    make: Callable[[dict[str, Any]], Network],
    place: torch.device,
    precision: torch.dtype,
) -> Network:
    """One part of a bundle, ready to run.

    BundleError naming what its config.json lacks or what does not fit it.
    """
    config = bundle.config(part)
    try:
        with torch.device("meta"):  # every weight is loaded: none is worth initialising
            network = make(config)
    except Exception as error:  # whatever the fields together do to a constructor
        if isinstance(error, IcdError) or is_short(error):
            raise
        raise BundleError(
            f"{bundle.path / part / 'config.json'}: no network can be made of it: {error}"
        ) from None
    load_weights(bundle, part, network, precision)
    return placed(network, place, precision)


def placed(network: Network, place: torch.device, precision: torch.dtype) -> Network:
    """The network where it runs, in the layout that it has there."""
    # On the CPU, PyTorch's channels-last GroupNorm takes variances in one pass and loses digits an
    # inversion needs.
    if place.type != "cpu":
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    network.to(place, precision).eval().requires_grad_(False)
    if place.type == "cuda" and isinstance(network, UNet):
        network.join_weights()
    return network


def load_weights(bundle: Bundle, part: str, network: nn.Module, precision: torch.dtype) -> None:
    """Loads one part strictly. BundleError naming the file and the first key that does not fit."""
    path = bundle.weights(part)
    weights = read_weights(path)
    for key, value in weights.items():
        if not value.is_floating_point() and not key.endswith("position_ids"):
            raise BundleError(f"{path}: {key!r} holds {value.dtype}, not floating-point numbers")
    weights = {key: value.to(precision) for key, value in weights.items()}
    if precision == torch.float16:  # 65504 is the end of its range
        check_finite(weights, f"{path} in float16")
    try:
        if isinstance(network, TextEncoder):
            network.load_weights(weights)
        else:
            network.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()]
        raise BundleError(
            f"{path} does not fit its config.json: {' '.join(reasons[1:2])[:300]}"
        ) from None


def choose_device(device: str) -> torch.device:
    """The device a name stands for. RunnerError if it is unknown or not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        raise RunnerError(f"unknown device {device!r}: use auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda"):
        raise RunnerError(f"device {device!r} is not supported: use auto, cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise RunnerError(
            f"device {device!r} was asked for, but {torch.cuda.device_count()} CUDA devices are there"
        )
    return chosen


def choose_dtype(dtype: str, device: str) -> torch.dtype:
    """float32 on CPU and bfloat16 on CUDA for "auto". RunnerError if the name is unknown."""
    if dtype == "auto":
        return torch.bfloat16 if choose_device(device).type == "cuda" else torch.float32
    check_name("dtype", dtype, ("auto", *DTYPES))
    return getattr(torch, dtype)
