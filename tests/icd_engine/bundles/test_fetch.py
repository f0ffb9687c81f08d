"""Downloads from a server on this machine: they go on where they ended, and only what is right counts."""

from __future__ import annotations

import errno
import hashlib

import pytest
from huggingface_hub import constants, file_download

from icd_engine.bundles import fetch as module
from icd_engine.bundles.fetch import fetch, list_source
from icd_engine.bundles.home import home, receipt, recorded, source_folder
from icd_engine.bundles.published import SD15, SDXL, Archive, Repository
from icd_engine.errors import BundleError
from tests.icd_engine.bundles.stub_sources import BASES, LICENCES, MIRROR, REVISION, serving

ARCHIVE = Archive("weights.tar.gz", 500_000_000)
DATA = bytes(range(256)) * 1000
PATH = f"{MIRROR}/{ARCHIVE.name}"
BASE = f"/{BASES['sd15']}/resolve/{REVISION}"
FILES = {
    f"{BASE}/model_index.json": b"{}",
    f"{BASE}/scheduler/scheduler_config.json": b"{}",
    f"{BASE}/tokenizer/vocab.json": b'{"a": 1}',
    f"{BASE}/text_encoder/config.json": b"{}",
    f"{BASE}/text_encoder/model.safetensors": DATA,
    f"{BASE}/unet/config.json": b"{}",
    f"{BASE}/unet/diffusion_pytorch_model.safetensors": b"not wanted",
    f"{BASE}/vae/config.json": b"{}",
    f"{BASE}/vae/diffusion_pytorch_model.safetensors": DATA[:1000],
    f"{BASE}/vae/diffusion_pytorch_model.bin": b"not wanted",
}
LARGE = f"{BASE}/text_encoder/model.safetensors"


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    with serving({PATH: DATA, **FILES}) as server:
        server.stand_in(monkeypatch)
        yield server


def put_part(source, name: str, data: bytes) -> None:
    """What an earlier run has left of a file."""
    (remote,) = (r for r in list_source(source).files if r.name.endswith(name))
    part = module._part(source_folder(source), remote)
    part.parent.mkdir(parents=True)
    part.write_bytes(data)


def leftovers(source) -> list[str]:
    return [path.name for path in source_folder(source).rglob("*.part")]


# --- lists ----------------------------------------------------------------------------------------


def test_an_archive_tells_its_size(server):
    listing = list_source(ARCHIVE)
    assert (listing.size, listing.left) == (len(DATA), len(DATA))
    assert listing.come_from == server.url + PATH and "Apache-2.0" in listing.licence
    assert [remote.digest for remote in listing.files] == [None]


def test_a_repository_tells_sizes_digests_and_its_licence(server):
    listing = list_source(SD15)
    names = [remote.name.removeprefix(f"snapshots/{REVISION}/") for remote in listing.files]
    wanted = [path.removeprefix(f"{BASE}/") for path in FILES if FILES[path] != b"not wanted"]
    assert sorted(names) == sorted(wanted)
    assert listing.size == sum(len(FILES[f"{BASE}/{name}"]) for name in names)
    assert listing.licence == f"its page says {LICENCES[SD15.name]}"
    assert listing.come_from == f"{SD15.name}@{REVISION}"
    (large,) = (remote for remote in listing.files if remote.size == len(DATA))
    assert large.digest == hashlib.sha256(DATA).hexdigest()


def test_a_page_without_a_licence(server):
    server.files["/a/b/resolve/" + REVISION + "/x.json"] = b"{}"
    assert list_source(Repository("a/b", 1, ("x.json",))).licence == "its page states none"


def test_names_that_lead_elsewhere_are_left_out(server):
    server.files[f"{BASE}/tokenizer/../../../up.json"] = b"{}"
    assert not [remote for remote in list_source(SD15).files if "up.json" in remote.name]


@pytest.mark.parametrize("source", [Archive("other.tar.gz", 1), SDXL], ids=["archive", "hub"])
def test_what_a_source_does_not_have_is_named(server, source):
    with pytest.raises(BundleError, match=r"other.tar.gz answers 404|has no file model_index.json"):
        list_source(source)


@pytest.mark.parametrize(("source", "mirror"), [(ARCHIVE, "ICD_MIRROR"), (SD15, "HF_ENDPOINT")])
def test_without_a_network_one_line_says_what_to_do(server, monkeypatch, source, mirror):
    monkeypatch.setenv("ICD_MIRROR", "http://127.0.0.1:1/x")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(BundleError, match=f"http://127.0.0.1:1/.* cannot be reached.*{mirror}"):
        list_source(source)


# --- downloads ------------------------------------------------------------------------------------


