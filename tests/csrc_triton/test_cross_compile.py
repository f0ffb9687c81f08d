"""Every kernel compiles for every GPU generation, spills nothing and fits shared memory: no GPU
needed to know."""

import pytest

triton = pytest.importorskip("triton")

from csrc_triton.edited_attention.kernel import tiling as edited_attention_tiling  # noqa: E402
from csrc_triton.group_norm_silu.plan import plan as group_norm_plan  # noqa: E402
from csrc_triton.layer_norm.kernel import tile as layer_norm_tile  # noqa: E402
from tests.csrc_triton.builds import SHARED_MEMORY, Build, check  # noqa: E402


def hop(eps: str, *, guided: bool, anchored: bool = False) -> Build:
    second = f"*{eps}" if guided else "-"
    w = "*fp32" if guided else "-"
    held = "*fp32 *i64 *fp32" if anchored else "3x-"
    types = f"*fp32 *{eps} {second} 2x*fp32 {w} {held} *fp32 3xi32 8xi32 -"
    absent = {} if guided else {"eps_uncond": None, "w": None}
    absent |= {} if anchored else {"residual": None, "source_row": None, "share": None}
    return Build("boundary_step.kernel:boundary_step_kernel", types, {"BLOCK": 512, **absent})


def norm(
    dtype: str, channels: int, *, residual: bool, weight: str | None = None, carry: bool = False
) -> Build:
    """Row strides are constants here: that they are multiples of 16 is what launching tells the
    compiler."""
    added = f"*{dtype}" if residual else "-"
    more = f"*{dtype}" if carry else "-"
    types = f"*{dtype} {added} 2x*{weight or dtype} {more} {added} *{dtype} i32 2x- fp32 3x-"
    constants = layer_norm_tile(channels) | {
        "x_row": channels,
        "residual_row": channels if residual else 0,
    }
    absent = {} if residual else {"residual": None, "total": None}
    absent |= {} if carry else {"carry": None}
    num_warps = constants.pop("num_warps")
    return Build(
        "layer_norm.kernel:layer_norm_kernel", types, constants | absent, num_warps=num_warps
    )


def gated(dtype: str, width: int) -> Build:
    types = f"2x*{dtype} i32 - 3x-"
    constants = {"hidden_row": 2 * width, "WIDTH": width, "ROWS": 8, "BLOCK": 256}
    return Build("geglu.kernel:geglu_kernel", types, constants)


def blend(channels: int, *, user_mask: bool, cells: int = 16 * 16) -> Build:
    types = f"4x*fp32 *i64 *i1 {'*fp32' if user_mask else '-'} 2x*fp32 2xi32 - 3xi32 3xfp32 3x-"
    constants = {
        "plane_size": 64 * 64,
        "CHANNELS": channels,
        "BLOCK": 512 // channels,
        "CELLS": cells,
    }
    return Build(
        "local_blend.kernel:local_blend_kernel",
        types,
        constants | ({} if user_mask else {"user_mask": None}),
    )


def pixels(kernel: str, dtype: str, *, dense: bool = True) -> Build:
    """One picture's size is a constant here: that it is a multiple of 16 is what launching tells
    the compiler."""
    source, out = (f"*{dtype}", "*u8") if kernel == "to_pixels" else ("*u8", f"*{dtype}")
    constants = {"size": 512 * 512 * 3, "DENSE": dense, "BLOCK": 1024}
    return Build(f"pixels.kernel:{kernel}_kernel", f"{source} {out} - i32 4xi64 2x-", constants)


