"""Eight threads do everything at once on one engine, some of it wrong; each answer is the one it
has alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import IcdError
from icd_engine.results import EditRequest

SOURCE = "a small red circle on a plain blue background"
TARGETS = [
    "a small green circle on a plain blue background",
    "a small red star on a plain blue background",
]
SIZE = (32, 32)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    )


def edit(engine: Any, seed: int) -> list[np.ndarray]:
    result = engine.edit(
        picture(seed), SOURCE, TARGETS[seed % 2], size=SIZE, seed=seed, blend="small"
    )
    return [np.asarray(result.image), np.asarray(result.latents), np.asarray(result.reconstruction)]


def keep(engine: Any, seed: int) -> list[np.ndarray]:
    inversion = engine.invert(picture(seed), SOURCE, size=SIZE, seed=seed)
    return [
        np.asarray(inversion.edit(target, guidance_scale=2.0).latents)
        for target in (*TARGETS, TARGETS)
    ]


def many(engine: Any, seed: int) -> list[np.ndarray]:
    requests = [
        EditRequest(picture(seed + i), SOURCE, TARGETS[i % 2], {"seed": i}) for i in range(3)
    ]
    return [np.asarray(result.latents) for result in engine.edit_many(requests, size=SIZE)]


def generate(engine: Any, seed: int) -> list[np.ndarray]:
    return [np.asarray(one) for one in engine.generate(TARGETS, size=SIZE, seed=seed)]


def search(engine: Any, seed: int) -> list[np.ndarray]:
    found = engine.invert(picture(seed), SOURCE, size=SIZE).search(TARGETS[0], edits=4)
    return [
        np.asarray(one.latents)
        for one in sorted(found.candidates, key=lambda one: str(one.settings))
    ]


def wrong(engine: Any, seed: int) -> list[np.ndarray]:
    def spoil(step: int, t: int, latents: Any) -> Any:
        latents.fill_(float("nan"))
        raise ZeroDivisionError

    calls: list[Callable[[], Any]] = [
        lambda: engine.edit(picture(seed), SOURCE, TARGETS[0], size=SIZE, blend="zebra"),
        lambda: engine.edit(b"no picture", SOURCE, TARGETS[0]),
        lambda: engine.edit(
            picture(seed), SOURCE, TARGETS[0], size=SIZE, callback_on_step_end=spoil
        ),
    ]
    with pytest.raises((IcdError, ZeroDivisionError)):
        calls[seed % 3]()
    return []


def forget(engine: Any, seed: int) -> list[np.ndarray]:
    engine.free_memory()  # while others edit
    return []


KINDS = (edit, keep, many, generate, search, wrong, forget)
# The source branch of a kept inversion may be gone where others edit: it runs again then, and a
# batch of another size sums in another order.
ROUNDING = 2e-5


def test_answers_do_not_depend_on_who_else_asks(engine):
    jobs = [partial(kind, engine, seed) for seed in range(2) for kind in KINDS]
    alone = [job() for job in jobs]
    start = threading.Barrier(8)

    def run(number: int) -> list[tuple[int, list[np.ndarray]]]:
        """Five of the jobs, other ones in each thread."""
        start.wait()
        return [(i, jobs[i]()) for i in ((5 * number + k) % len(jobs) for k in range(5))]

    with ThreadPoolExecutor(8) as pool:
        for i, together in (answer for answers in pool.map(run, range(8)) for answer in answers):
            exact = jobs[i].func not in (keep, search)
            assert len(together) == len(alone[i])
            for got, expected in zip(together, alone[i], strict=True):
                most = 0.0 if exact else ROUNDING * float(np.abs(expected).max())
                assert np.abs(got.astype(np.float64) - expected).max() <= most, jobs[
                    i
                ].func.__name__
