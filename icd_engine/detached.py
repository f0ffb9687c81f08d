"""Inversions without their engine: what of them pickles, and what stands for the engine until there
is one again."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn, Self

import numpy as np

from icd_engine.errors import BundleError, RunnerError


@dataclass(frozen=True)
class Detached:
    """Stands for an engine: the fingerprint of its model. All that needs more raises RunnerError,
    which says how to have an engine again."""

    fingerprint: str

    @property
    def model(self) -> NoReturn:
        raise _missing()

    def edit_inversion(self, *_: Any, **__: Any) -> NoReturn:
        raise _missing()

    def search(self, *_: Any, **__: Any) -> NoReturn:
        raise _missing()

    def to_pictures(self, *_: Any, **__: Any) -> NoReturn:
        raise _missing()


class Detachable:
    """What has an engine and tensors on its device. It pickles without the engine, and is copied with
    it: no process needs the networks twice."""

    engine: Any
    made_with: str  # fingerprint of what encoded it
    source: str  # prompt
    latents: Any  # the noised latents on the CPU
    boundaries: Any  # tensors on the engine's device, or None

    def attach(self, engine: Any) -> None:
        """Goes on with this engine: see `Engine.attach`. BundleError where it has another model."""
        if self.engine is engine:
            return
        model = engine.model
        own = model.fingerprint(model.tokenizer.added_in(self.source))
        if (self.made_with or self.engine.fingerprint) != own:
            raise BundleError("this was made with another model: invert the picture again")
        held = self.__getstate__()
        noised, *boundaries = (
            engine.model.runner.tensor(np.asarray(own).copy())
            for own in (held["noised"], *(held["boundaries"] or ()))
        )
        self.__dict__.update(noised=noised, boundaries=boundaries or None, engine=engine)

    def __getstate__(self) -> dict[str, Any]:
        """What pickles: all but the engine, tensors on the CPU."""
        if isinstance(self.engine, Detached):
            return self.__dict__
        latents = self.latents
        host = self.engine.model.runner.host
        boundaries = self.boundaries and [host(own) for own in self.boundaries]
        parted = {"noised": latents, "latents": latents, "boundaries": boundaries}
        return self.__dict__ | parted | {"engine": Detached(self.made_with)}

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        memo[id(self.engine)] = self.engine  # which is how copying knows what it need not copy
        copied = object.__new__(type(self))
        copied.__dict__.update(deepcopy(self.__dict__, memo))
        return copied


def _missing() -> RunnerError:
    return RunnerError(
        "pickles come without their engine: hand this inversion or result to engine.attach first"
    )
