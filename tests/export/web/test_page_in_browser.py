"""The page as a visitor has it: by keyboard alone, on a phone, with files dropped in and taken out.

ICD_WEB_SCREENSHOT=docs/web.png writes a picture of an edit of the embedded model there (`-m long`).
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.bundles.bundle import read_bundle
from icd_engine.engine import Engine
from tests.export.web.browser import PATIENCE, chromium, edit, needs_browser, opened, served
from tests.export.web.test_edits_in_browser import SOURCE, TARGET, png

pytestmark = needs_browser
READY = "document.querySelector('#note').textContent.startsWith('Ready')"
DONE = "/^[0-9.]+ s/.test(document.querySelector('#note').textContent) || document.querySelector('#error').textContent"
PIXELS = """() => {
  const canvas = document.querySelector("#after");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, [...data]];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def address(small_site) -> Iterator[str]:
    with served(small_site) as one:
        yield one


@pytest.fixture
def page(browser, address) -> Iterator:
    with opened(browser, address, "/", viewport={"width": 375, "height": 800}) as own:
        own.wait_for_function(READY)
        yield own


@pytest.fixture(scope="module")
def python(small_engine) -> Engine:
    return small_engine


def shown(page) -> np.ndarray:
    height, width, data = page.evaluate(PIXELS)
    return np.array(data).reshape(height, width, 4)[..., :3]


def upload(page, width: int = 64, height: int = 64) -> None:
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": png(width, height)}
    page.set_input_files("#file", [file])
    page.wait_for_function(f"document.querySelector('#before').width === {width}")


def after(page, action) -> str:
    """What the page says once an edit that an action has begun is done."""
    page.evaluate("document.querySelector('#note').textContent = ''")
    action()
    page.wait_for_function(DONE)
    assert page.inner_text("#error") == ""
    return page.inner_text("#note")


