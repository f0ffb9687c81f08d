"""Published models by name, from a server on this machine: what is asked, downloaded, made and kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from icd_engine.bundles import pull as module
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.convert import convert
from icd_engine.bundles.home import (
    alone,
    home,
    is_here,
    model_folder,
    receipt,
    remove,
    source_folder,
)
from icd_engine.bundles.published import PUBLISHED, SD15, SD15_TEACHER
from icd_engine.bundles.pull import located, pull
from icd_engine.engine import Engine
from icd_engine.errors import BundleError, RunnerError
from tests.icd_engine.bundles.stub_sources import GOLDEN, contents, serving

LORAS = "iCD-SD15_4steps_2.tar.gz"


@pytest.fixture(scope="module")
def files():
    return contents()


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """An empty ICD_HOME and current folder, and the server in place of the sources."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("ICD_YES", raising=False)
    with serving(files) as server:
        server.stand_in(monkeypatch)
        yield server


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch, answer: str) -> Terminal:
    """What is told there, once `answer` is typed."""
    told = Terminal()
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    monkeypatch.setattr(sys, "stderr", told)
    return told


# --- what comes of it -----------------------------------------------------------------------------


def test_a_model_is_what_convert_makes_of_the_same_files(server, tmp_path, capsys):
    folder = pull("icd-sd15", yes=True)
    loras = [GOLDEN / "sd15" / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse")]
    own = convert(
        GOLDEN / "sd15" / "base",
        GOLDEN / "sd15" / "sd15_cfg_distill.pt",
        *loras,
        tmp_path / "own",
        precision="fp16",
    )
    bundle = read_bundle("icd-sd15")
    assert bundle.path == folder == model_folder("icd-sd15")
    assert bundle.sha256 == own.sha256 and bundle.fingerprint == own.fingerprint
    assert bundle.origin["base"] == f"{SD15.name}@{'a' * 40}"
    notes = bundle.origin["notes"]
    assert len(notes) == 2 and all("alpha assumed: 8" in note for note in notes)
    told = capsys.readouterr().err
    assert all(f"note: {note}\n" in told for note in notes)


@pytest.mark.parametrize("name", ["icd-sd15-3steps", "icd-sd15-cycle", "icd-sdxl"])
def test_each_kind_has_its_time_steps(server, name):
    bundle = read_bundle(pull(name, yes=True))
    published = PUBLISHED[name]
    assert (bundle.encode_times, bundle.decode_times) == (
        published.encode_times,
        published.decode_times,
    )
    assert bundle.family == ("sdxl" if "sdxl" in name else "sd15")


def test_what_is_here_is_not_downloaded_again(server):
    pull("icd-sd15", yes=True)
    before = len(server.asked)
    assert located("icd-sd15") == pull("icd-sd15") == model_folder("icd-sd15")
    assert len(server.asked) == before
    pull("icd-sd15-b", yes=True)
    assert server.asked[before:] == [
        (method, f"/archives/{LORAS}", 0) for method in ("HEAD", "GET")
    ]
    remove("icd-sd15")
    assert receipt(SD15) and receipt(SD15_TEACHER) and is_here("icd-sd15-b")
    read_bundle("icd-sd15-b", verify=True)


def test_a_damaged_download_is_told_and_replaced(server, capsys):
    pull("icd-sd15", yes=True)
    teacher = source_folder(SD15_TEACHER) / SD15_TEACHER.name
    teacher.write_bytes(teacher.read_bytes()[:-1] + b"?")
    pull("icd-sd15-b", yes=True)
    assert f"{teacher} was changed or damaged: it is downloaded again" in capsys.readouterr().err
    assert server.downloads()[-2:] == [SD15_TEACHER.name, LORAS]


def test_a_model_that_was_half_removed_is_made_anew(server):
    pull("icd-sd15", yes=True)
    (model_folder("icd-sd15") / "icd.json").unlink()
    before = len(server.asked)
    pull("icd-sd15", yes=True)
    assert is_here("icd-sd15") and len(server.asked) == before


def test_weights_that_do_not_fit_leave_no_model(server):
    server.files[f"/archives/{SD15_TEACHER.name}"] = server.files[f"/archives/{LORAS}"]
    with pytest.raises(BundleError, match=r"sd15_cfg_distill.*one file is needed for the teacher"):
        pull("icd-sd15", yes=True)
    assert not is_here("icd-sd15") and [*(home() / "models").iterdir()] == []


def test_what_is_no_published_name_is_left_alone(server):
    for model in ("tiny", "./icd-sd15", Path("icd-sd15"), 3):
        assert located(model) == model  # pyright: ignore[reportArgumentType]
    assert not home().exists()


def test_an_engine_takes_the_name(server, monkeypatch):
    monkeypatch.setenv("ICD_YES", "1")
    engine = Engine.from_pretrained("icd-sd15", device="cpu", runner="eager")
    assert engine.bundle.path == model_folder("icd-sd15")
    picture = engine.generate("a cat", size=(64, 64))[0]
    assert picture.size == (64, 64)


# --- what is asked --------------------------------------------------------------------------------


def test_sizes_sources_and_licences_are_told_first(server, monkeypatch):
    told = on_terminal(monkeypatch, "y\n")
    pull("icd-sd15")
    text, _, rest = told.getvalue().partition("[y/N]")
    assert "its page says creativeml-openrail-m" in text and "under Apache-2.0" in text
    for source in (SD15, SD15_TEACHER):
        assert source.name in text
    assert f"4.8 MB to download, into {home()}" in text and "no checksum is published" in text
    assert "downloading" not in text and "downloading" in rest and is_here("icd-sd15")


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "maybe\n"])
def test_any_other_answer_is_no(server, monkeypatch, answer):
    on_terminal(monkeypatch, answer)
    with pytest.raises(BundleError, match="icd-sd15 was not downloaded: the answer was not yes"):
        pull("icd-sd15")
    assert server.downloads() == []


