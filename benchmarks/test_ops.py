"""The operations under pytest-benchmark: `pytest benchmarks/test_ops.py`.

Not collected by the default test run.
"""

import pytest
import torch

from benchmarks.op_cases import CASES, OpCase, Shapes
from benchmarks.ops import check

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SHAPES = Shapes(
    DEVICE, torch.bfloat16 if DEVICE.type == "cuda" else torch.float32, quick=DEVICE.type == "cpu"
)


@pytest.mark.parametrize("way", ["op", "eager", "compiled"])
@pytest.mark.parametrize("case", CASES, ids=str)
@torch.inference_mode()
def test_op(benchmark, case: OpCase, way: str):
    """One call, waited for; on CUDA launches are included (`python -m benchmarks ops` has device
    time alone)."""
    try:
        call = case.make(SHAPES)
    except ImportError as error:
        pytest.skip(str(error))
    check(case, call)
    function = call.op if way == "op" else call.reference
    if way == "compiled":
        torch.compiler.reset()
        function = torch.compile(function, dynamic=False)

    def run() -> None:
        function(*call.arguments)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = str(case)
    run()
    benchmark(run)
