"""A source prompt for a picture that came without one, from a model that the operator names."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from typing import Any
from urllib.parse import urlsplit

import httpx
from PIL import Image

from icd_engine.errors import IcdError
from icd_engine.images import opaque, read_picture
from icd_engine.serving.limits import PROMPT_CHARACTERS, ApiError, too_many_pixels
from icd_engine.serving.offer import Offer

QUESTION = (
    "Describe this picture in one short sentence of plain words, as its caption: what it shows, its "
    "colours, and what is behind it. Answer with the caption alone."
)
SIDE = 512  # pixels; captioners scale pictures down themselves
SECONDS = 30.0
WORDS = 100  # most tokens of a caption
LOCAL = ("localhost", "127.0.0.1", "::1")

logger = logging.getLogger("ray.serve")


class Captioner:
    """One OpenAI-compatible API (`POST URL/chat/completions` with a picture)."""

    def __init__(self, offer: Offer):
        assert offer.captioner is not None
        self._model = offer.captioner_model
        key = offer.captioner_key
        self._http = httpx.AsyncClient(
            base_url=offer.captioner.rstrip("/"),
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=SECONDS,
            # A proxy of the environment leads away from this machine
            trust_env=urlsplit(offer.captioner).hostname not in LOCAL,
        )

    async def caption(self, image: bytes, pixels: int) -> str | None:
        """What a picture file shows; None, and a line in the log, where no usable answer came. pixels:
        most that a picture may have. ApiError for a file that is none."""
        url = await asyncio.to_thread(_small, image, pixels)
        try:
            return await self._asked(url)
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            logger.warning("the captioner did not answer: %s", type(error).__name__)
            return None

    async def _asked(self, url: str) -> str | None:
        if self._model is None:
            models = await self._http.get("/models")
            self._model = str(models.raise_for_status().json()["data"][0]["id"])
        content = [
            {"type": "text", "text": QUESTION},
            {"type": "image_url", "image_url": {"url": url}},
        ]
        asked: dict[str, Any] = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": WORDS,
            "temperature": 0,
        }
        answer = await self._http.post("/chat/completions", json=asked)
        text = answer.raise_for_status().json()["choices"][0]["message"]["content"]
        if not isinstance(text, str):
            return None
        words = " ".join(text.split()).strip("\"'` ")
        return words[:PROMPT_CHARACTERS] or None


def _small(image: bytes, pixels: int) -> str:
    """A picture file as the data URL of a small JPEG. Raises ApiError."""
    try:
        picture = read_picture(image)
    except IcdError as error:
        raise ApiError.of_input(error, "image") from None
    if picture.width * picture.height > pixels:
        raise ApiError.of_input(too_many_pixels("picture", pixels), "image")
    return _as_url(opaque(picture)[0])


def _as_url(picture: Image.Image) -> str:
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
