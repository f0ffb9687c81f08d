"""What `icd edit` was asked for: a picture, a kept inversion or the demonstration, and how it is
edited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from icd_engine.bundles.demo import read_demo
from icd_engine.cli.options import UsageError
from icd_engine.cli.streams import STREAM, is_piped, read_given
from icd_engine.cli.terminal import hop_bar, print_note
from icd_engine.errors import PromptError, SettingsError
from icd_engine.images import read_picture
from icd_engine.masks import read_mask
from icd_engine.search import SEARCHED

if TYPE_CHECKING:
    from icd_engine.engine import Engine
    from icd_engine.results import Candidate, EditResult, Inversion, Search
    from icd_engine.settings import EditSettings

KEPT = ".safetensors"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One edit of the command line.

    path: of a picture or of a kept inversion; "-" is standard input. file, image: the picture as
    it was given and as it is edited, None of a kept inversion. Raises a usage error where something
    is missing or one thing contradicts another.
    """

    path: str | None
    source: str | None
    targets: list[str]
    size: tuple[int, int] | None
    settings: dict[str, Any]
    demo: bool
    quiet: bool
    file: bytes | None = field(default=None, repr=False)
    image: Image.Image | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.demo:
            return
        if self.path is None:
            raise UsageError("Missing argument 'PICTURE' (or --demo)")
        if self.source is None and not self.is_kept:
            raise UsageError("Missing option '--source': say what the picture shows")
        if not self.targets:
            raise UsageError("Missing option '--target': say what the picture should show")
        if self.path == self.settings.get("mask") == STREAM:
            raise UsageError("standard input holds one file: PICTURE or --mask")

    @property
    def is_kept(self) -> bool:
        return self.path is not None and Path(self.path).suffix.lower() == KEPT

    def read(self) -> Asked:
        """The same with its picture read; an unreadable mask shows, too, before a model is loaded.
        What comes through a pipe is read once, and kept. Raises ImageError."""
        settings = dict(self.settings)
        if "mask" in settings:
            if is_piped(settings["mask"]):
                settings["mask"] = read_given(settings["mask"])
            read_mask(settings["mask"], settings.get("mask_alpha"))
        if self.path is None or self.is_kept:
            return replace(self, settings=settings)
        file = read_given(self.path)
        return replace(self, settings=settings, file=file, image=read_picture(file))

    def marks(self, keep_metadata: bool, signed: bool) -> dict[str, Any]:
        """What `save_image` is told of the picture: its metadata, and the file that a signature calls
        its parent. UsageError where metadata are to be kept and there are none."""
        if self.image is None:
            if keep_metadata and not self.demo:
                raise UsageError(
                    "--keep-metadata needs a picture: kept inversions hold no metadata"
                )
            return {}
        told: dict[str, Any] = {"about": self.image.info} if keep_metadata else {}
        if signed and self.file is not None:
            told["parent"] = self.file
        return told

    def of_model(self, engine: Engine) -> Asked:
        """The same with the model's demonstration in place, where that is asked for."""
        if not self.demo:
            return self
        example = read_demo(engine.bundle.path)
        print_note(f"source: {example.source}\ntarget: {example.target}", self.quiet)
        return replace(
            self,
            image=example.picture,
            source=example.source,
            targets=[example.target],
            settings={**example.settings, **self.settings},
        )

    def edit(self, engine: Engine) -> EditResult:
        """Every target, with a bar of hops; says what was chosen where settings are automatic."""
        hops = len(engine.model.decode_hops)
        if self.image is None:
            inversion = self._kept(engine)
            with hop_bar(hops, self.quiet) as progress:
                result = inversion.edit(self.targets, progress=progress, **self.settings)
        else:
            with hop_bar(len(engine.model.encode_hops) + hops, self.quiet) as progress:
                result = engine.edit(
                    self.image,
                    self.source or "",
                    self.targets,
                    size=self.size,
                    progress=progress,
                    **self.settings,
                )
        if result.candidates:
            print_note(_best(result.settings, result.candidates), self.quiet)
        return result

    def search(self, engine: Engine, edits: int) -> Search:
        """The settings that suit the first target, by at most so many edits, with a bar of them."""
        with hop_bar(edits, self.quiet) as progress:
            if self.image is None:
                inversion = self._kept(engine)
            else:
                seed = self.settings.get("seed")
                inversion = engine.invert(self.image, self.source or "", size=self.size, seed=seed)
            found = inversion.search(
                self.targets[0], edits=edits, progress=progress, **self.settings
            )
        print_note(_best(found.result.settings, found.candidates), self.quiet)
        return found

    def _kept(self, engine: Engine) -> Inversion:
        """The kept inversion. What was fixed by inverting cannot be chosen again: PromptError,
        SettingsError."""
        assert self.path is not None
        path = self.path
        inversion = engine.load_inversion(path)
        seed = self.settings.get("seed")
        if self.source not in (None, inversion.source):
            raise PromptError(
                f"{path} was inverted with the source {inversion.source!r}, not {self.source!r}"
            )
        if seed not in (None, inversion.seed):
            raise SettingsError(f"{path} was inverted with seed {inversion.seed}, not {seed}")
        if self.size not in (None, inversion.size):
            size = "x".join(map(str, inversion.size))
            raise SettingsError(f"{path} was inverted at size {size}")
        return inversion


def _best(settings: EditSettings, candidates: Sequence[Candidate]) -> str:
    """What was chosen among so many."""
    values = {name: getattr(settings, name) for name in (*SEARCHED, "blend")}
    text = ", ".join(
        f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
        if value is not None
    )
    return f"best of {len(candidates)} settings: {text}"
