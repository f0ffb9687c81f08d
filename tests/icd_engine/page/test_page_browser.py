"""`icd ui` as a visitor has it: the program itself, started with nothing but a port, and a real
browser.

ICD_SCREENSHOT=docs/ui.png writes a picture of a finished edit there.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.bundles.demo import read_demo
from icd_engine.cli.ui import SCENES
from icd_engine.engine import Engine

pytest.importorskip("gradio", reason="the page is made with Gradio")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the browser is driven by playwright"
)
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

ROOT = Path(__file__).parents[3]
RUN = "import sys; from icd_engine.cli import main; sys.exit(main())"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
CIRCLE = read_demo(SCENES / "1_circle")  # red to green
PATIENCE = 60_000  # ms; other work may be going on


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    """The program, until SIGTERM, which it obeys and after which none of its files are left."""
    temporary = tmp_path_factory.mktemp("temporary")
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)}
    env.pop("ICD_AUTH", None)
    command = [sys.executable, "-c", RUN, "ui", "--port", str(_free_port())]
    process = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", said)
    assert found, said + process.stderr.read()
    yield found[0]
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert (process.returncode, list(temporary.glob("icd-ui-*"))) == (0, [])
    assert "Traceback" not in rest


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address) -> Iterator:
    """The page, whose canvas shows the first example; every request must have stayed on this
    machine."""
    page = browser.new_page(viewport={"width": 1280, "height": 1060})
    page.set_default_timeout(PATIENCE)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address)
    playwright.expect(field(page, "source")).not_to_have_value("", timeout=PATIENCE)
    page.wait_for_selector("#canvas canvas")
    yield page
    page.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert len(asked) > 20 and (outside, failed) == ([], [])


def field(page, name: str):
    return page.locator(f"#{name} textarea, #{name} input").first


def take_circle(page) -> None:
    """The second example; waits until the form shows it."""
    page.locator("#examples button").nth(1).click()
    for name, text in (("source", CIRCLE.source), ("targets", CIRCLE.target)):
        playwright.expect(field(page, name)).to_have_value(text, timeout=PATIENCE)


def source_of(page) -> str | None:
    """Where the edited picture comes from; every edit's has an address of its own."""
    image = page.locator("#result img").nth(1)
    return image.get_attribute("src") if image.count() else None


def after(page, action) -> None:
    """Does something and waits until another edited picture is loaded."""
    before = source_of(page)
    action()
    loaded = "before => { const i = document.querySelectorAll('#result img')[1]; "
    loaded += "return i && i.src !== before && i.complete && i.naturalWidth > 0 }"
    page.wait_for_function(loaded, arg=before)


def edit(page) -> None:
    after(page, page.locator("#edit").click)


def pixels(page) -> np.ndarray:
    """The edited picture that the page shows, as the browser gets it, int [h, w, 3]."""
    return np.asarray(
        Image.open(io.BytesIO(page.request.get(source_of(page)).body())).convert("RGB")
    ).astype(int)


def messages(page) -> list[str]:
    page.wait_for_selector("[data-testid=toast-text]")
    return [one.inner_text() for one in page.locator("[data-testid=toast-text]").all()]


def close_messages(page) -> None:
    for one in page.locator("[data-testid=toast-close]").all():
        one.click()
    playwright.expect(page.locator("[data-testid=toast-text]")).to_have_count(0, timeout=PATIENCE)


def is_green(shown: np.ndarray) -> bool:
    """Whether the red circle became a green one and the rest stayed what it was."""
    picture = np.asarray(CIRCLE.picture).astype(int)
    circle = (picture[..., 0] > 180) & (picture[..., 1] < 80)
    red, green, _ = shown[circle].mean(axis=0)
    return green > red + 60 and np.abs(shown - picture)[~circle].mean() < 20


def test_an_example_is_edited_and_follows_the_slider(page):
    take_circle(page)
    edit(page)
    first = pixels(page)
    assert is_green(first)
    assert page.inner_text("#note").startswith("8 network calls")
    handle = page.locator("#guidance_scale input[type=range]").bounding_box()
    middle = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + 0.2 * handle["width"], middle)
    page.mouse.down()
    page.mouse.move(handle["x"] + 0.7 * handle["width"], middle, steps=25)
    page.mouse.up()
    chosen = float(page.input_value("#guidance_scale input[type=number]"))
    assert chosen > 10
    # Whatever was between, the last value must be what is shown in the end; a row alone rounds in
    # another way.
    engine = Engine.from_pretrained("tiny", device="cpu", dtype="float32")
    wanted = engine.edit(CIRCLE.picture, CIRCLE.source, CIRCLE.target, guidance_scale=chosen)
    for _ in range(100):
        if np.abs(pixels(page) - np.asarray(wanted.image)).max() <= 2:
            break
        page.wait_for_timeout(200)
    assert np.abs(pixels(page) - np.asarray(wanted.image)).max() <= 2
    assert np.abs(pixels(page) - first).max() > 20
    assert page.inner_text("#note").startswith(
        "4 network calls"
    ) and "kept inversion" in page.inner_text("#note")


