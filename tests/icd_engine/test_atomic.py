"""Files that are written whole or not at all, and stay what they were."""

import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from icd_engine.atomic import write_whole
from icd_engine.errors import BundleError, ImageError


def test_a_file_is_replaced_and_folders_are_made(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    assert write_whole(str(path), b"one", ImageError) == path
    write_whole(path, b"two", ImageError)
    assert path.read_bytes() == b"two" and list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "kind", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_an_end_in_the_middle_leaves_what_was_there(tmp_path, monkeypatch, kind):
    path = write_whole(tmp_path / "file", b"one", ImageError)

    def write_half(part, data):
        with open(part, "wb") as file:
            file.write(data[:1])
        raise kind

    monkeypatch.setattr(type(path), "write_bytes", write_half)
    with pytest.raises((ImageError, KeyboardInterrupt)):
        write_whole(path, b"two", ImageError)
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "path", ["", "/", "nul\0byte", "\ud800", "x" * 5000, "/dev/null/file", "/proc/file", None, 5]
)
def test_where_nothing_can_be_written(path):
    with pytest.raises(BundleError, match=r"cannot write|a path is needed"):
        write_whole(path, b"", BundleError)


# --- what an existing file keeps ------------------------------------------------------------------

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="permissions and links of POSIX")
NOBODY = 65534


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o660, 0o755, 0o200])
def test_an_overwritten_file_keeps_its_permissions(tmp_path, mode, mask):
    path = write_whole(tmp_path / "file", b"one", ImageError)
    path.chmod(mode)
    with umask(mask):
        write_whole(path, b"two", ImageError)
    assert mode_of(path) == mode
    path.chmod(0o600)
    assert path.read_bytes() == b"two"


@posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_obeys_the_umask(tmp_path, mask, mode):
    with umask(mask):
        assert mode_of(write_whole(tmp_path / "file", b"one", ImageError)) == mode


@posix
def test_what_replaces_a_private_file_is_never_readable_by_others(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "file", b"one", ImageError)
    path.chmod(0o600)
    seen = []
    write = Path.write_bytes

    def look(part: Path, data: bytes) -> int:
        seen.append(mode_of(part))
        return write(part, data)

    monkeypatch.setattr(type(path), "write_bytes", look)
    write_whole(path, b"two", ImageError)
    assert seen == [0o600]


def as_plain_user(call: Callable[[], str], uid: int = NOBODY) -> str:
    """What call() answers where root's rights do not count."""
    if os.getuid() != 0:
        return call()
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(theirs, call().encode())
        except BaseException as error:
            os.write(theirs, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(theirs)
    with open(ours, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may reach and write to; pytest's own are private."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


def own(path: Path, mode: int, owner: int = NOBODY, group: int = NOBODY) -> Path:
    path.write_bytes(b"one")
    if os.getuid() == 0:
        os.chown(path, owner, group)
    path.chmod(mode)
    return path


@posix
@pytest.mark.parametrize("mode", [0o444, 0o400, 0o000])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by a link"])
def test_a_file_that_may_not_be_written_is_refused(open_folder, mode, linked):
    """Though its folder would let it be replaced."""
    path = own(open_folder / "locked", mode)
    if linked:
        (open_folder / "link").symlink_to("locked")
    given = open_folder / ("link" if linked else "locked")

    def write() -> str:
        with pytest.raises(ImageError) as caught:
            write_whole(given, b"two", ImageError)
        return str(caught.value)

    told = as_plain_user(write)
    assert told == f"cannot write {str(given)!r}: the file has no write permission"
    assert mode_of(path) == mode
    path.chmod(0o600)
    assert path.read_bytes() == b"one"
    assert {one.name for one in open_folder.iterdir()} == {"locked", *["link"] * linked}


@posix
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="root gives files away")
def test_owner_and_group(open_folder):
    path = own(open_folder / "file", 0o640, owner=1234, group=1235)
    write_whole(path, b"two", ImageError)
    kept = path.stat()
    assert (kept.st_uid, kept.st_gid, mode_of(path)) == (1234, 1235, 0o640)
    # Another user who may write to it, and cannot give files away: what the group was allowed is
    # not what that user's group is.
    path = own(open_folder / "shared", 0o672, owner=1234, group=1235)
    assert as_plain_user(lambda: str(write_whole(path, b"two", ImageError))) == str(path)
    kept = path.stat()
    assert (kept.st_uid, kept.st_gid, mode_of(path)) == (NOBODY, NOBODY, 0o622)


# --- links, pipes, devices ------------------------------------------------------------------------


@posix
@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing yet"])
@pytest.mark.parametrize("chain", [["store/file"], ["second", "store/file"]], ids=["one", "two"])
def test_a_link_stays_and_its_target_is_written(tmp_path, monkeypatch, there, chain):
    target = tmp_path / "store" / "file"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"one")
        target.chmod(0o600)
    for name, to in zip(["link", "second"], chain, strict=False):
        (tmp_path / name).symlink_to(to)
    written = []
    write = Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda p, d: (written.append(p.parent), write(p, d)))
    assert write_whole(tmp_path / "link", b"two", ImageError) == tmp_path / "link"
    assert written == [target.parent]  # where the rename is atomic
    assert (tmp_path / "link").is_symlink() and os.readlink(tmp_path / "link") == chain[0]
    assert target.read_bytes() == b"two" and not target.is_symlink()
    assert list(target.parent.iterdir()) == [target]
    assert not there or mode_of(target) == 0o600


@posix
def test_links_that_lead_nowhere(tmp_path):
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to a folder").symlink_to("folder")
    for name in ("one", "to a folder", "folder"):
        with pytest.raises(ImageError, match="cannot write"):
            write_whole(tmp_path / name, b"data", ImageError)
    assert (tmp_path / "one").is_symlink() and (tmp_path / "to a folder").is_symlink()
    assert list((tmp_path / "folder").iterdir()) == []


@posix
def test_pipes_and_devices_are_written_to_and_stay(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_whole(pipe, b"data", ImageError)
    reader.join()
    assert got == [b"data"] and pipe.is_fifo()
    write_whole("/dev/null", b"data", ImageError)
    assert Path("/dev/null").is_char_device()
