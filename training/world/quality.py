"""How well a model edits the world: `python -m training.world.quality --pairs 40 --seed 7 [--model
FOLDER] [--grid FILE]`.

Every edit of the world has an exact true picture, so no learned metric is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from icd_engine import EditSettings, Engine
from icd_engine.images import psnr
from icd_engine.results import EditRequest, EditResult
from training.world.pairs import CHANGE_THRESHOLD, Pair, command_line, sample_pairs

Array = np.ndarray


def changed_share(edited: Array, pair: Pair) -> float:
    """Share of the pixels that should change that end nearer to the truth than to the source
    picture."""
    return nearer_share(edited, pair.picture, pair.truth)


def nearer_share(edited: Array, picture: Array, truth: Array) -> float:
    """The same of any three uint8 pictures of one size."""
    picture, truth, got = (x.astype(np.float64) for x in (picture, truth, edited))
    should = np.abs(picture - truth).max(axis=-1) > CHANGE_THRESHOLD
    nearer = np.linalg.norm(got - truth, axis=-1) < np.linalg.norm(got - picture, axis=-1)
    return float(nearer[should].mean())


def figures_of(pair: Pair, result: EditResult) -> dict[str, float]:
    """The figures of one edit, all against pictures of the world."""
    edited = np.asarray(result.image)
    kept = np.asarray(result.reconstruction)
    return {
        "reconstruction_psnr": psnr(kept, pair.picture),
        "background_psnr": psnr(edited, pair.picture, ~pair.mask),
        "psnr_to_truth": psnr(edited, pair.truth),
        "changed_share": changed_share(edited, pair),
    }


def run_edits(
    engine: Engine, pairs: Sequence[Pair], settings: Mapping[str, Any]
) -> list[EditResult]:
    """One edit for each pair; the seed of the encode noise is the pair's number."""
    requests = [
        EditRequest(pair.picture, pair.source, pair.target, EditSettings(**{"seed": i, **settings}))
        for i, pair in enumerate(pairs)
    ]
    return engine.edit_many(requests)


def summary(pairs: Sequence[Pair], results: Sequence[EditResult]) -> dict[str, dict[str, float]]:
    """Mean figures by kind of edit, and "all": the mean of the kinds."""
    rows = [
        (pair.kind, figures_of(pair, result)) for pair, result in zip(pairs, results, strict=True)
    ]
    kinds = dict.fromkeys(kind for kind, _ in rows)
    table = {kind: _mean([figures for own, figures in rows if own == kind]) for kind in kinds}
    return {"all": _mean(list(table.values())), **table}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def inversion_psnr(engine: Engine, pairs: Sequence[Pair], **settings: Any) -> float:
    """Mean PSNR of pictures encoded and decoded with their own prompt under the given guidance (no
    control), not anchored: an anchored reconstruction is the VAE's."""
    told = {"control": "none", "anchor": 0.0, **settings}
    requests = [
        EditRequest(pair.picture, pair.source, pair.source, EditSettings(seed=i, **told))
        for i, pair in enumerate(pairs)
    ]
    results = engine.edit_many(requests)
    return float(
        np.mean([psnr(np.asarray(r.image), p.picture) for r, p in zip(results, pairs, strict=True)])
    )


def grid(pairs: Sequence[Pair], results: Sequence[EditResult], columns: int = 3) -> Image.Image:
    """Source | reconstruction | edit | truth of every pair, `columns` pairs in a row."""
    cells = [
        np.concatenate(
            [p.picture, np.asarray(r.reconstruction), np.asarray(r.image), p.truth], axis=1
        )
        for p, r in zip(pairs, results, strict=True)
    ]
    cells = [np.pad(cell, ((3, 3), (3, 3), (0, 0)), constant_values=255) for cell in cells]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    rows = [np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command_line("training.world.quality", "Measure how well a model edits the world.")
    parser.add_argument("--kinds", default="color,background,shape")
    parser.add_argument("--settings", type=json.loads, default={}, help="EditSettings as JSON")
    parser.add_argument(
        "--grid",
        type=Path,
        help="write source | reconstruction | edit | truth of the first 24 here",
    )
    options = parser.parse_args(arguments)
    engine = Engine.from_pretrained(options.model)
    pairs = sample_pairs(options.pairs, options.seed, options.kinds.split(","))
    results = run_edits(engine, pairs, options.settings)
    w = engine.default_settings.guidance_scale
    dynamic = {"tau": engine.default_settings.tau}
    report = {
        "pairs": options.pairs,
        "seed": options.seed,
        "figures": summary(pairs, results),
        "inversion_psnr": {
            "unguided": inversion_psnr(engine, pairs, guidance_scale=0.0),
            "guided_dynamic": inversion_psnr(engine, pairs, guidance_scale=w, **dynamic),
            "guided_constant": inversion_psnr(engine, pairs, guidance_scale=w, tau=1.0),
        },
    }
    print(json.dumps(report, indent=1))
    if options.grid:
        options.grid.parent.mkdir(parents=True, exist_ok=True)
        grid(pairs[:24], results[:24]).save(options.grid, quality=90)


if __name__ == "__main__":
    main()
