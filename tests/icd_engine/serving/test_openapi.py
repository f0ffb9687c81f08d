"""The service does what its OpenAPI document says: schemathesis asks it, with forms right and
wrong."""

from __future__ import annotations

from collections.abc import Collection

import pytest

pytest.importorskip("ray.serve")
pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.icd_engine.serving.conftest import EDITS, INVERSIONS, png

FORMS = (EDITS, INVERSIONS, INVERSIONS + "/{inversion_id}/edits")
FILES = st.sampled_from([png(), png(80, 60, "RGBA"), b"text", b""])
BOUNDED = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def document(service):
    for kind in ("png", "jpeg", "webp"):
        schemathesis.openapi.media_type(f"image/{kind}", FILES)
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def text_fields(document, path: str) -> set[str]:
    """Fields of a form that may be any text. A form holds nothing but texts, so a number in one of
    them is right once it is sent."""
    raw = document.raw_schema
    form = raw["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    form = raw["components"]["schemas"][form["$ref"].rpartition("/")[2]] if "$ref" in form else form
    return {
        name
        for name, field in form["properties"].items()
        if any(one.get("type") == "string" for one in (field, *field.get("anyOf", ())))
    }


def statuses(operation, mode: schemathesis.GenerationMode, texts: Collection[str] = ()) -> set[int]:
    """Of the answers to what schemathesis makes of an operation, each checked against the
    document. texts: fields that a number is not wrong in."""
    seen = set()

    @given(operation.as_strategy(generation_mode=mode))
    @BOUNDED
    def ask(case) -> None:
        sent = case.body if isinstance(case.body, dict) else {}
        assume(not any(isinstance(sent.get(name), int | float) for name in texts))
        # What a document cannot say (words that a prompt must hold, files that must be pictures) is
        # refused as well.
        answer = case.call_and_validate(
            excluded_checks=[schemathesis.checks.positive_data_acceptance], timeout=60
        )
        seen.add(answer.status_code)

    ask()
    return seen


@pytest.mark.parametrize("path", FORMS)
def test_right_forms_get_what_the_document_says(document, path):
    expected = 404 if "{" in path else 200
    assert expected in statuses(document[path]["POST"], schemathesis.GenerationMode.POSITIVE)


@pytest.mark.parametrize("path", FORMS)
def test_wrong_forms_are_refused(document, path):
    negative = schemathesis.GenerationMode.NEGATIVE
    found = statuses(document[path]["POST"], negative, text_fields(document, path))
    assert found and found <= set(range(400, 500))


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics"])
def test_the_rest_answers_as_documented(document, path):
    assert statuses(document[path]["GET"], schemathesis.GenerationMode.POSITIVE) == {200}
