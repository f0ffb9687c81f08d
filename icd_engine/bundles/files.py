"""Single files of a model folder: required, parsed, hashed, and weights read from safetensors
only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icd_engine.errors import BundleError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")


def require_file(folder: Path, name: str) -> Path:
    """The path of a file that must exist.

    Raises BundleError, also when a pickle stands in place of safetensors.
    """
    path = folder / name
    if path.is_file():
        return path
    if path.suffix == ".safetensors" and path.parent.is_dir():
        pickled = sorted(other.name for other in path.parent.iterdir() if other.suffix in PICKLES)
        if pickled:
            other = Path(name).parent / pickled[0]
            raise BundleError(
                f"{other.as_posix()} is a pickle and only safetensors is loaded: {name} is missing"
            )
    raise BundleError(f"{name} is missing")


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object. Raises BundleError naming the file when it is missing, damaged or not an
    object."""
    path = require_file(folder, name)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{name} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise BundleError(f"{name} must hold a JSON object")
    return value


def file_digest(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Key -> shape from the header of a safetensors file, no weight read.

    Raises BundleError naming the file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is not a whole safetensors file: {error}") from error


def read_header(path: Path) -> dict[str, str]:
    """What the header of a safetensors file says beside its tensors. BundleError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is not a whole safetensors file: {error}") from error


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU, in the file's own precision.

    Raises BundleError naming the file when it is missing, short or corrupt, and the key when a
    value is not finite.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    if path.suffix != ".safetensors":
        raise BundleError(f"{path} is not loaded: only safetensors is")
    if not path.is_file():
        raise BundleError(f"{path} is missing")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path} is not a whole safetensors file: {error}") from error
    check_finite(tensors, path)
    return tensors


@contextmanager
def open_weights(
    path: Path, renamed: Callable[[str], str] = str
) -> Iterator[Callable[[str], Tensor]]:
    """What reads one tensor of a safetensors file after the other, by names that `renamed` gives its
    keys. BundleError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            keys = {renamed(key): key for key in file.keys()}  # noqa: SIM118
            yield lambda name: file.get_tensor(keys[name])
    except (OSError, SafetensorError, KeyError) as error:
        raise BundleError(f"{path} is not the file that was loaded: {error}") from error


def check_finite(tensors: Mapping[str, Tensor], where: object) -> None:
    """Raises BundleError naming the first key, by name, that holds NaN or infinity."""
    for key in sorted(tensors):
        values = tensors[key]
        if values.element_size() == 1 and values.is_floating_point():
            values = values.float()  # torch cannot ask the 8-bit kinds
        if not values.isfinite().all():
            raise BundleError(f"{where}: {key!r} holds NaN or infinity")


def write_file(folder: Path, name: str, content: Any) -> None:
    """Writes one file: tensors (*.safetensors), a JSON object (*.json), text, bytes, or a copy of
    the file at a Path.

    Raises BundleError when tensors are not finite, or share memory, which safetensors cannot
    express.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, Path):
        with content.open("rb") as source, path.open("wb") as copy:
            while block := source.read(1 << 20):
                copy.write(block)
    elif isinstance(content, Mapping) and path.suffix == ".safetensors":
        _write_tensors(path, name, content)
    elif isinstance(content, Mapping):
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content, encoding="utf-8")


def _write_tensors(path: Path, name: str, tensors: Mapping[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_finite(tensors, name)
    try:
        path.touch()
        # As other files are made: safetensors would let nobody else read it
        mode = path.stat().st_mode
        save_file(
            {key: value.contiguous() for key, value in tensors.items()},
            path,
            metadata={"format": "pt"},
        )
        path.chmod(mode)
    except (SafetensorError, RuntimeError) as error:
        raise BundleError(f"{name} cannot be written: {' '.join(str(error).split())}") from error
