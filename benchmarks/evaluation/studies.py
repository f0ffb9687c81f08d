"""The paper's studies: `python -m benchmarks.evaluation.studies STUDY`, JSON on stdout.

guidance   how well pictures come back over the turn-on threshold tau and w (paper, figure on
dynamic guidance; table 5) encoding   what guidance while encoding does to the noise and to the way
back (table 1) tradeoff   edit success and what is kept, over ramps (tau1, tau2) and intervals
(tau_low, tau) ablation   bundles trained with other chains and preservation losses (--models A B
...) beside each other (table 2)
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import record
from benchmarks.evaluation.metrics import psnr
from benchmarks.evaluation.run import icd, inversions, means, measure, round_trip
from benchmarks.evaluation.suites import Item, judged, tiny
from icd_engine.engine import Engine
from icd_engine.runners.contract import DecodeInputs
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.trajectory import run_trajectory

TAUS = (0.4, 0.6, 0.8, 1.0)  # with chain A three, two, one and none of four hops unguided
SCALES = (0.0, 2.0, 4.0, 8.0)
RAMPS = ((0.2, 0.6), (0.4, 0.8), (0.5, 0.9), (0.7, 1.0))
INTERVALS = ((0.1, 0.8), (0.3, 0.8), (0.1, 1.0), (0.3, 1.0))
Rows = list[dict[str, Any]]


def guidance(engine: Engine, items: Sequence[Item]) -> Rows:
    """PSNR of pictures encoded and decoded with their own prompt, without control."""
    cases = [(w, tau) for w in SCALES for tau in (TAUS if w else TAUS[-1:])]
    return [
        {"w": w, "tau": tau, "psnr": _mean(round_trip(engine, item, w, tau) for item in items)}
        for w, tau in cases
    ]


def encoding(engine: Engine, items: Sequence[Item]) -> Rows:
    """Deviation of the encoded noise (1 is what decoding expects) and PSNR of an unguided way
    back."""
    rows = []
    for w in SCALES:
        spreads, kept = [], []
        for item in items:
            noised = _encoded(engine, item, w)
            spreads.append(float(noised.std()))
            kept.append(psnr(_decoded(engine, item, noised), item.picture()))
        rows.append({"w_encode": w, "noise_std": _mean(spreads), "psnr": _mean(kept)})
    return rows


def _encoded(engine: Engine, item: Item, w: float) -> torch.Tensor:
    """The encode hops with guidance, which the engine itself never uses."""
    runner: Any = engine.runner  # of torch: it has the networks
    unet = runner.encode_network
    model = engine.model
    prompts = model.encode_prompts([model.tokens(item.source)])
    latents = runner.to_latents(runner.tensor(item.picture()[None]))
    _, noise = model.noise([0], model.size)
    x = model.noised(latents, noise)
    embedded = torch.from_numpy(guidance_embedding([w], unet.guidance_channels)).to(runner.device)

    def step(k: int, hop: Any, x: torch.Tensor) -> torch.Tensor:
        t = torch.full((1,), float(hop.t), device=runner.device)
        return hop.A * x + hop.B * unet(x, t, prompts.features, embedded).eps

    with torch.no_grad():
        return run_trajectory(x, model.encode_hops, step, None)[-1]


def _decoded(engine: Engine, item: Item, noised: torch.Tensor) -> np.ndarray:
    model = engine.model
    prompts = model.encode_prompts([model.tokens(item.source)])
    inputs = DecodeInputs(
        latents=noised, prompts=prompts, guidance=[[0.0] for _ in model.decode_hops]
    )
    latents = engine.runner.decode(inputs, model.decode_hops, None).latents
    return np.asarray(engine.runner.host(engine.runner.to_pixels(latents)))[0]


def tradeoff(engine: Engine, items: Sequence[Item]) -> Rows:
    """Edits under thresholds, ramps and intervals of guidance, everything else as by default."""
    success = judged()
    forms: list[dict[str, Any]] = [{"tau": tau} for tau in TAUS]
    forms += [{"tau": ramp} for ramp in RAMPS] + [
        {"tau_low": low, "tau": tau} for low, tau in INTERVALS
    ]
    rows = []
    for form in forms:
        method = icd(engine, **form)
        found = means([measure(item, method(item), [success]) for item in items])
        names = ("edit_success", "edit_psnr_to_truth", "changed_share", "background_psnr")
        rows.append(form | {name: found[name] for name in names})
    return rows


def ablation(engine: Engine, items: Sequence[Item]) -> Rows:
    """The way there and back under no, dynamic and constant guidance, what noise is between, and
    edits by default."""
    success = judged()
    edit = icd(engine)
    found = means([measure(item, edit(item), [success]) for item in items])
    return [
        {"network_calls": found["network_calls"]}
        | inversions(engine, items)
        | {"noise_std": _mean(float(_encoded(engine, item, 0.0).std()) for item in items)}
        | {name: found[name] for name in ("edit_success", "edit_psnr_to_truth", "background_psnr")}
    ]


def _mean(values: Any) -> float:
    return round(float(np.mean(list(values))), 4)


STUDIES: dict[str, Callable[[Engine, Sequence[Item]], Rows]] = {
    "guidance": guidance,
    "encoding": encoding,
    "tradeoff": tradeoff,
    "ablation": ablation,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation.studies")
    parser.add_argument("study", choices=[*STUDIES, "all"])
    parser.add_argument("--count", type=int, default=24, help="number of scenes")
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument(
        "--models", nargs="+", default=["tiny"], metavar="MODEL", help="each is studied in turn"
    )
    parser.add_argument("--threads", type=int)
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    items = tiny(options.count, options.seed)
    names = list(STUDIES) if options.study == "all" else [options.study]
    found: dict[str, Rows] = {name: [] for name in names}
    for model in options.models:
        engine = Engine.from_pretrained(model, runner="eager")
        for name in names:
            found[name] += [
                {"model": Path(model).name} | row for row in STUDIES[name](engine, items)
            ]
    about = {
        "count": options.count,
        "seed": options.seed,
        "where": record.environment(torch.device("cpu")),
    }
    print(json.dumps(about | found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
