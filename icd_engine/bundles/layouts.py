"""Where weights lie: in one file, in shards by their index, as a half-precision variant, or in
pickles, which are read as tensors and never run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from icd_engine.bundles.files import read_json, read_shapes, read_weights, require_file
from icd_engine.errors import BundleError, shown

if TYPE_CHECKING:
    from torch import Tensor

VARIANTS = ("", ".fp16")  # full precision first
GGUF = ".gguf"
PICKLED = {"model": "pytorch_model"}  # transformers' name of a pickle; diffusers' is the same


@dataclass(frozen=True)
class WeightFiles:
    """The files of one network's weights.

    name: what errors and records call them, the file or the index of shards. where: key -> name of
    the file that the index says it is in; empty for a single file.
    """

    name: Path
    files: tuple[Path, ...]
    where: Mapping[str, str] = field(default_factory=dict, repr=False)


def single(path: Path) -> WeightFiles:
    """Weights that lie in one file."""
    return WeightFiles(path, (path,))


def find_weights(folder: Path, name: str) -> WeightFiles:
    """The weights that `folder` has in place of the safetensors file `name`: that file, its shards,
    the same in half precision, or pickles (`.bin`).

    Raises BundleError, naming what is there instead or is missing, by the folder's name.
    """
    stem = name.removesuffix(".safetensors")
    for kind, base in (("safetensors", stem), ("bin", PICKLED.get(stem, stem))):
        for variant in VARIANTS:
            if (folder / f"{base}{variant}.{kind}").is_file():
                return single(folder / f"{base}{variant}.{kind}")
            index = folder / f"{base}.{kind}.index{variant}.json"
            if index.is_file():
                return _sharded(index, f".{kind}")
    quantised = sorted(path.name for path in folder.glob(f"*{GGUF}"))
    if quantised:
        raise gguf(f"{folder.name}/{quantised[0]}")
    return single(require_file(folder.parent, f"{folder.name}/{name}"))


def _sharded(index: Path, suffix: str) -> WeightFiles:
    named = f"{index.parent.name}/{index.name}"
    where = read_json(index.parent.parent, named).get("weight_map")
    if not isinstance(where, dict) or not where:
        raise BundleError(f"{named}: weight_map must tell the file of every key")
    for key, name in where.items():
        plain = isinstance(name, str) and name.endswith(suffix) and "\\" not in name
        if not plain or PurePosixPath(name).name != name:
            raise BundleError(
                f"{named}: {key!r} must be in a {suffix} file beside it, not {shown(name)}"
            )
    files = tuple(index.parent / name for name in sorted(set(where.values())))
    for path in files:
        require_file(index.parent.parent, f"{index.parent.name}/{path.name}")
    return WeightFiles(index, files, where)


def gguf(name: object) -> BundleError:
    """The refusal of a GGUF file."""
    return BundleError(
        f"{name} is GGUF, whose quantised weights are not supported: give safetensors"
    )


def read_found(found: WeightFiles, integers: bool = True) -> dict[str, Tensor]:
    """All tensors, in the files' own precision; shards must hold what their index says.

    integers: whether tensors of whole numbers may be among them. Raises BundleError naming the file
    and the key.
    """
    parts = {path: read_state(path, integers) for path in found.files}
    _check_index(found, parts)
    return {key: value for own in parts.values() for key, value in own.items()}


def found_shapes(found: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Key -> shape; of safetensors from the headers alone."""
    parts = {
        path: read_shapes(path)
        if path.suffix == ".safetensors"
        else {key: tuple(value.shape) for key, value in read_state(path).items()}
        for path in found.files
    }
    _check_index(found, parts)
    return {key: shape for own in parts.values() for key, shape in own.items()}


def _check_index(found: WeightFiles, parts: Mapping[Path, Mapping[str, object]]) -> None:
    if not found.where:
        return
    for path, own in parts.items():
        said = {key for key, name in found.where.items() if name == path.name}
        for key in sorted(own.keys() ^ said):
            missing = "is missing, which" if key in said else "is not where"
            raise BundleError(f"{path}: {key!r} {missing} {found.name.name} says it is")


def read_state(path: Path, integers: bool = False) -> dict[str, Tensor]:
    """A plain state dict of one file in its own precision, mapped from it where that can be.

    A pickle is read with torch's weights-only loader: nothing in it is ever run. Raises BundleError
    naming the file, and the key where it is no plain tensor, or of whole numbers without `integers`.
    """
    if path.suffix == GGUF:
        raise gguf(path)
    if path.suffix == ".safetensors":
        return read_weights(path)
    import torch

    state = load_pickle(path)
    if not isinstance(state, Mapping):
        raise BundleError(f"{path} must hold a state dict, not a {type(state).__name__}")
    for key, value in state.items():
        plain = (
            isinstance(key, str)
            and isinstance(value, torch.Tensor)
            and value.layout == torch.strided
        )
        if not plain or value.device.type != "cpu" or not (integers or value.is_floating_point()):
            raise BundleError(f"{path.name}: {key!r} is not a plain tensor of numbers")
    return {key: value.detach() for key, value in state.items()}


def load_pickle(path: Path) -> Any:
    """What torch's weights-only loader reads of a pickle: nothing in it is ever run. BundleError
    naming the file."""
    import torch

    if not path.is_file():
        raise BundleError(f"{path} is missing")
    try:
        # Mapped, it takes no memory of its own; torch's format before 1.6 cannot be.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    except Exception as error:  # a damaged or hostile file may raise anything; none of it is ours
        raise BundleError(
            f"{path} is damaged or holds more than tensors: refused, nothing in it was run"
        ) from error
