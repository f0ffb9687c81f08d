"""An edit as server-sent events, with OpenAI's names and fields."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

from icd_engine.serving.jobs import Pictures, Preview, Reply
from icd_engine.serving.limits import INTERNAL, ApiError

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # of proxies before the service
PARTIAL, COMPLETED, FAILED = "image_edit.partial_image", "image_edit.completed", "error"
# Tokens are counted at OpenAI, whose clients read them; here are none
USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
}


async def events(
    first: Preview | Reply,
    rest: AsyncIterator[Preview | Reply],
    about: dict[str, Any],
    last: dict[str, Any],
    request: str,
) -> AsyncIterator[bytes]:
    """The events of one edit. about: fields of each; last: of the last alone. request: its id, for an
    error that comes when the answer has begun."""
    try:
        yield _event(first, about, last)
        async for one in rest:
            yield _event(one, about, last)
    except ApiError as error:
        yield _line(FAILED, error.body(request))
    except Exception:
        yield _line(FAILED, ApiError(INTERNAL).body(request))
        raise


def _event(one: Preview | Reply, about: dict[str, Any], last: dict[str, Any]) -> bytes:
    own: dict[str, Any] = {"created_at": int(time.time()), "quality": "high", **about}
    if isinstance(one, Preview):
        own["background"] = "opaque"
        own |= {"b64_json": one.file, "partial_image_index": one.number, "size": _size(one.size)}
        return _line(PARTIAL, own)
    made = one.value
    assert isinstance(made, Pictures)
    own["background"] = "opaque" if made.opaque else "transparent"
    own |= {"b64_json": made.files[0], "size": _size(made.size), "usage": USAGE, **last}
    return _line(COMPLETED, own | {"settings": made.settings[0], "warnings": list(made.told)})


def _size(size: tuple[int, int]) -> str:
    return "{}x{}".format(*size)


def _line(kind: str, data: dict[str, Any]) -> bytes:
    text = json.dumps({"type": kind, **data}, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()
