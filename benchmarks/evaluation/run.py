"""Every method over every item of a suite, one row each; what is there already is not done
again."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.evaluation import metrics as pixels
from benchmarks.evaluation.diffusion import Diffusion, at_size
from benchmarks.evaluation.methods import METHODS
from benchmarks.evaluation.shift import shift
from benchmarks.evaluation.suites import Edited, Item, Metric, mask_at
from benchmarks.evaluation.tasks import PUBLISHED_SCALES, EditTask, InstructScales
from icd_engine.engine import Engine
from icd_engine.settings import EditSettings

ROWS = "rows.jsonl"
PICTURES = 24  # items whose pictures are kept for the report
LABELS = ("run", "method", "item", "kind", "picture")  # of a row, beside its figures
BACKGROUND = ("psnr", "ssim", "mse", "shift", "equal")  # figures of what should not change
ResultRow = dict[str, Any]
Method = Callable[[Item], Edited]


def icd(engine: Engine, *, prompted: bool = True, **settings: Any) -> Method:
    """The engine's own edit. prompted: with the source prompt."""

    def edit(item: Item) -> Edited:
        started = time.perf_counter()
        source = item.source if prompted else None
        result = engine.edit(item.picture(), source, item.target, **settings)
        edited = np.asarray(result.image)
        seconds = time.perf_counter() - started
        return Edited(edited, np.asarray(result.reconstruction), result.network_calls, seconds)

    return edit


def icd_plain(engine: Engine, **settings: Any) -> Method:
    """The same with the model's settings as they are, none of them chosen for the edit."""
    return icd(engine, **{"auto": False, **settings})


def icd_paper(engine: Engine, **settings: Any) -> Method:
    """The same decoded as the paper does, not held to the encode trajectory."""
    return icd_plain(engine, **{**settings, "anchor": 0.0})


def icd_unprompted(engine: Engine, **settings: Any) -> Method:
    """The engine's edit without a source prompt, which then has no attention control."""
    return icd(engine, prompted=False, **settings)


def icd_masked(engine: Engine, **settings: Any) -> Method:
    """The engine's edit where the item's mask lets it, the picture's own pixels everywhere else;
    the same as `icd` where an item has no mask."""

    def edit(item: Item) -> Edited:
        kept = {} if item.mask is None else {"mask": item.mask, "paste_back": True}
        return icd(engine, **settings | kept)(item)

    return edit


def generated(engine: Engine, **settings: Any) -> Method:
    """A picture of the item's prompt, from noise of the seed that is its name."""
    given = EditSettings.from_mapping(settings)
    calls = engine.model.decode_calls(given.resolve(engine.default_settings))

    def make(item: Item) -> Edited:
        started = time.perf_counter()
        (picture,) = engine.generate([item.target], seed=int(item.name), **settings)
        return Edited(np.asarray(picture), None, calls, time.perf_counter() - started)

    return make


def other(
    model: Diffusion, name: str, w: float, scales: InstructScales = PUBLISHED_SCALES
) -> Method:
    """A method of METHODS on a diffusion model, at the model's own picture size."""

    def edit(item: Item) -> Edited:
        started = time.perf_counter()
        model.calls = 0
        with torch.no_grad():
            latents = model.latents(at_size(item.picture(), model.engine.bundle.size))
            task = EditTask(
                latents,
                item.source,
                item.target,
                w,
                instruction=item.instruction,
                scales=scales,
            )
            outcome = METHODS[name](model, task)
            edited = model.picture(outcome.edited)
        seconds = time.perf_counter() - started
        return Edited(edited, model.picture(outcome.reconstruction), model.calls, seconds)

    return edit


def round_trip(engine: Engine, item: Item, w: Any, tau: Any) -> float:
    """PSNR of the picture encoded and decoded with its own prompt under this guidance, without
    control, as the paper decodes: an anchored reconstruction is the VAE's."""
    settings = {"seed": 0, "guidance_scale": w, "tau": tau, "control": "none", "anchor": 0.0}
    return pixels.psnr(
        np.asarray(engine.edit(item.picture(), item.source, item.source, **settings).image),
        item.picture(),
    )


def inversions(engine: Engine, items: Sequence[Item]) -> dict[str, float]:
    """PSNR of pictures encoded and decoded with their own prompt, without control: unguided and
    guided."""
    w = engine.default_settings.guidance_scale
    tau = engine.default_settings.tau
    guidance = {"unguided": (0.0, 1.0), "guided_dynamic": (w, tau), "guided_constant": (w, 1.0)}
    return {
        f"inversion_psnr_{name}": round(
            float(np.mean([round_trip(engine, item, *chosen) for item in items])), 3
        )
        for name, chosen in guidance.items()
    }


