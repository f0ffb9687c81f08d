"""The nodes in a real ComfyUI, which ICD_COMFYUI names: its folder, whose requirements are installed
beside ours (or on PYTHONPATH). ICD_COMFYUI_SCREENSHOT=docs/comfyui.png writes a picture of the workflow.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.demo import PICTURE, read_demo
from icd_engine.engine import Engine

COMFYUI = os.environ.get("ICD_COMFYUI")
SCREENSHOT = os.environ.get("ICD_COMFYUI_SCREENSHOT")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(COMFYUI is None, reason="ICD_COMFYUI names no ComfyUI"),
]
ROOT = Path(__file__).parents[4]
NODES = ROOT / "icd_engine" / "integrations" / "comfyui"
WORKFLOW = NODES / "example_workflows" / "icd_edit.json"
PATIENCE = 300  # seconds; other work may be going on


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def asked(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """ComfyUI's own folders, with the nodes linked into them as a user does."""
    folder = tmp_path_factory.mktemp("comfyui")
    for name in ("custom_nodes", "input", "output", "models"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / "icd").symlink_to(NODES)
    shutil.copy(read_bundle("tiny").path / PICTURE, folder / "input" / "demo.png")
    return folder


@pytest.fixture(scope="module")
def address(base) -> Iterator[str]:
    port = free_port()
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    options = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--disable-api-nodes"]
    options += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
    with (base / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "main.py", *options],
            cwd=COMFYUI,
            env=os.environ | {"PYTHONPATH": path},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(PATIENCE * 2):
            assert process.poll() is None, (base / "log").read_text()
            with contextlib.suppress(OSError):
                asked(f"{url}/system_stats")
                break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(60)


def ran(url: str, workflow: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a workflow by the number of their node."""
    number = asked(f"{url}/prompt", {"prompt": workflow})["prompt_id"]
    for _ in range(PATIENCE * 2):
        found = asked(f"{url}/history/{number}").get(number)
        if found and found["status"]["completed"]:
            return found["outputs"]
        if found and found["status"]["status_str"] == "error":
            raise RuntimeError(json.dumps(found["status"]))
        time.sleep(0.5)
    raise AssertionError("the workflow did not end")


def test_the_four_nodes_are_there(address):
    known = asked(f"{address}/object_info")
    assert {"ICDLoadModel", "ICDInvert", "ICDEdit", "ICDAutoEdit"} <= known.keys()
    assert known["ICDEdit"]["output"] == ["IMAGE", "MASK", "LATENT"]
    assert set(known["ICDEdit"]["input"]["optional"]) == {"mask", "mask_from", "more"}


def test_the_workflow_makes_the_engines_own_picture(address, base):
    (saved,) = ran(address, json.loads(WORKFLOW.read_text()))["5"]["images"]
    made = np.asarray(Image.open(base / "output" / saved["filename"]))
    demo = read_demo(read_bundle("tiny").path)
    engine = Engine.from_pretrained("tiny", device="cpu")
    expected = engine.invert(demo.picture, demo.source, seed=0).edit(demo.target).image
    difference = np.abs(made.astype(int) - np.asarray(expected))
    assert difference.max() <= 1, difference.max()  # another number of threads may round otherwise


def test_automatic_settings_with_a_mask(address, base):
    workflow = json.loads(WORKFLOW.read_text())
    prompts = {"source_prompt": workflow["3"]["inputs"]["source_prompt"], "seed": 0}
    prompts["prompt"] = workflow["4"]["inputs"]["prompt"]
    mask = np.zeros((128, 128), np.uint8)
    mask[:, 64:] = 255
    Image.fromarray(mask).save(base / "input" / "mask.png")
    workflow["6"] = {
        "class_type": "LoadImageMask",
        "inputs": {"image": "mask.png", "channel": "red"},
    }
    inputs = {"model": ["1", 0], "image": ["2", 0], "mask": ["6", 0], **prompts}
    workflow["4"] = {"class_type": "ICDAutoEdit", "inputs": inputs}
    (saved,) = ran(address, workflow)["5"]["images"]
    made = np.asarray(Image.open(base / "output" / saved["filename"]))
    source = np.asarray(Image.open(base / "input" / "demo.png").convert("RGB"))
    assert np.array_equal(made[:, :64], source[:, :64])  # outside of the mask, to the bit
    assert not np.array_equal(made[:, 64:], source[:, 64:])


def test_a_refusal_is_the_engines_own_line(address):
    workflow = json.loads(WORKFLOW.read_text())
    workflow["4"]["inputs"]["more"] = '{"guidance": 3}'
    with pytest.raises(RuntimeError, match="did you mean 'guidance_scale'"):
        ran(address, workflow)


@pytest.mark.skipif(SCREENSHOT is None, reason="no picture is asked for")
def test_a_picture_of_the_workflow(address, base):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 2000, "height": 860})
        page.goto(address)
        page.wait_for_function("window.app && window.app.graph && window.app.canvas")
        page.wait_for_timeout(5000)
        page.evaluate(
            "async (flow) => { await app.loadApiJson(flow, 'icd_edit'); }",
            json.loads(WORKFLOW.read_text()),
        )
        page.keyboard.press("Escape")  # the templates that a new user is shown
        page.wait_for_timeout(1500)
        page.keyboard.press(".")  # all of the workflow in view
        page.evaluate("async () => { await app.queuePrompt(0); }")
        page.wait_for_timeout(15_000)
        page.screenshot(path=SCREENSHOT)
        browser.close()
    assert Path(str(SCREENSHOT)).stat().st_size > 20_000
