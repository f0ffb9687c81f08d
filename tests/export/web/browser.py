"""A site in a real browser: where Chromium is, a server for it, and edits from Python."""

from __future__ import annotations

import base64
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from export.web_runtime import has_runtime, runtime_folder
from icd_engine.cli.web import open_server

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 240_000  # ms; other work may be going on
HAS_RUNTIME = has_runtime(runtime_folder())
needs_browser = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
    pytest.mark.skipif(find_spec("playwright") is None, reason="playwright drives the browser"),
    pytest.mark.skipif(
        not HAS_RUNTIME, reason=f"no onnxruntime-web in {runtime_folder()}: make web fetches it"
    ),
]
EDIT = """async ({ picture, source, target, options, threads, again }) => {
  const { Engine } = await import("/icd.js");
  globalThis.engine ??= await Engine.load("/", { threads });
  const bytes = Uint8Array.from(atob(picture), (one) => one.charCodeAt(0));
  const blob = new Blob([bytes], { type: "image/png" });
  if (options.mask) options.mask.data = Float32Array.from(options.mask.data);
  let told;
  if (again) {
    const inversion = await engine.invert(blob, source, { seed: options.seed });
    delete options.seed;
    await inversion.edit(target, { ...options, guidance_scale: 1 });
    told = await inversion.edit(target, options);
  } else told = await engine.edit(blob, source, target, options);
  const text = (data) => {
    let out = "";
    for (let i = 0; i < data.length; i += 8192) out += String.fromCharCode(...data.subarray(i, i + 8192));
    return btoa(out);
  };
  const { threads: used, isolated, device } = engine.about;
  const images = told.images.map((one) => [one.height, one.width, text(one.data)]);
  return { ...told, masks: null, images, settings: { ...told.settings, mask: null, seed: `${told.settings.seed}` },
    used, isolated, device };
}"""


@contextmanager
def served(site: Path, isolated: bool = True) -> Iterator[str]:
    """The address of a site while it is handed out."""
    with open_server(site, 0, isolated) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as program:
        browser = program.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser: Any, address: str, path: str = "/icd.json", **options: Any) -> Iterator[Any]:
    """A page in which no script fails; every request stays on this machine."""
    page = browser.new_page(**options)
    page.set_default_timeout(PATIENCE)
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(address + path)
    page.asked = asked
    yield page
    page.close()
    outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert (outside, failed) == ([], [])


def edit(
    page: Any,
    picture: bytes,
    source: str,
    target: str | list[str],
    *,
    threads: int = 1,
    again: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], list[np.ndarray]]:
    """What the page's engine tells of an edit, and its pictures [h, w, 3] as whole numbers. again: as
    the second edit of a kept inversion."""
    text = base64.b64encode(picture).decode()
    given = {"picture": text, "source": source, "target": target, "options": options}
    told = page.evaluate(EDIT, given | {"threads": threads, "again": again})
    pictures = [
        np.frombuffer(base64.b64decode(data), np.uint8)
        .reshape(height, width, 4)[..., :3]
        .astype(int)
        for height, width, data in told["images"]
    ]
    return told, pictures
