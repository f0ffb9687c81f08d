"""Every kernel compiles for every GPU generation, spills nothing and fits shared memory: no GPU needed to know."""

import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

KIB = 1024
# Shared memory one block may use, by compute capability (CUDA programming guide, technical specifications).
SHARED_MEMORY = {75: 64 * KIB, 80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB}


class Build(NamedTuple):
    """One specialisation of a kernel: the argument types in order, and the constants by name.

    "*fp32" is a pointer, "8xi64" eight integers, "-" a constant: a constexpr, or a pointer that is None.
    """

    kernel: str  # "op.kernel:name", below csrc_triton
    types: str
    constants: dict[str, object]
    oldest: int = 75  # 80 for a kernel with tl.dot, which older GPUs have only as scalar code that spills
    num_warps: int = 4

    def compile(self, capability: int):
        module, name = self.kernel.split(":")
        kernel = getattr(import_module(f"csrc_triton.{module}"), name)
        types = [kind for item in self.types.split() for kind in _repeat(item)]
        signature = dict(zip(kernel.arg_names, types, strict=True))
        # As on a GPU: torch aligns storage to 16 bytes and more, and Triton vectorises on that.
        aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind.startswith("*")}
        source = ASTSource(kernel, signature, constexprs=self.constants, attrs=aligned)
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(source, target=target, options={"num_warps": self.num_warps, "enable_fp_fusion": True})


def _repeat(item: str) -> list[str]:
    count, _, kind = item.rpartition("x")
    return ["constexpr" if kind == "-" else kind] * int(count or 1)


def hop(eps: str, *, guided: bool) -> Build:
    types = f"*fp32 *{eps} {f'*{eps}' if guided else '-'} 2x*fp32 {'*fp32' if guided else '-'} *fp32 3xi32 8xi32 -"
    absent = {} if guided else {"eps_uncond": None, "w": None}
    return Build("boundary_step.kernel:boundary_step_kernel", types, {"BLOCK": 512, **absent})


BUILDS = {  # a line per specialisation that runs in an edit
    "boundary_step-fp32-guided": hop("fp32", guided=True),
    "boundary_step-fp16": hop("fp16", guided=False),
    "boundary_step-fp16-guided": hop("fp16", guided=True),
    "boundary_step-bf16": hop("bf16", guided=False),
    "boundary_step-bf16-guided": hop("bf16", guided=True),
}


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers and bytes of memory per thread or block, as the assembler fixed them: {"REG": 20, "STACK": 0, ...}."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", report)}


@pytest.mark.parametrize("capability", SHARED_MEMORY, ids=lambda capability: f"sm_{capability}")
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_kernel_compiles_without_spills_and_fits(build, capability, tmp_path):
    if capability < build.oldest:
        pytest.skip(f"meant for sm_{build.oldest} and newer")
    compiled = build.compile(capability)
    used = resources(compiled.asm["cubin"], tmp_path)
    assert used["STACK"] == 0, f"spills registers: {used}"  # a kernel has no other use for a stack
    assert used["LOCAL"] == 0, f"spills registers: {used}"
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
