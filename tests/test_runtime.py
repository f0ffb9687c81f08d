"""An environment without torch, built as docs/deploy.md says: it edits as the engine that
has torch does.

Marked `runtime` (`make runtime`): it needs a package index, and exports the embedded model, a
minute or two.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine import Engine
from training.world.drawing import draw
from training.world.scenes import Scene, sample_scene

pytestmark = pytest.mark.runtime

ROOT = Path(__file__).parents[1]
SOURCE = "a small red circle on a plain blue background"
TARGET = "a small green circle on a plain blue background"


def run(*command: object, cwd: Path) -> str:
    """stdout of a command that must succeed, without this checkout on its path."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene, and the embedded model exported beside it."""
    folder = tmp_path_factory.mktemp("runtime")
    scene = sample_scene(np.random.default_rng(20_100))
    words = {
        "size": "small",
        "color": "red",
        "shape": "circle",
        "texture": "plain",
        "background": "blue",
    }
    Image.fromarray(draw(Scene(**(vars(scene) | words)))).save(folder / "picture.png")
    run(sys.executable, "-m", "export", "tiny", "--out", folder / "exported", "--quiet", cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of a fresh environment with requirements-runtime.txt and this
    package alone."""
    place = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", place, cwd=place)
    pip = (place / "bin" / "python", "-m", "pip", "install", "--quiet")
    run(*pip, "--requirement", ROOT / "requirements-runtime.txt", cwd=place)
    run(*pip, "--no-deps", ROOT, cwd=place)
    return place / "bin"


def test_it_has_no_torch(runtime, folder):
    packages = run(runtime / "python", "-m", "pip", "list", cwd=folder).lower()
    assert "onnxruntime" in packages
    assert not any(
        name in packages for name in ("torch", "transformers", "diffusers", "safetensors-torch")
    )


@pytest.mark.parametrize("options", [(), ("--blend", "circle")], ids=["plain", "blend"])
def test_an_edit_is_that_of_torch(runtime, folder, options):
    command = (
        "edit",
        "picture.png",
        "--source",
        SOURCE,
        "--target",
        TARGET,
        "--model",
        "exported",
        *options,
    )
    out = run(runtime / "icd", *command, "--out", "edited.png", cwd=folder)
    assert out.split() == ["edited.png"]
    settings = {"blend": "circle"} if options else {}
    picture = Image.open(folder / "picture.png")
    theirs = Engine.from_pretrained("tiny", device="cpu", dtype="float32").edit(
        picture, SOURCE, TARGET, **settings
    )
    difference = np.abs(
        np.asarray(Image.open(folder / "edited.png")).astype(int) - np.asarray(theirs.image)
    )
    assert (difference <= 1).mean() >= 0.999


def test_inversions_and_generation_work_too(runtime, folder):
    run(
        runtime / "icd",
        "invert",
        "picture.png",
        "--source",
        SOURCE,
        "--model",
        "exported",
        "--out",
        "kept.safetensors",
        cwd=folder,
    )
    run(
        runtime / "icd",
        "edit",
        "kept.safetensors",
        "--target",
        TARGET,
        "--model",
        "exported",
        "--out",
        "kept.png",
        cwd=folder,
    )
    run(runtime / "icd", "generate", TARGET, "--model", "exported", "--out", "new.png", cwd=folder)
    assert Image.open(folder / "kept.png").size == Image.open(folder / "new.png").size == (128, 128)
    assert "provider" in run(runtime / "icd", "doctor", "exported", cwd=folder)


def test_server_configurations_fit_nvidias_schema(runtime, folder):
    """Their schema comes with their client; the rest of it is not needed."""
    run(runtime / "python", "-m", "pip", "install", "--quiet", "protobuf", cwd=folder)
    run(
        runtime / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "tritonclient",
        cwd=folder,
    )
    from export.triton_server import config
    from tests.export.test_triton_server import EDIT, ROWS, graph

    for name, inputs in (("batched", ROWS), ("single", ROWS | EDIT)):
        (folder / f"{name}.pbtxt").write_text(config(graph(inputs)))
    program = """
import importlib.util, pathlib, sys
from google.protobuf import text_format
place = importlib.util.find_spec("tritonclient").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location("model_config_pb2", f"{place}/grpc/model_config_pb2.py")
schema = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(schema)
for name in ("batched", "single"):
    parsed = text_format.Parse(pathlib.Path(f"{name}.pbtxt").read_text(), schema.ModelConfig())
    print(parsed.max_batch_size > 0, parsed.HasField("dynamic_batching"), len(parsed.input))
"""
    lines = run(runtime / "python", "-c", program, cwd=folder).splitlines()
    assert lines == ["True True 2", "False False 4"]