def test_wrong_input_is_one_clear_message_and_the_page_goes_on(page, tmp_path):
    take_circle(page)
    wrong = tmp_path / "picture.png"
    wrong.write_text("this is no picture")
    page.set_input_files("#upload input[type=file]", wrong)
    [message] = messages(page)
    assert re.fullmatch(r"not a PNG, JPEG, WEBP, .* picture, or a damaged one", message)
    close_messages(page)
    wrong.write_bytes((SCENES / "1_circle" / "demo.png").read_bytes()[:900])
    page.set_input_files("#upload input[type=file]", wrong)
    assert messages(page) == ["the picture is damaged or cut short"]
    close_messages(page)
    field(page, "source").fill(" ")
    page.click("#edit")
    assert messages(page) == ["the source prompt is empty: say what the picture shows"]
    close_messages(page)
    field(page, "source").fill(CIRCLE.source)
    page.click("text=Words and mask")
    field(page, "blend_source").fill("<img src=x onerror=alert(1)>")
    field(page, "blend_target").fill("circle")
    page.click("#edit")
    [message] = messages(page)
    assert "<img src=x onerror=alert(1)>" in message and CIRCLE.source in message
    close_messages(page)
    field(page, "blend_source").fill("circle")
    edit(page)
    assert is_green(pixels(page))
    assert not re.search(r"Traceback|/tmp|\.py\b", page.inner_text("body"))


def test_the_brush_bounds_the_edit(page, tmp_path):
    picture = np.full((96, 192, 3), (205, 90, 88), dtype=np.uint8)
    picture[24:72, 120:168] = (35, 85, 215)
    Image.fromarray(picture).save(tmp_path / "wide.PNG")
    page.set_input_files("#upload input[type=file]", tmp_path / "wide.PNG")
    playwright.expect(field(page, "source")).to_have_value("", timeout=PATIENCE)
    field(page, "source").fill("a large blue square on a plain red background")
    field(page, "targets").fill("a large blue square on a plain yellow background")
    edit(page)
    assert pixels(page).shape == picture.shape
    everywhere = np.abs(pixels(page) - picture).max(axis=2) > 0
    page.click("text=Words and mask")
    page.locator("#paste_back input").check()
    canvas = page.locator("#canvas canvas").first.bounding_box()
    x, y = canvas["x"] + canvas["width"] * 0.25, canvas["y"] + canvas["height"] / 2

    def paint() -> None:
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x, y + 20, steps=5)
        page.mouse.up()

    after(page, paint)
    page.wait_for_function("() => document.querySelector('#note').innerText.startsWith('4')")
    changed = np.abs(pixels(page) - picture).max(axis=2) > 0
    assert everywhere.mean() > 0.9 and 0.02 < changed.mean() < 0.4
    assert not changed[:, 96:].any(), "the right half was not painted, and keeps its own pixels"
    after(page, page.get_by_label("Clear canvas").click)
    for _ in range(100):
        if (np.abs(pixels(page) - picture).max(axis=2) > 0)[:, 96:].any():
            break
        page.wait_for_timeout(200)
    assert (np.abs(pixels(page) - picture).max(axis=2) > 0)[:, 96:].any()


def test_automatic_settings_are_found(page):
    """They are over before anybody could cancel them; `test_session` cancels them."""
    take_circle(page)
    edit(page)
    after(page, page.locator("#search").click)
    assert is_green(pixels(page))
    assert page.inner_text("#note").startswith("4 network calls")


def test_targets_are_compared_and_downloaded(page):
    take_circle(page)
    words = (
        "green circle on a dotted white",
        "red star on a dotted white",
        "red circle on a dotted blue",
    )
    field(page, "targets").fill(
        "\n".join(f"a large {text} background" for text in (*words, "red circle on a plain white"))
    )
    edit(page)
    thumbnails = page.locator("#choice .thumbnail-item, #choice button.thumbnail-lg")
    assert page.locator("#choice").inner_text().split() == ["green", "star", "blue", "plain"]
    assert is_green(pixels(page))
    after(page, thumbnails.nth(2).click)
    with page.expect_download() as download:
        page.click("#download")
    data = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "edited_3.png"
    assert b"digitalsourcetype/compositeWithTrainedAlgorithmicMedia" in data
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), pixels(page))
    out = os.environ.get("ICD_SCREENSHOT")
    if out:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        page.mouse.move(0, 0)
        page.screenshot(path=out, full_page=True)
