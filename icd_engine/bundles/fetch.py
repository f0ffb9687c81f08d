"""Files of published models from their sources: listed, downloaded so that an ended run goes on, and
checked. The transfer itself is huggingface_hub's `http_get`, for the authors' archives too: it
resumes by range requests, tries again and draws bars."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from icd_engine.bundles.files import file_digest
from icd_engine.bundles.home import CHECKSUMS, home, record, recorded, source_folder, write_receipt
from icd_engine.bundles.published import Archive, Repository, Source
from icd_engine.bundles.sources import SNAPSHOTS
from icd_engine.errors import BundleError

TRANSFER = "huggingface_hub.http_get"  # what its bars are switched by
SHA1 = 40  # hexadecimal digits: git's own, of small files; SHA-256 has 64


@dataclass(frozen=True)
class Remote:
    """One file as its source tells of it.

    tag: tells versions of it apart, so that no two are mixed. size: bytes, None where it is not
    told. digest: SHA-256, or git's SHA-1, None where the source has none.
    """

    name: str
    url: str
    tag: str
    size: int | None
    digest: str | None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Listing:
    """What a source has for us. come_from: where, with the revision. licence: as it says."""

    source: Source
    files: tuple[Remote, ...]
    come_from: str
    licence: str

    @property
    def size(self) -> int:
        """Bytes of all files, those of the table where the source does not tell."""
        sizes = [remote.size for remote in self.files]
        known = [size for size in sizes if size is not None]
        return sum(known) if len(known) == len(sizes) else self.source.size

    @property
    def left(self) -> int:
        """Bytes that are not here yet."""
        folder = source_folder(self.source)
        here = sum(_size(folder / r.name) or _size(_part(folder, r)) for r in self.files)
        return max(0, self.size - here)


def list_source(source: Source) -> Listing:
    """Asks a source what it has. BundleError where it cannot be reached or lacks a file."""
    return _list_archive(source) if isinstance(source, Archive) else _list_repository(source)


def _list_archive(archive: Archive) -> Listing:
    from huggingface_hub.utils import get_session

    with _reaching(archive.address, "ICD_MIRROR"):
        answer = get_session().head(archive.address, follow_redirects=True)
    if answer.status_code >= 400:
        raise BundleError(
            f"{archive.address} answers {answer.status_code} {answer.reason_phrase}: a mirror of it "
            "can be named in ICD_MIRROR"
        )
    size = answer.headers.get("content-length", "")
    tag = answer.headers.get("etag") or answer.headers.get("last-modified") or size
    remote = Remote(
        name=archive.name,
        url=archive.address,
        tag=tag,
        size=int(size) if size.isdecimal() else None,
        digest=recorded(archive.url),
    )
    return Listing(archive, (remote,), archive.address, archive.licence)


def _list_repository(repository: Repository) -> Listing:
    from huggingface_hub import HfApi, constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    where = f"{constants.ENDPOINT}/{repository.name}"
    with _reaching(where, "HF_ENDPOINT"):
        info = HfApi(endpoint=constants.ENDPOINT).model_info(repository.name, files_metadata=True)
    files = [
        Remote(
            name=f"{SNAPSHOTS}/{info.sha}/{own.rfilename}",
            url=hf_hub_url(repository.name, own.rfilename, revision=info.sha),
            tag=own.blob_id or "",
            size=own.size,
            digest=own.lfs.sha256 if own.lfs else own.blob_id,
            headers=build_hf_headers(),
        )
        for own in info.siblings or ()
        if any(fnmatch(own.rfilename, pattern) for pattern in repository.files)
        and ".." not in PurePosixPath(own.rfilename).parts
    ]
    for pattern in repository.files:
        if not any(fnmatch(own.rfilename, pattern) for own in info.siblings or ()):
            raise BundleError(f"{where} has no file {pattern} any more")
    licence = getattr(info.card_data, "license", None)
    said = f"its page says {licence}" if licence else "its page states none"
    return Listing(repository, tuple(files), f"{repository.name}@{info.sha}", said)


def fetch(listing: Listing, bars: bool = True) -> None:
    """Downloads what is not here yet, checks every file, and only then lets the source count as here.

    A file that was begun goes on where it ended. bars: of progress, where standard error is a
    terminal. Raises BundleError where the network ends, the disk is full, or a checksum is wrong; of
    a wrong file nothing stays.
    """
    folder = source_folder(listing.source)
    digests = {}
    for remote in listing.files:
        target = folder / remote.name
        if not target.is_file() or not _is_right(target, remote):
            with _writing(target), _barred(bars):
                _remove_other_revisions(target)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.unlink(missing_ok=True)
                _download(remote, _part(folder, remote), target)
        known = remote.digest is not None and len(remote.digest) != SHA1
        digests[remote.name] = str(remote.digest) if known else file_digest(target)
        if isinstance(listing.source, Archive):
            record(listing.source.url, digests[remote.name])
    write_receipt(listing.source, listing.come_from, digests)


def _remove_other_revisions(target: Path) -> None:
    """Those that a repository had when an earlier run began to download it."""
    for folder in (parent for parent in target.parents if parent.parent.name == SNAPSHOTS):
        if folder.parent.is_dir():
            for other in folder.parent.iterdir():
                if other != folder:
                    shutil.rmtree(other)


def _download(remote: Remote, part: Path, target: Path) -> None:
    from huggingface_hub.file_download import http_get

    for old in target.parent.glob(f".{target.name}.*.part"):  # of another version
        if old != part:
            old.unlink()
    if remote.size is not None and _size(part) > remote.size:
        part.unlink()
    environment = "HF_ENDPOINT" if remote.headers else "ICD_MIRROR"
    with part.open("ab") as file, _reaching(remote.url, environment):
        http_get(
            remote.url,
            file,
            resume_size=file.tell(),
            headers=dict(remote.headers) or None,
            expected_size=remote.size,
            displayed_filename=PurePosixPath(remote.name).name,
        )
    if not _is_right(part, remote):
        found = file_digest(part)
        part.unlink()
        raise _wrong(remote, found)
    part.replace(target)


def _wrong(remote: Remote, found: str) -> BundleError:
    if remote.headers:
        return BundleError(
            f"{remote.url} came damaged: its checksum is not the one that the hub states; what came "
            "was removed, and the next run downloads it anew"
        )
    return BundleError(
        f"{remote.url} has SHA-256 {found}, not {remote.digest} as at its first download (nothing of "
        f"it was kept). If its authors replaced it, remove its line from {home() / CHECKSUMS}"
    )


def _is_right(path: Path, remote: Remote) -> bool:
    """Whether a whole file is the one that its source tells of, as far as it tells."""
    if remote.size is not None and _size(path) != remote.size:
        return False
    if remote.digest is None:
        return True
    if len(remote.digest) == SHA1:
        from huggingface_hub.utils.sha import git_hash

        return git_hash(path.read_bytes()) == remote.digest
    return file_digest(path) == remote.digest


def _part(folder: Path, remote: Remote) -> Path:
    """What is here of an unfinished file, of this version."""
    target = folder / remote.name
    version = hashlib.sha256(remote.tag.encode()).hexdigest()[:8]
    return target.with_name(f".{target.name}.{version}.part")


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


@contextmanager
def _barred(bars: bool) -> Iterator[None]:
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

    if bars:
        yield
        return
    disable_progress_bars(TRANSFER)
    try:
        yield
    finally:
        enable_progress_bars(TRANSFER)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from None


@contextmanager
def _reaching(where: str, environment: str) -> Iterator[None]:
    """What the network, or the hub's client in its place, says becomes one line; errors of the disk
    stay."""
    try:
        yield
    # The hub's client, its transport and its cache have each their own classes
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        if type(error).__name__ == "OfflineModeIsEnabled":
            reason = "HF_HUB_OFFLINE is set"
        raise BundleError(
            f"{where} cannot be reached ({reason}): try again with a network, the same command goes "
            f"on where it ended; {environment} names a mirror"
        ) from None
