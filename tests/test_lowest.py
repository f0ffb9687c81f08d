"""Lower bounds of requirements: every requirement has one, and an environment of nothing newer edits.

The environment is marked `runtime` (`make runtime`): it needs a package index, and exports the
embedded model, minutes.
"""

import re
import tomllib
from pathlib import Path

import pytest

from tests.test_runtime import ROOT, SOURCE, TARGET, folder, run  # noqa: F401 (folder: a fixture)

REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[\w,.-]+\])?\s*>=\s*(?P<lowest>[\d.]+)")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Beside what every exported folder takes; ray, gradio and torch are gigabytes
EXTRAS = ("openvino", "heic")


def of_runtime() -> list[str]:
    lines = (ROOT / "requirements-runtime.txt").read_text(encoding="utf-8").splitlines()
    texts = [line.partition("#")[0].strip() for line in lines]
    return [text for text in texts if text]


def lowest(requirements: list[str]) -> list[str]:
    """The same at their lower bounds."""
    found = [REQUIREMENT.match(text) for text in requirements]
    return [f"{match['name']}=={match['lowest']}" for match in found if match]


@pytest.mark.parametrize(
    "requirements",
    [
        of_runtime(),
        PROJECT["dependencies"],
        *(own for name, own in PROJECT["optional-dependencies"].items() if name != "dev"),
    ],
    ids=str,
)
def test_every_requirement_has_a_lower_bound(requirements: list[str]):
    assert len(lowest(requirements)) == len(requirements)


def test_runtime_and_package_ask_for_the_same():
    """Where both name a package, their lower bounds are the same."""
    extras = PROJECT["optional-dependencies"]
    named = dict(text.split("==") for text in lowest(PROJECT["dependencies"] + extras["onnx"]))
    for text in lowest(of_runtime()):
        name, bound = text.split("==")
        assert named[name] == bound, name


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment of the lowest versions."""
    import sys

    place = tmp_path_factory.mktemp("oldest")
    run(sys.executable, "-m", "venv", place, cwd=place)
    extras = [text for name in EXTRAS for text in PROJECT["optional-dependencies"][name]]
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, *lowest(of_runtime() + extras), cwd=place)
    run(*pip, "--no-deps", ROOT, cwd=place)
    return place / "bin"


@pytest.mark.runtime
@pytest.mark.parametrize("runner", ["onnx", "openvino"])
def test_the_lowest_versions_edit(oldest, folder, runner):  # noqa: F811
    prompts = ("--source", SOURCE, "--target", TARGET)
    command = ("edit", "picture.png", *prompts, "--model", "exported", "--runner", runner)
    for suffix in ("png", "jpg"):
        out = run(oldest / "icd", *command, "--out", f"{runner}.{suffix}", cwd=folder)
        assert out.split() == [f"{runner}.{suffix}"]
