"""Whole edits in a real browser are those of Python's runner, within a level of 255."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import ImageError, PromptError, SettingsError
from tests.export.web.browser import chromium, edit, needs_browser, opened, served

pytestmark = needs_browser
SOURCE = "a photo of a cat on the sofa"
TARGET = "a photo of a dog on the sofa"
CASES = {
    "plain": {"auto": False},
    "automatic": {"auto": True},
    "attention": {"cross_replace": {"dog": 0.9}, "self_replace": 0.6, "amplify": {"dog": 2.0}},
    "words": {"blend": [["cat"], ["dog"]], "paste_back": True, "guidance_scale": 7.0},
    "free": {"anchor": 0.0, "control": "none", "tau": [0.3, 0.9], "detail": 0.4},
    "switch": {"control": "switch"},
    "seed": {"seed": str(2**63 - 1)},
}


def png(width: int, height: int, seed: int = 3) -> bytes:
    """Smooth waves with a bright disc."""
    rows, columns = np.mgrid[:height, :width]
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = 128 + 80 * np.sin(rows[..., None] / 9 + phase) * np.cos(columns[..., None] / 13 + phase)
    waves[(rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (height / 4) ** 2] = (230, 40, 90)
    file = io.BytesIO()
    Image.fromarray(waves.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def python(small_engine) -> Engine:
    """The runner that defines the answers of all others."""
    return small_engine


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def page(browser, small_site) -> Iterator:
    with served(small_site) as address, opened(browser, address) as own:
        yield own


def pythons(options: dict) -> dict:
    """The same settings as Python takes them."""
    changed = dict(options)
    if isinstance(options.get("seed"), str):
        changed["seed"] = int(options["seed"])
    for name in ("blend", "tau"):
        if isinstance(options.get(name), list):
            changed[name] = tuple(options[name])
    return changed


def assert_same(pictures: list[np.ndarray], images: list[Image.Image]) -> None:
    assert len(pictures) == len(images)
    for own, image in zip(pictures, images, strict=True):
        assert np.abs(own - np.asarray(image).astype(int)).max() <= 1


@pytest.mark.parametrize("case", CASES)
def test_edits(page, python, case):
    options = CASES[case]
    told, pictures = edit(page, png(64, 64), SOURCE, TARGET, **options)
    own = python.edit(png(64, 64), SOURCE, TARGET, **pythons(options))
    assert_same(pictures, own.images)
    assert told["network_calls"] == own.network_calls
    assert (told["device"], told["used"], told["isolated"]) == ("wasm", 1, True)
    changed = np.abs(pictures[0] - np.asarray(Image.open(io.BytesIO(png(64, 64)))).astype(int))
    assert changed.max() > 20, "an edit that changes nothing shows nothing"
    for name in ("agreement", "change"):
        found = [one[name] for one in told["candidates"]]
        assert found == pytest.approx([getattr(one, name) for one in own.candidates], abs=1e-4)


def test_a_kept_inversion_and_several_targets_of_a_wide_picture(page, python):
    targets = [TARGET, "a photo of a red cat on the sofa", "a cat", "a photo of a lion on the sofa"]
    picture = png(150, 70)
    _, pictures = edit(page, picture, SOURCE, targets, again=True, seed=5, cross_replace=0.5)
    own = python.invert(picture, SOURCE, seed=5).edit(targets, cross_replace=0.5)
    assert pictures[0].shape == (70, 150, 3)
    assert_same(pictures, own.images)


def test_a_mask_keeps_the_pictures_own_pixels(page, python):
    picture = png(100, 80)
    mask = np.zeros((80, 100), dtype=np.float32)
    mask[20:60, 30:80] = 1
    mask[30:40, 40:50] = 0.5
    given = {"width": 100, "height": 80, "data": mask.ravel().tolist()}
    _, pictures = edit(page, picture, SOURCE, TARGET, mask=given, auto=False)
    own = python.edit(picture, SOURCE, TARGET, mask=mask, auto=False)
    assert_same(pictures, own.images)
    kept = np.asarray(Image.open(io.BytesIO(picture))).astype(int)
    assert np.array_equal(pictures[0][mask == 0], kept[mask == 0])


@pytest.mark.parametrize(("isolated", "used"), [(True, 2), (False, 1)])
def test_threads_and_isolation(browser, small_site, python, isolated, used):
    """Without the headers a page has one thread, and edits all the same."""
    with served(small_site, isolated) as address, opened(browser, address) as page:
        told, pictures = edit(page, png(64, 64), SOURCE, TARGET, threads=2, auto=False)
    assert (told["used"], told["isolated"]) == (used, isolated)
    assert_same(pictures, python.edit(png(64, 64), SOURCE, TARGET, auto=False).images)


CALL = """async ([name, given]) => {
  const { Engine } = await import("/icd.js");
  globalThis.engine ??= await Engine.load("/");
  const image = new ImageData(64, 64);
  try {
    await engine.edit(name === "picture" ? new Blob(["no picture"]) : image, ...given);
  } catch (error) {
    return [error.name, error.constructor.name, error.message];
  }
}"""


@pytest.mark.parametrize(
    ("kind", "source", "target", "options"),
    [
        (PromptError, " ", TARGET, {}),
        (PromptError, SOURCE, [], {}),
        (PromptError, SOURCE, TARGET, {"amplify": {"zebra": 2}}),
        (PromptError, SOURCE, "a dog", {"control": "replace"}),
        (SettingsError, SOURCE, TARGET, {"guidance": 3}),
        (SettingsError, SOURCE, TARGET, {"tau": 2}),
        (SettingsError, SOURCE, TARGET, {"tau": [0.9, 0.1]}),
        (SettingsError, SOURCE, TARGET, {"seed": -1}),
        (SettingsError, SOURCE, TARGET, {"seed": 1.5}),
        (SettingsError, SOURCE, TARGET, {"paste_back": True}),
        (SettingsError, SOURCE, [TARGET, "a cat"], {"auto": True}),
        (SettingsError, SOURCE, TARGET, {"control": "switch", "blend": [["cat"], ["dog"]]}),
        (SettingsError, SOURCE, TARGET, {"blend": [["cat"], ["dog"], ["cat"]]}),
        (ImageError, SOURCE, TARGET, {"mask": {"width": 3, "height": 3, "data": [0] * 9}}),
    ],
)
def test_errors_are_those_of_python(page, python, kind, source, target, options):
    name, constructor, text = page.evaluate(CALL, ["", [source, target, options]])
    assert name == constructor == kind.__name__ and text
    pythonic = pythons(options)
    if "mask" in options:
        pythonic["mask"] = np.zeros((3, 9), dtype=np.float32)
    with pytest.raises(kind):
        python.edit(Image.new("RGB", (64, 64)), source, target, **pythonic)


def test_a_file_that_is_no_picture_is_one_error(page):
    name, _, text = page.evaluate(CALL, ["picture", [SOURCE, TARGET, {}]])
    assert name == "ImageError" and "not a picture" in text


def test_progress_and_abort(page):
    """Calls are told one by one; aborted, an edit ends, and the next one works."""
    told, name, after = page.evaluate(
        """async ([source, target]) => {
          const image = new ImageData(64, 64);
          const told = [];
          await engine.edit(image, source, target, { auto: false, progress: (one) => told.push(one) });
          const controller = new AbortController();
          const progress = ({ stage }) => stage === "decode" && controller.abort();
          const name = await engine.edit(image, source, target, { signal: controller.signal, progress })
            .then(() => "", (error) => error.name);
          const { images } = await engine.edit(image, source, target, { auto: false });
          return [told, name, images.length];
        }""",
        [SOURCE, TARGET],
    )
    assert told == [
        {"stage": stage, "done": done, "total": 4}
        for stage in ("encode", "decode")
        for done in range(4)
    ]
    assert (name, after) == ("AbortError", 1)
