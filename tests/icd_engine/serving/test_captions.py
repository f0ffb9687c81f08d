"""A captioner: what it is asked, what becomes of its answer, and that an edit does not wait on one that
fails."""

from __future__ import annotations

import asyncio
import base64
import io
import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

import httpx
from PIL import Image

from icd_engine.serving import captions
from icd_engine.serving.limits import ApiError
from icd_engine.serving.offer import Offer
from tests.icd_engine.serving.conftest import EDITS, TARGET, png

URL = "http://127.0.0.1:1/v1"


class Api(httpx.MockTransport):
    """An OpenAI-compatible API that says one thing; it keeps what it was asked."""

    def __init__(self, said, status: int = 200):
        super().__init__(self._handle)
        self._said = said
        self._status = status
        self.asked: list[httpx.Request] = []

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "a-model"}, {"id": "another"}]})
        message = {"choices": [{"message": {"content": self._said}}]}
        return httpx.Response(self._status, json=message)


@pytest.fixture
def api(monkeypatch):
    def make(said, status: int = 200) -> Api:
        made = Api(said, status)
        whole = httpx.AsyncClient
        monkeypatch.setattr(
            captions.httpx, "AsyncClient", lambda **given: whole(**given, transport=made)
        )
        return made

    return make


def caption(offer: Offer, image: bytes, pixels: int = 10**6) -> str | None:
    return asyncio.run(captions.Captioner(offer).caption(image, pixels))


def test_it_is_shown_a_small_jpeg_and_asked_for_a_caption(api):
    made = api(' "A red circle\n on blue." ')
    offer = Offer(captioner=URL, captioner_key="secret")
    assert caption(offer, png(800, 600)) == "A red circle on blue."
    models, asked = made.asked
    assert models.headers["authorization"] == asked.headers["authorization"] == "Bearer secret"
    body = json.loads(asked.content)
    text, picture = body["messages"][0]["content"]
    assert body["model"] == "a-model" and text["type"] == "text"
    kind, _, data = picture["image_url"]["url"].partition(",")
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (kind, shown.size) == ("data:image/jpeg;base64", (512, 384))


def test_its_model_may_be_named(api):
    made = api("a cat")
    assert caption(Offer(captioner=URL, captioner_model="mine"), png()) == "a cat"
    (asked,) = made.asked
    assert json.loads(asked.content)["model"] == "mine"


@pytest.mark.parametrize(
    ("said", "status"), [("a cat", 500), (None, 200), ("", 200), (["a"], 200), ("a", 401)]
)
def test_an_answer_that_is_none(api, said, status):
    api(said, status)
    assert caption(Offer(captioner=URL, captioner_model="m"), png()) is None


def test_a_long_answer_is_cut(api):
    api("word " * 1000)
    found = caption(Offer(captioner=URL, captioner_model="m"), png())
    assert found is not None and len(found) == 1000


@pytest.mark.parametrize(
    ("image", "message"), [(b"text", "not a PNG"), (png(100, 101), "more than 0.01 megapixels")]
)
def test_what_is_no_picture_is_refused_first(api, image, message):
    made = api("a cat")
    with pytest.raises(ApiError, match=message):
        caption(Offer(captioner=URL), image, 10_000)
    assert made.asked == []


@pytest.mark.parametrize(("status", "source"), [(200, "a cat"), (500, None)])
def test_an_edit_without_a_source_prompt_takes_it(api, application, status, source):
    api("a cat", status)
    made = application(offer={"captioner": URL, "captioner_model": "m"})
    files = {"image": ("a.png", png())}
    body = made.client.post(EDITS, data={"prompt": TARGET}, files=files).json()
    assert made.replicas.jobs[0].source == body["source_prompt"] == source
    assert ("warnings" in body) == (source is None)
    if source is None:
        assert body["warnings"][0].startswith("the captioner did not answer")


def test_a_captioner_of_this_machine_is_not_asked_through_a_proxy(monkeypatch):
    seen = []
    whole = httpx.AsyncClient
    monkeypatch.setattr(
        captions.httpx,
        "AsyncClient",
        lambda **given: seen.append(given["trust_env"]) or whole(**given),
    )
    for url in (URL, "http://localhost:8000/v1", "https://api.example.com/v1"):
        captions.Captioner(Offer(captioner=url))
    assert seen == [False, False, True]
