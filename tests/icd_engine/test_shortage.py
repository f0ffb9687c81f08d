"""Out of memory: passes in halves, then one clear error, and an engine that goes on as before."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from PIL import Image

from icd_engine.engine import Engine
from icd_engine.errors import OutOfMemoryError, PromptError, RunnerError
from icd_engine.results import EditRequest
from icd_engine.shortage import is_short

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
TOO_MUCH = 2**50  # values; more than any address space


def picture(seed: int) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )


def requests(count: int) -> list[EditRequest]:
    return [EditRequest(picture(i), SOURCE, TARGET) for i in range(count)]


def ask_torch() -> None:
    torch.empty(TOO_MUCH)


def ask_cuda() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a capacity of 80 GiB."
    )


def ask_numpy() -> None:
    np.empty(TOO_MUCH)


def ask_onnxruntime() -> None:
    """The real error of a real graph, as the runner words it."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from icd_engine.runners.onnx_session import GraphSession, choose_onnx_device

    shape = onnx.helper.make_tensor_value_info("shape", onnx.TensorProto.INT64, [1])
    zeros = onnx.helper.make_tensor_value_info("zeros", onnx.TensorProto.FLOAT, ["n"])
    node = onnx.helper.make_node("ConstantOfShape", ["shape"], ["zeros"])
    graph = onnx.helper.make_graph([node], "large", [shape], [zeros])
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9
    )
    with TemporaryDirectory() as folder:
        path = Path(folder) / "large.onnx"
        path.write_bytes(model.SerializeToString())
        GraphSession(path, choose_onnx_device("cpu"))({"shape": np.array([TOO_MUCH])}, ["zeros"])


ASK = {"torch": ask_torch, "cuda": ask_cuda, "numpy": ask_numpy, "onnxruntime": ask_onnxruntime}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_every_framework_is_understood(ask):
    with pytest.raises((MemoryError, RuntimeError)) as error:
        ask()
    assert is_short(error.value)


def test_it_is_understood_where_another_error_hides_it():
    with pytest.raises(RuntimeError, match="previous error") as error:
        try:
            ask_cuda()
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")
    assert is_short(error.value)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), RunnerError("no CUDA"), ValueError("memory")], ids=str
)
def test_other_errors_are_not_taken_for_it(error):
    assert not is_short(error)


def test_a_prompt_about_memory_is_no_shortage(small_engine):
    with pytest.raises(PromptError, match="'out of memory' does not occur"):
        small_engine.edit(picture(0), SOURCE, TARGET, blend="out of memory")


@pytest.fixture
def short(small_engine, monkeypatch):
    """short(rows, ask): decoding more than so many rows asks for too much from now on.

    Gives the rows of calls.
    """
    runner, decode = small_engine.runner, small_engine.runner.decode

    def limit(most: int, ask=ask_torch) -> list[int]:
        asked = []

        def limited(inputs, hops, callback):
            asked.append(len(inputs.latents))
            if len(inputs.latents) > most:
                ask()
            return decode(inputs, hops, callback)

        monkeypatch.setattr(runner, "decode", limited)
        return asked

    return limit


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_passes_are_halved_until_they_fit(small_engine, short, ask):
    expected = small_engine.edit_many(requests(6))
    asked = short(4, ask)
    with pytest.warns(UserWarning, match=r"out of memory.*at most \d target rows") as told:
        results = small_engine.edit_many(requests(6))
    # A source row and a target row each. What did not fit once is not tried again with later ones.
    assert asked == [12, 6, 2, 2, 2, 2, 2, 2]
    assert len(told) == 2
    for got, one in zip(results, expected, strict=True):
        assert float((got.latents - one.latents).abs().max()) < 2e-5 * float(
            one.latents.abs().max()
        )
        assert np.abs(np.asarray(got.image, dtype=int) - np.asarray(one.image)).max() <= 1


@pytest.mark.parametrize(
    "call",
    [
        lambda engine: engine.edit(picture(0), SOURCE, TARGET),
        lambda engine: engine.edit(picture(0), SOURCE, [TARGET, OTHER]),
        lambda engine: engine.edit_many(requests(3)),
        lambda engine: engine.invert(picture(0), SOURCE).edit(TARGET),
        lambda engine: engine.generate([TARGET, OTHER]),
        lambda engine: engine.edit(picture(0), SOURCE, TARGET, settings="auto"),
    ],
    ids=["edit", "targets", "edit_many", "inversion", "generate", "auto"],
)
@pytest.mark.filterwarnings("ignore:out of memory")
def test_what_never_fits_is_one_error_and_the_next_edit_is_the_same(
    small_engine, short, monkeypatch, call
):
    before = small_engine.edit(picture(0), SOURCE, TARGET)
    short(0)
    with pytest.raises(
        OutOfMemoryError, match=r"^out of memory: .*tried to allocate 4503599627370496 bytes"
    ) as error:
        call(small_engine)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    after = small_engine.edit(picture(0), SOURCE, TARGET)
    assert torch.equal(after.latents, before.latents) and np.array_equal(after.image, before.image)


@pytest.mark.parametrize("stage", ["encode_prompts", "to_latents", "encode", "to_pixels"])
def test_every_stage_may_run_short(small_engine, monkeypatch, stage):
    monkeypatch.setattr(small_engine.runner, stage, lambda *arguments: ask_torch())
    with pytest.raises(OutOfMemoryError):
        small_engine.edit(picture(0), SOURCE, TARGET)


def test_a_reconstruction_may_run_short(small_engine, monkeypatch):
    result = small_engine.edit(picture(0), SOURCE, TARGET)
    with monkeypatch.context() as patch:
        patch.setattr(small_engine.runner, "to_pixels", lambda latents: ask_torch())
        with pytest.raises(OutOfMemoryError):
            _ = result.reconstruction
    assert result.reconstruction.size == (64, 64)


def test_a_failed_call_holds_no_memory(small_engine, monkeypatch):
    """Neither what it had made, while the error is at hand, nor what was kept for reuse."""
    kept = small_engine.invert(picture(0), SOURCE)
    kept.edit(TARGET)
    made = []

    def large(*arguments):
        here = torch.zeros(1000)
        made.append(weakref.ref(here))
        ask_torch()

    monkeypatch.setattr(small_engine.runner, "decode", large)
    with pytest.raises(OutOfMemoryError) as error:
        kept.edit(OTHER)
    gc.collect()
    assert error.value.__context__ is None
    assert made and made[0]() is None
    assert small_engine._branches.get(kept, True) is None
    assert len(small_engine.runner._values) == 0


def test_loading_may_run_short(small_bundle, monkeypatch):
    monkeypatch.setattr("icd_engine.loading.load_network", lambda *arguments: ask_torch())
    with pytest.raises(OutOfMemoryError, match=r"while .*small was loaded"):
        Engine.from_pretrained(small_bundle)


def test_it_is_a_runner_error():
    assert issubclass(OutOfMemoryError, RunnerError)


def test_nothing_is_said_where_all_fits(small_engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small_engine.edit_many(requests(3))
