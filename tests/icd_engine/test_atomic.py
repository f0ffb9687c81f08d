"""Files that are written whole or not at all."""

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
