"""A disk that takes no more: typed errors, old files intact, nothing left.

The kernel itself refuses to write.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.bundles.bundle import read_bundle, write_bundle
from icd_engine.cli import main
from icd_engine.errors import BundleError, ImageError, SettingsError
from icd_engine.saving import save_image

resource = pytest.importorskip("resource")  # POSIX
LIMIT = 2000  # bytes
SOURCE = "a small red circle on a plain blue background"


@contextmanager
def full_disk() -> Iterator[None]:
    """Writes beyond LIMIT bytes of a file fail with EFBIG, as they do with ENOSPC where the disk is
    full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def noise(side: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_picture(tmp_path, suffix, old):
    path = tmp_path / f"picture{suffix}"
    if old:
        save_image(noise(64), path)
    before = contents(tmp_path)
    with (
        full_disk(),
        pytest.raises(ImageError, match=rf"cannot write '.*picture\{suffix}': File too large"),
    ):
        save_image(noise(100), path)
    assert contents(tmp_path) == before
    assert save_image(noise(100), path) == path and Image.open(path).size == (100, 100)


def test_an_inversion(engine, tmp_path):
    kept = engine.invert(noise(128), SOURCE)
    path = kept.save(tmp_path / "kept.safetensors")
    before = contents(tmp_path)
    with (
        full_disk(),
        pytest.raises(SettingsError, match=r"cannot write '.*kept\.safetensors': File too large"),
    ):
        engine.invert(noise(127), SOURCE).save(path)
    assert contents(tmp_path) == before
    assert np.array_equal(engine.load_inversion(path).latents, kept.latents)


def files(weights: int) -> Iterator[tuple[str, object]]:
    """The embedded model's, with a further file of so many bytes at the end."""
    tiny = read_bundle("tiny")
    for path in sorted(tiny.path.rglob("*")):
        if path.is_file() and path.name != "icd.json":
            yield str(path.relative_to(tiny.path)), path
    yield "more.bin", bytes(weights)


@pytest.mark.parametrize("old", [True, False], ids=["over an old one", "new"])
def test_a_model_folder(tmp_path, old):
    record = json.loads((read_bundle("tiny").path / "icd.json").read_text())
    record = {name: value for name, value in record.items() if name not in ("format", "sha256")}
    if old:
        write_bundle(tmp_path / "model", record, files(10))
    before = contents(tmp_path)
    with (
        full_disk(),
        pytest.raises(BundleError, match=r"model cannot be written: .*File too large"),
    ):
        write_bundle(tmp_path / "model", record, files(20), overwrite=True)
    assert contents(tmp_path) == before and len(list(tmp_path.iterdir())) == int(old)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a red circle", "--out", "made.png"],
        ["invert", "picture.png", "--source", SOURCE, "--out", "kept.safetensors"],
        [
            "edit",
            "picture.png",
            "--source",
            SOURCE,
            "--target",
            "a small green circle on a plain blue background",
        ],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_command(tmp_path, monkeypatch, capsys, arguments):
    noise(140).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    with full_disk():
        assert main([*arguments, "--quiet"]) == 1
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1 and "File too large" in told.err
    assert list(contents(tmp_path)) == ["picture.png"]


def test_the_log_of_a_batch(tmp_path):
    from icd_engine.batch.log import RESULTS, open_log

    with open_log(tmp_path, {}, rows=100, batch=50) as log:
        log.append(0, [{"row": row, "id": f"{row}"} for row in range(50)])
        before = (tmp_path / RESULTS).read_bytes()
        with full_disk(), pytest.raises(SettingsError, match="File too large"):
            log.append(1, [{"row": row, "id": "x" * 100} for row in range(50, 100)])
    with open_log(tmp_path, {}, rows=100, batch=50) as log:
        assert log.done == {0}
    assert (tmp_path / RESULTS).read_bytes() == before
