"""The granted folder: what is within is found, and nothing else is."""

from __future__ import annotations

import os

import pytest

from icd_engine.errors import ImageError, SettingsError
from icd_engine.integrations.mcp.folder import Granted


def test_what_is_within_is_found_by_either_name(folder):
    granted = Granted(folder)
    (folder / "sub").mkdir()
    (folder / "sub" / "b.png").write_bytes(b"b")
    (folder / "link.png").symlink_to(folder / "sub" / "b.png")
    assert granted.existing("in.png", "picture") == folder / "in.png"
    assert granted.existing(str(folder / "in.png"), "picture") == folder / "in.png"
    for name in ("sub/b.png", "sub/../sub/b.png", "link.png"):
        assert granted.existing(name, "picture").read_bytes() == b"b"


def test_a_folder_that_is_a_link_itself(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert Granted(tmp_path / "link").existing("in.png", "picture") == folder / "in.png"


@pytest.fixture
def escapes(folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "granted-too").mkdir()  # begins with the folder's name
    (tmp_path / "granted-too" / "c.png").write_bytes(b"c")
    (folder / "file.png").symlink_to(tmp_path / "secret.png")
    (folder / "up").symlink_to(tmp_path)
    return ["../secret.png", str(tmp_path / "secret.png"), "file.png", "up/secret.png"] + [
        str(tmp_path / "granted-too" / "c.png"),
        "../granted-too/c.png",
        "/etc/passwd",
        ".",
        "",
        "in.png/../..",
    ]


def test_nothing_outside_is_read_or_written(folder, escapes):
    granted = Granted(folder)
    for name in escapes:
        with pytest.raises(ImageError, match="outside of the folder"):
            granted.existing(name, "picture")
        with pytest.raises(ImageError):
            granted.new(name)
    with pytest.raises(ImageError, match="outside"):
        granted.new("up/new.png")


def test_what_is_no_file(folder):
    granted = Granted(folder)
    os.mkfifo(folder / "pipe.png")
    for name in ("none.png", "pipe.png", "in.png/x.png"):
        with pytest.raises(ImageError, match="no such file"):
            granted.existing(name, "mask")
    for name in ("a\0b.png", "x" * 5000):
        with pytest.raises(ImageError):
            granted.existing(name, "mask")


def test_new_files_only(folder, tmp_path):
    granted = Granted(folder)
    assert granted.new("sub/new.webp") == folder / "sub" / "new.webp"
    (folder / "dangling.png").symlink_to(folder / "nowhere.png")
    for name in ("in.png", "dangling.png"):
        with pytest.raises(ImageError, match="there already"):
            granted.new(name)
    for name in ("new", "new.exe", "new.png.txt"):
        with pytest.raises(ImageError, match="must end in"):
            granted.new(name)


def test_a_file_is_no_folder(folder):
    with pytest.raises(SettingsError, match="no folder"):
        Granted(folder / "in.png")
