"""Kernels that run where they were measured: every tiling that may be chosen compiles, spills nothing
and fits."""

import pytest

pytest.importorskip("triton")

from csrc_triton.conv3x3 import TILINGS as CONVOLUTIONS
from csrc_triton.self_attention import TILINGS as ATTENTIONS
from tests.csrc_triton.builds import SHARED_MEMORY, Build, check

CAPABILITIES = [capability for capability in SHARED_MEMORY if capability >= 80]


def convolution(
    tiling: tuple[int, ...],
    dtype: str = "bf16",
    *,
    channels: int = 1280,
    norm: bool = True,
    parts: bool = True,
    stride: int = 1,
) -> Build:
    """Channels are constants here: that they are multiples of 16 is what launching tells the
    compiler. In parts nothing is added, as that is another kernel's."""
    pixels, outer, inner, split, num_warps, num_stages = tiling
    added = "-" if parts else f"*{dtype}"
    moments = "2x*fp32" if norm else "2x-"
    types = (
        f"2x*{dtype} {added} {moments} {added} {added} {'*fp32' if parts else added} 3xi32 2x- 7x-"
    )
    constants = {"STRIDE": stride, "PIXELS": pixels, "OUTER": outer, "INNER": inner, "PARTS": parts}
    constants["STEPS"] = -(-9 * -(-channels // inner) // (split if parts else 1))
    constants |= {"channels": channels, "outer": 1280, "EVEN": channels % inner == 0}
    constants |= {"bias": None, "shift": None, "residual": None} if parts else {}
    constants |= {} if norm else {"gain": None, "offset": None}
    kernel = "conv3x3.kernel:conv3x3_kernel"
    return Build(kernel, types, constants, 80, num_warps, num_stages)


def parts_added(dtype: str) -> Build:
    types = f"*fp32 4x*{dtype} 3xi32 2x-"
    return Build("conv3x3.kernel:add_parts_kernel", types, {"BLOCK": 1024, "SPLIT": 12})


def attention(tiling: tuple[int, ...], head: int, dtype: str = "bf16") -> Build:
    queries, keys, num_warps, num_stages = tiling
    constants = {"HEAD": head, "VECTOR": 8, "QUERIES": queries, "KEYS": keys}
    constants["STEPS"] = 4096 // keys
    types = f"4x*{dtype} 9xi32 2xi32 fp32 5x-"
    kernel = "self_attention.kernel:self_attention_kernel"
    return Build(kernel, types, constants, 80, num_warps, num_stages)


def named(tiling: tuple[int, ...]) -> str:
    return "-".join(map(str, tiling))


BUILDS = {
    **{f"conv3x3-{named(t)}-norm": convolution(t) for t in CONVOLUTIONS},
    **{f"conv3x3-{named(t)}-norm-whole": convolution(t, parts=False) for t in CONVOLUTIONS},
    **{f"conv3x3-{named(t)}": convolution(t, norm=False) for t in CONVOLUTIONS},
    "conv3x3-halved": convolution(CONVOLUTIONS[2], norm=False, stride=2),
    "conv3x3-ragged": convolution(CONVOLUTIONS[0], channels=80, parts=False),
    "conv3x3-fp16": convolution(CONVOLUTIONS[-1], "fp16", parts=False),
    "conv3x3-added-bf16": parts_added("bf16"),
    "conv3x3-added-fp16": parts_added("fp16"),
    **{f"attention-40-{named(t)}": attention(t, 40) for t in ATTENTIONS},
    **{f"attention-80-{named(t)}": attention(t, 80) for t in ATTENTIONS},
    "attention-160": attention(ATTENTIONS[0], 160),
    "attention-fp16-40": attention(ATTENTIONS[-1], 40, "fp16"),
}


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda capability: f"sm_{capability}")
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_kernel_compiles_without_spills_and_fits(build, capability, tmp_path):
    check(build, capability, tmp_path)
