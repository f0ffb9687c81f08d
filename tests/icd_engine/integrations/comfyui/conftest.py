"""A stand-in for as much of ComfyUI as is needed to import the nodes: it keeps what it is given."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


class Told:
    """An input, an output, a schema: a name and what was said of it."""

    def __init__(self, *args: Any, **told: Any):
        self.id = args[0] if args else None
        self.told = {**({"options": args[1]} if len(args) > 1 else {}), **told}


class NodeOutput(tuple):
    def __new__(cls, *args: Any):
        return super().__new__(cls, args)


def _type(name: str) -> Any:
    made = {part: type(f"{name}{part}", (Told,), {"io_type": name}) for part in ("Input", "Output")}
    return SimpleNamespace(**made)


class Bar:
    made: list[Bar] = []

    def __init__(self, total: int):
        self.total, self.done = total, 0
        Bar.made.append(self)

    def update(self, n: int) -> None:
        self.done += n


@pytest.fixture(scope="session")
def nodes() -> Any:
    """icd_engine.integrations.comfyui.nodes, imported beside the stand-in."""
    names = ("Boolean", "Int", "Float", "String", "Combo", "Image", "Mask", "Latent")
    io = SimpleNamespace(
        Custom=_type,
        Schema=Told,
        NodeOutput=NodeOutput,
        ComfyNode=type("ComfyNode", (), {}),
        **{name: _type(name.upper()) for name in names},
    )
    parts: dict[str, dict[str, Any]] = {
        "comfy": {},
        "comfy.utils": {"ProgressBar": Bar},
        "comfy_api": {},
        "comfy_api.latest": {"io": io, "ComfyExtension": type("ComfyExtension", (), {})},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, held in parts.items():
            module = ModuleType(name)
            module.__dict__.update(held)
            patch.setitem(sys.modules, name, module)
        from icd_engine.integrations.comfyui import nodes as imported
    return imported
