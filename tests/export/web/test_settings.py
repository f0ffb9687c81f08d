"""Settings of the page are completed as Python's are; PNGs and automatic choices are Python's."""

import random
import warnings

from icd_engine.automatic import AGREES, ranked
from icd_engine.errors import IcdError
from icd_engine.results import Candidate
from icd_engine.settings import CHOICES, MAX_AMPLIFY, MAX_FEATHER, MAX_GUIDANCE, EditSettings
from tests.export.web.node import answers, needs_node, values

pytestmark = needs_node
LIMITS = {"guidance": MAX_GUIDANCE, "amplify": MAX_AMPLIFY, "feather": MAX_FEATHER}
DEFAULTS = EditSettings(
    guidance_scale=4.0,
    tau=0.8,
    tau_low=0.0,
    control="auto",
    cross_replace=0.2,
    self_replace=0.5,
    seed=0,
    anchor=1.0,
    auto=True,
)
VALUES: dict[str, tuple] = {
    "guidance_scale": (0, 7.5, 100, 100.5, -1, "7", True),
    "tau": (0.3, 1, 1.01, [0.2, 0.8], [0.8, 0.2], [0.1], "all"),
    "tau_low": (0, 0.5, 2),
    "control": ("auto", "none", "switch", "both", 3),
    "cross_replace": (
        0.4,
        [0, 0.5],
        {"dog": 0.4},
        {"default": 0.9, "dog": [0, 1]},
        {"dog": 4},
        {" ": 1},
    ),
    "self_replace": (0.4, [0, 0.5], {"dog": 0.4}),
    "amplify": ({"dog": 2}, {"dog": -20}, {"dog": 21}, ["dog"], {}),
    "blend": ("dog", ["cat", "dog"], [["cat"], ["dog"]], [["cat"], "dog"], [[], []], 3, [" "]),
    "paste_back": (True, False, 1),
    "feather": (0, 12.5, 1001),
    "seed": (0, 2**31, -1, 0.5),
    "anchor": (0, 0.5, 1, 2),
    "detail": (0, 0.5, 1, -0.1),
    "auto": (True, False, "yes"),
    "guidance": (3,),
}


def test_settings_are_checked_and_completed():
    draw = random.Random(6)
    cases = [{name: value} for name, own in VALUES.items() for value in own]
    for _ in range(1500):
        names = draw.sample(list(VALUES)[:-1], draw.randint(0, 4))
        cases.append({name: draw.choice(VALUES[name]) for name in names})
    calls = [("settled", one, DEFAULTS.as_json(), LIMITS, draw.random() < 0.8) for one in cases]
    refused = 0
    for (_, given, _, _, anchors), theirs in zip(calls, answers(calls), strict=True):
        try:
            wanted = completed(given, anchors)
        except IcdError as error:
            refused += 1
            assert theirs.get("error") == type(error).__name__, (given, str(error), theirs)
        else:
            assert plain(theirs["value"]) == plain(wanted), given
    assert 300 < refused < 1300


def completed(given: dict, anchors: bool) -> dict:
    """As Model.settle does it."""
    own = EditSettings.from_mapping(given)
    settings = own.resolve(DEFAULTS)
    if own.auto is None and not own.chosen.isdisjoint(CHOICES):
        settings = settings.with_values({"auto": False})
    if not anchors:
        settings = settings.with_values({"anchor": 0.0})
    if settings.detail is None:
        settings = settings.with_values({"detail": settings.anchor})
    return settings.as_json()


def plain(settings: dict) -> dict:
    return settings | {"seed": int(settings["seed"])}


def test_candidates_are_ranked():
    draw = random.Random(7)
    cases = []
    for _ in range(500):
        low = draw.choice((-1.0, 0.0, 0.5))
        found = [
            {
                "name": i,
                "agreement": draw.uniform(low, 1 + low),
                "change": draw.choice((0.1, 0.2, draw.random())),
            }
            for i in range(draw.randint(1, 7))
        ]
        cases.append(found)
    for found, theirs in zip(
        cases, values([("ranked", one, AGREES) for one in cases]), strict=True
    ):
        with warnings.catch_warnings():
            own = [
                Candidate(EditSettings(seed=c["name"]), c["agreement"], c["change"], None)
                for c in found
            ]
        assert theirs == [one.settings.seed for one in ranked(own)]
