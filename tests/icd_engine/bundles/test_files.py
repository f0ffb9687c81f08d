"""Single files: missing, pickled, damaged or not finite, each one BundleError that names the file
or the key."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from icd_engine.bundles.files import read_json, read_shapes, read_weights, require_file, write_file
from icd_engine.errors import BundleError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(
        {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2], dtype=torch.int64)}, path
    )
    return path


def test_weights_and_shapes_are_read(weights):
    tensors = read_weights(weights)
    assert torch.equal(tensors["a"], torch.arange(12.0).reshape(3, 4))
    assert tensors["b"].dtype == torch.int64
    assert read_shapes(weights) == {"a": (3, 4), "b": (2,)}


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_refused(weights, share):
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    for read in (read_weights, read_shapes):
        with pytest.raises(BundleError, match=r"w\.safetensors is not a whole safetensors file"):
            read(weights)


@pytest.mark.parametrize(
    "data", [b"\xff" * 64, b"\x08" + b"\0" * 7 + b"notjson!", b"PK\3\4" + b"\0" * 60], ids=repr
)
def test_a_file_of_something_else_is_refused(tmp_path, data):
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"w\.safetensors"):
        read_weights(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_name_their_key(tmp_path, dtype, bad):
    path = tmp_path / "w.safetensors"
    save_file(
        {"good": torch.ones(3, dtype=dtype), "layer.bad": torch.tensor([0.0, bad], dtype=dtype)},
        path,
    )
    with pytest.raises(BundleError, match=r"w\.safetensors: 'layer\.bad' holds NaN or infinity"):
        read_weights(path)


@pytest.mark.parametrize(
    ("name", "message"), [("w.bin", "only safetensors"), ("none.safetensors", "is missing")]
)
def test_weights_that_are_pickled_or_missing(tmp_path, name, message):
    (tmp_path / "w.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BundleError, match=message):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth"])
def test_a_pickle_in_place_of_safetensors_is_named(tmp_path, suffix):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / f"model{suffix}").write_bytes(b"")
    with pytest.raises(
        BundleError, match=rf"vae/model\{suffix} is a pickle and only safetensors is loaded"
    ):
        require_file(tmp_path, "vae/model.safetensors")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "\xff\xfe", '{"a":' * 100_000], ids=lambda t: repr(t[:8])
)
def test_json_that_is_no_object_is_refused(tmp_path, text):
    (tmp_path / "c.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=r"^c\.json "):
        read_json(tmp_path, "c.json")


def test_tensors_that_share_memory_are_refused(tmp_path):
    shared = torch.ones(4)
    with pytest.raises(BundleError, match=r"^w\.safetensors cannot be written") as caught:
        write_file(tmp_path, "w.safetensors", {"a": shared, "b": shared})
    assert "\n" not in str(caught.value)
