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
    monkeypatch.setattr(subject, "is_installed", lambda: False)
    monkeypatch.setattr(subject, "can_compile", lambda place: compiler)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": units}, raising=False)
    assert subject.fastest(runner, "cpu", dtype) == wanted


@pytest.mark.parametrize(
    ("asked", "able", "wanted"),
    [
        (("auto", "auto"), {"bfloat16"}, ("openvino", "bfloat16")),
        (("auto", "auto"), set(), ("openvino", "float32")),
        (("openvino", "auto"), {"bfloat16"}, ("openvino", "bfloat16")),
        (("auto", "float32"), {"bfloat16"}, ("openvino", "float32")),
        (("compiled", "float32"), {"bfloat16"}, ("compiled", "float32")),
    ],
)
def test_openvino_goes_first_where_it_is_installed(monkeypatch, asked, able, wanted):
    monkeypatch.setattr(subject, "is_installed", lambda: True)
    monkeypatch.setattr(subject, "openvino_core", lambda: None)
    monkeypatch.setattr(subject, "abilities", lambda core, device: able)
    assert subject.fastest(asked[0], "cpu", asked[1]) == wanted


def test_on_cuda_it_is_the_engines_choice(monkeypatch):
    monkeypatch.setattr(subject, "choose_device", torch.device)
    assert subject.fastest("auto", "cuda", "auto") == ("auto", "auto")
