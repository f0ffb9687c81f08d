"""What the tools do: edits by one engine, and sessions, which are kept inversions. It knows no
protocol."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import BoundedSemaphore, Lock
from typing import Any

from PIL import Image

from icd_engine.bundles.home import is_here
from icd_engine.bundles.published import PUBLISHED
from icd_engine.engine import Engine
from icd_engine.errors import RunnerError, SettingsError, shown
from icd_engine.integrations.mcp.pictures import Pictures
from icd_engine.reporting import Progress
from icd_engine.results import EditResult, Inversion

AREAS = 4  # `size` may have so many times the pixels that the model was made for
WAITING = 8  # calls that may wait for the one that runs
Given = str | Mapping[str, Any]


@dataclass(frozen=True)
class Edited:
    """A picture, what it was made of, and the settings it was made with."""

    picture: Image.Image
    source: bytes | None
    about: dict[str, Any]


@dataclass(frozen=True)
class Session:
    """A kept inversion and the file of its picture."""

    inversion: Inversion
    file: bytes


class Desk:
    """One engine, used by one call at a time, and its sessions: of more than `most`, the one that
    was not used for longest goes.

    engine: gives the engine, and waits for it while it loads. name: of its model.
    """

    def __init__(self, engine: Callable[[], Engine], name: str, pictures: Pictures, most: int = 8):
        self.pictures = pictures
        self._engine = engine
        self._name = name
        self._most = most
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._own = Lock()  # of the sessions
        self._running = Lock()
        self._places = BoundedSemaphore(WAITING + 1)

    def edit(
        self,
        image: Given,
        source: str | None,
        prompt: str,
        settings: Mapping[str, Any],
        mask: Given | None,
        size: tuple[int, int] | None,
        progress: Progress,
    ) -> Edited:
        """Edits one picture. Raises any IcdError."""
        with self._alone() as engine:
            picture, file = self.pictures.read(image)
            self._check_size(engine, size)
            chosen = self._with_mask(settings, mask)
            result = engine.edit(picture, source, prompt, size=size, progress=progress, **chosen)
        return _edited(result, file)

    def start(
        self,
        image: Given,
        source: str | None,
        seed: int | None,
        size: tuple[int, int] | None,
        progress: Progress,
    ) -> dict[str, Any]:
        """Encodes a picture and keeps it. Raises any IcdError."""
        with self._alone() as engine:
            picture, file = self.pictures.read(image)
            self._check_size(engine, size)
            inversion = engine.invert(picture, source, seed=seed, size=size, progress=progress)
        name = secrets.token_urlsafe(12)
        with self._own:
            self._sessions[name] = Session(inversion, file)
            ended = len(self._sessions) > self._most and self._sessions.popitem(last=False)[0]
        told = {"ended_for_room": ended} if ended else {}
        return {"session": name, "size": _size(inversion.picture_size), **told}

    def edit_session(
        self,
        session: str,
        prompt: str,
        settings: Mapping[str, Any],
        mask: Given | None,
        progress: Progress,
    ) -> Edited:
        """Edits what a session keeps. Raises any IcdError."""
        kept = self._session(session)
        with self._alone():
            chosen = self._with_mask(settings, mask)
            result = kept.inversion.edit(prompt, progress=progress, **chosen)
        return _edited(result, kept.file)

    def end(self, session: str) -> None:
        """Forgets a session. SettingsError where there is none."""
        self._session(session)
        with self._own:
            self._sessions.pop(session, None)

    def models(self) -> dict[str, Any]:
        """The model that edits, and those that another start of the server could take."""
        model = self._engine().model
        here = {
            "model": self._name,
            "size": _size(model.bundle.size),
            "steps": len(model.decode_hops),
            "default_settings": model.default_settings.as_json(),
        }
        others = [
            {"model": name, "about": one.what, "downloaded": is_here(name)}
            for name, one in PUBLISHED.items()
            if name != self._name
        ]
        return {"in_use": here, "others": others}

    @contextmanager
    def _alone(self) -> Iterator[Engine]:
        if not self._places.acquire(blocking=False):
            raise RunnerError(f"{WAITING} calls wait already: try again later")
        try:
            engine = self._engine()
            with self._running:
                yield engine
        finally:
            self._places.release()

    def _session(self, name: str) -> Session:
        with self._own:
            if name not in self._sessions:
                raise SettingsError(
                    f"no session {shown(name)}: it was ended, or newer ones took its place"
                )
            self._sessions.move_to_end(name)
            return self._sessions[name]

    def _with_mask(self, settings: Mapping[str, Any], mask: Given | None) -> dict[str, Any]:
        if mask is None:
            return dict(settings)
        return {**settings, "mask": self.pictures.read_mask(mask, settings.get("mask_alpha"))}

    def _check_size(self, engine: Engine, size: tuple[int, int] | None) -> None:
        width, height = engine.bundle.size
        if size is not None and size[0] * size[1] > AREAS * width * height:
            raise SettingsError(
                f"size has more than {AREAS} times the pixels that the model was made for: "
                f"{width}x{height}"
            )


def _edited(result: EditResult, file: bytes) -> Edited:
    about: dict[str, Any] = {"size": _size(result.image.size)}
    return Edited(result.image, file, {**about, "settings": result.settings.as_json()})


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
