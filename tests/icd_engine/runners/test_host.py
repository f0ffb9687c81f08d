"""What the host does while a device runs an edit from graphs, counted: graphs do nothing here. The
time it takes is held by the test marked long."""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from icd_engine import Engine
from icd_engine.model import Model
from icd_engine.runners import inductor
from icd_engine.runners.compiled import CompiledRunner
from icd_engine.runners.graph import GraphRunner, Graphs
from icd_engine.runners.stages import TorchNetworks
from tests import conftest
from tests.icd_engine.runners.fake_cuda import FakeCuda

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"
SETTINGS = {"blend": ("cat", "dog"), "amplify": {"dog": 2.0}, "detail": 0.0}
STAGES = ["prompt_features", "to_moments", "encode", "decode", "to_pixels"]
# Launches of the host's own once the VAE encodes: 22 today, of which 12 join rows or pack them
MOST_LAUNCHES = 25
MOST_MS = 1.5  # of Python between the first replay and the last: 0.6 on a core of an EPYC
# Fields of the UNet in which the bundle differs from the small one
UNETS = {
    "small": {},
    "sd15": {
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "block_out_channels": [8, 8, 16, 16],
        "layers_per_block": 2,
        "norm_num_groups": 4,
    },
}
VIEWS = {
    "as_strided",
    "slice",
    "split",
    "t",
    "view",
    "_unsafe_view",
    "alias",
    "_local_scalar_dense",
}


class Replays(Graphs):
    """Graphs that do nothing when replayed but say so."""

    def __init__(self, monkeypatch: Any):
        FakeCuda(monkeypatch)
        super().__init__(torch.device("cpu"))
        self.names: list[str] = []
        self.times: list[float] = []

    def replay(self, name, function, *arguments):
        self.names.append(name if isinstance(name, str) else name[0])
        return super().replay(name, function, *arguments)

    def _record(self, work):
        work()
        return SimpleNamespace(replay=lambda: self.times.append(time.perf_counter()))


class Counts(TorchDispatchMode):
    """Operations that are launches on a device, by name, from the VAE's first replay to its last."""

    def __init__(self, graphs: Replays):
        super().__init__()
        self.found: Counter[str] = Counter()
        self._graphs = graphs

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if STAGES.index("to_moments") < len(self._graphs.times) < len(STAGES) and name not in VIEWS:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def engine(small_engine) -> Iterator[Engine]:
    with pytest.MonkeyPatch.context() as patch:
        yield from_graphs(small_engine, patch)


def from_graphs(eager: Engine, patch: pytest.MonkeyPatch) -> Engine:
    """One that edits from graphs, captured here."""
    patch.setattr(inductor, "compile_stage", lambda stage, **_: stage)
    theirs = eager.runner
    pair = [copy.deepcopy(own) for own in (theirs.encode_network, theirs.decode_network)]
    for network in pair:
        network.join_weights()  # as on CUDA
    own = TorchNetworks(theirs.text_encoder, theirs.vae, *pair)
    runner = GraphRunner.__new__(GraphRunner)
    runner.graphs = Replays(patch)
    CompiledRunner.__init__(runner, own)
    made = Engine(Model(eager.bundle, runner, eager.model.tokenizer))
    edit(made, 0)
    return made


def edit(engine: Engine, seed: int) -> None:
    """With prompts of its own."""
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    engine.runner._features.clear()
    engine.runner._values.clear()
    engine.runner.graphs.names.clear()
    engine.runner.graphs.times.clear()
    engine.edit(pixels, SOURCE, TARGET, seed=seed, **SETTINGS)


@contextmanager
def counted(monkeypatch: Any, owner: Any, name: str, graphs: Replays) -> Iterator[list[int]]:
    """How many replays there were at each call."""
    calls = []
    whole = getattr(owner, name)

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(len(graphs.times))
        return whole(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, call)
        yield calls


def test_an_edit_is_five_replays_and_both_prompts_come_first(engine):
    edit(engine, 1)
    assert engine.runner.graphs.names == STAGES
    assert len(engine.runner.graphs.times) == len(STAGES)


def test_nothing_is_sent_to_the_device_once_it_encodes(engine, monkeypatch):
    with counted(monkeypatch, engine.runner, "tensor", engine.runner.graphs) as calls:
        edit(engine, 2)
    assert calls
    assert max(calls) < STAGES.index("to_moments")


def test_modules_are_not_searched(engine, monkeypatch):
    with counted(monkeypatch, nn.Module, "named_modules", engine.runner.graphs) as calls:
        edit(engine, 3)
    assert not calls


def test_the_host_waits_for_the_pictures_alone(engine, monkeypatch):
    """Once after the VAE has encoded, where half precision may have overflowed."""
    waits = []
    for name in ("__bool__", "item", "cpu", "numpy", "tolist"):
        whole = getattr(torch.Tensor, name)

        def wait(tensor: Any, *arguments: Any, whole: Any = whole, **options: Any) -> Any:
            waits.append(len(engine.runner.graphs.times))
            return whole(tensor, *arguments, **options)

        monkeypatch.setattr(torch.Tensor, name, wait)
    edit(engine, 4)
    between = [at for at in waits if 0 < at < len(STAGES)]
    assert between == [STAGES.index("to_moments") + 1]


def test_operations_between_replays_are_few(engine):
    counts = Counts(engine.runner.graphs)
    with counts:
        edit(engine, 5)
    assert 0 < counts.found.total() <= MOST_LAUNCHES, counts.found.most_common()


@pytest.mark.long
@pytest.mark.parametrize("name", UNETS)
def test_host_time_is_short(name, tmp_path, monkeypatch):
    """Milliseconds of Python between the first replay and the last, of 20 edits: the shortest, since
    machines are shared."""
    monkeypatch.setattr(conftest, "UNET", conftest.UNET | UNETS[name])
    bundle = conftest.write_small_bundle(tmp_path / "bundle")
    engine = from_graphs(Engine.from_pretrained(bundle, device="cpu", runner="eager"), monkeypatch)
    spans = []
    for seed in range(20):
        edit(engine, seed)
        times = engine.runner.graphs.times
        spans.append(1000 * (times[-1] - times[0]))
    print(f"\n{name}: {min(spans):.2f} ms, median {statistics.median(spans):.2f} ms")
    assert 0 < min(spans) <= MOST_MS
