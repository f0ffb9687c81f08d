"""Where published files come from: paths, the authors' tar archives, and repositories of the
Hugging Face hub."""

from __future__ import annotations

import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from gzip import BadGzipFile
from pathlib import Path, PurePosixPath

from icd_engine.bundles.family import DIFFUSERS_WEIGHTS, TEXT_WEIGHTS
from icd_engine.bundles.layouts import GGUF, find_weights, gguf
from icd_engine.bundles.lora_scale import PEFT_CONFIG
from icd_engine.bundles.names import ROLES, times_in
from icd_engine.bundles.scratch import scratch_folder
from icd_engine.bundles.single_file import SUFFIXES, names, unpack
from icd_engine.errors import BundleError

ARCHIVES = (".tar", ".tar.gz", ".tgz")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# What is downloaded: never pickles. Of a base, both halves of its folder names (SDXL has
# text_encoder_2), and half precision only where there is nothing else: each is gigabytes.
BASE_FILES = (
    "model_index.json",
    "scheduler/*.json",
    "tokenizer*/*",
    "*/config.json",
    *("text_encoder*/model.safetensors", "text_encoder*/model-*.safetensors"),
    *("vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model-*.safetensors"),
    *("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model-*.safetensors"),
    "*/*.safetensors.index.json",
)
HALVES = ("*.fp16.safetensors", "*.fp16-*.safetensors", "*.safetensors.index.fp16.json")
# Folders of the hub's cache: models--OWNER--NAME/snapshots/REVISION/, its files links to blobs
SNAPSHOTS = "snapshots"
CACHED = "models--"
NETWORK_FILES = ("*.json", "*.safetensors", "unet/*.json", "unet/*.safetensors")


@dataclass(frozen=True)
class Sources:
    """Everything a conversion reads, as paths of this machine; teacher: a file or a folder.

    base_name: what the base is known by, its folder's name or `OWNER/NAME@revision` of the hub. notes:
    what was assumed of it.
    """

    base: Path
    base_name: str
    teacher: Path
    forward: Path
    reverse: Path
    notes: Sequence[str] = ()


@contextmanager
def gathered(
    base: Path,
    teacher: Path,
    forward: Path,
    reverse: Path,
    beside: Path,
    base_config: str | Path | None = None,
) -> Iterator[Sources]:
    """The paths, with what lies in archives unpacked and what lies on the hub downloaded.

    forward and reverse may be the same archive, folder or repository: the file is chosen by its
    name. Members of archives are unpacked into a scratch folder near `beside`, which goes when the
    block ends; downloads stay in the hub's cache. base_config: of a base that is a single file, see
    `single_file.unpack`. Raises BundleError naming the archive, folder or repository.
    """
    near = next(folder for folder in (beside, *beside.parents) if folder.is_dir())
    with scratch_folder(near, ".icd-") as scratch:
        folder = _base(base)
        name = _base_name(base, folder)
        notes: Sequence[str] = ()
        if folder.is_file():
            folder, notes = unpack(folder, _config(base_config), scratch)
        elif base_config is not None:
            raise BundleError(f"{base} is a folder, which has configurations of its own")
        yield Sources(
            base=folder,
            base_name=name,
            notes=notes,
            teacher=_network(_local(teacher, NETWORK_FILES), "teacher", scratch),
            forward=_lora(_local(forward, NETWORK_FILES), "forward", scratch),
            reverse=_lora(_local(reverse, NETWORK_FILES), "reverse", scratch),
        )


def _base(path: Path) -> Path:
    folder = _local(path, BASE_FILES)
    if folder.is_file() and folder.suffix not in SUFFIXES:
        raise BundleError(f"{path} is no diffusers folder, nor one of {', '.join(SUFFIXES)}")
    if path.exists():
        return folder
    halves = [f"{part}/{name}" for part in _without_weights(folder) for name in HALVES]
    return _local(path, halves) if halves else folder


def _config(given: str | Path | None) -> str | Path | None:
    """Configurations of a single file: a name, a folder, or a repository's that is downloaded."""
    if given is None or str(given) in names():
        return given
    return _local(Path(given), [name for name in BASE_FILES if not name.endswith(".safetensors")])


def _without_weights(folder: Path) -> list[str]:
    """Networks of a downloaded base that came without weights."""
    parts = {"vae": DIFFUSERS_WEIGHTS, "unet": DIFFUSERS_WEIGHTS}
    parts |= {own.name: TEXT_WEIGHTS for own in folder.glob("text_encoder*")}
    missing = []
    for part, name in parts.items():
        try:
            find_weights(folder / part, name)
        except BundleError:
            missing.append(part)
    return missing


