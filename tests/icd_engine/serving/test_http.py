"""The routes: what a form becomes, what is refused with which words, what is kept, and the document
that says so."""

from __future__ import annotations

import time

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("cachetools")

from tests.icd_engine.serving.conftest import EDITS, FORM, INVERSIONS, SOURCE, TARGET, png

FILES = {"image": ("a.png", png())}


def test_a_form_becomes_a_job(application):
    made = application()
    settings = {
        "guidance_scale": "3.5",
        "tau": "[0.5, 0.9]",
        "tau_low": "0.1",
        "control": "refine",
        "cross_replace": '{"dog": 0.3, "default": [0.1, 0.6]}',
        "self_replace": "0.4",
        "amplify": '{"dog": 2}',
        "blend": '[["cat"], ["dog"]]',
        "paste_back": "true",
        "seed": "7",
    } | {"mask_from": "words", "feather": "2.5"}
    files = {"image": ("../../etc/passwd", b"picture"), "mask": ("b", b"mask")}
    others = {
        "n": "3",
        "size": "128x96",
        "response_format": "b64_json",
        "model": "gpt-image-1",
        "user": "a",
    }
    answer = made.client.post(EDITS, data={**FORM, **settings, **others}, files=files)
    assert answer.status_code == 200
    (job,) = made.replicas.jobs
    assert (job.image, job.source, job.target, job.size, job.count) == (
        b"picture",
        SOURCE,
        TARGET,
        (128, 96),
        3,
    )
    assert job.settings == {
        "guidance_scale": 3.5,
        "tau": [0.5, 0.9],
        "tau_low": 0.1,
        "control": "refine",
        "cross_replace": {"dog": 0.3, "default": [0.1, 0.6]},
        "self_replace": 0.4,
        "amplify": {"dog": 2},
        "blend": [["cat"], ["dog"]],
        "paste_back": True,
        "seed": 7,
        "mask": b"mask",
    } | {"mask_from": "words", "feather": 2.5}
    body = answer.json()
    assert body["data"] == [{"b64_json": "AAAA", "settings": {"seed": 3}}]
    assert (body["size"], body["output_format"], body["background"]) == ("80x60", "png", "opaque")
    assert abs(body["created"] - time.time()) < 60


def test_what_is_left_out_is_the_models_own(application):
    made = application()
    assert made.client.post(EDITS, data=FORM, files=FILES).status_code == 200
    (job,) = made.replicas.jobs
    assert (job.settings, job.size, job.count) == ({}, None, 1)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": None}, "prompt", "prompt: Field required"),
        ({"prompt": "a" * 1001}, "prompt", "prompt: String should have at most 1000 characters"),
        ({}, "image", "image: Field required"),
        ({"image": "https://example.com/a.png"}, "image", "image: a file is expected"),
        ({"image": "/etc/passwd"}, "image", "image: a file is expected"),
        ({"mask": "/etc/passwd"}, "mask", "mask: a file is expected"),
        ({"n": "0"}, "n", "n: Input should be greater than or equal to 1"),
        ({"n": "5"}, "n", "n: Input should be less than or equal to 4"),
        (
            {"n": "two"},
            "n",
            "n: Input should be a valid integer, unable to parse string as an integer",
        ),
        ({"seed": "-1"}, "seed", "seed: Input should be greater than or equal to 0"),
        ({"size": "big"}, "size", r"size: String should match pattern '^(auto|\d{1,4}x\d{1,4})$'"),
        (
            {"response_format": "url"},
            "response_format",
            "response_format: Input should be 'b64_json', not 'url'",
        ),
        (
            {"guidance_scale": "nan"},
            "guidance_scale",
            "guidance_scale: Input should be less than or equal to 100",
        ),
        (
            {"guidance_scale": "101"},
            "guidance_scale",
            "guidance_scale: Input should be less than or equal to 100",
        ),
        (
            {"control": "some"},
            "control",
            "control: Input should be 'auto', 'replace', 'refine', 'switch' or 'none', not 'some'",
        ),
        ({"tau": "[0.9"}, "tau", "tau is not JSON"),
        ({"tau": "[" * 1999}, "tau", "tau is not JSON"),
        ({"tau": "[0.9, 0.1]"}, None, "tau must be an ascending pair, not [0.9, 0.1]"),
        ({"tau": "NaN"}, None, "tau must lie in 0..1, not nan"),
        ({"amplify": '{"dog": 21}'}, None, "amplify['dog'] must lie in -20..20, not 21"),
        ({"blend": "[]"}, None, "blend needs a word or a list of words, not []"),
        (
            {"blend": '"' + "a" * 2000 + '"'},
            "blend",
            "blend: String should have at most 2000 characters",
        ),
        ({"guidence_scale": "3"}, "guidence_scale", "unknown field 'guidence_scale'"),
        ({"seed": ""}, "seed", "seed is empty"),
        ({"settings": "{}"}, "settings", "unknown field 'settings'"),
        ({"prompt": ["a", "b"]}, "prompt", "prompt is given 2 times"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_form_is_refused_by_name(application, fields, param, message):
    made = application()
    data = {name: value for name, value in {**FORM, **fields}.items() if value is not None}
    if param == "image":  # a multipart form without a file
        answer = made.client.post(
            EDITS, files={name: (None, value) for name, value in data.items()}
        )
    else:
        answer = made.client.post(EDITS, data=data, files=FILES)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["message"]) == (param, message)
    assert error["type"] == "invalid_request_error" and error["id"] == "the-id"
    assert made.replicas.jobs == []


