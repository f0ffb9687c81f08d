"""The house as a test: imports only go down, the lower floors know no torch, `import icd_engine` is
light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# From the bottom to the top. A room may import itself and the rooms of lower floors, whether at once,
# when it is used or to annotate; rooms of one floor do not know each other.
HOUSE = [
    ["csrc_triton"],
    ["icd_engine.errors", "icd_engine.version", "icd_engine.endings"],
    [
        *("icd_engine.settings", "icd_engine.placement", "icd_engine.atomic"),
        *("icd_engine.provenance", "icd_engine.feathering", "icd_engine.colour"),
        *("icd_engine.metadata", "icd_engine.picture_files", "icd_engine.transparency"),
        *("icd_engine.detached", "icd_engine.processes"),
        *("icd_engine.threads", "icd_engine.bearer", "icd_engine.watermark"),
    ],
    ["icd_engine.shortage", "icd_engine.stopwatch", "icd_engine.compositing", "icd_engine.images"],
    ["icd_engine.saving", "icd_engine.inversion_files", "icd_engine.masks"],
    ["icd_engine.word_masks"],
    ["icd_engine.sampling", "icd_engine.editing"],
    ["icd_engine.bundles"],
    ["icd_engine.networks"],
    ["icd_engine.runners"],
    ["icd_engine.loading", "icd_engine.reporting"],
    ["icd_engine.model"],
    ["icd_engine.opening"],
    ["icd_engine.results"],
    ["icd_engine.tasks"],
    ["icd_engine.decoding", "icd_engine.automatic", "icd_engine.restrictions"],
    ["icd_engine.search", "icd_engine.styling"],
    ["icd_engine.passes"],
    ["icd_engine.engine"],
    ["icd_engine"],  # the package itself: hands out what the engine makes
    ["icd_engine.together"],
    [
        *("icd_engine.serving", "icd_engine.batch", "icd_engine.page"),
        "icd_engine.integrations",
    ],
    ["icd_engine.cli"],
    ["icd_engine.__main__"],
    ["export"],
    ["training.world"],
    ["training"],
    ["training.tiny"],
    ["benchmarks"],
    ["benchmarks.evaluation"],
    ["tests"],
]
FLOORS = {room: floor for floor, rooms in enumerate(HOUSE) for room in rooms}
# An exported folder runs where torch is not installed.
TORCH_FREE = {
    *("icd_engine", "icd_engine.engine", "icd_engine.passes", "icd_engine.decoding"),
    "icd_engine.tasks",
    "icd_engine.restrictions",
    "icd_engine.automatic",
    "icd_engine.styling",
    *("icd_engine.search", "icd_engine.results", "icd_engine.model", "icd_engine.reporting"),
    "icd_engine.opening",
    *(
        "icd_engine.sampling",
        "icd_engine.editing",
        "icd_engine.colour",
        "icd_engine.images",
        "icd_engine.metadata",
        "icd_engine.picture_files",
        "icd_engine.transparency",
        "icd_engine.compositing",
        "icd_engine.feathering",
        "icd_engine.masks",
        "icd_engine.word_masks",
        "icd_engine.saving",
        "icd_engine.inversion_files",
    ),
    *("icd_engine.settings", "icd_engine.placement", "icd_engine.errors", "icd_engine.shortage"),
    *("icd_engine.atomic", "icd_engine.provenance", "icd_engine.version", "icd_engine.detached"),
    *("icd_engine.processes", "icd_engine.endings", "icd_engine.threads"),
    "icd_engine.watermark",
}
TORCH_FREE_FILES = {
    f"icd_engine.runners.{file}"
    for file in (
        *("contract", "filling", "exported"),
        *("onnx", "onnx_decoding", "onnx_options", "onnx_session", "openvino"),
    )
}
NEEDS_TORCH = {
    "torch",
    "torchvision",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "triton",
    "csrc_triton",
}
HEAVY = {*NEEDS_TORCH, "gradio", "ray", "onnx", "onnxruntime", "openvino"}


def room_of(module: str) -> str | None:
    """The smallest room that a dotted name lies in; None for names that are not ours."""
    parts = module.split(".")
    if parts[0] == "icd_engine" and len(parts) > 1:
        return ".".join(parts[:2])
    names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
    return next((name for name in names if name in FLOORS), None)


def module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all imports, lazy ones and literal import_module("...") too, relative
    ones resolved."""

    def absolute(name: str, level: int) -> str:
        base = package.split(".")[: len(package.split(".")) - level + 1] if level else []
        return ".".join([*base, name] if name else base)

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node.module or "", node.level)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            name = node.args[0].value
            if called in {"import_module", "__import__"} and isinstance(name, str):
                stem = name.lstrip(".")
                yield node.lineno, absolute(stem, len(name) - len(stem))


def broken_rule(module: str, target: str, root: Path) -> str | None:
    """Why `module` may not import `target` (a dotted name whose last part may be a class or
    function), or None."""
    room, target_room = room_of(module), room_of(target)
    needs_torch = target.split(".")[0] in NEEDS_TORCH or target.startswith("safetensors.torch")
    if needs_torch and (room in TORCH_FREE or module in TORCH_FREE_FILES):
        return "knows no torch"
    if room is None or target_room is None:
        return None
    # `from icd_engine import Engine` names the package, a file or folder names a room
    if target_room not in FLOORS:
        path = root.joinpath(*target_room.split("."))
        if path.is_dir() or path.with_suffix(".py").is_file():
            return f"{target_room} has no floor: add it to FLOORS"
        target_room = "icd_engine"
    if module.endswith(".kernel") and "reference" in target.split(".")[1:]:
        return "a kernel never imports its reference"
    if room == target_room:
        return None
    if room == "csrc_triton":
        return "imports nothing of ours"
    if FLOORS[target_room] < FLOORS[room]:
        return None
    return "arrows only go down"