def test_without_a_terminal_nothing_is_downloaded(server, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(
        BundleError, match=r"about 4\.3 GB would be downloaded\. Say --yes or set I"
    ):
        located("icd-sd15")
    on_terminal(monkeypatch, "y\n")
    with pytest.raises(BundleError, match="Say --yes"):
        pull("icd-sd15", quiet=True)  # what it would say yes to could not be told
    assert server.asked == [] and not home().exists()


def test_scripts_say_yes_in_the_environment(server, monkeypatch, capsys):
    for refused in ("", "0", "no"):
        monkeypatch.setenv("ICD_YES", refused)
        with pytest.raises(BundleError, match="Say --yes"):
            pull("icd-sd15")
    monkeypatch.setenv("ICD_YES", "1")
    pull("icd-sd15", quiet=True)
    assert is_here("icd-sd15") and capsys.readouterr() == ("", "")


# --- before any work ------------------------------------------------------------------------------


def test_a_full_disk_is_known_before(server, monkeypatch):
    usage = SimpleNamespace(free=14_000_000)  # 4.8 of downloads, and what is unpacked and made
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        BundleError, match=r"has 14\.0 MB left, and icd-sd15 needs 1\d\.\d MB .*ICD_H"
    ):
        pull("icd-sd15", yes=True)
    assert server.downloads() == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(server, tmp_path):
    home().mkdir(mode=0o500)
    with pytest.raises(BundleError, match=f"{home()} cannot be written: Permission denied"):
        pull("icd-sd15", yes=True)


def test_a_folder_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        monkeypatch.setenv("ICD_HOME", str(place))
        with pytest.raises(
            BundleError, match=f"{place} cannot be written: .*ICD_HOME names another"
        ):
            pull("icd-sd15", yes=True)
    assert server.asked == []


def test_missing_packages_are_named(server, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else object())
    with pytest.raises(RunnerError, match=r"packages that are not installed \(torch\)"):
        pull("icd-sd15", yes=True)
    assert server.asked == []


def test_an_unknown_name(server):
    with pytest.raises(BundleError, match="'sd15' is not the name of a published model"):
        pull("sd15", yes=True)


def test_processes_wait_for_each_other(server, monkeypatch, capsys):
    """Another process holds the folder, makes the model and lets go: nothing is left to do."""
    import filelock

    held = filelock.FileLock(home() / ".lock")
    home().mkdir()
    real = module.alone

    def other_ends(tell):
        def told(line):
            tell(line)
            model_folder("icd-sd15").mkdir(parents=True)
            (model_folder("icd-sd15") / "icd.json").write_text(json.dumps({}))
            held.release()

        return real(told)

    monkeypatch.setattr(module, "alone", other_ends)
    held.acquire()
    assert pull("icd-sd15", yes=True) == model_folder("icd-sd15")
    assert server.asked == [] and "waiting for it" in capsys.readouterr().err
    with alone(lambda line: pytest.fail(line)):  # it was let go of
        pass
