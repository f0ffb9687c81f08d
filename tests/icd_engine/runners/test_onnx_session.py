"""What onnxruntime cannot run is refused, and a damaged folder is one clear error."""

import json
import shutil
from pathlib import Path

import pytest

from icd_engine import Engine
from icd_engine.bundles.files import file_digest
from icd_engine.errors import BundleError, RunnerError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "has only"),
        ({"device": "tpu"}, "unknown device"),
        ({"device": "cpu:1"}, "unknown device"),
        ({"runner": "eager"}, "auto, onnx, onnx-graph, openvino, not 'eager'"),
        ({"runner": "onnx-graph", "device": "cpu"}, "needs a CUDA device"),
        ({"dtype": "bfloat16"}, "exported in float32"),
    ],
    ids=str,
)
def test_what_cannot_run_is_refused(exported, options, message):
    import onnxruntime

    if (
        options.get("device") == "cuda"
        and "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    ):
        pytest.skip("CUDA is there")
    with pytest.raises(RunnerError, match=message):
        Engine.from_pretrained(exported, **{"runner": "onnx", **options})


def test_weights_are_not_run_by_onnxruntime(small_bundle):
    with pytest.raises(RunnerError, match="icd export"):
        Engine.from_pretrained(small_bundle, runner="onnx")


def point_elsewhere(folder: Path, location: str) -> Path:
    """The decode hop's weights in another file; its SHA-256 is that of the changed graph again."""
    path = folder / "unet" / "decode_hop.onnx"
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())
    for name, change in (("manifest.json", reseal), ("icd.json", unseal)):
        record = json.loads((folder / name).read_text())
        change(record, path)
        (folder / name).write_text(json.dumps(record))
    return path


def reseal(manifest: dict, path: Path) -> None:
    manifest["graphs"]["decode_hop"]["sha256"] = file_digest(path)


def unseal(record: dict, path: Path) -> None:
    record["sha256"] = {}


DAMAGE = {
    "a graph is missing": (
        lambda f: (f / "unet" / "decode_hop.onnx").unlink(),
        "unet/decode_hop.onnx is missing",
    ),
    "weights are missing": (
        lambda f: (f / "unet" / "model.onnx_data").unlink(),
        "unet/model.onnx_data is missing",
    ),
    "a graph was changed": (
        lambda f: flip(f / "unet" / "decode_hop.onnx"),
        "decode_hop.onnx was changed or damaged",
    ),
    "weights were changed": (
        lambda f: flip(f / "unet" / "model.onnx_data"),
        "model.onnx_data was changed or damaged",
    ),
    "the manifest is no JSON": (
        lambda f: (f / "manifest.json").write_text("{"),
        "manifest.json is not readable JSON",
    ),
    "the manifest lacks a graph": (
        lambda f: edit_manifest(f, lambda m: m["graphs"].pop("encode_hop")),
        "encode_hop",
    ),
    "the manifest leads out": (
        lambda f: edit_manifest(f, lambda m: m["graphs"]["unet"].update(file="../unet.onnx")),
        "not a path inside the folder",
    ),
    "weights lie at an absolute path": (
        lambda f: point_elsewhere(f, str(f / "unet" / "model.onnx_data")),
        "Absolute",
    ),
    "weights lie outside": (
        lambda f: point_elsewhere(f, "../vae_encoder/model.onnx_data"),
        "escapes",
    ),
    "weights lie nowhere": (lambda f: point_elsewhere(f, "nowhere"), "does not exist"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_folder_is_one_clear_error(exported, tmp_path, capfd, damage, message):
    folder = tmp_path / "exported"
    shutil.copytree(exported, folder)
    damage(folder)
    with pytest.raises(BundleError, match=message) as error:
        Engine.from_pretrained(folder, runner="onnx")
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")  # and the runtime's own log keeps quiet