def test_broken_forms_are_refused(application):
    made = application()
    headers = {"Content-Type": "multipart/form-data; boundary=a"}
    assert made.client.post(EDITS, content=b"--a\r\nnothing", headers=headers).status_code == 400
    assert (
        made.client.post(
            EDITS, content=b"", headers={"Content-Type": "multipart/form-data"}
        ).status_code
        == 400
    )
    assert made.replicas.jobs == []


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/", 404, "no such path"),
        ("POST", "/v1/images/generations", 404, "no such path"),
        ("POST", EDITS + "/", 404, "no such path"),
        ("GET", EDITS, 405, "this path has another method"),
        ("DELETE", "/health", 405, "this path has another method"),
    ],
)
def test_other_paths_and_methods(application, method, path, status, message):
    answer = application().client.request(method, path)
    assert answer.status_code == status and answer.json()["error"]["message"] == message
    assert ("allow" in answer.headers) == (status == 405)


def test_ready_follows_the_replicas(application):
    made = application()
    assert made.client.get("/ready").json() == {"status": "ready"}
    made.replicas.is_ready = False
    answer = made.client.get("/ready")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "not_ready"
    assert "Retry-After" in answer.headers and made.client.get("/health").json() == {"status": "ok"}


# --- inversions -----------------------------------------------------------------------------------


def keep(made, image: bytes = b"picture") -> str:
    answer = made.client.post(
        INVERSIONS, data={"source_prompt": SOURCE, "seed": "3"}, files={"image": ("a", image)}
    )
    assert answer.status_code == 200
    return answer.json()["id"]


def edit_kept(made, key: str):
    return made.client.post(f"{INVERSIONS}/{key}/edits", data={"prompt": TARGET, "tau": "0.5"})


def test_a_kept_inversion_goes_to_the_replica_with_its_edit(application):
    made = application()
    answer = made.client.post(
        INVERSIONS, data={"source_prompt": SOURCE, "seed": "3"}, files={"image": ("a", b"picture")}
    )
    body = answer.json()
    assert body["expires_at"] - body["created"] == 3600
    assert (body["object"], body["source_prompt"], body["seed"], body["size"]) == (
        "inversion",
        SOURCE,
        3,
        "80x60",
    )
    assert made.replicas.jobs[0].settings == {"seed": 3}
    assert edit_kept(made, body["id"]).json()["data"] == [
        {"b64_json": "AAAA", "settings": {"seed": 3}}
    ]
    job = made.replicas.jobs[1]
    assert (job.key, job.image, job.target, job.settings) == (
        body["id"],
        b"picture",
        TARGET,
        {"tau": 0.5},
    )
    assert (
        job.kept.picture_size == (80, 60)
        and "icd_inversions 1.0" in made.client.get("/metrics").text
    )


@pytest.mark.parametrize("key", ["inv_unknown", "..", "%2e%2e%2f", "a" * 3000])
def test_an_unknown_inversion_is_not_found(application, key):
    answer = edit_kept(application(), key)
    assert answer.status_code == 404


def test_an_inversion_says_that_it_is_unknown_or_over(application):
    made = application(inversion_seconds=0.05)
    key = keep(made)
    time.sleep(0.1)
    for gone in (key, "inv_unknown"):
        answer = edit_kept(made, gone)
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "unknown_inversion"
    assert len(made.replicas.jobs) == 1


def test_the_inversions_used_last_stay(application):
    made = application(inversions=2)
    first, second = keep(made), keep(made)
    assert edit_kept(made, first).status_code == 200
    third = keep(made)
    assert len({first, second, third}) == 3
    assert [edit_kept(made, key).status_code for key in (first, second, third)] == [200, 404, 200]


@pytest.mark.parametrize("field", ["seed", "size", "source_prompt", "n"])
def test_what_an_inversion_has_fixed_cannot_be_chosen_again(application, field):
    made = application()
    answer = made.client.post(
        f"{INVERSIONS}/{keep(made)}/edits", data={"prompt": TARGET, field: "1"}
    )
    assert (
        answer.status_code == 400
        and answer.json()["error"]["message"] == f"unknown field {field!r}"
    )


# --- the document ---------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "right"])
def test_the_document_names_every_answer_and_the_token(application, token):
    document = application(token=token).client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        EDITS,
        INVERSIONS,
        f"{INVERSIONS}/{{inversion_id}}/edits",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/ready",
        "/metrics",
    }
    for path, methods in document["paths"].items():
        for method, about in methods.items():
            if path.startswith("/v1"):
                known = {"200", "4XX", "500"} | ({"503", "504"} if method == "post" else set())
            else:
                known = {"200"} | ({"503"} & set(about["responses"]))
            assert set(about["responses"]) == known
            assert about.get("security") == (
                [{"HTTPBearer": []}] if token and path.startswith("/v1") else None
            )
