"""The compiled and the graph runner answer as the eager one, in fixed batch sizes, and compile and
capture once.

Here dynamo's graphs run as they are (no C++ compiler is needed), and CUDA graphs are replaced by
calling the captured function again: rows, inputs and what is reused are tested everywhere. With
inductor and on a GPU: tests marked long and gpu.
"""

import copy
from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from icd_engine import Engine
from icd_engine.errors import RunnerError
from icd_engine.model import Model
from icd_engine.results import EditRequest
from icd_engine.runners import compiled, inductor
from icd_engine.runners.compiled import CompiledRunner, can_compile
from icd_engine.runners.eager import EagerRunner
from icd_engine.runners.graph import GraphRunner, Graphs
from icd_engine.runners.stages import TorchNetworks
from tests.icd_engine.runners.fake_cuda import FakeCuda

SOURCE = "a cat sits on the mat"
TARGETS = ["a dog sits on the mat", "a red bird sits on the mat", "a cat sits on the chair"]
# relative: other batch sizes and fused arithmetic, over eight hops of random networks
ROUNDING = 1e-4
SWEEP = [
    {"seed": 3},
    {"guidance_scale": 19.0, "tau": (0.2, 0.9)},
    {"cross_replace": {"dog": 0.9, "default": 0.1}, "self_replace": 0.9},
    {"amplify": {"dog": 4.0}},
    {"blend": ("cat", "dog")},
    {"mask": np.tri(64) * np.linspace(0, 1, 64)},
    {"mask_from": "words", "paste_back": False},
    {"blend": ("mat", "mat"), "mask": np.tri(64), "control": "refine"},
    {"control": "none"},
]


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def networks(engine: Engine) -> TorchNetworks:
    runner = engine.runner
    return TorchNetworks(
        runner.text_encoder, runner.vae, runner.encode_network, runner.decode_network
    )


class CalledAgain(Graphs):
    """Graphs whose replay does the work that was captured again."""

    def __init__(self, monkeypatch):
        FakeCuda(monkeypatch)
        super().__init__(torch.device("cpu"))

    def _record(self, work):
        self.captures += 1
        return SimpleNamespace(replay=work)


class GraphRunnerOnCpu(GraphRunner):
    def __init__(self, monkeypatch, own):
        self.graphs = CalledAgain(monkeypatch)
        CompiledRunner.__init__(self, own)


