"""OpenAI's own fields: taken where they ask for what is done, refused with their value where not; edits
without a source prompt; and answers as events."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from icd_engine.saving import QUALITY
from tests.icd_engine.serving.conftest import EDITS, FORM, TARGET, png

FILES = {"image": ("a.png", png())}


def answered(made, **fields: str):
    return made.client.post(EDITS, data={**FORM, **fields}, files=FILES)


@pytest.mark.parametrize(
    "fields",
    [
        {"background": "auto"},
        {"output_format": "png", "output_compression": "100"},
        *({"quality": value} for value in ("auto", "low", "medium", "high", "standard", "hd")),
        {"input_fidelity": "high"},
        {"input_fidelity": "low"},
        {"moderation": "auto"},
        {"stream": "false", "partial_images": "0"},
        {"num_inference_steps": "4"},
        {"guidance_scale": "4"},
        {"response_format": "b64_json"},
        {"user": "a", "safety_identifier": "b", "model": "gpt-image-1"},
    ],
    ids=str,
)
def test_what_is_done_anyway_is_taken(application, fields):
    made = application()
    assert answered(made, **fields).status_code == 200
    (job,) = made.replicas.jobs
    assert job.written.format == "png" and job.previews == 0
    assert job.settings == ({"guidance_scale": 4.0} if "guidance_scale" in fields else {})


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        (
            {"background": "transparent"},
            "background",
            "Input should be 'auto' or 'opaque', not 'transparent'",
        ),
        (
            {"output_format": "gif"},
            "output_format",
            "Input should be 'png', 'jpeg' or 'webp', not 'gif'",
        ),
        ({"output_compression": "50"}, "output_compression", "png has no compression of 50"),
        ({"partial_images": "2"}, "partial_images", "2 without stream"),
        (
            {"stream": "true", "partial_images": "4"},
            "partial_images",
            "Input should be less than or equal to 3",
        ),
        (
            {"num_inference_steps": "30"},
            "num_inference_steps",
            "this model takes 4, not 30",
        ),
        ({"input_fidelity": "max"}, "input_fidelity", "Input should be 'low' or 'high', not 'max'"),
        ({"stream": "true", "n": "2"}, "n", "a stream is of one picture, not 2"),
    ],
    ids=str,
)
def test_what_is_not_done_is_refused_by_name_and_value(application, fields, param, message):
    made = application()
    answer = answered(made, **fields)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["param"], error["message"]) == (param, f"{param}: {message}")
    assert made.replicas.jobs == []


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"output_format": "jpeg"}, ("jpeg", QUALITY)),
        ({"output_format": "webp", "output_compression": "70"}, ("webp", 70)),
        ({"output_format": "jpeg", "output_compression": "0"}, ("jpeg", 1)),
    ],
)
def test_formats(application, fields, written):
    made = application()
    assert answered(made, **fields).json()["output_format"] == written[0]
    assert made.replicas.jobs[0].written == written


@pytest.mark.parametrize(("given", "kept"), [({}, False), ({"keep_alpha": "true"}, True)])
def test_an_opaque_background_has_no_transparency(application, given, kept):
    made = application()
    assert answered(made, background="opaque", **given).status_code == 200
    assert made.replicas.jobs[0].settings == {"keep_alpha": kept}


# --- without a source prompt ----------------------------------------------------------------------


def test_without_a_source_prompt_the_picture_is_inverted_without(application):
    made = application()
    body = made.client.post(EDITS, data={"prompt": TARGET}, files=FILES).json()
    assert made.replicas.jobs[0].source is None
    assert body["source_prompt"] is None and "give source_prompt" in body["warnings"][0]
    assert "warnings" not in answered(made).json() and "source_prompt" not in answered(made).json()


def test_the_operators_source_prompt_is_taken(application):
    made = application(offer={"source_prompt": "a photo"})
    body = made.client.post(EDITS, data={"prompt": TARGET}, files=FILES).json()
    assert made.replicas.jobs[0].source == body["source_prompt"] == "a photo"
    assert answered(made).status_code == 200
    assert made.replicas.jobs[1].source == FORM["source_prompt"]


# --- streams --------------------------------------------------------------------------------------


def events_of(answer) -> list[tuple[str, dict]]:
    """(event, data) of each."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    found = []
    for block in answer.text.strip().split("\n\n"):
        kind, data = block.split("\n")
        found.append((kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


@pytest.mark.parametrize(("given", "previews"), [({}, 3), ({"partial_images": "1"}, 1)])
def test_a_stream_has_openais_events(application, given, previews):
    made = application()
    found = events_of(answered(made, stream="true", output_format="webp", **given))
    kinds = ["image_edit.partial_image"] * previews + ["image_edit.completed"]
    assert [kind for kind, _ in found] == [data["type"] for _, data in found] == kinds
    assert [data["partial_image_index"] for _, data in found[:-1]] == list(range(previews))
    common = {"b64_json", "background", "created_at", "output_format", "quality", "size", "type"}
    assert all(common <= data.keys() for _, data in found)
    last = found[-1][1]
    assert (last["b64_json"], last["settings"], last["warnings"]) == ("AAAA", {"seed": 3}, [])
    assert last["usage"]["total_tokens"] == 0 and last["output_format"] == "webp"
    assert made.metrics.registry.get_sample_value("icd_pictures_total") == 1


def test_a_stream_that_cannot_begin_has_a_status(application):
    from icd_engine.serving.limits import FULL, INVALID, ApiError

    made = application()

    def fail(job) -> None:
        raise ApiError(FULL)

    made.replicas.answer = fail
    answer = answered(made, stream="true", partial_images="0")
    assert answer.status_code == 503
    # Once it has begun, the error is its last event
    found = events_of(answered(made, stream="true"))
    assert found[-1][0] == "error" and found[-1][1]["error"]["code"] == "service_full"
    assert INVALID.status == 400 and found[-1][1]["error"]["id"] == "the-id"


# --- models, HEAD, OPTIONS, pages of browsers -----------------------------------------------------


def test_models(application):
    client = application(offer={"model": "tiny"}).client
    (model,) = client.get("/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("tiny", "model")
    assert client.get("/v1/models/tiny").json() == model
    answer = client.get("/v1/models/other")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert application(token="right").client.get("/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "/health", "/ready", "/metrics"])
def test_head_is_get_without_its_body(application, path):
    client = application().client
    answer = client.head(path)
    assert answer.status_code == 200 and answer.content == b""


@pytest.mark.parametrize(
    ("path", "allow"), [(EDITS, "OPTIONS, POST"), ("/v1/models", "GET, HEAD, OPTIONS")]
)
def test_options_tell_what_a_path_takes(application, path, allow):
    answer = application(token="right").client.options(path)
    assert (answer.status_code, answer.headers["allow"]) == (204, allow)
    assert application().client.options("/v1/none").status_code == 404


PAGE = "http://localhost:3000"
PREFLIGHT = {
    "Origin": PAGE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}
ALLOWED = "access-control-allow-origin"


def test_pages_may_call_only_where_the_operator_says_so(application):
    closed = application(token="right").client
    assert ALLOWED not in closed.options(EDITS, headers=PREFLIGHT).headers
    opened = application(token="right", offer={"origins": (PAGE,)}).client
    answer = opened.options(EDITS, headers=PREFLIGHT)
    assert answer.status_code == 200 and answer.headers[ALLOWED] == PAGE
    assert "x-stainless-os" in answer.headers["access-control-allow-headers"]
    other = opened.options(EDITS, headers={**PREFLIGHT, "Origin": "http://elsewhere"})
    assert ALLOWED not in other.headers
    # A refusal of the gate is for the page to read too
    refused = opened.post(EDITS, data=FORM, files=FILES, headers={"Origin": PAGE})
    assert refused.status_code == 401 and refused.headers[ALLOWED] == PAGE
