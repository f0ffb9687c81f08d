"""What a model folder is, in short lines: for `icd convert` and `icd doctor`."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.family import FAMILIES
from icd_engine.errors import BundleError


def describe(bundle: Bundle) -> Iterator[tuple[str, str]]:
    """(name, text) of everything but the digests.

    Raises BundleError if a weight file cannot be read.
    """
    width, height = bundle.size
    embedded = "embedded" if bundle.guidance_embedded else "two passes a hop"
    yield "model", str(bundle.path)
    yield "made from", _origin(bundle)
    yield "family", f"{bundle.family}, guidance {embedded}"
    yield "encode steps", " -> ".join(map(str, (*bundle.encode_times, bundle.encode_end)))
    yield "decode steps", " -> ".join(map(str, (*reversed(bundle.decode_times), 0)))
    yield "picture size", f"{width}x{height}"
    if bundle.exported is not None:
        opset = bundle.exported.opset
        format = "for OpenVINO" if opset is None else f"opset {opset}"
        yield "exported", f"{bundle.exported.precision}, {format}"
        for name, graph in bundle.exported.graphs.items():
            measured = (
                "not checked" if graph.error is None else f"differs from torch by {graph.error:.0e}"
            )
            yield name, f"{graph.file}, {measured}"
    for part in () if bundle.exported else FAMILIES[bundle.family].weights:
        yield part, _stored(bundle.weights(part))
    if bundle.exported is None:
        yield "memory", _expected_memory(bundle)
    yield "size on disk", in_units(size_on_disk(bundle))


def size_on_disk(bundle: Bundle) -> int:
    """Bytes of all its files."""
    return sum(path.stat().st_size for path in bundle.path.rglob("*") if path.is_file())


def in_units(size: int) -> str:
    """Bytes as MB or GB of powers of ten."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _expected_memory(bundle: Bundle) -> str:
    """What an edit needs in each precision: all weights, and the VAE's decoder at full size, which
    is the largest of what comes and goes: its last stage holds about three maps of its second
    width. Left out: what libraries and compiled programs keep, and what is kept of prompts and
    inversions.
    """
    counts = {
        part: sum(_counts(bundle.weights(part)).values())
        for part in FAMILIES[bundle.family].weights
    }
    widths = bundle.config("vae")["block_out_channels"]
    width, height = bundle.size
    coming_and_going = 3 * widths[min(1, len(widths) - 1)] * width * height
    saved = 0
    if bundle.difference is not None:
        saved = counts["unet_forward"] - sum(_counts(bundle.difference).values())
    texts = []
    for name, size in (("float32", 4), ("bfloat16", 2)):
        whole = size * (sum(counts.values()) + coming_and_going)
        switched = f" ({in_units(whole - size * saved)} with weights switch)" if saved else ""
        texts.append(f"{in_units(whole)} in {name}{switched}")
    return "about " + ", ".join(texts)


def _origin(bundle: Bundle) -> str:
    """The names in the record's origin; published files stand there with their digest."""
    names = {}
    for key, value in bundle.origin.items():
        name = value.get("file") if isinstance(value, dict) else value
        if isinstance(name, str):
            names[key] = name
    return ", ".join(f"{key} {name}" for key, name in names.items()) or "not recorded"


def _stored(path: Path) -> str:
    """Parameters, precision on disk and size of a weight file, from its header."""
    counts = _counts(path)
    kinds = ", ".join(sorted(counts))
    return (
        f"{sum(counts.values()) / 1e6:.2f} M parameters, {kinds}, {in_units(path.stat().st_size)}"
    )


def _counts(path: Path) -> Counter[str]:
    """Parameters by precision, from the header of a weight file."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    try:
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118
                tensor = file.get_slice(key)
                counts[tensor.get_dtype()] += math.prod(tensor.get_shape())
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is not a whole safetensors file: {error}") from error
    return counts