def edited(
    dtype: str, head: int, *, targets=1, tokens=77, sources: bool = True, words: bool = False
) -> Build:
    """Of the strides a build knows what VECTOR says; one target is a constant, as launching makes
    every 1."""
    size = int(dtype[-2:]) // 8
    block, width, num_warps = edited_attention_tiling(size, tokens, head)
    own, maps, rows = (
        f"*{dtype}" if sources else "-",
        "*fp32" if words else "-",
        "-" if targets == 1 else "i32",
    )
    types = f"6x*{dtype} {own} {maps} *i64 *{dtype} {maps} 21xi32 i32 {rows} i32 fp32 6x-"
    constants = {"TARGETS": targets, "PROMPT": tokens, "HEAD": head, "VECTOR": 16 // size}
    constants |= {"BLOCK": block, "WIDTH": width} | ({"targets": 1} if targets == 1 else {})
    absent = ({} if sources else {"source_v": None}) | (
        {} if words else {"columns": None, "maps": None}
    )
    return Build(
        "edited_attention.kernel:edited_attention_kernel", types, constants | absent, 80, num_warps
    )


def group_norm(
    kernel: str,
    dtype: str,
    side: int,
    channels: int,
    skip: int = 0,
    *,
    groups=32,
    silu=True,
    dense=True,
    shift=False,
    residual=False,
    sums=False,
) -> Build:
    """One row of channels-last maps, their strides constants as in `norm`; not dense: x has gaps
    between its lines. sums: as `add_group_norm`."""
    pixels, depth, second = side * side, (channels + skip) // groups, f"*{dtype}" if skip else "-"
    size = (4 if dtype == "fp32" else 2) * (1 + residual)
    p = group_norm_plan(1, channels + skip, groups, pixels, size, bool(skip or sums))
    constants = (
        {"x_row": pixels * channels, "x_channel": 1, "x_y": None, "x_x": channels} if dense else {}
    )
    constants |= {
        "skip_row": pixels * skip,
        "skip_channel": min(skip, 1),
        "skip_y": None,
        "skip_x": skip,
    }
    constants |= {
        "CHANNELS": channels + skip,
        "SPLIT": channels,
        "DEPTH": depth,
        "WIDTH": p.width,
        "BLOCK": p.block,
    }
    constants |= {"BLOCK_GROUPS": triton.next_power_of_2(p.width // depth), "PIXELS": p.tile}
    constants |= {} if skip else {"skip": None}
    constants |= {"added_row": channels} | ({} if shift else {"added": None})
    constants |= {} if residual else {"residual": None}
    strides = f"{'4x-' if dense else '4xi32'} 5x-"
    third, moved = (f"*{dtype}" if given else "-" for given in (residual, shift))
    maps = f"*{dtype} {second} {third} {moved}"
    summed = f"*{dtype}" if sums else "-"
    constants |= {"SUM": sums}
    if kernel == "statistics":
        types = f"{maps} 2x*fp32 2xi32 {strides} 9x-"
        constants |= {"TILES": p.chunk}
    else:
        chunks = triton.cdiv(pixels, p.chunk * p.tile) if p.chunk else 1
        moments = "2x*fp32" if p.chunk else "2x-"
        types = f"{maps} {third} 2x*{dtype} {moments} {summed} *{dtype} 3xi32 fp32 {strides} 11x-"
        constants |= {"TILES": p.share, "CHUNKS": triton.next_power_of_2(chunks), "SILU": silu}
        constants |= {} if p.chunk else {"means": None, "squares": None}
        constants |= ({} if residual else {"carry": None}) | ({} if sums else {"total_out": None})
    kernel = f"group_norm_silu.kernel:{kernel}_kernel"
    # Up to 64 elements a thread lie in registers: another order of a release's instructions, and a
    # few do not
    return Build(kernel, types, constants, num_warps=p.warps, stack=48)


BUILDS = {  # a line per specialisation that runs in an edit
    "boundary_step-fp32-guided": hop("fp32", guided=True),
    "boundary_step-fp16": hop("fp16", guided=False),
    "boundary_step-fp16-guided": hop("fp16", guided=True),
    "boundary_step-bf16": hop("bf16", guided=False),
    "boundary_step-bf16-guided": hop("bf16", guided=True),
    "boundary_step-fp32-anchored": hop("fp32", guided=False, anchored=True),
    "boundary_step-bf16-anchored": hop("bf16", guided=False, anchored=True),
    "boundary_step-bf16-guided-anchored": hop("bf16", guided=True, anchored=True),
    "layer_norm-fp32-64": norm("fp32", 64, residual=True),
    "layer_norm-fp32-320": norm("fp32", 320, residual=True),
    "layer_norm-fp16-320": norm("fp16", 320, residual=True),
    "layer_norm-bf16-320": norm("bf16", 320, residual=True),
    "layer_norm-bf16-320-carry": norm("bf16", 320, residual=True, carry=True),
    "layer_norm-bf16-1280-carry": norm("bf16", 1280, residual=True, carry=True),
    "layer_norm-bf16-320-alone": norm("bf16", 320, residual=False),
    "layer_norm-bf16-640": norm("bf16", 640, residual=True),
    "layer_norm-bf16-1280": norm("bf16", 1280, residual=True),
    "layer_norm-bf16-8192": norm("bf16", 8192, residual=True, weight="fp32"),
    "edited_attention-fp32-32-words": edited("fp32", 32, words=True),
    "edited_attention-fp32-160-long-words": edited("fp32", 160, tokens=154, words=True),
    "edited_attention-fp16-40": edited("fp16", 40),
    "edited_attention-bf16-40-kept-source": edited("bf16", 40, sources=False),
    "edited_attention-fp16-80-two-targets": edited("fp16", 80, targets=2),
    "edited_attention-bf16-160-two-targets-words": edited("bf16", 160, targets=2, words=True),
    "edited_attention-bf16-160-long-words": edited("bf16", 160, tokens=154, words=True),
    "geglu-fp32": gated("fp32", 256),
    "geglu-fp16": gated("fp16", 1280),
    "geglu-bf16": gated("bf16", 5120),
    "group_norm-statistics-bf16-64x64x320": group_norm("statistics", "bf16", 64, 320),
    "group_norm-statistics-bf16-64x64x320-shift": group_norm(
        "statistics", "bf16", 64, 320, shift=True
    ),
    "group_norm-bf16-64x64x320-shift": group_norm("norm", "bf16", 64, 320, shift=True),
    "group_norm-bf16-16x16x1280-shift-one-launch": group_norm("norm", "bf16", 16, 1280, shift=True),
    "group_norm-statistics-bf16-64x64x320-gaps": group_norm(
        "statistics", "bf16", 64, 320, dense=False
    ),
    "group_norm-statistics-bf16-64x64x640+320": group_norm("statistics", "bf16", 64, 640, 320),
    "group_norm-statistics-fp16-512x512x128": group_norm("statistics", "fp16", 512, 128),
    "group_norm-statistics-bf16-512x512x256": group_norm("statistics", "bf16", 512, 256),
    "group_norm-statistics-fp32-1024x1024x128": group_norm("statistics", "fp32", 1024, 128),
    "group_norm-bf16-64x64x320": group_norm("norm", "bf16", 64, 320),
    "group_norm-bf16-64x64x320-no-silu": group_norm("norm", "bf16", 64, 320, silu=False),
    "group_norm-bf16-64x64x640+320": group_norm("norm", "bf16", 64, 640, 320),
    "group_norm-bf16-16x16x1280+1280": group_norm("norm", "bf16", 16, 1280, 1280),
    "group_norm-bf16-16x16x1280+640-one-launch": group_norm("norm", "bf16", 16, 1280, 640),
    "add_group_norm-statistics-bf16-64x64x320": group_norm(
        "statistics", "bf16", 64, 320, shift=True, residual=True, sums=True
    ),
    "add_group_norm-statistics-bf16-64x64x640+320": group_norm(
        "statistics", "bf16", 64, 640, 320, shift=True, sums=True
    ),
    "add_group_norm-statistics-bf16-512x512x128": group_norm(
        "statistics", "bf16", 512, 128, shift=True, residual=True, sums=True
    ),
    **{
        f"add_group_norm-bf16-{side}x{side}x{channels}": group_norm(
            "norm", "bf16", side, channels, silu=False, shift=True, residual=True, sums=True
        )
        for side, channels in ((64, 320), (32, 640), (16, 1280), (8, 1280), (512, 128))
    },
    **{  # a convolution's bias, before residual blocks
        f"add_group_norm-bf16-{side}x{side}x{channels}+{skip}": group_norm(
            "norm", "bf16", side, channels, skip, shift=True, sums=True
        )
        for side, channels, skip in (
            *((64, 320, 0), (32, 320, 0), (16, 640, 0), (8, 1280, 0)),
            *((64, 640, 320), (32, 1280, 640), (16, 1280, 1280)),
        )
    },
    "add_group_norm-bf16-8x8x1280+1280-residual": group_norm(
        "norm", "bf16", 8, 1280, 1280, shift=True, residual=True, sums=True
    ),
    "group_norm-bf16-32x32x640+640-alone": group_norm("norm", "bf16", 32, 640, 640),
    "group_norm-bf16-32x32x640+320-alone": group_norm("norm", "bf16", 32, 640, 320),
    "group_norm-bf16-32x32x640-one-launch": group_norm("norm", "bf16", 32, 640),
    "group_norm-bf16-32x32x640-shift-one-launch": group_norm("norm", "bf16", 32, 640, shift=True),
    "group_norm-fp16-8x8x1280-one-launch-gaps": group_norm("norm", "fp16", 8, 1280, dense=False),
    "group_norm-fp16-8x8x1280+1280-one-launch": group_norm("norm", "fp16", 8, 1280, 1280),
    "group_norm-bf16-512x512x256": group_norm("norm", "bf16", 512, 256),
    "group_norm-fp32-1024x1024x128": group_norm("norm", "fp32", 1024, 128),
    "group_norm-fp32-16x16x64+64-one-launch": group_norm("norm", "fp32", 16, 64, 64, groups=16),
    "group_norm-fp32-64x64x64-one-group": group_norm("norm", "fp32", 64, 64, groups=1),
    "local_blend": blend(4, user_mask=False),
    "local_blend-user-mask": blend(4, user_mask=True),
    "local_blend-32x32-maps": blend(4, user_mask=True, cells=32 * 32),
    "local_blend-64x64-maps": blend(4, user_mask=True, cells=64 * 64),
    "local_blend-16-channels": blend(16, user_mask=True),
    "from_pixels-fp32": pixels("from_pixels", "fp32"),
    "from_pixels-fp16": pixels("from_pixels", "fp16"),
    "from_pixels-bf16": pixels("from_pixels", "bf16"),
    "from_pixels-bf16-planes": pixels("from_pixels", "bf16", dense=False),
    "to_pixels-fp32": pixels("to_pixels", "fp32"),
    "to_pixels-fp32-planes": pixels("to_pixels", "fp32", dense=False),
    "to_pixels-fp16": pixels("to_pixels", "fp16"),
    "to_pixels-bf16": pixels("to_pixels", "bf16"),
}


@pytest.mark.parametrize("capability", SHARED_MEMORY, ids=lambda capability: f"sm_{capability}")
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_kernel_compiles_without_spills_and_fits(build, capability, tmp_path):
    check(build, capability, tmp_path)
