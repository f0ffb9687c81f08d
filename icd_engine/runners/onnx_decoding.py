"""One decoding by onnxruntime: source and target rows through the editing graphs, hop by hop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from icd_engine.runners.contract import Blend, DecodeInputs, Prompts, SourceBranch
from icd_engine.runners.onnx_session import KEPT
from icd_engine.sampling.schedule import Hop

# hop_inputs(hops, x, w, prompts, features): what every hop takes for each row; hops: of each row
HopInputs = Callable[
    [Sequence[Hop], np.ndarray, Sequence[float], Prompts, np.ndarray], dict[str, Any]
]
RunHop = Callable[[str, Mapping[str, Any], Sequence[str]], list[Any]]
AFTER = ("next_latents", "next_word_maps", "mask")


class OnnxDecoding:
    """Steps of one decoding; inputs are filled (`filled_inputs`).

    kept: names of decode_hop's outputs that further hops take; none where nothing is to be kept.
    map_size: (h, w) of the word maps.
    """

    def __init__(
        self,
        inputs: DecodeInputs,
        hops: Sequence[Hop],
        hop_inputs: HopInputs,
        run_hop: RunHop,
        kept: Sequence[str],
        map_size: tuple[int, int],
    ):
        self._inputs = inputs
        self._hops = hops
        self._hop_inputs = hop_inputs
        self._run_hop = run_hop
        self._kept = kept
        self._sources = inputs.sources
        self._ahead = inputs.ahead
        self.maps = np.zeros((2, inputs.targets(1)[0], *map_size), dtype=np.float32)
        self.branch = inputs.source
        self._own = SourceBranch([], [], [])
        self.masks: list[np.ndarray] = []

    @property
    def start(self) -> np.ndarray:
        """Rows before the first hop."""
        latents = self._inputs.latents
        return latents[self._sources :] if self._ahead else latents

    @property
    def left(self) -> SourceBranch | None:
        """The source branch for re-edits; None where nothing was to be kept."""
        if not self._kept:
            return None
        return self.branch if self._ahead else self._own

    def step(self, k: int, hop: Hop, x: np.ndarray) -> np.ndarray:
        """Rows after hop k."""
        if self._inputs.parents is not None:
            parents = self._inputs.parents[k]
            first = len(x) - self.maps.shape[1]  # of the targets
            x = np.concatenate([x[:first], x[first:][parents]])
            self.maps = self.maps[:, parents]
        if self.branch is not None:
            x, self.maps, mask = self._further(k, hop, x, self.branch)
        elif self._ahead:
            x, self.maps, mask = self._opening(x)
        else:
            x, self.maps, mask = self._first(k, hop, x)
        self.masks.append(mask)
        return x

    # --- calls of the graphs ----------------------------------------------------------------------

    def _first(self, k: int, hop: Hop, x: np.ndarray) -> list[Any]:
        """Source and target rows of one hop."""
        inputs = self._inputs
        seen = inputs.hop_prompts[k] if inputs.hop_prompts else inputs.prompts
        rows = range(len(x))  # of targets that grow, all of one prompt, the first ones
        feeds = self._hop_inputs(
            [hop] * len(x), x, inputs.guidance[k], _rows(inputs.prompts, rows), seen.features[rows]
        )
        boundary = None if inputs.anchor is None else inputs.anchor.boundaries[k]
        feeds |= self._edit(k) | self._held(len(x), boundary, k)
        *after, residual = self._run_hop("decode_hop", feeds, [*AFTER, *self._kept, "residual"])
        self._own.latents.append(after[0][: self._sources].copy())
        self._own.features.append(after[len(AFTER) :])
        if inputs.anchor is not None:
            self._own.residuals.append(residual)
        return after[: len(AFTER)]

    def _opening(self, x: np.ndarray) -> list[Any]:
        """The source rows of all hops and the targets of the first, in one call."""
        inputs = self._inputs
        anchor = inputs.anchor
        assert anchor is not None
        count = len(self._hops)
        sources = self._sources
        seen = inputs.hop_prompts[0] if inputs.hop_prompts else inputs.prompts
        rows = np.concatenate([inputs.latents[:sources], *anchor.boundaries[:-1], x])
        hops = [hop for hop in self._hops for _ in range(sources)] + [self._hops[0]] * len(x)
        w = [0.0] * (count * sources) + list(inputs.guidance[0][sources:])
        prompts = self._repeated(inputs.prompts, len(x))
        features = self._repeated(seen, len(x)).features
        feeds = self._hop_inputs(hops, rows, w, prompts, features) | self._edit(0)
        feeds |= self._held(len(rows), np.concatenate(anchor.boundaries), 0)
        *after, residual = self._run_hop("decode_hop", feeds, [*AFTER, *self._kept, "residual"])
        kept = after[len(AFTER) :]
        residuals = np.split(residual, count)
        self.branch = SourceBranch(anchor.boundaries, [kept] * count, residuals)
        return [after[0][-len(x) :], *after[1 : len(AFTER)]]

    def _further(self, k: int, hop: Hop, x: np.ndarray, branch: SourceBranch) -> list[Any]:
        """Target rows alone. An anchored branch is of all hops at once, hop by hop, and rows of hop k
        are taken from it by their numbers."""
        inputs = self._inputs
        seen = inputs.hop_prompts[k] if inputs.hop_prompts else inputs.prompts
        prompts = inputs.prompts
        edit = self._edit(k)
        latents = branch.latents[k]
        residual = np.zeros_like(latents)
        if branch.residuals:
            seen = self._repeated(seen, len(x))
            prompts = self._repeated(prompts, len(x))
            edit["source_row"] = edit["source_row"] + k * self._sources
            latents = np.concatenate(branch.latents)
            residual = np.concatenate(branch.residuals)
        w = inputs.guidance[k][-len(x) :]
        feeds = self._hop_inputs([hop] * len(x), x, w, prompts, seen.features) | edit
        feeds |= {f"{KEPT}{i}": value for i, value in enumerate(branch.features[k])}
        feeds |= {
            "source_latents": latents,
            "residual": residual,
            "anchor": self._share(k),
        }
        return self._run_hop("further_hop", feeds, AFTER)

    # --- what they take ---------------------------------------------------------------------------

    def _repeated(self, prompts: Prompts, targets: int) -> Prompts:
        """The source prompts once a hop, then the targets'."""
        sources = self._sources
        count = len(self._hops)
        rows = [*range(sources)] * count + [*range(sources, sources + targets)]
        return _rows(prompts, rows)

    def _edit(self, k: int) -> dict[str, Any]:
        inputs = self._inputs
        assert inputs.edits is not None and inputs.blend is not None  # they are filled
        blend: Blend = inputs.blend[k]
        return inputs.edits[k]._asdict() | {
            "use_blend": blend.active,
            "user_mask": blend.user_mask,
            "word_maps": self.maps,
        }

    def _held(self, rows: int, boundary: np.ndarray | None, k: int) -> dict[str, Any]:
        """What holds rows of a first call to the encode trajectory; boundary: of its source rows."""
        shape = (rows, *self._inputs.latents.shape[1:])
        held = np.zeros(shape, dtype=np.float32)
        anchor = np.zeros(rows, dtype=np.float32)
        if boundary is not None:
            held[: len(boundary)] = boundary
            anchor[: len(boundary)] = 1
            anchor[len(boundary) :] = self._share(k)
        return {"boundary": held, "anchor": anchor}

    def _share(self, k: int) -> np.ndarray:
        """Of every target row: the share of its source's residual that it takes."""
        inputs = self._inputs
        assert inputs.edits is not None
        source_row = inputs.edits[k].source_row
        if inputs.anchor is None:
            return np.zeros(len(source_row), dtype=np.float32)
        return inputs.anchor.share[source_row]


def _rows(prompts: Prompts, rows: Sequence[int]) -> Prompts:
    pooled = None if prompts.pooled is None else prompts.pooled[rows]
    return Prompts(tuple(prompts.ids[row] for row in rows), prompts.features[rows], pooled)
