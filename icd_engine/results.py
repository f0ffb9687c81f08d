"""What is handed in and out: edit requests, kept inversions, edits, and what a search has tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
from PIL import Image

from icd_engine.compositing import finish, with_detail
from icd_engine.detached import Detachable
from icd_engine.errors import BundleError, SettingsError, shown
from icd_engine.inversion_files import (
    InversionFile,
    read_inversion_file,
    write_inversion_file,
)
from icd_engine.model import Model
from icd_engine.runners.contract import Tensor
from icd_engine.saving import save_image
from icd_engine.settings import EditSettings, is_a

SHEET_SIDE = 128  # pixels of a picture on a contact sheet


class Editor(Protocol):
    """What made an inversion and goes on with it: the `Engine`."""

    @property
    def model(self) -> Model:
        """Its model."""
        ...

    @property
    def fingerprint(self) -> str:
        """What tells its model from others."""
        ...

    def edit_inversion(
        self, inversion: Inversion, target: str | Sequence[str], **options: Any
    ) -> EditResult:
        """Decodes it towards one target or several."""
        ...

    def search(self, inversion: Inversion, target: str, **options: Any) -> Search:
        """Tries settings for a target and finds the best."""
        ...

    def to_pictures(self, latents: Tensor, output_type: str = "pil") -> Any:
        """Latents as pictures."""
        ...


@dataclass(frozen=True, eq=False)
class Inversion(Detachable):
    """A picture encoded to noise, kept: every re-edit of it costs the decode hops only.

    noised: latents [1, 4, h, w] float32 at the last encode boundary, on the engine's device.
    boundaries: latents at the s of every decode hop, as encoding passed them (at 0 the VAE's own),
    for anchored decoding; None in files of older versions and where encoding does not pass them.
    size: (width, height) the model works at. picture_size: that of the pictures it returns. picture:
    the one that was inverted, RGB of that size, and its metadata in `info`; alpha: its transparency,
    L, or None; saved files do not carry them. decoded: see `reconstruction`. given_size: what it had
    before it was brought to that size, whose shape masks may have too. made_with: see
    `Model.fingerprint`.
    """

    engine: Editor = field(repr=False)
    noised: Tensor = field(repr=False)
    source: str
    seed: int
    size: tuple[int, int]
    picture_size: tuple[int, int]
    picture: Image.Image | None = field(default=None, repr=False)
    alpha: Image.Image | None = field(default=None, repr=False)
    decoded: Image.Image | None = field(default=None, repr=False)
    given_size: tuple[int, int] | None = None
    boundaries: list[Tensor] | None = field(default=None, repr=False)
    timings: dict[str, float] = field(default_factory=dict, repr=False)
    made_with: str = ""

    @cached_property
    def latents(self) -> Tensor:
        """The noised latents on the CPU."""
        return self.engine.model.runner.host(self.noised)

    @cached_property
    def reconstruction(self) -> Image.Image:
        """What the VAE alone keeps of the picture, at the size the model works at. SettingsError
        where the picture is not at hand."""
        if self.decoded is not None:
            return self.decoded
        if self.picture is None:
            raise SettingsError("saved inversions do not carry the picture")
        latents, _ = self.engine.model.vae_latents([self.picture], [self.seed], self.size)
        return self.engine.to_pictures(latents)[0]

    def edit(self, target: str | Sequence[str], **options: Any) -> EditResult:
        """Edits towards one target prompt or several (one pass); options are those of
        `Engine.edit`."""
        return self.engine.edit_inversion(self, target, **options)

    def search(self, target: str, **options: Any) -> Search:
        """Tries settings for a target and finds the best: see `icd_engine.search.search`."""
        return self.engine.search(self, target, **options)

    def finished(self, decoded: Any, detail: float = 0.0) -> Any:
        """Decoded pictures of any output type at the size they are returned in, with that share of
        what the VAE lost of this one (`compositing.with_detail`)."""
        pictures = finish(decoded, self.picture_size)
        if not detail or self.picture is None:
            return pictures
        return with_detail(pictures, decoded, self.picture, self.reconstruction, detail)

    def save(self, path: str | Path) -> Path:
        """Writes a safetensors file, atomically, that `Engine.load_inversion` reads."""
        runner = self.engine.model.runner
        boundaries = self.boundaries
        held = InversionFile(
            np.asarray(self.latents),
            None if boundaries is None else np.asarray(runner.host(runner.join(boundaries))),
            self.source,
            self.seed,
            self.size,
            self.picture_size,
            self.made_with,
        )
        return write_inversion_file(path, held)


def read_inversion(engine: Editor, path: str | Path) -> Inversion:
    """Reads what `Inversion.save` wrote; edits of one without boundaries are not anchored.

    BundleError if it is damaged or was made with another model.
    """
    model = engine.model
    held = read_inversion_file(path, len(model.decode_hops))
    made_with = model.fingerprint(model.tokenizer.added_in(held.source))
    if held.model != made_with:
        raise BundleError(f"{path} was made with another model: invert the picture again")
    if held.noised.shape != model.latent_shape(held.size):
        raise BundleError(f"{path} holds latents of a wrong shape or value")
    boundaries = None
    if held.boundaries is not None and model.anchors:
        boundaries = [model.runner.tensor(latents[None]) for latents in held.boundaries]
    return Inversion(
        engine,
        model.runner.tensor(held.noised),
        held.source,
        held.seed,
        held.size,
        held.picture_size,
        boundaries=boundaries,
        made_with=made_with,
    )


@dataclass(frozen=True, eq=False)
class EditRequest:
    """One edit of `Engine.edit_many`: any picture, its prompt (None: it is inverted without one),
    one target prompt or several, and the settings.

    Settings may also be a plain mapping of names to values.
    """

    image: Any
    source: str | None
    target: str | Sequence[str]
    settings: EditSettings | Mapping[str, Any] = field(default_factory=EditSettings)

    def checked_settings(self) -> EditSettings:
        """The settings as EditSettings, whichever way they were given. SettingsError."""
        given = self.settings
        return given if isinstance(given, EditSettings) else EditSettings.from_mapping(given)


@dataclass(frozen=True, eq=False)
class EditResult:
    """Edited pictures of one source picture, one for each target.

    images: at the picture's own size, or the size that was asked for; latents with output_type
    "latent".
    latents: final target latents, float32 [targets, 4, h, w] on the CPU. masks: where each target
    may differ from the picture, float32 numpy [targets, H, W] at the size of the picture it returns;
    0 is kept. They are what pasting back goes by, or would, and `mask` takes each. hop_masks: what
    latents were free to do after each hop, float32 [hops, targets, h, w] on the CPU. Both are None
    where neither blend words nor a mask were given.
    settings: those used, repeatable. timings: milliseconds by stage (of the whole batch in
    `edit_many`).
    network_calls: UNet calls this result took.
    """

    images: Any
    latents: Tensor = field(repr=False)
    settings: EditSettings
    timings: dict[str, float]
    network_calls: int
    inversion: Inversion = field(repr=False)
    source_latents: Tensor = field(repr=False)  # [1, 4, h, w]
    masks: np.ndarray | None = field(default=None, repr=False)
    hop_masks: Tensor | None = field(default=None, repr=False)
    candidates: Sequence[Candidate] = field(default=(), repr=False)

    @property
    def image(self) -> Any:
        """The first (often only) edited picture."""
        return self.images[0]

    def save(
        self,
        path: str | Path | IO[bytes],
        target: int = 0,
        *,
        keep_metadata: bool = False,
        **marks: Any,
    ) -> Any:
        """Writes the picture of one target to a path, or to a file object with `format="PNG"`; it says
        that a model made it. Returns the path or the file object.

        keep_metadata: with what the source's file says: EXIF, XMP, comment, and IPTC of a JPEG in a
        JPEG. marks: format, provenance, signature, parent, quality and watermark of `saving.save_image`. Raises
        SettingsError where there is no such picture, and what `save_image` raises.
        """
        pictures = self.images
        if not isinstance(pictures, list) or not all(
            isinstance(one, Image.Image) for one in pictures
        ):
            raise SettingsError("only pictures of output_type 'pil' can be saved")
        if not is_a(target, Integral) or not 0 <= target < len(pictures):
            raise SettingsError(
                f"target must be the number of one of {len(pictures)} pictures, not {shown(target)}"
            )
        source = self.inversion.picture
        if keep_metadata and source is None:
            raise SettingsError("saved inversions do not carry the picture's metadata")
        about = source.info if keep_metadata and source is not None else None
        return save_image(pictures[target], path, about=about, **marks)

    @cached_property
    def reconstruction(self) -> Image.Image:
        """The source branch as a picture, made on first use: how well the inversion kept it."""
        pictures = self.inversion.engine.to_pictures(self.source_latents)
        return self.inversion.finished(pictures)[0]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One edit that was tried.

    agreement: how much better the target prompt than the source prompt explains it, by the decode
    network. change: mean absolute difference of its latents from the source's.
    """

    settings: EditSettings
    agreement: float
    change: float
    latents: Tensor = field(repr=False)  # [1, 4, h, w]


@dataclass(frozen=True, eq=False)
class Search:
    """What was tried for one target, best first, and the best as an ordinary result."""

    result: EditResult
    candidates: list[Candidate]

    def contact_sheet(self, most: int = 24) -> Image.Image:
        """Small pictures of the best candidates, left to right and down."""
        engine = self.result.inversion.engine
        best = self.candidates[:most]
        columns = min(6, len(best))
        lines = -(-len(best) // columns)
        sheet = Image.new("RGB", (columns * SHEET_SIDE, lines * SHEET_SIDE), "white")
        for i, candidate in enumerate(best):
            picture = engine.to_pictures(candidate.latents)[0]
            picture.thumbnail((SHEET_SIDE, SHEET_SIDE))
            line, column = divmod(i, columns)
            sheet.paste(picture, (column * SHEET_SIDE, line * SHEET_SIDE))
        return sheet


Held = TypeVar("Held", Inversion, EditResult, Search)  # what has an engine to go on with


def inversion_of(held: Inversion | EditResult | Search) -> Inversion:
    """The inversion that it is, or was made from. SettingsError for anything else."""
    if isinstance(held, Search):
        held = held.result
    if isinstance(held, EditResult):
        held = held.inversion
    if not isinstance(held, Inversion):
        raise SettingsError(f"an inversion, a result or a search is needed, not {shown(held)}")
    return held
