"""Plans of the page are Python's to the bit, on thousands of edits of both tokenizers."""

import random
import warnings

import numpy as np
import pytest

from icd_engine.editing.plan import make_plan
from icd_engine.errors import IcdError
from icd_engine.settings import EditSettings
from tests.export.web.node import answers, needs_node
from tests.export.web.prompts import TABLES, TOKENIZERS, WORDS, prompt

pytestmark = needs_node


def share(draw: random.Random):
    one = round(draw.random(), 2)
    return one if draw.random() < 0.7 else sorted((one, round(draw.random(), 2)))


def settings(draw: random.Random, source: str, target: str) -> dict:
    """Any settings of a plan, most of whose words are in the prompts."""

    def word(text: str) -> str:
        return draw.choice(text.split()) if draw.random() < 0.97 else draw.choice(WORDS)

    given: dict = {"cross_replace": share(draw), "self_replace": share(draw)}
    if draw.random() < 0.6:
        given["control"] = draw.choice(("auto", "replace", "refine", "refine", "switch", "none"))
    if draw.random() < 0.3:
        given["cross_replace"] = {"default": share(draw), word(target): share(draw)}
    if draw.random() < 0.4:
        given["amplify"] = {word(target): round(draw.uniform(-20, 20), 3), word(target): 1.3}
    if draw.random() < 0.3 and given.get("control") != "switch":
        given["blend"] = [[word(source)], [word(target), word(target)]]
    return given


def changed(draw: random.Random, text: str) -> str:
    words = text.split()
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(words))
        words[at : at + draw.randint(0, 1)] = [draw.choice(WORDS)] * draw.randint(0, 2)
        words = words or ["a"]
    return " ".join(words)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_plans(kind):
    draw = random.Random(f"plans {kind}")
    tokenizer = TOKENIZERS[kind]
    cases = []
    for _ in range(1000):
        source = prompt(draw, 0.1, 90 if draw.random() < 0.03 else 10)
        target = changed(draw, source)
        cases.append((source, target, settings(draw, source, target), draw.choice((1, 3, 4, 4))))
    found = answers([("plan", *case) for case in cases], TABLES[kind])
    made = 0
    for (source, target, given, steps), theirs in zip(cases, found, strict=True):
        case = (source, target, given, steps)
        pythons = given | ({"blend": tuple(given["blend"])} if "blend" in given else {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            both = tokenizer.encode(source), tokenizer.encode(target)
        try:
            plan = make_plan(*both, EditSettings.from_mapping(pythons), steps)
        except IcdError as error:
            assert theirs.get("error") == type(error).__name__, (case, theirs, error)
            continue
        made += 1
        compare(plan, theirs["value"], case)
    assert made > 700


def compare(plan, theirs, case) -> None:
    steps, n = plan.target_gain.shape
    mix = np.zeros((steps, n * n), dtype=np.float32)
    for k, entries in enumerate(theirs["mix"]):
        for at, value in entries:
            mix[k, at] = value
    assert np.array_equal(mix.reshape(steps, n, n), plan.source_mix), case
    assert np.array_equal(np.float32(theirs["gain"]), plan.target_gain), case
    assert theirs["share"] == plan.share_self.tolist(), case
    for own, positions in zip((plan.blend_source, plan.blend_target), theirs["blend"], strict=True):
        wanted = None if own is None else np.flatnonzero(own).tolist()
        assert positions == wanted, case
