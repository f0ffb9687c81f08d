"""Kernels compiled without a GPU: their specialisations, and what the assembler has fixed of them."""

from __future__ import annotations

import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TUNED_FOR = "3.6"  # what torch 2.11 brings
KIB = 1024
# Shared memory one block may use, by compute capability (CUDA programming guide, technical
# specifications).
SHARED_MEMORY = {75: 64 * KIB, 80: 163 * KIB, 90: 227 * KIB, 100: 227 * KIB}


class Build(NamedTuple):
    """One specialisation of a kernel: the argument types in order, and the constants by name.

    "*fp32" is a pointer, "8xi64" eight integers, "-" a constant: a constexpr, or a pointer that is
    None.
    """

    kernel: str  # "op.kernel:name", below csrc_triton
    types: str
    constants: dict[str, object]
    # 80 for a kernel with tl.dot, which older GPUs have only as scalar code that spills
    oldest: int = 75
    num_warps: int = 4
    num_stages: int = 3
    # Bytes of a thread's stack that a Triton other than TUNED_FOR may take
    stack: int = 0

    def compile(self, capability: int):
        module, name = self.kernel.split(":")
        kernel = getattr(import_module(f"csrc_triton.{module}"), name)
        types = [kind for item in self.types.split() for kind in _repeat(item)]
        signature = dict(zip(kernel.arg_names, types, strict=True))
        # As on a GPU: torch aligns storage to 16 bytes and more, and Triton vectorises on that.
        aligned = {
            (i,): [["tt.divisibility", 16]] for i, kind in enumerate(types) if kind.startswith("*")
        }
        source = ASTSource(kernel, signature, constexprs=self.constants, attrs=aligned)
        target = GPUTarget("cuda", capability, 32)
        return triton.compile(
            source,
            target=target,
            options={
                "num_warps": self.num_warps,
                "num_stages": self.num_stages,
                "enable_fp_fusion": True,
            },
        )


def _repeat(item: str) -> list[str]:
    count, _, kind = item.rpartition("x")
    return ["constexpr" if kind == "-" else kind] * int(count or 1)


def resources(cubin: bytes, folder: Path) -> dict[str, int]:
    """Registers and bytes of memory per thread or block, as the assembler fixed them: {"REG": 20,
    "STACK": 0, ...}."""
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(file)]
    report = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {
        name: int(value) for name, value in re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", report)
    }


def check(build: Build, capability: int, folder: Path) -> None:
    if capability < build.oldest:
        pytest.skip(f"meant for sm_{build.oldest} and newer")
    compiled = build.compile(capability)
    used = resources(compiled.asm["cubin"], folder)
    allowed = 0 if triton.__version__.startswith(f"{TUNED_FOR}.") else build.stack
    assert used["STACK"] <= allowed, (
        f"spills registers: {used}"
    )  # a kernel uses a stack for no more
    assert used["LOCAL"] == 0, f"spills registers: {used}"
    assert compiled.metadata.shared <= SHARED_MEMORY[capability]
