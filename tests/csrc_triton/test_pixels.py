"""from_pixels and to_pixels, held bit for bit to icd_engine.images, which does the same in
numpy."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from csrc_triton.pixels import from_pixels, to_pixels
from icd_engine.images import to_model_range, to_pil

KERNEL = "csrc_triton.pixels.kernel"
DTYPES = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp64": torch.float64,
}
# Odd sizes leave a ragged last block and unaligned rows; 16x64 x 3 channels fills whole blocks; 1x1
# is the smallest.
SHAPES = {"odd": (2, 3, 13, 31), "full-blocks": (1, 3, 16, 64), "one-pixel": (3, 3, 1, 1)}


def all_bytes() -> Tensor:
    """Every byte in every channel, [1, 16, 16, 3]."""
    return (torch.arange(768) % 256).to(torch.uint8).view(1, 16, 16, 3)


def beside_halves() -> Tensor:
    """Each float32 within 8 of the values that are halfway between two bytes, [1, 3, 17, 85]."""
    halves = ((torch.arange(255).double() + 0.5) / 127.5 - 1).float().numpy()
    steps = [halves]
    for direction in (-np.inf, np.inf):
        value = halves
        for _ in range(8):
            value = np.nextafter(value, np.float32(direction))
            steps.append(value)
    return torch.from_numpy(np.stack(steps)).view(1, 3, 17, 85)


def contiguous(x: Tensor) -> Tensor:
    return x.contiguous()


def reordered(x: Tensor) -> Tensor:
    """Pictures with the channel innermost in memory, pixels in planes: each as the other is when
    contiguous."""
    channels = 1 if x.shape[1] == 3 else 3
    return x.movedim(channels, 4 - channels).contiguous().movedim(4 - channels, channels)


def cropped(x: Tensor) -> Tensor:
    """A part of something larger: gaps along every axis but the first."""
    return torch.nn.functional.pad(x, (1, 2, 3, 4, 5, 6))[:, 5:-6, 3:-4, 1:-2]


LAYOUTS = pytest.mark.parametrize(
    "layout", [contiguous, reordered, cropped], ids=lambda layout: layout.__name__
)


@pytest.fixture
def to_network(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(from_pixels, KERNEL, "launch_from_pixels")


@pytest.fixture
def to_bytes(implementation: Callable) -> Callable[..., Tensor]:
    return implementation(to_pixels, KERNEL, "launch_to_pixels")


def random_pixels(shape: tuple[int, ...]) -> Tensor:
    batch, channels, height, width = shape
    size = (batch, height, width, channels)
    return torch.randint(
        0, 256, size, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def random_pictures(shape: tuple[int, ...]) -> Tensor:
    """A third is outside [-1, 1]."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def in_numpy(pixels: Tensor) -> Tensor:
    pictures = [Image.fromarray(picture) for picture in pixels.numpy()]
    return torch.from_numpy(
        np.concatenate([to_model_range(picture, picture.size) for picture in pictures])
    )


def in_pil(pictures: Tensor) -> Tensor:
    return torch.stack(
        [torch.from_numpy(np.array(to_pil(picture.float().numpy()))) for picture in pictures]
    )


def test_every_byte_becomes_numpy_s_float32(to_network):
    pixels = all_bytes()
    assert torch.equal(to_network(pixels), in_numpy(pixels))


@LAYOUTS
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_any_shape_and_layout_goes_to_the_network(to_network, shape, layout):
    pixels = random_pixels(shape)
    result = to_network(layout(pixels))
    assert result.dtype == torch.float32 and result.shape == shape
    assert torch.equal(result, in_numpy(pixels))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_values_are_float32_s_rounded_to_the_dtype(to_network, dtype, request):
    """The interpreter truncates to bfloat16: there the result may be the next value towards 0, at
    most 2^-7 away."""
    pixels = all_bytes()
    expected, result = in_numpy(pixels).to(dtype), to_network(pixels, dtype)
    assert result.dtype == dtype
    if dtype == torch.bfloat16 and request.node.callspec.params["implementation"] == "interpreter":
        exact = in_numpy(pixels)
        assert (result.float().abs() <= exact.abs()).all()
        assert ((result.float() - exact).abs() <= 2.0**-7 * exact.abs()).all()
    else:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_byte_survives_both_ways(to_network, to_bytes, dtype):
    """Below 1, bfloat16 is off by at most 2^-9 (truncated: 2^-8), which is 0.249 (0.498) of a byte:
    none moves."""
    pixels = all_bytes()
    back = to_bytes(to_network(pixels, dtype))
    assert back.dtype == torch.uint8 and back.is_contiguous()
    assert (back != pixels).sum() == 0


@LAYOUTS
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_pictures_become_pil_s_bytes(to_bytes, shape, dtype, layout):
    pictures = random_pictures(shape).to(dtype)
    result = to_bytes(layout(pictures))
    assert result.is_contiguous()
    assert torch.equal(result, in_pil(pictures))


def test_values_beside_a_half_go_where_pil_puts_them(to_bytes):
    assert torch.equal(to_bytes(beside_halves()), in_pil(beside_halves()))


