"""Methods by name, and the networks that they need."""

import pytest

from benchmarks.evaluation.choosing import OWN, Networks, chosen
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.options import INSTRUCT_SCALES, TEACHER, instructed
from benchmarks.evaluation.run import measure
from benchmarks.evaluation.suites import Item
from benchmarks.evaluation.tasks import PUBLISHED_SCALES, Outcome
from icd_engine.errors import BundleError, SettingsError
from tests.benchmarks.evaluation.inverted import PICTURE, items
from training.tiny.bundle import INSTRUCT, write_unet


@pytest.fixture
def folders(tmp_path, model, instructed) -> Networks:
    """Of small random networks."""
    from tests.conftest import UNET

    config = UNET | {"time_cond_proj_dim": None}
    write_unet(tmp_path / "teacher", config, model.unet)
    write_unet(tmp_path / "instruct", config | {"in_channels": 8}, instructed.unet)
    return Networks(tmp_path / "teacher", tmp_path / "instruct")


def test_all_are_those_that_there_are_networks_for(loaded, folders):
    assert list(chosen(loaded, "all", folders, {})) == ["icd", "icd-plain", "icd-paper", *METHODS]
    without = chosen(loaded, "all", folders._replace(instruct=None), {})
    assert list(without) == [
        "icd",
        "icd-plain",
        "icd-paper",
        *(name for name in METHODS if name != "ip2p"),
    ]


def test_a_missing_or_another_network_is_one_line(loaded, folders):
    with pytest.raises(SettingsError, match="ip2p needs --ip2p"):
        chosen(loaded, "ip2p", folders._replace(instruct=None), {})
    with pytest.raises(BundleError, match="teacher: ip2p needs another kind of UNet"):
        chosen(loaded, "ip2p", folders._replace(instruct=folders.teacher), {})
    with pytest.raises(BundleError, match="ddim needs another kind of UNet"):
        chosen(loaded, "ddim", folders._replace(teacher=folders.instruct), {})


def test_ip2p_runs_on_its_own_network(loaded, folders, monkeypatch):
    """With its instruction and guidance, and calls counted like the others'."""
    seen = []

    def noting(model, task):
        seen.append((model, task))
        model.calls += 1
        return Outcome(task.latents, task.latents)

    monkeypatch.setitem(METHODS, "ip2p", noting)
    method = chosen(loaded, "ip2p", folders._replace(scales=INSTRUCT_SCALES), {})["ip2p"]
    item = Item("i", "pair", "a cat", "a dog", lambda: PICTURE, instruction="turn it into a dog")
    assert method(item).calls == 1
    ((model, task),) = seen
    assert model.sees_picture and task.instruction == "turn it into a dog"
    assert task.scales == INSTRUCT_SCALES


def test_the_tiny_network_is_for_its_own_world():
    assert instructed(None, None, of_the_world=True) == (INSTRUCT, INSTRUCT_SCALES)
    assert instructed(None, None, of_the_world=False) == (None, PUBLISHED_SCALES)
    assert instructed(TEACHER, None, of_the_world=True) == (TEACHER, PUBLISHED_SCALES)
    assert instructed(INSTRUCT, (2.0, 1.0), of_the_world=False) == (INSTRUCT, (2.0, 1.0))


def test_what_is_pasted_back_is_the_pictures_own(small_engine):
    """icd-masked keeps more pixels than the mask alone; without a mask it is icd."""
    (item,) = items(1)
    plain, masked = (OWN[name](small_engine) for name in ("icd", "icd-masked"))
    assert measure(item, masked(item))["background_equal"] > 0.5
    assert measure(item, plain(item))["background_equal"] < 0.5
    free = Item("i", "color", "a", "b", lambda: PICTURE)
    assert (masked(free).edited == plain(free).edited).all()