def violations(root: Path) -> list[str]:
    """One line for each import under `root` that breaks the house's rules, and for each room
    without a floor."""
    found = []
    for top in sorted({name.split(".")[0] for name in FLOORS}):
        for path in sorted((root / top).rglob("*.py")):
            module = module_name(path, root)
            if room_of(module) not in FLOORS:
                found.append(
                    f"{path.relative_to(root)}: {room_of(module)} has no floor: add it to FLOORS"
                )
                continue
            package = module if path.name == "__init__.py" else module.rpartition(".")[0]
            for line, target in imports(ast.parse(path.read_text(encoding="utf-8")), package):
                if reason := broken_rule(module, target, root):
                    found.append(f"{path.relative_to(root)}:{line}: imports {target}: {reason}")
    return found


def test_imports_only_go_down():
    assert violations(ROOT) == []


def build_tree(root: Path, files: dict[str, str]) -> Path:
    house = {
        "icd_engine/__init__.py": "",
        "icd_engine/errors.py": "class IcdError(Exception): ...\n",
        **files,
    }
    for name, text in house.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("icd_engine/networks/unet.py", "from icd_engine.runners import eager"),
        ("icd_engine/networks/unet.py", "def f():\n    from icd_engine.engine import Engine"),
        ("icd_engine/networks/unet.py", "from ..engine import Engine"),
        ("icd_engine/networks/unet.py", "from icd_engine import Engine"),
        (
            "icd_engine/networks/unet.py",
            "import importlib\nimportlib.import_module('icd_engine.engine')",
        ),
        (
            "icd_engine/networks/unet.py",
            "from importlib import import_module\nimport_module('..engine', __package__)",
        ),
        ("icd_engine/engine.py", "from icd_engine import cli"),
        ("icd_engine/engine.py", "import training.world"),
        ("icd_engine/cli.py", "import tests.data"),
        ("icd_engine/cli.py", "def f():\n    import benchmarks"),
        ("icd_engine/serving/http.py", "from export import graph"),
        ("training/tiny.py", "from tests import data"),
        ("icd_engine/sampling/schedule.py", "from icd_engine.editing import plan"),
        ("icd_engine/sampling/schedule.py", "def f():\n    import torch"),
        ("icd_engine/editing/plan.py", "import torch.nn.functional as F"),
        ("icd_engine/editing/plan.py", "from csrc_triton import boundary_step"),
        ("icd_engine/editing/words.py", "from transformers import AutoTokenizer"),
        ("icd_engine/images.py", "if True:\n    import torch"),
        ("icd_engine/settings.py", "__import__('torch')"),
        ("icd_engine/errors.py", "import diffusers"),
        ("icd_engine/settings.py", "from safetensors.torch import load_file"),
        ("icd_engine/runners/onnx.py", "import torch"),
        ("icd_engine/runners/filling.py", "from torch import full"),
        ("csrc_triton/geglu/__init__.py", "from icd_engine.errors import IcdError"),
        ("csrc_triton/geglu/kernel.py", "from csrc_triton.geglu.reference import geglu"),
        ("csrc_triton/geglu/kernel.py", "from . import reference"),
        ("csrc_triton/geglu/kernel.py", "from ..layer_norm.reference import layer_norm"),
        ("icd_engine/attic.py", "x = 1"),
    ],
    ids=lambda text: text.replace("\n", "; "),
)
def test_a_violation_is_found(tmp_path: Path, file: str, line: str):
    found = violations(build_tree(tmp_path, {file: line + "\n"}))
    assert len(found) == 1 and found[0].startswith(file)


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("icd_engine/__init__.py", "def f():\n    from icd_engine.engine import Engine"),
        (
            "icd_engine/__init__.py",
            "from importlib import import_module\nimport_module('.engine', __name__)",
        ),
        ("icd_engine/cli.py", "from icd_engine import Engine, errors"),
        ("icd_engine/images.py", "from icd_engine.errors import IcdError"),
        ("icd_engine/images.py", "import numpy as np"),
        ("icd_engine/networks/unet.py", "from icd_engine.networks.blocks import ResidualBlock"),
        ("icd_engine/networks/unet.py", "from csrc_triton.geglu import geglu"),
        ("icd_engine/bundles/bundle.py", "from ..errors import IcdError"),
        ("csrc_triton/geglu/__init__.py", "from csrc_triton.geglu import kernel, reference"),
        ("tests/training/test_world.py", "from training.world import scene"),
        ("benchmarks/quality.py", "from training.world import scene"),
    ],
    ids=lambda text: text.replace("\n", "; "),
)
def test_a_downward_import_is_allowed(tmp_path: Path, file: str, line: str):
    assert violations(build_tree(tmp_path, {file: line + "\n"})) == []


def test_import_icd_engine_loads_no_heavy_module():
    program = "import sys, icd_engine; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert HEAVY.isdisjoint(run.stdout.split())


def test_an_eager_edit_loads_no_compiler():
    """Importing torch's takes a second, transformers' models two: most of a first edit."""
    program = (
        "import sys\nfrom icd_engine import Engine\n"
        "engine = Engine.from_pretrained('tiny', device='cpu', runner='eager')\n"
        "words = ['a large purple heart on a plain orange background'] * 2\n"
        "engine.edit('icd_engine/bundles/tiny/demo.png', *words)\n"
        "slow = ('torch._dynamo', 'torch._inductor', 'transformers', 'diffusers')\n"
        "print(*(name for name in slow if name in sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []
