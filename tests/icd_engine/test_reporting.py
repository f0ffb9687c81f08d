"""Callbacks and progress: what they give back is checked, and what they raise passes and leaves
nothing behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.errors import ImageError, SettingsError

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def inversion(small_engine, picture):
    return small_engine.invert(picture, SOURCE)


@pytest.mark.parametrize(
    ("replace", "named"),
    [
        (lambda x: x * float("nan"), "NaN or infinite"),
        (lambda x: x / 0, "NaN or infinite"),
        (lambda x: x.double(), "float32"),
        (lambda x: x.long(), "float32"),
        (lambda x: x.to("meta"), "device"),
        (lambda x: x.to_sparse(), "device"),
        (lambda x: x[:1], r"shape \[2, 4, 8, 8\]"),
        (lambda x: x.numpy(), r"shape \[2, 4, 8, 8\]"),
        (lambda x: True, r"shape \[2, 4, 8, 8\]"),
    ],
    ids=["nan", "inf", "float64", "int64", "meta", "sparse", "rows", "numpy", "bool"],
)
def test_latents_that_cannot_go_on_are_refused(inversion, replace, named):
    with pytest.raises(SettingsError, match=f"^callback_on_step_end .*{named}"):
        inversion.edit(TARGET, callback_on_step_end=lambda step, t, latents: replace(latents))


def test_latents_spoilt_in_place_are_not_handed_out(inversion):
    def spoil(step, t, latents):
        latents.fill_(float("nan"))

    for output_type in ("pil", "np", "latent"):
        with pytest.raises(ImageError, match="NaN"):
            inversion.edit(TARGET, callback_on_step_end=spoil, output_type=output_type)


@pytest.mark.parametrize("name", ["callback_on_step_end", "progress"])
def test_what_cannot_be_called_is_refused_before_any_network_call(
    small_engine, inversion, picture, monkeypatch, name
):
    monkeypatch.setattr(small_engine.runner, "encode", None)
    monkeypatch.setattr(small_engine.runner, "decode", None)
    calls = [
        lambda **given: small_engine.invert(picture, SOURCE, **given),
        lambda **given: small_engine.edit(picture, SOURCE, TARGET, **given),
        lambda **given: small_engine.generate(TARGET, **given),
        lambda **given: inversion.edit(TARGET, **given),
    ]
    for call in calls:
        with pytest.raises(SettingsError, match=f"{name} must be a function, not 5"):
            call(**{name: 5})


class Stop(BaseException):
    """What a web framework raises to end a request: not an Exception."""


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, Stop, ZeroDivisionError], ids=lambda error: error.__name__
)
@pytest.mark.parametrize("hop", range(8))
def test_an_edit_may_be_ended_after_any_hop(small_engine, picture, hop, error):
    """By `progress`, which hears of the encode hops too; the next edit, a further one of the same
    inversion included, is the same to the bit."""
    expected = small_engine.edit(picture, SOURCE, TARGET)
    further = expected.inversion.edit(TARGET, blend=("cat", "dog"))
    done = []

    def end(hops):
        done.append(hops)
        if len(done) > hop:
            raise error

    with pytest.raises(error):
        small_engine.edit(picture, SOURCE, TARGET, progress=end)
    assert len(done) == hop + 1
    again = small_engine.edit(picture, SOURCE, TARGET)
    assert torch.equal(again.latents, expected.latents) and np.array_equal(
        again.image, expected.image
    )
    assert torch.equal(
        expected.inversion.edit(TARGET, blend=("cat", "dog")).latents, further.latents
    )


def test_a_first_edit_that_is_ended_keeps_no_half_branch(small_engine, picture):
    """The source branch is kept after the last hop or not at all."""
    kept = small_engine.invert(picture, SOURCE)
    ticks = iter([None, None, KeyboardInterrupt()])

    def end(hops):
        if (error := next(ticks)) is not None:
            raise error

    with pytest.raises(KeyboardInterrupt):
        kept.edit(TARGET, progress=end, anchor=0.0)
    assert small_engine._branches.get(kept, False) is None
    other = small_engine.invert(picture, SOURCE)
    ours, theirs = (one.edit(TARGET, anchor=0.0).latents for one in (kept, other))
    assert torch.equal(ours, theirs)
