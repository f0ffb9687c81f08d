"""Benchmarks of the operations: all of them are there, and none is timed that is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import ops
from benchmarks.checks import Refused
from benchmarks.op_cases import CASES, Shapes

QUICK = Shapes(torch.device("cpu"), torch.float32, quick=True)


def test_every_operation_has_a_case():
    folder = Path(ops.__file__).parents[1] / "csrc_triton"
    assert {case.op for case in CASES} == {
        path.parent.name for path in folder.glob("*/__init__.py")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_pass_their_check(case, dtype):
    with torch.inference_mode():
        call = case.make(replace(QUICK, dtype=dtype))
        assert ops.check(case, call) <= 1
        if call.eager is not None:
            ours, theirs = (ops._tensors(f(*call.arguments)) for f in (call.op, call.eager))
            assert theirs[0].shape == ours[0].shape
            error = (ours[0].float() - theirs[0].float()).abs().max()
            assert error <= 8 * max(torch.finfo(dtype).eps, 1e-6) * theirs[0].float().abs().max()


def test_a_wrong_operation_is_refused():
    case = next(case for case in CASES if case.op == "geglu")
    call = case.make(QUICK)
    with pytest.raises(Refused, match=r"geglu .* is wrong"):
        ops.check(case, replace(call, op=lambda hidden: call.op(hidden) * 1.001))
    with pytest.raises(Refused, match="is wrong"):
        ops.check(case, replace(call, op=lambda hidden: call.op(hidden) * torch.nan))


def test_the_others_are_timed_and_the_run_fails(monkeypatch, capsys):
    wrong = replace(
        CASES[0], make=lambda shapes: replace(CASES[0].make(shapes), op=lambda x, *_: x + 1)
    )
    monkeypatch.setattr(ops, "CASES", [wrong, CASES[1]])
    run = ops.measure_ops(device="cpu", quick=True, repeats=1, compiled=False)
    assert next(run)["shape"].startswith("2x4x64x64 guided")
    with pytest.raises(Refused, match="1 of 2 are wrong: boundary_step 2x4x64x64"):
        next(run)
    assert "benchmarks: error: boundary_step 2x4x64x64 is wrong" in capsys.readouterr().err


def test_results_hold_counts_and_shares():
    results = list(
        ops.measure_ops(only="layer_norm", device="cpu", quick=True, repeats=2, compiled=False)
    )
    assert len(results) == 2
    # x, residual, sum and norm of [2, 64, 320] in 4 bytes, weight and bias of 320.
    assert results[0]["bytes"] == 4 * (4 * 2 * 64 * 320 + 2 * 320)
    for result in results:
        assert result["op_ms"] > 0 and result["eager_ms"] > 0 and result["compiled_ms"] is None
        assert result["roofline_share"] == pytest.approx(
            result["floor_ms"] / result["op_ms"], abs=1e-3
        )


def test_an_unknown_operation_is_named():
    with pytest.raises(Refused, match=r"no operation 'gelu'.*geglu"):
        list(ops.measure_ops(only="gelu"))
