"""Edits as stock clients write them: one picture under any of its names, JSON with data URLs, and what
is refused of either by name."""

from __future__ import annotations

import base64

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from tests.icd_engine.serving.conftest import EDITS, FORM, SOURCE, TARGET

PICTURE = b"picture"
URL = "data:image/png;base64," + base64.b64encode(PICTURE).decode()


def refusal(answer) -> tuple[str | None, str]:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["message"]


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_a_picture_has_either_name(application, name):
    made = application()
    assert made.client.post(EDITS, data=FORM, files={name: ("a", PICTURE)}).status_code == 200
    (job,) = made.replicas.jobs
    assert (job.image, job.source, job.target) == (PICTURE, SOURCE, TARGET)


@pytest.mark.parametrize("names", [("image[]", "image[]"), ("image", "image[]")])
def test_several_pictures_are_refused(application, names):
    made = application()
    files = [(name, ("a.png", PICTURE)) for name in names]
    assert refusal(made.client.post(EDITS, data=FORM, files=files)) == (
        "image",
        "image: 2 pictures are given, and an edit is of one",
    )
    assert made.replicas.jobs == []


@pytest.mark.parametrize(
    "pictures",
    [
        {"image": URL},
        {"image": [URL]},
        {"image": {"image_url": URL}},
        {"images": [{"image_url": URL}]},
        {"image": URL.replace("image/png;", "image/png;name=a.png;")},
        {"image": URL.replace("image/png", "")},
    ],
    ids=str,
)
def test_a_json_body_becomes_the_same_job(application, pictures):
    made = application()
    settings = {
        "seed": 7,
        "n": 2,
        "size": "128x96",
        "guidance_scale": 3.5,
        "tau": [0.5, 0.9],
        "amplify": {"dog": 2},
        "blend": [["cat"], ["dog"]],
        "paste_back": True,
        "mask": {"image_url": URL},
        "output_format": "jpeg",
        "user": None,
    }
    assert made.client.post(EDITS, json={**FORM, **pictures, **settings}).status_code == 200
    (job,) = made.replicas.jobs
    assert (job.image, job.source, job.target) == (PICTURE, SOURCE, TARGET)
    assert (job.size, job.count, job.written.format) == ((128, 96), 2, "jpeg")
    assert job.settings == {
        "seed": 7,
        "guidance_scale": 3.5,
        "tau": [0.5, 0.9],
        "amplify": {"dog": 2},
        "blend": [["cat"], ["dog"]],
        "paste_back": True,
        "mask": PICTURE,
    }


NO_URL = "a data URL is needed, not 'https://example.com/a.png': no URL is fetched"


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"image": "https://example.com/a.png"}, "image", f"image: {NO_URL}"),
        ({"image": URL, "mask": "https://example.com/a.png"}, "mask", f"mask: {NO_URL}"),
        ({"image": {"file_id": "a"}}, "image", "image: image_url is needed, with a data URL"),
        ({"image": "data:image/png;base64,%%"}, "image", "image: the data URL is not base64"),
        ({"image": [URL, URL]}, "image", "image: 2 pictures are given, and an edit is of one"),
        (
            {"image": URL, "images": [URL]},
            "image",
            "image: 2 pictures are given, and an edit is of one",
        ),
        ({}, "image", "image: Field required"),
        ({"image": URL, "n": "2"}, "n", "n: Input should be a valid integer"),
        ({"image": URL, "n": 9}, "n", "n: Input should be less than or equal to 4"),
        ({"image": URL, "stream": "yes"}, "stream", "stream: Input should be a valid boolean"),
        ({"image": URL, "prompt": None}, "prompt", "prompt: Input should be a valid string"),
        ({"image": URL, "guidence": 1}, "guidence", "guidence: unknown field"),
        ({"image": URL, "tau": [0.9, 0.1]}, None, "tau must be an ascending pair, not [0.9, 0.1]"),
    ],
    ids=str,
)
def test_a_wrong_json_body_is_refused_by_name(application, fields, param, message):
    made = application()
    assert refusal(made.client.post(EDITS, json={**FORM, **fields})) == (param, message)
    assert made.replicas.jobs == []


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"text"', b"[" * 100_000, b"\xff"])
def test_what_is_no_json_object_is_refused(application, body):
    made = application()
    answer = made.client.post(EDITS, content=body, headers={"Content-Type": "application/json"})
    assert refusal(answer)[1].startswith("the body")
    assert made.replicas.jobs == []


def test_a_kept_picture_takes_no_json(application):
    """Its fields are a form's; JSON has none of them."""
    answer = application().client.post("/v1/inversions", json={**FORM, "image": URL})
    assert refusal(answer)[1].endswith("Field required")


def test_both_kinds_of_body_have_the_same_fields(application):
    document = application().client.get("/openapi.json").json()
    content = document["paths"][EDITS]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["$ref"].rpartition("/")[2]
    fields = set(document["components"]["schemas"][form]["properties"])
    assert fields | {"images"} == set(content["application/json"]["schema"]["properties"])