@pytest.fixture(
    scope="module", params=["compiled", "graph", pytest.param("cuda", marks=pytest.mark.gpu)]
)
def engine(request, small_engine, small_bundle) -> Iterator[Engine]:
    """An engine with another runner on the same weights, its programs compiled once for all."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "cuda":
            # torch's default for convolutions, TF32, is off by 2e-3 to 6e-3 here.
            patch.setattr(torch.backends.cudnn, "allow_tf32", False)
            yield Engine.from_pretrained(small_bundle, dtype="float32", runner="graph")
            return
        patch.setitem(inductor.OPTIONS, "cpu", {"backend": "eager"})
        patch.setattr(compiled, "can_compile", lambda device: True)
        own = networks(small_engine)
        made = {"compiled": CompiledRunner, "graph": partial(GraphRunnerOnCpu, patch)}
        runner = made[request.param](own)
        yield Engine(Model(small_engine.bundle, runner, small_engine.model.tokenizer))
    torch.compiler.reset()


def assert_close(got: Tensor, expected: Tensor) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= ROUNDING * float(expected.abs().max())


def assert_same(ours, theirs) -> None:
    assert_close(ours.latents, theirs.latents)
    assert_close(ours.source_latents, theirs.source_latents)
    assert_close(ours.inversion.latents, theirs.inversion.latents)
    assert (ours.masks is None) == (theirs.masks is None)
    assert ours.masks is None or torch.equal(ours.hop_masks, theirs.hop_masks)
    assert ours.masks is None or np.abs(ours.masks - theirs.masks).mean() <= 0.01  # words': cut
    assert len(ours.images) == len(theirs.images)
    for a, b in zip(ours.images, theirs.images, strict=True):
        assert np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max() <= 1


def test_settings_compile_and_capture_nothing_anew(engine):
    """After one first and one re-edit, every setting and prompt is an input.

    First here: nothing else has run.
    """
    kept = engine.edit(picture(), SOURCE, TARGETS[0]).inversion
    kept.edit(TARGETS[0])
    captures = engine.runner.graphs.captures if isinstance(engine.runner, GraphRunner) else 0
    with torch.compiler.set_stance("fail_on_recompile"):
        for i, settings in enumerate(SWEEP):
            kept = engine.edit(picture(i), SOURCE, TARGETS[0], **settings).inversion
            kept.edit(TARGETS[1], guidance_scale=float(i), cross_replace=0.3)
    if isinstance(engine.runner, GraphRunner):
        assert engine.runner.graphs.captures == captures


def test_programs_of_one_model_are_never_anothers(small_engine, monkeypatch):
    """Guards do not look into networks, so only their code tells dynamo two of a kind apart."""
    monkeypatch.setitem(inductor.OPTIONS, "cpu", {"backend": "eager"})
    monkeypatch.setattr(compiled, "can_compile", lambda device: True)
    own = networks(small_engine)
    other = own._replace(
        encode_network=copy.deepcopy(own.encode_network),
        decode_network=copy.deepcopy(own.decode_network),
    )
    for network in (other.encode_network, other.decode_network):
        for weights in network.parameters():
            weights.data.mul_(1.05)
    pairs = [(CompiledRunner(of), EagerRunner(of)) for of in (own, other)]
    results = []
    for _ in range(2):  # the second time every program is there
        for runners in pairs:
            ours, theirs = (
                Engine(Model(small_engine.bundle, one, small_engine.model.tokenizer))
                for one in runners
            )
            results.append(ours.edit(picture(), SOURCE, TARGETS[0]))
            assert_same(results[-1], theirs.edit(picture(), SOURCE, TARGETS[0]))
    assert not torch.allclose(results[0].latents, results[1].latents, rtol=0.05)
    torch.compiler.reset()


@pytest.mark.parametrize("settings", SWEEP, ids=lambda settings: "-".join(settings))
def test_answers_as_the_eager_runner(engine, small_engine, settings):
    first = engine.edit(picture(), SOURCE, TARGETS[0], **settings)
    assert_same(first, small_engine.edit(picture(), SOURCE, TARGETS[0], **settings))
    settings = {key: value for key, value in settings.items() if key != "seed"}
    expected = small_engine.edit(
        picture(), SOURCE, TARGETS[0], **settings, seed=first.settings.seed
    )
    assert_same(first.inversion.edit(TARGETS[0], **settings), expected)


def test_batches_are_filled_up_and_cut_again(engine, small_engine):
    assert_same(
        engine.edit(picture(), SOURCE, TARGETS), small_engine.edit(picture(), SOURCE, TARGETS)
    )
    requests = [
        EditRequest(picture(i), SOURCE, target, settings)
        for i, (target, settings) in enumerate(
            [(TARGETS, {}), (TARGETS[0], SWEEP[4]), (TARGETS[:2], SWEEP[5])]
        )
    ]
    for ours, theirs in zip(
        engine.edit_many(requests), small_engine.edit_many(requests), strict=True
    ):
        assert_same(ours, theirs)
    prompts = ["a cat", "a red bird", "a dog"]
    ours, theirs = (
        one.generate(prompts, seed=1, output_type="latent") for one in (engine, small_engine)
    )
    assert_close(ours, theirs)


def test_callbacks_see_the_rows_that_were_asked_for(engine, small_engine):
    def shift(seen: list):
        return lambda step, t, latents: seen.append((step, t, len(latents))) or latents + 0.1 * step

    ours, theirs = [], []
    a = engine.edit(picture(), SOURCE, TARGETS, callback_on_step_end=shift(ours))
    b = small_engine.edit(picture(), SOURCE, TARGETS, callback_on_step_end=shift(theirs))
    assert ours == theirs
    assert_same(a, b)
    calls = []
    engine.invert(picture(), SOURCE, progress=calls.append)
    assert calls == [1, 1, 1, 1]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_edit_that_is_ended_leaves_nothing_behind(engine, error):
    def end(step, t, latents):
        latents.zero_()
        if step == 2:
            raise error

    kept = engine.invert(picture(), SOURCE)
    kept.edit(TARGETS[0])
    before = kept.edit(TARGETS[0])
    with pytest.raises(error):
        kept.edit(TARGETS[0], callback_on_step_end=end)
    assert torch.equal(kept.edit(TARGETS[0]).latents, before.latents)


def test_freed_memory_is_made_again(engine):
    before = engine.edit(picture(), SOURCE, TARGETS[0])
    engine.free_memory()
    if hasattr(engine.runner, "graphs"):
        assert not engine.runner.graphs._graphs
    assert torch.equal(engine.edit(picture(), SOURCE, TARGETS[0]).latents, before.latents)


def test_a_new_batch_size_captures_once(engine):
    if not isinstance(engine.runner, GraphRunner):
        pytest.skip("no graphs")
    graphs = engine.runner.graphs
    engine.edit(picture(), SOURCE, TARGETS)
    before = graphs.captures
    engine.edit(picture(1), SOURCE, [*TARGETS, SOURCE])  # four targets fill the bucket of three
    assert graphs.captures == before
    engine.edit(picture(1), SOURCE, TARGETS[:2])
    assert graphs.captures > before


def test_results_of_a_graph_outlive_its_next_replay(engine):
    first = engine.generate("a cat", seed=1, output_type="latent")
    copy = first.clone()
    engine.generate("a cat", seed=2, output_type="latent")
    assert torch.equal(first, copy)


def test_graphs_are_bounded_and_the_least_used_go(monkeypatch):
    graphs = CalledAgain(monkeypatch)
    graphs._most = 2
    for name in ("a", "b", "a", "c", "a", "b"):  # c pushes out b, b pushes out c
        out = graphs.replay(name, lambda x: {"y": (x + 1, None)}, torch.ones(2))
        assert torch.equal(out["y"][0], torch.full((2,), 2.0)) and out["y"][1] is None
    assert graphs.captures == 4
    graphs.replay("b", lambda x: x, torch.ones(3))  # another shape is another graph
    assert graphs.captures == 5


def test_what_cannot_run_is_refused(small_bundle, monkeypatch):
    with pytest.raises(RunnerError, match="CUDA"):
        Engine.from_pretrained(small_bundle, device="cpu", runner="graph")
    monkeypatch.setattr(compiled, "can_compile", lambda device: False)
    with pytest.raises(RunnerError, match="compiler"):
        Engine.from_pretrained(small_bundle, device="cpu", runner="compiled")


def test_auto_on_the_cpu_is_eager(small_bundle):
    assert Engine.from_pretrained(small_bundle, device="cpu").runner.name == "eager"


@pytest.mark.long
@pytest.mark.skipif(not can_compile(torch.device("cpu")), reason="no C++ compiler")
def test_inductor_answers_as_the_eager_runner():
    """The embedded model through real compiled code: first edit and re-edit."""
    scene = np.asarray(
        Engine.from_pretrained("tiny", device="cpu").generate("a large red circle", seed=1)[0]
    )
    source, target = "a large red circle", "a large blue star"
    eager, ours = (
        Engine.from_pretrained("tiny", device="cpu", runner=name) for name in ("eager", "compiled")
    )
    expected, first = (
        one.edit(scene, source, target, blend=("circle", "star")) for one in (eager, ours)
    )
    assert_same(first, expected)
    assert_same(first.inversion.edit(target, blend=("circle", "star")), expected)
