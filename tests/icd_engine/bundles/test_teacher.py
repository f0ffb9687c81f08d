"""The teacher's file is data: nothing in it is ever run, and every key and shape must fit the
base."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from icd_engine.bundles.layouts import read_found, read_state
from icd_engine.bundles.teacher import COND_PROJ, check_teacher, teacher_file
from icd_engine.errors import BundleError

SHAPES = {"conv_in.weight": (8, 4, 3, 3), "conv_in.bias": (8,)}


def state() -> dict[str, torch.Tensor]:
    return {
        **{key: torch.ones(shape) for key, shape in SHAPES.items()},
        COND_PROJ: torch.ones(8, 512),
    }


class Payload:
    """Unpickles into a call that makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("style", ["zip", "legacy", "plain pickle"])
def test_a_hostile_pickle_is_refused_and_never_run(tmp_path, style):
    path, proof = tmp_path / "teacher.pt", tmp_path / "proof"
    content = {**state(), "payload": Payload(proof)}
    if style == "plain pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=style == "zip")
    with pytest.raises(BundleError, match=r"teacher\.pt is damaged or holds more than tensors"):
        read_state(path)
    assert not proof.exists()
    if style == "plain pickle":  # the payload would have worked
        pickle.loads(path.read_bytes())
        assert proof.exists()


def test_a_whole_module_is_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "teacher.pt")
    with pytest.raises(BundleError, match="more than tensors"):
        read_state(tmp_path / "teacher.pt")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_truncated_pickle_is_refused(tmp_path, share, zipped):
    path = tmp_path / "teacher.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(BundleError, match=r"teacher\.pt"):
        read_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(2)], "must hold a state dict, not a list"),
        ({"step": 5}, "'step' is not a plain tensor"),
        ({"state_dict": {"a": torch.ones(2)}}, "'state_dict' is not a plain tensor"),
        ({3: torch.ones(2)}, "3 is not a plain tensor"),
        ({"ids": torch.ones(2, dtype=torch.int64)}, "'ids' is not a plain tensor"),
        ({"thin": torch.ones(2, 2).to_sparse()}, "'thin' is not a plain tensor"),
        ({"hollow": torch.ones(2, device="meta")}, "'hollow' is not a plain tensor"),
    ],
    ids=["list", "number", "nested", "key", "integers", "sparse", "meta"],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "teacher.pt")
    with pytest.raises(BundleError, match=message):
        read_state(tmp_path / "teacher.pt")


def test_every_form_reads_the_same_in_its_own_precision(tmp_path):
    torch.save({key: value.half() for key, value in state().items()}, tmp_path / "t.pt")
    (tmp_path / "model" / "unet").mkdir(parents=True)
    save_file(state(), tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    # Cannot be mapped
    torch.save(state(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    forms = {
        "t.pt": torch.half,
        "old.pt": torch.float,
        "model": torch.float,
        "model/unet": torch.float,
    }
    for name, dtype in forms.items():
        weights = read_found(teacher_file(tmp_path / name))
        assert {k: v.dtype for k, v in weights.items()} == dict.fromkeys(state(), dtype)
        assert check_teacher("t", weights, SHAPES) == 512


def test_a_folder_with_a_damaged_pickle_and_a_missing_file_are_named(tmp_path):
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"diffusion_pytorch_model\.bin is damaged"):
        read_found(teacher_file(tmp_path))
    with pytest.raises(BundleError, match=r"none\.pt is missing"):
        read_state(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({COND_PROJ: None}, "cond_proj.weight' is missing: this network is not guidance-distilled"),
        ({"conv_in.bias": None}, "'conv_in.bias' is missing"),
        ({"extra.weight": torch.ones(1)}, "'extra.weight' is not a weight of the base's UNet"),
        ({"conv_in.bias": torch.ones(7)}, r"'conv_in.bias' has shape \[7\], not \[8\]"),
        ({COND_PROJ: torch.ones(512, 8)}, r"cond_proj.weight' has shape \[512, 8\]"),
        ({COND_PROJ: torch.ones(8)}, r"cond_proj.weight' has shape \[8\]"),
        ({COND_PROJ: torch.ones(8, 0)}, r"cond_proj.weight' has shape \[8, 0\]"),
        ({"conv_in.bias": torch.full((8,), float("nan"))}, "'conv_in.bias' holds NaN"),
    ],
    ids=["no guidance", "missing", "unknown", "shape", "transposed", "flat", "empty", "nan"],
)
def test_what_does_not_fit_the_base_names_its_key(change, message):
    weights = {key: value for key, value in {**state(), **change}.items() if value is not None}
    with pytest.raises(BundleError, match=f"^t.pt: .*{message}"):
        check_teacher("t.pt", weights, SHAPES)