def focus(page, selector: str) -> None:
    """Goes there with the Tab key alone."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement.matches(arguments[0])".replace("arguments[0]", repr(selector))
        ):
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_an_edit_by_keyboard_alone_follows_its_sliders(page, python):
    upload(page)
    focus(page, "#source")
    page.keyboard.type(SOURCE)
    focus(page, "#target")
    page.keyboard.type(TARGET)
    focus(page, "#auto")
    page.keyboard.press("Space")
    focus(page, "#edit")
    note = after(page, lambda: page.keyboard.press("Enter"))
    assert "kept inversion" not in note
    own = python.edit(png(64, 64), SOURCE, TARGET, auto=False)
    assert np.abs(shown(page) - np.asarray(own.image).astype(int)).max() <= 1
    focus(page, "#settings summary")
    page.keyboard.press("Enter")
    focus(page, "[data-setting=guidance_scale]")
    note = after(page, lambda: page.keyboard.press("End"))
    assert "kept inversion" in note
    scale = float(page.input_value("[data-setting=guidance_scale]"))
    own = python.edit(png(64, 64), SOURCE, TARGET, guidance_scale=scale)
    assert scale == 15 and np.abs(shown(page) - np.asarray(own.image).astype(int)).max() <= 1
    focus(page, "#painting summary")
    page.keyboard.press("Enter")
    focus(page, "#mask")
    page.keyboard.press("ArrowLeft")
    after(page, lambda: page.keyboard.press("Space"))
    given = np.asarray(Image.open(io.BytesIO(png(64, 64)))).astype(int)
    changed = np.abs(shown(page) - given).max(axis=2) > 0
    assert 0 < changed.mean() < 0.2 and changed[28:36, 26:34].any()


def test_an_automatic_edit_shows_a_plain_one_first(page, python):
    upload(page)
    page.fill("#source", SOURCE)
    page.fill("#target", TARGET)
    page.evaluate(
        """() => {
          window.seen = 0;
          const context = document.querySelector("#after").getContext("2d");
          const put = context.putImageData.bind(context);
          context.putImageData = (...given) => (window.seen++, put(...given));
        }"""
    )
    after(page, lambda: page.click("#edit"))
    assert page.evaluate("window.seen") == 2
    own = python.edit(png(64, 64), SOURCE, TARGET, auto=True)
    assert np.abs(shown(page) - np.asarray(own.image).astype(int)).max() <= 1
    assert float(page.input_value("[data-setting=cross_replace]")) == own.settings.cross_replace


def test_a_phone_shows_it_without_scrolling_sideways(page):
    upload(page, 300, 100)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert page.evaluate("document.querySelector('#stage').getBoundingClientRect().width") <= 375


def test_several_targets_are_chosen_from_and_downloaded_with_their_provenance(page):
    upload(page)
    page.fill("#source", SOURCE)
    page.fill("#target", f"{TARGET}\na photo of a lion on the sofa")
    after(page, lambda: page.click("#edit"))
    first = shown(page)
    page.locator("#choice button").nth(1).click()
    assert np.abs(shown(page) - first).max() > 5
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "edited_2.png"
    picture = Image.open(Path(download.value.path()))
    assert np.array_equal(np.asarray(picture.convert("RGB")), shown(page))
    xmp = str(picture.info["XML:com.adobe.xmp"])
    assert "digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in xmp


def test_wrong_input_is_one_clear_message_and_the_page_goes_on(page):
    file = {"name": "picture.png", "mimeType": "image/png", "buffer": b"this is no picture"}
    page.set_input_files("#file", [file])
    page.wait_for_function("document.querySelector('#error').textContent")
    assert "not a picture" in page.inner_text("#error")
    upload(page)
    page.fill("#target", TARGET)
    page.click("#edit")
    page.wait_for_function("document.querySelector('#error').textContent")
    assert page.inner_text("#error") == "the source prompt is empty"
    page.fill("#source", SOURCE)
    after(page, lambda: page.click("#edit"))


def test_an_edit_is_cancelled(page):
    upload(page)
    page.fill("#source", SOURCE)
    page.fill("#target", TARGET)
    # At once: an edit of a small model is over before a second click comes from here
    page.evaluate("['edit', 'cancel'].forEach((id) => document.getElementById(id).click())")
    page.wait_for_function("document.querySelector('#note').textContent.startsWith('Cancelled')")
    after(page, lambda: page.click("#edit"))


def test_a_second_visit_takes_the_model_from_the_cache(browser, address):
    with browser.new_context() as context:
        with opened(context, address, "/") as page:
            page.wait_for_function(READY)
            assert any(".bin" in url for url in page.asked)
        with opened(context, address, "/") as page:
            page.wait_for_function(READY)
            assert [url for url in page.asked if ".bin" in url or ".onnx" in url] == []


def test_a_damaged_file_is_refused(browser, small_site, tmp_path):
    for path in small_site.rglob("*"):
        if path.is_file():
            copy = tmp_path / "site" / path.relative_to(small_site)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    weights = tmp_path / "site" / "model" / "vae_decoder.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    with served(tmp_path / "site") as address, opened(browser, address, "/") as page:
        page.wait_for_function("document.querySelector('#error').textContent")
        assert page.inner_text("#error").startswith("model/vae_decoder.bin was changed or damaged")


def test_somebody_elses_page_embeds_it_by_the_documentation_alone(browser, small_site, tmp_path):
    """The folder `embedding` beside the exported site, which it calls icd/."""
    for path in Path(__file__).with_name("embedding").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "icd").symlink_to(small_site)
    with served(tmp_path, isolated=False) as address, opened(browser, address, "/") as page:
        page.wait_for_function("document.querySelector('#told').textContent === 'ready'")
        file = {"name": "picture.png", "mimeType": "image/png", "buffer": png(96, 64)}
        page.set_input_files("#file", [file])
        page.wait_for_function("document.querySelector('#told').textContent === 'done'")
        size = page.evaluate(
            "[document.querySelector('canvas').width, document.querySelector('canvas').height]"
        )
        assert size == [96, 64]


@pytest.mark.long
def test_the_embedded_model(browser, tmp_path):
    """Its site's edits are Python's within a level, and it is as small as it is said to be."""
    from export.web_site import export_site

    site = tmp_path / "site"
    manifest = export_site(read_bundle("tiny"), site)
    transferred = [
        site / "ort" / name for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.wasm")
    ]
    transferred += [*(site / "model").iterdir(), *site.glob("*.*")]
    assert sum(path.stat().st_size for path in transferred) <= 36e6
    assert all(graph["weights"]["float"] == 0 for graph in manifest["graphs"].values())
    python = Engine.from_pretrained("tiny", device="cpu", dtype="float32", runner="eager")
    with served(site) as address, opened(browser, address) as page:
        for example in manifest["examples"]:
            picture = (site / example["picture"]).read_bytes()
            for options in ({}, {"auto": False, "cross_replace": 0.4}):
                _, (own,) = edit(page, picture, example["source"], example["target"], **options)
                wanted = python.edit(picture, example["source"], example["target"], **options)
                assert np.abs(own - np.asarray(wanted.image).astype(int)).max() <= 1
    out = os.environ.get("ICD_WEB_SCREENSHOT")
    if out:
        screenshot(browser, site, Path(out))


def screenshot(browser, site: Path, out: Path) -> None:
    view = {"width": 1100, "height": 760}
    with served(site) as address, opened(browser, address, "/", viewport=view) as page:
        page.wait_for_function(READY, timeout=PATIENCE)
        after(page, lambda: page.click("#edit"))
        page.fill("#split", "50")
        page.mouse.move(0, 0)
        page.screenshot(path=out, full_page=True)
