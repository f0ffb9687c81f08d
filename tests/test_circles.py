"""No modules import each other, at once, when used or to annotate."""

import ast
from pathlib import Path

import pytest

from tests.test_layering import FLOORS, ROOT, build_tree, imports, module_name


def module_graph(root: Path) -> dict[str, set[str]]:
    """Every module under `root`, and the modules that it imports in any way."""
    paths = {
        module_name(path, root): path
        for top in sorted({name.split(".")[0] for name in FLOORS})
        for path in sorted((root / top).rglob("*.py"))
    }
    graph = {}
    for module, path in paths.items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        tree = ast.parse(path.read_text(encoding="utf-8"))
        graph[module] = {
            found
            for _, target in imports(tree, package)
            # The last part may be a class or a function.
            for found in [
                next((n for n in (target, target.rpartition(".")[0]) if n in paths), None)
            ]
            if found is not None and found != module
        }
    return graph


def circles(root: Path) -> list[list[str]]:
    """Modules that import each other, directly or by others; what is unfolded from the end is in
    none."""
    graph = module_graph(root)
    while ends := {module for module, targets in graph.items() if not targets}:
        graph = {m: targets - ends for m, targets in graph.items() if m not in ends}
    reached = {module: _reached(graph, module) for module in graph}
    together = {frozenset(n for n in graph if m in reached[n] and n in reached[m]) for m in graph}
    return sorted(sorted(group) for group in together if group)


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph[waiting.pop()] - found
        found |= new
        waiting += new
    return found


def test_no_modules_import_each_other():
    assert circles(ROOT) == []


@pytest.mark.parametrize(
    "back",
    [
        "from icd_engine.plan import P",
        "def f():\n    from icd_engine import plan",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .plan import P",
    ],
    ids=["at_once", "when_used", "to_annotate"],
)
def test_a_circle_is_found(tmp_path: Path, back: str):
    files = {
        "icd_engine/plan.py": "from icd_engine.step import S\nclass P: ...\n",
        "icd_engine/step.py": "from icd_engine.word import W\nclass S: ...\n",
        "icd_engine/word.py": f"{back}\nclass W: ...\n",
        "icd_engine/above.py": "from icd_engine.plan import P\n",
    }
    wanted = ["icd_engine.plan", "icd_engine.step", "icd_engine.word"]
    assert circles(build_tree(tmp_path, files)) == [wanted]
