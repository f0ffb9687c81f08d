"""Settings of any type in any field, prompts of any characters, words that are or are not in
them."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icd_engine.bundles.bundle import read_bundle
from icd_engine.editing.plan import make_plan
from icd_engine.editing.words import PromptTokenizer
from icd_engine.engine import Engine
from icd_engine.settings import EditSettings

FIELDS = tuple(EditSettings.__dataclass_fields__)
ANY_CHARACTERS = st.text(st.characters(codec=None), max_size=60)  # surrogates too
SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|unknown|>",
    "🐶",
    "👩\u200d👩\u200d👧",
    "שלום",
    "مرحبا",
    "E\u0301",
]
SPECIAL += ["ﬁ", "ß", "ǅ", "\u200b", "\u202e", "\0", "\ud800", "\ufffd", "\t", "\u2028"]
KNOWN_WORDS = [
    "a",
    "small",
    "red",
    "circle",
    "on",
    "plain",
    "blue",
    "background",
    "large",
    "green",
    "star",
    "dotted",
]


class Unfriendly:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=10),
    st.binary(max_size=5),
    st.integers(4400, 6000).map(lambda digits: 10**digits),  # more digits than Python prints
    st.builds(Unfriendly),
    st.builds(object),
    st.sampled_from(
        [Decimal("0.5"), Decimal("sNaN"), Fraction(1, 3), 1j, np.float32(0.5), np.float64("nan")]
    ),
    st.sampled_from([np.int64(3), np.bool_(True), np.zeros((30, 30)), np.array(0.5)]),
    st.sampled_from(["auto", "replace", "refine", "none", "switch", "circle", "x" * 10_000]),
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(
            st.one_of(st.text(max_size=6), st.integers(), st.none()), inner, max_size=3
        ),
        st.sets(st.text(max_size=3), max_size=2),
    ),
    max_leaves=6,
)
SHARES = st.one_of(st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats())
WORDS = st.one_of(st.sampled_from(KNOWN_WORDS), st.sampled_from(SPECIAL), ANY_CHARACTERS)
PROMPTS = st.one_of(
    ANY_CHARACTERS,
    st.lists(st.one_of(st.sampled_from(KNOWN_WORDS), st.sampled_from(SPECIAL)), max_size=12).map(
        " ".join
    ),
    st.integers(70, 90).map(lambda count: "red " * count),
    st.sampled_from(
        ["", " ", "\n\t", "x" * 10_000, "circle " * 2_000, "🐶" * 500, "\u202e" * 200, "é" * 300]
    ),
)
GOOD_SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "guidance_scale": st.floats(0, 100),
        "tau": SHARES,
        "tau_low": st.floats(0, 1),
        "control": st.sampled_from(["auto", "replace", "refine", "none", "switch"]),
        "cross_replace": st.one_of(SHARES, st.dictionaries(WORDS, SHARES, max_size=2)),
        "self_replace": SHARES,
        "amplify": st.dictionaries(WORDS, st.floats(-25, 25), max_size=2),
        "blend": st.one_of(WORDS, st.tuples(WORDS, WORDS), st.lists(WORDS, min_size=1, max_size=2)),
        "seed": st.integers(-1, 2**63),
    },
)


@pytest.fixture(scope="module")
def tokenizer() -> PromptTokenizer:
    return PromptTokenizer.from_folder(read_bundle("tiny").path / "tokenizer")


@given(
    st.dictionaries(
        st.one_of(st.sampled_from(FIELDS), st.text(max_size=12), st.integers()),
        ANYTHING,
        max_size=4,
    )
)
def test_any_value_in_any_field(tried, values):
    made = tried("settings of any type in any field", lambda: EditSettings.from_mapping(values))
    if made is not None:
        json.dumps(made.as_json())
        assert made.resolve(EditSettings(seed=1)).seed is not None


@given(ANYTHING)
def test_anything_in_place_of_settings(tried, values):
    tried("anything in place of settings", lambda: EditSettings.from_mapping(values))


@given(PROMPTS, PROMPTS, GOOD_SETTINGS)
def test_any_prompts_and_words(tried, tokenizer, source, target, values):
    def plan() -> Any:
        settings = EditSettings.from_mapping(values)
        return make_plan(tokenizer.encode(source), tokenizer.encode(target), settings, 4)

    made = tried("prompts of any characters, words of blend, amplify and cross_replace", plan)
    if made is not None:
        n = tokenizer.max_length
        assert made.source_mix.shape == (4, n, n) and made.target_gain.shape == (4, n)
        assert np.isfinite(made.source_mix).all() and np.isfinite(made.target_gain).all()


@given(st.one_of(ANYTHING, PROMPTS))
def test_anything_in_place_of_a_prompt(tried, tokenizer, value):
    tokens = tried("anything in place of a prompt", lambda: tokenizer.encode(value))
    assert tokens is None or len(tokens.ids) == tokenizer.max_length


OPTIONS = ("device", "dtype", "runner", "weights", "offload", "vae_tiling", "model")


@given(st.sampled_from(OPTIONS), ANYTHING)
def test_options_of_loading(tried, name, value):
    # The model whose files are missing ends what would be right.
    given = {"model": "nowhere", name: value}
    tried("options of from_pretrained", lambda: Engine.from_pretrained(**given))
