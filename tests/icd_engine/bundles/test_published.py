"""The table of published models fits what the authors' README says and what the archives' names say."""

from pathlib import Path

import pytest

from icd_engine.bundles.convert import default_settings
from icd_engine.bundles.family import FAMILIES
from icd_engine.bundles.published import (
    AUTHORS,
    PUBLISHED,
    SD15_TEACHER,
    SDXL,
    Archive,
    Repository,
)
from icd_engine.bundles.times import choose_times

ASKED_FOR = (
    "icd-sd15", "icd-sd15-b", "icd-sd15-3steps", "icd-sdxl", "icd-sdxl-3steps", "icd-sd15-cycle",
)  # fmt: skip


def test_every_name_is_there():
    assert {*ASKED_FOR} <= PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_time_steps_fit_each_other(name):
    """Encoding ends where decoding starts, by the same boundaries."""
    own = PUBLISHED[name]
    assert own.encode_times[1:] == own.decode_times[:-1] and own.decode_times[-1] == 999
    assert own.encode_times[0] == (0 if name.endswith("cycle") else 19)
    assert len(own.decode_times) == (3 if "3steps" in name else 4)
    times = (list(own.encode_times), list(own.decode_times))
    path = Path("weights.safetensors")
    assert choose_times(path, path, *times) == (*times, [])


@pytest.mark.parametrize("name", PUBLISHED)
def test_sources_are_of_one_family(name):
    own = PUBLISHED[name]
    assert (own.base is SDXL) == ("sdxl" in name) == ("sdxl" in own.teacher.name)
    assert len({source.key for source in own.sources}) == len(own.sources)
    assert len(own.sources) == (4 if name.endswith("cycle") else 3)


def test_guidance_is_on_as_each_chain_was_tuned():
    taus = {
        name: default_settings(FAMILIES["sd15"], own.decode_times)["tau"]
        for name, own in PUBLISHED.items()
    }
    assert taus["icd-sd15"] == taus["icd-sd15-cycle"] == 0.8
    assert taus["icd-sd15-b"] == taus["icd-sd15-3steps"] == 0.7


def test_what_several_models_share_is_one_source():
    sources = [source for own in PUBLISHED.values() for source in own.sources]
    assert sources.count(SD15_TEACHER) == 4
    assert sources.count(Archive("iCD-SD15_4steps_1.tar.gz", 500_000_000)) == 2


def test_no_base_is_downloaded_with_pickles_or_unused_weights():
    for pattern in SDXL.files:
        assert not pattern.endswith((".bin", ".ckpt", ".pt"))
    assert [pattern for pattern in SDXL.files if pattern.startswith("unet")] == ["unet/config.json"]


def test_a_mirror_stands_in_for_the_authors(monkeypatch):
    monkeypatch.delenv("ICD_MIRROR", raising=False)
    assert SD15_TEACHER.address == SD15_TEACHER.url == f"{AUTHORS}/sd15_cfg_distill.pt.tar.gz"
    monkeypatch.setenv("ICD_MIRROR", "http://mirror.example/icd/")
    assert SD15_TEACHER.address == "http://mirror.example/icd/sd15_cfg_distill.pt.tar.gz"
    assert SD15_TEACHER.url.startswith(AUTHORS)


def test_folders_are_named_as_the_hub_names_them():
    assert Repository("a/b", 1, ()).key == "models--a--b"
    assert SD15_TEACHER.key == "sd15_cfg_distill.pt"
