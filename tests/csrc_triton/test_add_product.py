"""add_product: the sum, in place as an operator, and refusals. It has no kernel: cuBLAS adds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from csrc_triton.add_product import add_product

OPERATOR = torch.ops.icd.add_product.default


def make(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Sixteenths below 8: every product and sum here is exact in float32 and bfloat16's accumulator."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 8), (2, 3, 4), (8, 4))
    return [torch.randint(-8, 9, shape, generator=generator).to(dtype) / 4 for shape in shapes]


def expected(total: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    return (total.double() + x.double() @ weight.double().t()).to(total.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_the_operator_adds_where_the_residual_lies(dtype):
    total, x, weight = make(dtype)
    wanted = expected(total, x, weight)
    torch.ops.icd.add_product(total, x, weight)
    assert torch.equal(total, wanted)


def test_elsewhere_the_sum_is_new():
    total, x, weight = make()
    before = total.clone()
    assert torch.equal(add_product(total, x, weight), expected(total, x, weight))
    assert torch.equal(total, before)


def test_operator_is_registered_soundly():
    torch.library.opcheck(OPERATOR, tuple(make()))


def test_gradients_reach_every_input():
    inputs = [tensor.requires_grad_() for tensor in make()]
    add_product(*inputs).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().sum() > 0 for tensor in inputs)


@pytest.mark.gpu
def test_the_gpu_adds_in_place():
    total, x, weight = (tensor.cuda() for tensor in make(torch.bfloat16))
    wanted = expected(total, x, weight)
    with torch.no_grad():
        assert add_product(total, x, weight) is total
    assert torch.equal(total, wanted)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [("total", lambda t: t[..., 1:]), ("x", lambda x: x[..., 1:]), ("weight", lambda w: w[0])],
)
def test_wrong_shapes_are_refused_by_name(name, spoil):
    given = dict(zip(("total", "x", "weight"), make(), strict=True))
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        add_product(**given | {name: spoil(given[name])})
    with pytest.raises(TypeError, match=rf"^{name} must be"):
        add_product(**given | {name: given[name].double()})
