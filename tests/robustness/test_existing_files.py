"""Everything that is written over an existing file keeps its permissions, follows links, and is
refused where the file may not be written."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.batch.log import RUN, SUMMARY, open_log
from icd_engine.errors import ImageError, SettingsError
from icd_engine.inversion_files import InversionFile, write_inversion_file
from icd_engine.saving import save_image

if not hasattr(os, "fork"):
    pytest.skip("permissions and links of POSIX", allow_module_level=True)


def write_picture(path: Path) -> None:
    save_image(Image.new("RGB", (8, 8)), path)


def write_inversion(path: Path) -> None:
    latents = np.zeros((1, 4, 4, 4), np.float32)
    held = InversionFile(latents, None, "a circle", 0, (32, 32), (32, 32), "model")
    write_inversion_file(path, held)


def write_summary(path: Path) -> None:
    with open_log(path.parent, {}, rows=1, batch=1) as log:
        log.append(0, [{"row": 0, "id": "0"}])
        log.finish(1.0)


Writer = Callable[[Path], None]
KINDS = [
    *((write_picture, f"picture{end}", ImageError) for end in (".png", ".jpg", ".webp")),
    (write_inversion, "kept.safetensors", SettingsError),
    (write_summary, SUMMARY, SettingsError),
]
every_kind = pytest.mark.parametrize(
    ("write", "name", "error"), KINDS, ids=lambda one: getattr(one, "__name__", one)
)


@every_kind
def test_permissions_and_links(tmp_path, write: Writer, name, error):
    target = tmp_path / "store"
    target.write_bytes(b"before")
    target.chmod(0o600)
    place = tmp_path / "place"
    place.mkdir()
    (place / name).symlink_to("../store")
    write(place / name)
    assert (place / name).is_symlink() and stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_bytes() != b"before"
    ours = {"store", "place"}
    assert {one.name for one in tmp_path.iterdir()} == ours
    assert {one.name for one in place.iterdir()} - {RUN, "results.jsonl", ".lock"} == {name}


@every_kind
def test_a_file_without_write_permission(tmp_path, monkeypatch, write: Writer, name, error):
    """By what the system says of it: root may write to any (tests/icd_engine/test_atomic.py asks
    as a plain user)."""
    path = tmp_path / name
    path.write_bytes(b"before")
    real = os.access

    def access(given, mode, **options):
        return False if Path(given) == path and mode & os.W_OK else real(given, mode, **options)

    monkeypatch.setattr(os, "access", access)
    with pytest.raises(error, match=r"cannot write '.*': the file has no write permission"):
        write(path)
    assert path.read_bytes() == b"before"
