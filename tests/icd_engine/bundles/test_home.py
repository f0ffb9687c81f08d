"""What of published models is here, under which names, and what goes when one is removed."""

import shutil
import sys
from pathlib import Path

import pytest

from icd_engine.bundles import home as module
from icd_engine.bundles.bundle import read_bundle, write_bundle
from icd_engine.bundles.home import (
    RECEIPT,
    asked_for,
    damaged,
    home,
    is_here,
    local_folder,
    model_folder,
    receipt,
    record,
    recorded,
    remove,
    remove_sources,
    size_of,
    source_folder,
    write_receipt,
)
from icd_engine.bundles.published import PUBLISHED, SD15, SD15_TEACHER
from icd_engine.errors import BundleError
from tests.icd_engine.bundles.conftest import RECORD, small_files

SHA = {"a.bin": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"}  # of "a"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch) -> Path:
    """An empty ICD_HOME, and another empty current folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    return tmp_path


def have_model(name: str) -> None:
    write_bundle(model_folder(name), RECORD, small_files().items())


def have_source(source) -> None:
    source_folder(source).mkdir(parents=True)
    (source_folder(source) / "a.bin").write_bytes(b"a")
    write_receipt(source, "somewhere", SHA)


def have(*names: str) -> None:
    """Models with all their sources."""
    for name in names:
        have_model(name)
        for source in PUBLISHED[name].sources:
            if receipt(source) is None:
                have_source(source)


@pytest.mark.parametrize(
    ("system", "environment", "folder"),
    [
        ("linux", {}, "~/.cache/icd-engine"),
        ("linux", {"XDG_CACHE_HOME": "/big/cache"}, "/big/cache/icd-engine"),
        ("darwin", {}, "~/Library/Caches/icd-engine"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/icd-engine"),
        ("linux", {"ICD_HOME": "~/models"}, "~/models"),
        ("linux", {"ICD_HOME": ""}, "~/.cache/icd-engine"),
    ],
)
def test_the_folder_of_each_system(monkeypatch, system, environment, folder):
    for name in ("ICD_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert home() == Path(folder).expanduser()


def test_a_name_stands_for_the_model_that_is_here():
    with pytest.raises(BundleError, match="icd-sd15 is not on this machine yet: `icd pull icd-sd"):
        read_bundle("icd-sd15")
    have_model("icd-sd15")
    assert is_here("icd-sd15") and not is_here("icd-sdxl")
    assert read_bundle("icd-sd15").path == model_folder("icd-sd15") == local_folder("icd-sd15")


def test_a_model_folder_of_that_name_goes_first_and_is_told(place):
    have_model("icd-sd15")
    own = write_bundle("icd-sd15", RECORD, small_files().items()).path
    with pytest.warns(UserWarning, match=f"model folder {place / 'here' / 'icd-sd15'}, which goes"):
        assert read_bundle("icd-sd15").path == own


def test_any_other_folder_of_that_name_does_not():
    have_model("icd-sd15")
    Path("icd-sd15").mkdir()
    Path("icd-sd15", "picture.png").touch()
    assert read_bundle("icd-sd15").path == model_folder("icd-sd15")


@pytest.mark.parametrize("path", [Path("icd-sd15"), "./icd-sd15", "tiny", "icd-sd16", 7, b"x"])
def test_what_is_no_name(path):
    assert asked_for(path) is None


def test_a_path_is_never_a_name():
    have_model("icd-sd15")
    with pytest.raises(BundleError, match=r"no model folder at icd-sd15 .*`icd models`"):
        read_bundle(Path("icd-sd15"))


# --- sources --------------------------------------------------------------------------------------


def test_a_source_is_here_when_its_receipt_and_files_are():
    assert receipt(SD15) is None
    have_source(SD15)
    assert receipt(SD15) == {"from": "somewhere", "sha256": SHA} and damaged(SD15) is None
    (source_folder(SD15) / "a.bin").write_bytes(b"b")
    assert damaged(SD15) == "a.bin"
    (source_folder(SD15) / "a.bin").unlink()
    assert receipt(SD15) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"sha256": 1}', "\xff"])
def test_a_receipt_that_is_none(text):
    have_source(SD15)
    (source_folder(SD15) / RECEIPT).write_bytes(text.encode("latin-1"))
    assert receipt(SD15) is None


def test_checksums_outlive_their_files():
    have("icd-sd15")
    record(SD15_TEACHER.url, "a" * 64)
    record("https://other", "b" * 64)
    remove("icd-sd15")
    assert recorded(SD15_TEACHER.url) == "a" * 64 and recorded("https://new") is None
    (home() / module.CHECKSUMS).write_text("[")
    with pytest.raises(BundleError, match=r"checksums\.json is not readable JSON"):
        recorded(SD15_TEACHER.url)


# --- what goes ------------------------------------------------------------------------------------


def test_what_another_model_needs_stays():
    have("icd-sd15", "icd-sd15-b", "icd-sdxl")
    freed = size_of(model_folder("icd-sd15")) + size_of(
        source_folder(PUBLISHED["icd-sd15"].forward)
    )
    assert remove("icd-sd15") == freed
    assert not is_here("icd-sd15") and receipt(PUBLISHED["icd-sd15"].forward) is None
    for name in ("icd-sd15-b", "icd-sdxl"):
        assert is_here(name) and all(receipt(source) for source in PUBLISHED[name].sources)
    remove("icd-sd15-b")
    assert receipt(SD15) is None and receipt(SD15_TEACHER) is None and is_here("icd-sdxl")


def test_what_an_ended_download_left_goes():
    folder = source_folder(SD15_TEACHER)
    folder.mkdir(parents=True)
    (folder / ".sd15_cfg_distill.pt.tar.gz.00000000.part").write_bytes(b"begun")
    assert remove("icd-sd15") == 5
    assert not folder.exists()


def test_downloads_alone():
    have("icd-sd15", "icd-sd15-cycle")
    remove_sources()
    assert is_here("icd-sd15") and is_here("icd-sd15-cycle") and receipt(SD15) is None
    assert remove_sources() == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [("icd-sd15", "icd-sd15 is not on this machine"), ("tiny", "'tiny' is not the name of a publ")],
)
def test_what_is_not_here_is_told(name, message):
    with pytest.raises(BundleError, match=message):
        remove(name)


def test_a_model_that_is_half_removed_does_not_count(monkeypatch):
    have("icd-sd15")

    real = shutil.rmtree

    def ended(path, **options):
        if Path(path) == model_folder("icd-sd15"):
            raise KeyboardInterrupt
        real(path, **options)

    monkeypatch.setattr(shutil, "rmtree", ended)
    with pytest.raises(KeyboardInterrupt):
        remove("icd-sd15")
    assert model_folder("icd-sd15").is_dir() and not is_here("icd-sd15")