def test_a_source_counts_when_all_of_it_is_here(server):
    fetch(list_source(SD15), bars=False)
    told = receipt(SD15)
    assert told is not None and told["from"] == f"{SD15.name}@{REVISION}"
    for name, digest in told["sha256"].items():
        data = (source_folder(SD15) / name).read_bytes()
        assert data == FILES[f"{BASE}/{name.removeprefix(f'snapshots/{REVISION}/')}"]
        assert hashlib.sha256(data).hexdigest() == digest
    assert not leftovers(SD15)


@pytest.mark.parametrize(
    ("source", "name"), [(ARCHIVE, ARCHIVE.name), (SD15, "ncoder/model.safetensors")]
)
def test_a_download_goes_on_where_it_ended(server, source, name):
    put_part(source, name, DATA[:100_000])
    assert list_source(source).left == list_source(source).size - 100_000
    fetch(list_source(source))
    assert [start for method, path, start in server.asked if method == "GET" and start] == [100_000]
    assert receipt(source) and not leftovers(source)


def test_what_a_part_has_already_is_not_asked_for(server):
    put_part(ARCHIVE, ARCHIVE.name, DATA)
    fetch(list_source(ARCHIVE))
    assert server.downloads() == [] and receipt(ARCHIVE)


def test_a_part_that_is_too_long_is_begun_anew(server):
    put_part(ARCHIVE, ARCHIVE.name, DATA + b"more")
    fetch(list_source(ARCHIVE))
    assert (source_folder(ARCHIVE) / ARCHIVE.name).read_bytes() == DATA


def test_parts_of_another_version_are_not_mixed_in(server):
    put_part(ARCHIVE, ARCHIVE.name, DATA[:100_000])
    server.files[PATH] = DATA[::-1]
    fetch(list_source(ARCHIVE))
    assert (source_folder(ARCHIVE) / ARCHIVE.name).read_bytes() == DATA[::-1]
    assert not leftovers(ARCHIVE)


def test_another_revision_replaces_what_was_begun(server):
    old = source_folder(SD15) / "snapshots" / ("b" * 40)
    old.mkdir(parents=True)
    (old / "model_index.json").write_text("{}")
    fetch(list_source(SD15))
    assert not old.exists() and receipt(SD15)


def test_finished_files_are_not_downloaded_again(server, monkeypatch):
    """The second of a source's files ends the run; the next one downloads what is missing."""
    real = file_download.http_get
    calls = []

    def ending(url, *rest, **options):
        calls.append(url)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(url, *rest, **options)

    monkeypatch.setattr(file_download, "http_get", ending)
    with pytest.raises(KeyboardInterrupt):
        fetch(list_source(SD15))
    assert receipt(SD15) is None
    fetch(list_source(SD15))
    assert (
        receipt(SD15) and len(server.downloads()) == len({*server.downloads()}) + 2
    )  # config.json


# --- what is wrong --------------------------------------------------------------------------------


def test_a_file_that_is_not_what_the_hub_states_leaves_nothing(server):
    listing = list_source(SD15)
    server.files[LARGE] = DATA[::-1]
    with pytest.raises(BundleError, match=r"model.safetensors came damaged: its checksum is not"):
        fetch(listing)
    assert receipt(SD15) is None and not leftovers(SD15)
    server.files[LARGE] = DATA
    fetch(list_source(SD15))
    assert receipt(SD15)


def test_small_files_are_checked_too(server):
    listing = list_source(SD15)
    server.files[f"{BASE}/tokenizer/vocab.json"] = b'{"b": 1}'
    with pytest.raises(BundleError, match=r"vocab.json came damaged"):
        fetch(listing)


def test_the_first_downloads_checksum_is_kept_and_compared(server):
    fetch(list_source(ARCHIVE))
    assert recorded(ARCHIVE.url) == hashlib.sha256(DATA).hexdigest()
    (source_folder(ARCHIVE) / ARCHIVE.name).unlink()
    server.files[PATH] = DATA[::-1]
    with pytest.raises(
        BundleError, match=r"has SHA-256 \w{64}, not \w{64} as at its first.*"
    ) as no:
        fetch(list_source(ARCHIVE))
    assert str(home() / "checksums.json") in str(no.value)
    assert receipt(ARCHIVE) is None and not leftovers(ARCHIVE)


def test_a_full_disk_is_one_line_and_what_came_stays(server, monkeypatch):
    def full(url, file, **_):
        file.write(DATA[:5000])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file_download, "http_get", full)
        with pytest.raises(BundleError, match=r"weights.tar.gz cannot be written: No space left"):
            fetch(list_source(ARCHIVE))
    assert receipt(ARCHIVE) is None
    fetch(list_source(ARCHIVE))
    assert server.asked[-1] == ("GET", PATH, 5000) and receipt(ARCHIVE)
