"""Styles of an engine: a user's own LoRA or added tokens, put on and taken away while it is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from icd_engine.bundles.bundle import Bundle
from icd_engine.bundles.files import read_shapes
from icd_engine.bundles.styles import UsedStyle, bare_shapes, read_style, use_style
from icd_engine.decoding import SourceBranches
from icd_engine.editing.words import PromptTokenizer
from icd_engine.errors import RunnerError, SettingsError, shown
from icd_engine.model import Model
from icd_engine.runners.contract import Restyles


class Styled:
    """What an engine does about styles. None of it may run while another call of the engine does."""

    model: Model
    bundle: Bundle
    _branches: SourceBranches

    @property
    def fingerprint(self) -> str:
        """What tells this model from others: inversions made with one do not fit another. Styles on
        both networks make it another."""
        return self.model.fingerprint()

    @property
    def styles(self) -> tuple[str, ...]:
        """Names of the styles that are on, in the order they were loaded."""
        return tuple(one.style.name for one in self.model.styles)

    def load_style(
        self, path: str | Path, scale: float = 1.0, *, both: bool = False, token: str | None = None
    ) -> str:
        """Puts a style on top of the model; the name, by which `unload_style` takes it away.

        path: LoRA with keys of peft, diffusers or kohya, for UNet and text encoders, or vectors of
        textual inversion (`icd_engine.bundles.styles.read_style`). scale: 0 changes nothing, 1 is as
        it was trained. both: on the encode network too; inversions that were made before do then not
        fit, while those of a style on the decode network alone do. token: what prompts call the
        token that vectors add; None: as the file says.

        Raises BundleError naming keys that fit none of the networks, SettingsError for a style that is
        on already, RunnerError for an exported folder.
        """
        model = self.model
        bundle = self.bundle
        if not isinstance(model.runner, Restyles):
            raise _of_graphs(model)
        parts = ["unet", *(part for part in bundle.configs if part.startswith("text_encoder"))]
        shapes = bare_shapes({part: read_shapes(bundle.weights(part)) for part in parts})
        style = read_style(path, shapes, bundle.config("unet"), token)
        if style.name in self.styles:
            raise SettingsError(f"style {style.name!r} is on already: unload it first")
        self._restyle([*model.styles, use_style(style, scale, both)])
        return style.name

    def unload_style(self, name: str) -> None:
        """Takes a style away: the model is then, to the bit, as if it had never been on."""
        if name not in self.styles:
            known = ", ".join(self.styles) or "none"
            raise SettingsError(f"no style {shown(name)} is on (there is {known})")
        self._restyle([one for one in self.model.styles if one.style.name != name])

    def _restyle(self, styles: Sequence[UsedStyle]) -> None:
        before = self.model.styles
        runner = self.model.runner
        tokenizer = with_tokens(self.model, styles)
        assert isinstance(runner, Restyles)  # none were on otherwise
        self._branches.clear()
        try:
            runner.restyle(self.bundle, before, styles, _ids(styles, tokenizer))
        except BaseException:  # half of the networks may have the new ones
            old = _ids(before, self.model.tokenizer)
            runner.restyle(self.bundle, [*before, *styles], before, old)
            raise
        self.model.styles = styles
        self.model.tokenizer = tokenizer


def with_tokens(model: Model, styles: Sequence[UsedStyle]) -> PromptTokenizer:
    """The tokenizer of the model's folder with the tokens of styles. SettingsError for a token that
    is there already."""
    folder = model.bundle.path / "tokenizer"
    known = PromptTokenizer.from_folder(folder)
    names = [token for one in styles for token in one.style.tokens]
    for i, name in enumerate(names):
        if known.id_of(name) is not None or name in names[:i]:
            raise SettingsError(
                f"token {shown(name)} is in the vocabulary already: give it another name"
            )
    return PromptTokenizer.from_folder(folder, names)


def _ids(styles: Sequence[UsedStyle], tokenizer: PromptTokenizer) -> dict[str, int]:
    found = {}
    for one in styles:
        for token in one.style.tokens:
            own = tokenizer.id_of(token)
            assert own is not None  # it was added
            found[token] = own
    return found


def _of_graphs(model: Model) -> RunnerError:
    if model.bundle.exported is None:
        return RunnerError(
            f"runner {model.runner.name!r} runs graphs, which take no styles: load the model with "
            "runner='eager', or put the style into it by `icd convert --style`"
        )
    return RunnerError(
        f"{model.bundle.path} is exported, and graphs take no styles: `icd convert --style`, then "
        "`icd export`"
    )