def _base_name(given: Path, folder: Path) -> str:
    """The hub's cache names a folder by its revision alone, and the repository above that."""
    if not given.exists():
        return f"{given.as_posix()}@{folder.name}"
    cached = folder.parent.parent.name
    if folder.parent.name == SNAPSHOTS and cached.startswith(CACHED):
        return f"{cached.removeprefix(CACHED).replace('--', '/')}@{folder.name}"
    return given.resolve().name


def _snapshot(path: Path) -> Path:
    """A folder as it is, or of a repository in the hub's cache the revision that `main` is."""
    revisions = sorted((path / SNAPSHOTS).iterdir()) if (path / SNAPSHOTS).is_dir() else []
    if not path.name.startswith(CACHED) or not revisions:
        return path
    main = path / "refs" / "main"
    name = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    chosen = [own for own in revisions if own.name == name] or revisions
    if len(chosen) > 1:
        listed = ", ".join(own.name for own in chosen)
        raise BundleError(f"{path}: one revision is needed, give one of {SNAPSHOTS}/: {listed}")
    return chosen[0]


def _network(path: Path, role: str, scratch: Path) -> Path:
    if path.is_dir() or not path.name.endswith(ARCHIVES):
        return path
    if not path.is_file():
        raise BundleError(f"{path} is missing")
    return _unpacked(path, role, scratch)


def _lora(path: Path, role: str, scratch: Path) -> Path:
    if not path.is_dir():
        return _network(path, role, scratch)
    names = [file.relative_to(path).as_posix() for file in path.rglob("*.safetensors")]
    return path / _chosen(names, role, path)


def _local(path: Path, wanted: Sequence[str]) -> Path:
    """The path, or where a hub repository of that name was downloaded to."""
    name = path.as_posix()
    if path.suffix == GGUF:
        raise gguf(path)
    if path.is_dir():
        return _snapshot(path)
    if (
        path.exists()
        or not HUB_ID.fullmatch(name)
        or name.endswith((".safetensors", ".pt", *ARCHIVES))
    ):
        return path
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(wanted)))
    # The hub's client, its transport and its cache have each their own classes
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(
            f"{name} is neither a path here nor a repository the hub gives: {reason}"
        ) from None


def _unpacked(archive: Path, role: str, scratch: Path) -> Path:
    """The one member of a tar archive for this role, as a file of its own."""
    try:
        with tarfile.open(archive) as tar:
            members = {member.name: member for member in tar if not member.isdir()}
            name = _chosen(members, role, archive)
            beside = str(PurePosixPath(name).with_name(PEFT_CONFIG))
            wanted = [name, *({beside, f"./{beside}"} & members.keys())]
            folder = scratch / role  # both roles may have a file of the same name
            folder.mkdir()
            for member in wanted:
                _unpack(archive, tar, members[member], folder)
    except (tarfile.TarError, EOFError, zlib.error, BadGzipFile) as error:
        raise BundleError(f"{archive} is not a whole tar archive: {error}") from None
    except OSError as error:
        raise BundleError(f"{archive} cannot be unpacked in {scratch.parent}: {error}") from None
    return folder / PurePosixPath(name).name


def _unpack(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> None:
    source = tar.extractfile(member) if member.isfile() else None
    if source is None:
        raise BundleError(f"{archive}: {member.name} is a link or a device, not a file")
    beside = folder.parent.parent
    if member.size > shutil.disk_usage(folder).free:
        raise BundleError(f"{archive}: no room to unpack {member.name} in {beside}")
    with source, (folder / PurePosixPath(member.name).name).open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)


def _chosen(names: Iterable[str], role: str, where: Path) -> str:
    """The file for a role: by its suffix, by the role's name in its path, by its time steps, or the
    only one."""
    suffixes = (".pt", ".safetensors") if role == "teacher" else (".safetensors",)
    # macOS's tar writes a `._` companion beside every file.
    found = sorted(
        name
        for name in names
        if name.endswith(suffixes) and not PurePosixPath(name).name.startswith("._")
    )
    if role in ROLES:
        other = "reverse" if role == "forward" else "forward"
        own = [name for name in found if _is_for(name, role) and not _is_for(name, other)]
        found = own or [name for name in found if not _is_for(name, other)]
    if len(found) != 1:
        listed = ", ".join(found) or f"no {' or '.join(suffixes)}"
        raise BundleError(f"{where}: one file is needed for the {role} model, found {listed}")
    return found[0]


def _is_for(name: str, role: str) -> bool:
    return role in name.lower() or times_in(PurePosixPath(name).stem, role) is not None