def test_a_fused_multiply_add_would_show_there():
    """Else the test above would say little: without rounding the product, some bytes differ."""
    unrounded = (beside_halves() + 1).double() * 127.5  # 24 + 8 bits: exact
    assert (
        unrounded.round().to(torch.uint8).movedim(1, -1) != to_pixels(beside_halves())
    ).sum() > 50


@pytest.mark.parametrize("capability", [75, 90])
def test_the_compiler_does_not_fuse_either(capability, tmp_path: Path):
    """Neither Triton's compiler nor the assembler merges the product with the rounding; no GPU
    needed to know."""
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from csrc_triton.pixels.kernel import BLOCK, to_pixels_kernel

    types = ["*fp32", "*u8", "i32", "i32", *["i64"] * 4, "constexpr", "constexpr"]
    signature = dict(zip(to_pixels_kernel.arg_names, types, strict=True))
    source = ASTSource(to_pixels_kernel, signature, constexprs={"DENSE": True, "BLOCK": BLOCK})
    compiled = triton.compile(
        source, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": True}
    )
    file = tmp_path / "kernel.cubin"
    file.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.nvdisasm.path, str(file)]
    machine_code = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "FMUL" in machine_code and not re.search("FFMA|HFMA", machine_code)


def test_what_is_no_colour_becomes_one(to_bytes):
    values = torch.tensor(
        [torch.nan, -torch.nan, torch.inf, -torch.inf, 1.0001, -1.0001, 3e38, -3e38, -0.0]
    )
    bytes_ = [0, 0, 255, 0, 255, 0, 255, 0, 128]
    for dtype in DTYPES.values():
        result = to_bytes(values.to(dtype).view(1, 3, 3, 1))
        assert result.movedim(-1, 1).flatten().tolist() == bytes_


def test_the_cpu_s_pictures_are_contiguous_and_the_kernel_s_channels_last(to_network, request):
    kernel = request.node.callspec.params["implementation"] != "cpu"
    for layout in (contiguous, reordered):
        result = to_network(layout(random_pixels(SHAPES["odd"])))
        assert result.is_contiguous(
            memory_format=torch.channels_last if kernel else torch.contiguous_format
        )


@pytest.mark.parametrize("shape", [(0, 3, 5, 7), (2, 3, 0, 7)], ids=["no-pictures", "no-pixels"])
def test_nothing_to_do_is_no_error(to_network, to_bytes, shape):
    assert to_network(random_pixels(shape)).shape == shape
    assert to_bytes(random_pictures(shape)).shape == random_pixels(shape).shape


def test_inputs_are_left_alone(to_network, to_bytes):
    pixels, pictures = random_pixels(SHAPES["odd"]), random_pictures(SHAPES["odd"])
    before = pixels.clone(), pictures.clone()
    to_network(pixels), to_bytes(pictures)
    assert torch.equal(pixels, before[0]) and torch.equal(pictures, before[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_operators_are_registered_soundly(dtype):
    torch.library.opcheck(torch.ops.icd.from_pixels.default, (random_pixels((2, 3, 5, 7)), dtype))
    torch.library.opcheck(
        torch.ops.icd.to_pixels.default, (random_pictures((2, 3, 5, 7)).to(dtype),)
    )


def there_and_back(pixels: Tensor) -> Tensor:
    return to_pixels(from_pixels(pixels, torch.float16) * 0.5)


def test_compile_whole_and_once():
    """No inductor: a bare machine has no C++ compiler, and whole and once is decided before it."""
    torch.compiler.reset()  # what an earlier test compiled must not show here
    compiled = torch.compile(there_and_back, fullgraph=True, backend="aot_eager")
    pixels = random_pixels(SHAPES["odd"])
    assert torch.equal(compiled(pixels), there_and_back(pixels))
    with torch.compiler.set_stance("fail_on_recompile"):
        compiled(pixels.flip(1))


class ThereAndBack(torch.nn.Module):
    def forward(self, pixels):
        return there_and_back(pixels)


def test_export_as_plain_pytorch():
    pixels = random_pixels(SHAPES["odd"])
    program = torch.export.export(ThereAndBack(), (pixels,))
    assert not [node for node in program.graph.nodes if "icd" in str(node.target)]
    assert torch.equal(program.module()(pixels), there_and_back(pixels))


def test_wrong_shapes_are_refused_by_name():
    for pixels in (
        torch.zeros(4, 5, 3, dtype=torch.uint8),
        torch.zeros(1, 3, 4, 5, dtype=torch.uint8),
    ):
        with pytest.raises(ValueError, match=r"^pixels must be \[B, H, W, 3\]"):
            from_pixels(pixels)
    for pictures in (torch.zeros(3, 4, 5), torch.zeros(1, 4, 5, 3)):
        with pytest.raises(ValueError, match=r"^pictures must be \[B, 3, H, W\]"):
            to_pixels(pictures)


def test_wrong_dtypes_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^pixels .*float32"):
        from_pixels(torch.zeros(1, 4, 5, 3))
    with pytest.raises(TypeError, match=r"^dtype .*uint8"):
        from_pixels(all_bytes(), torch.uint8)
    with pytest.raises(TypeError, match=r"^pictures .*int32"):
        to_pixels(torch.zeros(1, 3, 4, 5, dtype=torch.int32))
