"""The page without a browser: what its actions answer, and what Gradio is told."""

from __future__ import annotations

import io
import json
import socket
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from icd_engine.bundles.demo import read_demo
from icd_engine.cli.ui import SCENES
from icd_engine.errors import ImageError, RunnerError

gr = pytest.importorskip("gradio", reason="the page is made with Gradio")
from icd_engine.page.app import FIELDS, Actions, build_page, start  # noqa: E402

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def fields(**values) -> list:
    plain = {
        "source": SOURCE,
        "targets": TARGET,
        "seed": 0,
        "guidance_scale": 4.0,
        "tau": 0.8,
        "cross_replace": 0.4,
    }
    plain |= {
        "self_replace": 0.3,
        "control": "auto",
        "amplify_word": "",
        "amplify_factor": 2.0,
        "blend_source": "",
    }
    plain |= {"blend_target": "", "mask_words": False, "paste_back": False, "feather": None}
    return [(plain | values)[name] for name in FIELDS]


@pytest.fixture
def actions(small_engine, tmp_path) -> Actions:
    return Actions(small_engine, [], tmp_path)


@pytest.fixture
def visit(actions):
    visit = actions.begin()["visit"]
    actions.take_upload(png(96, 48), visit)
    return visit


def test_an_example_fills_in_the_form(small_engine, tmp_path):
    demos = [read_demo(folder) for folder in sorted(SCENES.iterdir())]
    demos[1] = type(demos[1])(
        demos[1].picture, SOURCE, TARGET, {"blend": [["cat"], ["dog"]], "guidance_scale": 7.0}
    )
    actions = Actions(small_engine, demos, tmp_path)
    shown = actions.begin()
    assert (shown["source"], shown["targets"]) == (demos[0].source, demos[0].target)
    assert shown["guidance_scale"] == small_engine.default_settings.guidance_scale
    other = actions.take_example(1, shown["visit"])
    assert (other["blend_source"], other["blend_target"], other["guidance_scale"]) == (
        "cat",
        "dog",
        7.0,
    )
    assert other["visit"] is shown["visit"] and other["slider"] is None


def test_an_upload_is_painted_on_in_its_own_aspect(actions):
    shown = actions.take_upload(png(96, 48), actions.begin()["visit"])
    assert shown["canvas"]["background"].size == (512, 256)
    assert (shown["source"], shown["targets"]) == ("", "")


def test_what_is_painted_and_set_shows_at_once_after_the_first_edit(actions, visit):
    canvas = {"layers": [np.full((256, 512, 4), 255, dtype=np.uint8)]}
    assert actions.edit_live(visit, *fields()) == {} == actions.paint(visit, canvas, *fields())
    assert actions.edit(visit, *fields(), progress=lambda *told, unit: None)["note"].startswith(
        "8 network calls"
    )
    assert actions.edit_live(visit, *fields(tau=0.5))["note"].startswith("4 network calls")
    assert visit.mask.shape == (256, 512)
    actions.paint(visit, {"layers": []}, *fields())
    assert visit.mask is None
    assert actions.unpaint(visit)["canvas"]["background"].size == (512, 256)


def test_a_target_is_chosen_and_stays(actions, visit):
    two = fields(targets=f"{TARGET}\na cat sits on the sofa")
    shown = actions.edit(visit, *two, progress=lambda *told, unit: None)
    assert shown["slider"][1].name == "edited_1.png"
    shown = actions.choose(visit, gr.SelectData(None, {"index": 1, "value": None}))
    assert shown["slider"][1].name == "edited_2.png"
    assert actions.edit_live(visit, *two)["slider"][1].name == "edited_2.png"
    assert actions.edit_live(visit, *fields())["slider"][1].name == "edited.png"


def test_a_visit_that_was_put_away(actions):
    for use in (actions.edit, actions.search):
        with pytest.raises(ImageError, match="choose it again"):
            use(None, *fields())
    assert actions.edit_live(None, *fields()) == {} == actions.unpaint(None)
    actions.stop(None)


# --- served ---------------------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.read().decode()


def test_a_served_page_records_nothing_and_asks_no_one(small_engine, tmp_path, port):
    page = start(build_page(small_engine, [], tmp_path), "127.0.0.1", port, None, queue=3)
    try:
        config = json.loads(get(port, "/config"))
        assert (
            not config["analytics_enabled"]
            and not config["run_history"]
            and not config["show_error"]
        )
        assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}
        assert "fonts.g" not in get(port, "/")
        assert page.max_file_size == 128 * 2**20 and page._queue.max_size == 3
    finally:
        page.close()


def test_a_login_guards_the_page(small_engine, tmp_path, port):
    page = start(
        build_page(small_engine, [], tmp_path), "127.0.0.1", port, ("me", "secret"), queue=3
    )
    try:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            get(port, "/config")
    finally:
        page.close()


def test_a_port_that_is_taken(small_engine, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        page = build_page(small_engine, [], tmp_path)
        with pytest.raises(RunnerError, match="something else listening"):
            start(page, "127.0.0.1", taken.getsockname()[1], None, queue=3)
