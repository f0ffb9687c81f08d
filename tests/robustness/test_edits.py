"""Whole edits on the embedded model with something wrong or odd in them, and a good one before and
after."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from icd_engine.results import EditRequest

pytestmark = pytest.mark.usefixtures("unharmed")
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"

few = settings(max_examples=max(8, settings.default.max_examples // 3))
some = settings(max_examples=max(8, settings.default.max_examples // 2))
WORDS = st.sampled_from(
    ["circle", "green", "red", "blue", "star", "Circle,", "plain blue", "", "🐶", "<|endoftext|>"]
)
PROMPTS = st.one_of(
    st.sampled_from(
        [
            SOURCE,
            TARGET,
            "",
            " ",
            "🐶 🐱",
            "שלום עולם",
            "<|endoftext|>",
            "circle",
            "red " * 90,
            "x" * 10_000,
        ]
    ),
    st.text(st.characters(codec=None), max_size=30),
    st.lists(
        st.sampled_from(["a", "red", "circle", "🐶", "\u202e", "<|endoftext|>", "?!"]), max_size=20
    ).map(" ".join),
)
ANYTHING = st.one_of(
    PROMPTS, PROMPTS, st.none(), st.integers(), st.binary(max_size=3), st.lists(PROMPTS, max_size=3)
)
SHARES = st.one_of(
    st.floats(0, 1), st.tuples(st.floats(0, 1), st.floats(0, 1)), st.floats(), st.text(max_size=3)
)
VALUES = {
    "guidance_scale": st.one_of(st.floats(0, 100), st.floats(), st.text(max_size=3)),
    "tau": SHARES,
    "tau_low": st.one_of(st.floats(0, 1), st.none(), st.integers()),
    "control": st.sampled_from(["auto", "replace", "refine", "none", "switch", "swap", None, 3]),
    "cross_replace": st.one_of(SHARES, st.dictionaries(WORDS, SHARES, max_size=2)),
    "self_replace": SHARES,
    "amplify": st.one_of(st.dictionaries(WORDS, st.floats(-20, 20), max_size=2), st.floats()),
    "blend": st.one_of(WORDS, st.tuples(WORDS, WORDS), st.lists(WORDS, max_size=2), st.none()),
    "mask": st.sampled_from(
        [
            None,
            np.ones((4, 4)),
            np.zeros((1, 9)),
            np.full((3, 3), np.nan),
            np.zeros((2, 2, 3)),
            b"x",
        ]
    ),
    "mask_from": st.sampled_from(
        ["words", None, "sky", lambda *_: np.ones((3, 2)), lambda *_: None, lambda *_: "no.png"]
    ),
    "paste_back": st.sampled_from([True, False, None, "yes"]),
    "feather": st.one_of(st.floats(0, 40), st.floats(), st.none(), st.text(max_size=2)),
    "seed": st.one_of(st.integers(0, 2**63 - 1), st.integers(), st.floats()),
    "size": st.sampled_from(
        [
            None,
            (16, 16),
            (32, 48),
            (0, 16),
            (17, 32),
            (-16, 16),
            (16,),
            "16x16",
            (16.0, 16.0),
            [16, 32],
        ]
    ),
    "output_type": st.sampled_from(["pil", "np", "pt", "latent", "jpg", None, 0]),
    "settings": st.sampled_from([None, None, None, "best", 5]),
    "callback_on_step_end": st.sampled_from([None, None, 5, "print"]),
    "tua": st.floats(),
}
PICTURES = st.one_of(
    st.tuples(st.integers(1, 64), st.integers(1, 64)).map(
        lambda size: Image.new("RGB", size, "red")
    ),
    st.sampled_from(["RGBA", "L", "P", "1", "CMYK", "I", "F"]).map(
        lambda mode: Image.new(mode, (20, 30))
    ),
    st.sampled_from(
        [
            None,
            b"",
            b"no picture",
            "nowhere.png",
            np.full((8, 8, 3), np.nan),
            np.zeros((0, 4, 3)),
            7,
        ]
    ),
)


@st.composite
def options(draw: st.DrawFn, names: tuple[str, ...] = tuple(VALUES)) -> dict[str, Any]:
    chosen = draw(st.lists(st.sampled_from(names), max_size=4, unique=True))
    return {name: draw(VALUES[name]) for name in chosen}


GOOD = Image.new("RGB", (20, 30), "red")
REQUESTS = st.one_of(
    st.builds(
        EditRequest,
        st.just(GOOD),
        st.just(SOURCE),
        PROMPTS,
        options(("blend", "guidance_scale", "tau")),
    ),
    st.builds(EditRequest, PICTURES, ANYTHING, ANYTHING, options()),
    st.none(),
)


def check_result(result: Any) -> None:
    if result is not None:
        for values in (result.latents, result.source_latents, result.images):
            for one in values:
                assert np.isfinite(np.asarray(one, dtype=np.float64)).all()


@few
@given(PICTURES, ANYTHING, ANYTHING, options())
def test_edits(tried, engine, image, source, target, chosen):
    check_result(
        tried("whole edits, anything odd", lambda: engine.edit(image, source, target, **chosen))
    )


@some
@given(options())
def test_options_of_good_edits(tried, engine, picture, chosen):
    given_ = {"size": (16, 16), **chosen}
    check_result(
        tried("whole edits, odd options", lambda: engine.edit(picture, SOURCE, TARGET, **given_))
    )


@some
@given(st.lists(PROMPTS, min_size=1, max_size=3), PROMPTS)
def test_prompts_of_good_edits(tried, engine, picture, targets, source):
    edit = lambda: engine.edit(picture, source, targets, size=(16, 16))  # noqa: E731
    check_result(tried("whole edits, odd prompts", edit))


@few
@given(st.lists(REQUESTS, max_size=3))
def test_many(tried, engine, requests):
    results = tried("lists of requests", lambda: engine.edit_many(requests, size=(16, 16)))
    for result in results or []:
        check_result(result)


@few
@given(ANYTHING, options(("guidance_scale", "tau", "tau_low", "seed", "size")))
def test_generation(tried, engine, prompts, chosen):
    tried("generation", lambda: engine.generate(prompts, **{"size": (16, 16), **chosen}))


@pytest.fixture(scope="module")
def saved(engine, picture, tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("kept") / "kept.safetensors"
    return engine.invert(picture, SOURCE, size=(16, 16)).save(path).read_bytes()


@given(st.data())
def test_damaged_inversions(tried, engine, saved, tmp_path_factory, data):
    changed = bytearray(saved)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed)))
        changed[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(bytes(changed))
    inversion = tried("damaged files of kept inversions", lambda: engine.load_inversion(path))
    if inversion is not None:  # what was changed did not count, or was put back
        assert np.isfinite(np.asarray(inversion.latents)).all()


@few
@given(st.data())
def test_callbacks(tried, engine, picture, data):
    """What a callback does to the latents, in place or by returning others, at some step."""
    at = data.draw(st.integers(0, 3))
    spoil = data.draw(st.sampled_from(["nan", "inf", "huge", "int", "half", "cut", "list", "none"]))
    changes: dict[str, Any] = {
        "nan": lambda x: x.fill_(float("nan")) if data.draw(st.booleans()) else x * float("nan"),
        "inf": lambda x: x / 0,
        "huge": lambda x: x * 1e30,
        "int": lambda x: x.int(),
        "half": lambda x: x.half(),
        "cut": lambda x: x[..., :-1],
        "list": lambda x: x.tolist(),
        "none": lambda x: None,
    }

    def callback(step: int, t: int, latents: Any) -> Any:
        return changes[spoil](latents) if step == at else None

    def edit():
        return engine.edit(picture, SOURCE, TARGET, size=(16, 16), callback_on_step_end=callback)

    check_result(tried("callbacks", edit))
