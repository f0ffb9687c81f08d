"""Where a model is to be written is known to take it before any work, and what a killed run has moved
away comes back."""

import shutil
from pathlib import Path

import pytest

from icd_engine.bundles import target
from icd_engine.bundles.convert import convert
from icd_engine.bundles.scratch import OWNER
from icd_engine.bundles.target import check_target, new_folder
from icd_engine.errors import BundleError


@pytest.fixture
def read_only(monkeypatch):
    """A file system that takes nothing, also from root."""

    def refuses(*arguments, **options):
        raise OSError(30, "Read-only file system", "/somewhere/.out.abcdefgh")

    monkeypatch.setattr(target, "TemporaryDirectory", refuses)


@pytest.mark.parametrize("name", ["out", "deep/er/out"])
def test_a_read_only_place_is_refused_in_one_line(tmp_path, read_only, name):
    with pytest.raises(BundleError) as caught:
        check_target(tmp_path / name, overwrite=False)
    assert str(caught.value) == f"{tmp_path / name} cannot be written: Read-only file system"
    assert not list(tmp_path.iterdir())


def test_a_conversion_asks_before_it_reads_anything(tmp_path, read_only):
    nowhere = [tmp_path / name for name in ("base", "teacher.pt", "f.safetensors", "r.safetensors")]
    with pytest.raises(BundleError, match="out cannot be written"):
        convert(*nowhere, tmp_path / "out")


@pytest.mark.parametrize("name", ["file/out", "file/deep/er/out", "n" * 300, "a/" + "n" * 300])
def test_a_path_that_cannot_be_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(BundleError, match="cannot be written"):
        check_target(tmp_path / name, overwrite=False)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_name_with_a_zero_byte_is_refused():
    with pytest.raises(BundleError, match=r"'a\\x00b'"):
        check_target(Path("a\0b"), overwrite=False)


def test_a_relative_path_may_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("out", "deep/out"):
        check_target(Path(name), overwrite=False)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def killed(folder):
    """As a run that was killed between the two renames leaves it: nothing at the target."""
    scratch = folder.parent / f".{folder.name}.abcd1234"
    (scratch / "new").mkdir(parents=True)
    (scratch / OWNER).touch()
    shutil.move(folder, scratch / "old")
    return folder


def test_what_a_killed_run_moved_away_is_replaced_when_that_is_asked_for(killed):
    with pytest.raises(KeyboardInterrupt), new_folder(killed, overwrite=True):
        assert (killed / "icd.json").is_file()
        raise KeyboardInterrupt
    assert (killed / "icd.json").is_file()
    assert [path.name for path in killed.parent.iterdir()] == [killed.name]
    with new_folder(killed, overwrite=True) as new:
        (new / "made").touch()
    assert [path.name for path in killed.iterdir()] == ["made"]


def test_what_a_killed_run_moved_away_is_not_overwritten_unasked(killed):
    with pytest.raises(BundleError, match="is not empty"), new_folder(killed):
        pass
    assert (killed / "icd.json").is_file()
