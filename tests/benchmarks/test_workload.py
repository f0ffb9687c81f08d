"""The workload: edits that differ, in words that every benchmarked model can read."""

import pytest

from benchmarks.workload import PLAIN, further_cases, make_cases, without_control
from training.tiny.text import vocabulary


@pytest.fixture(scope="module")
def cases():
    return make_cases(40, (64, 64))


def test_no_two_edits_share_a_source(cases):
    assert len({case.source for case in cases}) == 40
    assert all(case.picture.size == (64, 64) and case.source != case.target for case in cases)
    assert len({case.settings["seed"] for case in cases}) == 40


def test_further_edits_share_picture_and_source_and_nothing_else(cases):
    further = further_cases(cases[0], 100)
    assert len({case.target for case in further}) == 100
    assert all(
        (case.picture, case.source) == (cases[0].picture, cases[0].source) for case in further
    )
    assert all(case.settings["seed"] == cases[0].settings["seed"] for case in further)


def test_every_word_is_known(cases):
    words = set(vocabulary())
    for case in [*cases, *further_cases(cases[0], 100)]:
        assert {*case.source.split(), *case.target.split()} <= words
        assert set(case.settings["amplify"]) <= set(case.target.split())
        source, target = case.settings["blend"]
        assert source in case.source.split() and target in case.target.split()


def test_without_control_keeps_picture_prompts_and_seed(cases):
    plain = without_control(cases[3])
    assert plain.settings == PLAIN | {"seed": cases[3].settings["seed"], "control": "none"}
    assert (plain.picture, plain.source, plain.target) == (
        cases[3].picture,
        cases[3].source,
        cases[3].target,
    )
