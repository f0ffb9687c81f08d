"""What is measured where nothing is asked for."""

import pytest
import torch

from benchmarks import subject

# runner and dtype asked for, a compiler, matrix units -> runner and dtype measured
CASES = {
    "compiler and matrix units": (("auto", "auto"), True, True, ("compiled", "bfloat16")),
    "compiler": (("auto", "auto"), True, False, ("compiled", "auto")),
    "neither": (("auto", "auto"), False, False, ("auto", "auto")),
    "matrix units alone": (("auto", "auto"), False, True, ("auto", "auto")),
    "runner asked for": (("eager", "auto"), True, True, ("eager", "auto")),
    "dtype asked for": (("auto", "float32"), True, True, ("compiled", "float32")),
}


@pytest.mark.parametrize("name", CASES)
def test_the_fastest_on_a_cpu(monkeypatch, name):
    (runner, dtype), compiler, units, wanted = CASES[name]
    monkeypatch.setattr(subject, "can_compile", lambda place: compiler)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units}, raising=False)
    assert subject.fastest(runner, "cpu", dtype) == wanted


def test_on_cuda_it_is_the_engines_choice(monkeypatch):
    monkeypatch.setattr(subject, "choose_device", torch.device)
    assert subject.fastest("auto", "cuda", "auto") == ("auto", "auto")
