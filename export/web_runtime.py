"""The files of onnxruntime-web, from the npm registry: one version, held to its hash."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tarfile
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from icd_engine.errors import BundleError

VERSION = "1.30.0"
ADDRESS = f"https://registry.npmjs.org/onnxruntime-web/-/onnxruntime-web-{VERSION}.tgz"
INTEGRITY = (  # as the registry and lock files have it
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
# On the CPU, and on a GPU where the browser has WebGPU
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
FOLDER = "ICD_WEB_RUNTIME"  # environment variable: where the files are, or are kept
SECONDS = 300


def runtime_folder() -> Path:
    """Where the runtime's files are kept: ICD_WEB_RUNTIME, or a folder of the user's cache."""
    own = os.environ.get(FOLDER)
    if own:
        return Path(own)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "icd-engine" / f"onnxruntime-web-{VERSION}"


def has_runtime(folder: Path) -> bool:
    """Whether all of the files are there."""
    return all((folder / name).is_file() for name in FILES)


def runtime() -> Path:
    """The folder with the runtime's files, fetched (27 MB) where they are not there yet.

    BundleError where that fails.
    """
    folder = runtime_folder()
    if has_runtime(folder):
        return folder
    try:
        with urllib.request.urlopen(ADDRESS, timeout=SECONDS) as answer:
            data = answer.read()
    except (OSError, ValueError) as error:
        raise BundleError(
            f"cannot fetch {ADDRESS}: {error}; --no-runtime leaves it out, and {FOLDER} names a "
            "folder that has its files"
        ) from None
    unpack(data, folder)
    return folder


def unpack(data: bytes, folder: Path, integrity: str = INTEGRITY) -> None:
    """Writes the runtime's files of the npm package `data`, each whole or not at all.

    BundleError where it is another package than `integrity` is of.
    """
    found = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found != integrity:
        raise BundleError(f"{ADDRESS} is not the package that was pinned: it has {found}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            tarfile.open(fileobj=io.BytesIO(data)) as package,
            TemporaryDirectory(prefix=".", dir=folder) as scratch,
        ):
            for name in FILES:
                member = package.extractfile(f"package/dist/{name}")
                assert member is not None  # the hash says that it is there
                own = Path(scratch, name)
                own.write_bytes(member.read())
                own.replace(folder / name)
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror or error}") from None
