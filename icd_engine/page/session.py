"""What one visitor of the page does: a picture, its kept inversion, and the pictures last made of
it."""

from __future__ import annotations

import shutil
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from icd_engine.automatic import VARIED
from icd_engine.errors import ImageError
from icd_engine.images import read_picture
from icd_engine.page.fields import Form, painted, shares
from icd_engine.saving import save_image

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.results import EditResult, Inversion

# Told (done, total) after every hop, or every setting that was tried
Progress = Callable[[int, int], Any]


class Stopped(Exception):
    """The visitor cancelled what was running."""


@dataclass(frozen=True)
class Shown:
    """Files of one edit, all PNG: the picture, and an edited one for each target prompt with what
    is new in that.

    note: how it was made.
    """

    before: Path
    edited: list[tuple[Path, str]]
    note: str


@dataclass(frozen=True, eq=False)
class Opened:
    """A picture that is being edited, and where it and its edits are written."""

    picture: Image.Image
    folder: Path
    before: Path


class Visit:
    """One visitor. Edits one at a time; `open` and `stop` may be called while one runs.

    Its files lie in a folder of its own, which goes when the visit does.
    """

    def __init__(self, folder: Path):
        self._folder = Path(mkdtemp(dir=folder))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._stop = threading.Event()
        self._opened: Opened | None = None
        self._kept: tuple[Opened, Inversion] | None = None
        self._edits = 0
        self.mask: np.ndarray | None = None  # as EditSettings takes it
        self.shown: Shown | None = None
        self.chosen = 0  # of the targets, by the visitor

    def open(self, image: Any) -> Image.Image:
        """Takes a picture (see `read_picture`) in place of the one before, whose edit is stopped.

        ImageError.
        """
        picture = read_picture(image)
        self.stop()
        last = self._opened
        folder = Path(mkdtemp(dir=self._folder))
        before = save_image(picture, folder / "picture.png", provenance=False)
        self._opened = Opened(picture, folder, before)
        self._kept = None
        self.mask = None
        self.shown = None
        if last is not None:
            shutil.rmtree(last.folder, ignore_errors=True)
        return picture

    def paint(self, layers: Sequence[np.ndarray]) -> bool:
        """Takes what the mask brush left (see `painted`).

        Whether it is another mask than before.
        """
        last = self.mask
        self.mask = painted(layers)
        if last is None or self.mask is None:
            return last is not self.mask
        return not np.array_equal(last, self.mask)

    @property
    def picture(self) -> Image.Image | None:
        return None if self._opened is None else self._opened.picture

    def stop(self) -> None:
        """What is running ends with Stopped after its next network call."""
        self._stop.set()

    def edit(self, engine: Engine, form: Form, progress: Progress) -> Shown:
        """Edits the picture; from the kept inversion where picture, source prompt and seed are
        those of the last edit.

        Raises Stopped, ImageError, PromptError, SettingsError.
        """
        self._stop.clear()
        opened = self._checked()
        targets = form.prompts()
        settings = self._settings(form)
        seed = self._seed(engine, form)
        kept = self._inversion(engine, form)
        hops = len(engine.bundle.decode_times)
        if kept is None:
            tick = self._ticker(progress, len(engine.bundle.encode_times) + hops)
            result = engine.edit(
                opened.picture, form.source, targets, seed=seed, progress=tick, **settings
            )
        else:
            result = kept.edit(targets, progress=self._ticker(progress, hops), **settings)
        # After the last network call, perhaps because another picture was opened
        if self._stop.is_set():
            raise Stopped
        self._kept = opened, result.inversion
        self.shown = self._written(opened, result, targets, again=kept is not None)
        return self.shown

    def choose_settings(self, engine: Engine, form: Form, progress: Progress) -> Form:
        """The form with the automatic settings of its first target.

        Raises what `edit` does.
        """
        self._stop.clear()
        opened = self._checked()
        target = form.prompts()[0]
        given = self._settings(form)
        fixed = {name: value for name, value in given.items() if name not in VARIED}
        fixed["paste_back"] = bool(given.get("paste_back")) and "mask" in given
        inversion = self._inversion(engine, form)
        hops = len(engine.bundle.decode_times)
        if inversion is None:
            hops += len(engine.bundle.encode_times)
        tick = self._ticker(progress, hops)
        if inversion is None:
            seed = self._seed(engine, form)
            inversion = engine.invert(opened.picture, form.source, seed=seed, progress=tick)
            self._kept = opened, inversion
        found = inversion.edit(
            target, settings="auto", output_type="latent", progress=tick, **fixed
        ).settings
        source, own = found.blend or ((), ())
        words = {"blend_source": ", ".join(source), "blend_target": ", ".join(own)}
        return replace(form, **shares(found), **words)

    def _checked(self) -> Opened:
        if self._opened is None:
            raise ImageError("there is no picture: choose one first")
        return self._opened

    def _settings(self, form: Form) -> dict[str, Any]:
        settings = form.settings() | ({} if self.mask is None else {"mask": self.mask})
        # On the page it may be ticked before anything is painted.
        restricted = bool({"mask", "blend", "mask_from"} & {*settings})
        settings["paste_back"] = form.paste_back and restricted
        return settings

    def _seed(self, engine: Engine, form: Form) -> int | None:
        return engine.default_settings.seed if form.seed is None else form.seed

    def _inversion(self, engine: Engine, form: Form) -> Inversion | None:
        """The kept one, if it is of this picture, source prompt and seed."""
        if self._kept is None:
            return None
        opened, inversion = self._kept
        fits = (opened, inversion.source, inversion.seed) == (
            self._opened,
            form.source,
            self._seed(engine, form),
        )
        return inversion if fits else None

    def _ticker(self, progress: Progress, total: int) -> Callable[[int], None]:
        done = 0

        def tick(count: int) -> None:
            nonlocal done
            if self._stop.is_set():
                raise Stopped
            done += count
            progress(done, total)

        return tick

    def _written(
        self, opened: Opened, result: EditResult, targets: list[str], again: bool
    ) -> Shown:
        """The last edit's files stay a while: the page may still be reading them."""
        self._edits += 1
        shutil.rmtree(opened.folder / str(self._edits - 2), ignore_errors=True)
        names = (
            ["edited.png"]
            if len(targets) == 1
            else [f"edited_{i}.png" for i in range(1, len(targets) + 1)]
        )
        folder = opened.folder / str(self._edits)
        paths = [
            save_image(one, folder / name) for one, name in zip(result.images, names, strict=True)
        ]
        how = "from the kept inversion" if again else "encoding included"
        note = (
            f"{result.network_calls} network calls in {result.timings['total'] / 1000:.2f} s, {how}"
        )
        news = [_news(result.inversion.source, target) for target in targets]
        return Shown(opened.before, list(zip(paths, news, strict=True)), note)


def _news(source: str, target: str) -> str:
    """The words of the target that the source has not, or all where it has them all."""
    return " ".join(word for word in target.split() if word not in source.split()) or target