def evaluate(
    items: Sequence[Item],
    methods: dict[str, Method],
    folder: Path,
    metrics: Sequence[Metric] = (),
    progress: Callable[[str], Any] = lambda text: None,
    about: str = "",
) -> list[ResultRow]:
    """All rows of these items, those of an earlier run with other methods too, in the order they
    were made.

    about: what else decides a figure (model, settings, weights). An interrupted run goes on where
    it stopped; rows in the folder that are about something else, or of other prompts, stay there
    and do not count.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = read_rows(folder)
    runs = [_run_of(item, about) for item in items]
    rows = [row for row in found if row.get("run") in set(runs)]
    done = {(row["method"], row["run"]) for row in rows}
    (folder / ROWS).write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    with (folder / ROWS).open("a", encoding="utf-8") as file:
        for i, (item, of) in enumerate(zip(items, runs, strict=True)):
            for name, method in methods.items():
                if (name, of) in done:
                    continue
                progress(f"{name}, {item.name} ({i + 1} of {len(items)})")
                made = method(item)
                row: ResultRow = {"run": of, "method": name, "item": item.name, "kind": item.kind}
                if i < PICTURES:
                    row["picture"] = _keep(folder, f"{name}/{item.name}-{of}.png", item, made)
                rows.append(row | measure(item, made, metrics))
                file.write(json.dumps(rows[-1]) + "\n")
                file.flush()
    return rows


def _run_of(item: Item, about: str) -> str:
    """Short name of an item under everything that its rows depend on besides the method."""
    return hashlib.sha256(
        json.dumps([about, item.name, item.source, item.target]).encode()
    ).hexdigest()[:12]


def read_rows(folder: Path) -> list[ResultRow]:
    """Those of an earlier run; a last line that was cut short does not count."""
    path = folder / ROWS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def measure(item: Item, made: Edited, metrics: Sequence[Metric] = ()) -> dict[str, float | None]:
    """The figures of one edit, with those of further metrics; what cannot be known of this item is
    None."""
    row: dict[str, float | None] = {"network_calls": made.calls, "seconds": made.seconds}
    if item.read is not None:
        row |= _against(at_size(item.picture(), made.edited.shape[1::-1]), item, made)
    for metric in metrics:
        row |= metric(item, made)
    return row


def _against(picture: np.ndarray, item: Item, made: Edited) -> dict[str, float | None]:
    """What an edit and its reconstruction have kept of the picture, and how near it is to the
    truth."""
    row: dict[str, float | None] = {}
    if made.reconstruction is not None:
        for name in ("psnr", "ssim", "mse"):
            row[f"inversion_{name}"] = getattr(pixels, name)(made.reconstruction, picture)
    if item.truth is not None:
        row["edit_psnr_to_truth"] = pixels.psnr(made.edited, item.truth)
        row["changed_share"] = pixels.changed_share(made.edited, picture, item.truth)
    if item.mask is not None:
        row |= dict.fromkeys(f"background_{name}" for name in BACKGROUND)
        mask = mask_at(item.mask, made.edited.shape[1::-1])
        if not mask.all():  # changes of style may change everything: there is no background then
            frames = pixels.masked(made.edited, mask), pixels.masked(picture, mask)
            row["background_psnr"] = pixels.psnr(made.edited, picture, ~mask)
            row |= {"background_ssim": pixels.ssim(*frames), "background_mse": pixels.mse(*frames)}
            row["background_shift"] = shift(made.edited, picture, ~mask)
            row["background_equal"] = pixels.outside_equal(made.edited, picture, mask)
    return row


def summary(rows: Iterable[ResultRow]) -> dict[str, dict[str, Any]]:
    """Method -> means over all items, the same by kind of edit, and how many rows held NaN and were
    left out."""
    table: dict[str, dict[str, Any]] = {}
    rows = list(rows)
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        sound = [
            row
            for row in own
            if not any(isinstance(v, float) and math.isnan(v) for v in row.values())
        ]
        kinds = dict.fromkeys(row["kind"] for row in sound)
        table[method] = means(sound) | {
            "items": len(sound),
            "skipped": len(own) - len(sound),
            "kinds": {kind: means([row for row in sound if row["kind"] == kind]) for kind in kinds},
        }
    return table


def means(rows: Sequence[ResultRow]) -> dict[str, float | None]:
    """Of every figure, over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row if name not in LABELS)
    found: dict[str, float | None] = {}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        found[name] = round(float(np.mean(values)), 5) if values else None
    return found


def _keep(folder: Path, name: str, item: Item, made: Edited) -> str:
    """Source, reconstruction and edit side by side, as far as there are any; the path in the
    folder."""
    source = [at_size(item.picture(), made.edited.shape[1::-1])] if item.read is not None else []
    kept = [made.reconstruction] if made.reconstruction is not None else []
    path = folder / "pictures" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([*source, *kept, made.edited], axis=1)).save(path)
    return path.relative_to(folder).as_posix()
