"""Networks with styles on: changed where they lie, or by what is added as they run.

Weights are always computed anew from those of the model folder, in float32, so that taking a style
away leaves no trace. Tensors stay where they are: networks that share them, and CUDA graphs, go on
reading the right ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.files import check_finite, open_weights
from icd_engine.bundles.lora import Updates, factors, fused
from icd_engine.bundles.styles import UNET, UsedStyle, bare
from icd_engine.networks.difference import LowRankUpdate
from icd_engine.networks.resizing import keep_filters
from icd_engine.networks.text_encoder import DualTextEncoder, TextEncoder
from icd_engine.runners.stages import TorchNetworks

EMBEDDING = "embeddings.token_embedding"


def restyled(
    networks: TorchNetworks,
    bundle: Bundle,
    before: Sequence[UsedStyle],
    after: Sequence[UsedStyle],
    ids: Mapping[str, int],
) -> TorchNetworks:
    """The networks of a bundle as the styles of `after` make them; before: those that are on.

    ids: of the tokens that they add. A style on the decode network alone gives it a text encoder of
    its own, which shares the weights of the other. Raises BundleError where weights overflow.
    """
    decode = networks.decode_network
    encode = networks.encode_network
    alone = [style for style in after if not style.both]
    if _original(decode.conv_in).data_ptr() == _original(encode.conv_in).data_ptr():
        # Weights "switch": the encode network is these very weights and an update of its own
        _write(decode, bundle, UNET, _on_both(before), _on_both(after))
        _take_away(decode)
        _add_while_running(decode, _updates(alone, UNET))
    else:
        _write(decode, bundle, UNET, before, after)
        _write(encode, bundle, "unet_forward", _on_both(before), _on_both(after))
    for network in (decode, encode):
        keep_filters(network)
    parts = [part for part in bundle.configs if part.startswith("text_encoder")]
    for part, encoder in zip(parts, _encoders(networks.text_encoder), strict=True):
        _write(encoder, bundle, part, _on_both(before), _on_both(after))
        if any(style.style.tokens for style in (*before, *after)):
            _write_vectors(encoder, bundle, part, after, ids)
    own = None
    if any(_updates(alone, part) for part in parts):
        own = _sharing_copy(networks.text_encoder)
        for part, encoder in zip(parts, _encoders(own), strict=True):
            _add_while_running(encoder, _updates(alone, part))
    return networks._replace(decode_text_encoder=own)


def _encoders(encoder: TextEncoder | DualTextEncoder) -> list[TextEncoder]:
    return [encoder.first, encoder.second] if isinstance(encoder, DualTextEncoder) else [encoder]


def _on_both(styles: Iterable[UsedStyle]) -> list[UsedStyle]:
    return [style for style in styles if style.both]


def _updates(styles: Iterable[UsedStyle], part: str) -> Updates:
    """Module -> what styles add, those of scale 0 left out."""
    found: Updates = {}
    for one in styles:
        for module, pair in one.style.of(part).items():
            if one.scale:
                found.setdefault(module, []).append((one.scale, pair))
    return found


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    return {bare(name): module for name, module in network.named_modules()}


def _original(module: nn.Module) -> Tensor:
    """The weight that a module holds, whatever is added to it as it runs."""
    if parametrize.is_parametrized(module, "weight"):
        return module.get_submodule("parametrizations.weight").get_parameter("original")
    return module.get_parameter("weight")


@torch.no_grad()
def _write(
    network: nn.Module,
    bundle: Bundle,
    part: str,
    before: Sequence[UsedStyle],
    after: Sequence[UsedStyle],
) -> None:
    """Weights of the folder with the updates of `after`, for all modules that any style is on."""
    updates = _updates(after, "unet" if part == "unet_forward" else part)
    touched = _updates(before, "unet" if part == "unet_forward" else part) | updates
    if not touched:
        return
    modules = _modules(network)
    with open_weights(bundle.weights(part), bare) as stored:
        for name in touched:
            weight = _original(modules[name])
            new = fused(stored(f"{name}.weight"), updates.get(name, [])).to(weight.dtype)
            check_finite({name: new}, f"styles on {part} in {weight.dtype}")
            weight.copy_(new)


def _take_away(network: nn.Module) -> None:
    for module in network.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)


@torch.no_grad()
def _add_while_running(network: nn.Module, updates: Updates) -> None:
    modules = _modules(network)
    for name, own in updates.items():
        weight = _original(modules[name])
        down, up = (factor.to(weight.device, weight.dtype) for factor in factors(own))
        update = LowRankUpdate(down, up)
        check_finite({name: update(weight)}, f"styles in {weight.dtype}")
        parametrize.register_parametrization(modules[name], "weight", update, unsafe=True)
    network.requires_grad_(False)


def _write_vectors(
    network: nn.Module,
    bundle: Bundle,
    part: str,
    styles: Sequence[UsedStyle],
    ids: Mapping[str, int],
) -> None:
    """The folder's table of vectors, with those of added tokens in their places."""
    table = _modules(network)[EMBEDDING]
    weight = _original(table)
    with open_weights(bundle.weights(part), bare) as stored:
        rows = stored(f"{EMBEDDING}.weight")
    adding = [one.style for one in styles if one.style.tokens]
    wanted = max([len(rows), *(ids[token] + 1 for style in adding for token in style.tokens)])
    new = torch.zeros(wanted, rows.shape[1])
    new[: len(rows)] = rows
    for style in adding:
        for token, vector in zip(style.tokens, style.vectors[part], strict=True):
            new[ids[token]] = vector
    table.weight = nn.Parameter(new.to(weight.device, weight.dtype), requires_grad=False)


def _sharing_copy(encoder: TextEncoder | DualTextEncoder) -> TextEncoder | DualTextEncoder:
    """Modules of its own on the very tensors of the other."""
    tensors = [*encoder.parameters(), *encoder.buffers()]
    return copy.deepcopy(encoder, {id(tensor): tensor for tensor in tensors})
