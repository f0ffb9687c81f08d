"""local_blend as an operator of PyTorch: export, gradients and refusals."""

import pytest
import torch

from csrc_triton.local_blend import local_blend
from tests.csrc_triton.local_blend.rows import SIZES, kept_apart, make_rows


@pytest.mark.parametrize("prepare", [dict, kept_apart], ids=["own-sources", "kept-sources"])
@pytest.mark.parametrize("user_mask", [False, True], ids=["words-only", "user-mask"])
def test_operator_is_registered_soundly(user_mask, prepare):
    arguments = prepare(make_rows(SIZES["tiny"], 2, (1, 0, 1), user_mask))
    torch.library.opcheck(torch.ops.icd.local_blend.default, (), arguments)


@pytest.mark.parametrize("prepare", [dict, kept_apart], ids=["own-sources", "kept-sources"])
def test_compiles_whole_and_once_for_all_steps(prepare):
    """No inductor: a bare machine has no C++ compiler, and whole and once is decided before it."""
    torch.compiler.reset()  # what an earlier test compiled must not show here
    compiled = torch.compile(local_blend, fullgraph=True, backend="aot_eager")
    arguments = prepare(make_rows(SIZES["tiny"], user_mask=True))
    assert all(map(torch.equal, compiled(**arguments), local_blend(**arguments)))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(**{name: tensor.flip(-1) for name, tensor in arguments.items()})


class Blend(torch.nn.Module):
    def forward(self, latents, maps_source, maps_target, source_row, use_blend, user_mask):
        return local_blend(
            latents, maps_source, maps_target, source_row, use_blend=use_blend, user_mask=user_mask
        )


def test_exports_as_plain_pytorch():
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    program = torch.export.export(Blend(), (), arguments)
    assert not [node for node in program.graph.nodes if "icd" in str(node.target)]
    torch.testing.assert_close(
        program.module()(**arguments), local_blend(**arguments), rtol=0, atol=0
    )


def test_gradients_reach_targets_where_open_and_sources_where_closed():
    arguments = make_rows(SIZES["tiny"])
    latents = arguments["latents"].requires_grad_()
    blended, mask = local_blend(**arguments)
    blended[1].sum().backward()
    assert torch.equal(
        latents.grad, torch.stack([1 - mask[0], mask[0]])[:, None].expand_as(latents)
    )


WRONG = {
    "latents": lambda x: x[:1],
    "maps_source": lambda x: x[0],
    "maps_target": lambda x: x[:, :-1],
    "source_row": lambda x: x[:, None],
    "use_blend": lambda x: x[:1],
    "user_mask": lambda x: x[:, None],
    "source_latents": lambda x: x[:, :1],
}


def rows_with(name: str) -> dict:
    arguments = make_rows(SIZES["tiny"], 1, (0, 0), user_mask=True)
    return kept_apart(arguments) if name == "source_latents" else arguments


@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(ValueError, match=rf"^{name} "):
        local_blend(**arguments | {name: WRONG[name](arguments[name])})


@pytest.mark.parametrize("name", WRONG)
def test_wrong_dtypes_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(TypeError, match=rf"^{name} .*float16"):
        local_blend(**arguments | {name: arguments[name].half()})


@pytest.mark.parametrize("name", [name for name in WRONG if name != "latents"])
def test_tensors_elsewhere_are_refused_by_name(name):
    arguments = rows_with(name)
    with pytest.raises(ValueError, match=rf"^{name} is on meta"):
        local_blend(**arguments | {name: arguments[name].to("meta")})


def test_kept_sources_need_rows_and_leave_none_in_latents():
    arguments = rows_with("source_latents")
    with pytest.raises(ValueError, match=r"^source_latents .*S > 0"):
        local_blend(**arguments | {"source_latents": arguments["source_latents"][:0]})
    with pytest.raises(ValueError, match=r"^latents must be the 2 targets"):
        local_blend(**arguments | {"latents": torch.zeros(3, 4, 16, 16)})


@pytest.mark.parametrize("cells", [(0, 4), (4, 17)], ids=["no-cells", "larger-than-latents"])
def test_maps_of_unusable_size_are_refused(cells):
    maps = torch.zeros(1, *cells)
    with pytest.raises(ValueError, match=r"^maps_source must be 1 x 1 to the latents' 16 x 16"):
        local_blend(**make_rows() | {"maps_source": maps, "maps_target": maps})


@pytest.mark.parametrize("threshold", [-0.1, float("nan")])
def test_thresholds_below_zero_are_refused(threshold):
    with pytest.raises(ValueError, match=r"^threshold "):
        local_blend(**make_rows(), threshold=threshold)
