"""A bundle is read only whole and unchanged, and written whole or not at all."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from icd_engine.bundles import bundle as module
from icd_engine.bundles.bundle import read_bundle, write_bundle
from icd_engine.bundles.files import read_weights
from icd_engine.errors import BundleError
from icd_engine.settings import EditSettings

UNET = "unet/diffusion_pytorch_model.safetensors"


def test_what_is_written_is_read(folder):
    bundle = read_bundle(folder)
    assert (bundle.family, bundle.encode_end, bundle.size) == ("sd15", 999, (512, 512))
    assert bundle.encode_times == (19, 259, 519, 779)
    assert bundle.defaults == EditSettings(
        guidance_scale=19.0, tau=0.8, cross_replace={"default": 0.3, "dog": (0, 0.5)}
    )
    assert bundle.guidance_embedded
    assert bundle.config("scheduler") == {"beta_start": 0.00085}
    assert torch.equal(
        read_weights(bundle.weights("unet"))["conv.weight"], torch.arange(24.0).reshape(2, 3, 4)
    )
    assert len(bundle.sha256) == 12


def test_time_steps_are_those_of_the_scheduler(tmp_path, record, files):
    assert write_bundle(tmp_path / "a", record, files.items()).train_steps == 1000
    files["scheduler/scheduler_config.json"] = {"num_train_timesteps": 900}
    with pytest.raises(BundleError, match=r"time step 999 is not a whole number in 0\.\.899"):
        write_bundle(tmp_path / "b", record, files.items())
    files["scheduler/scheduler_config.json"] = {"num_train_timesteps": 1200}
    later = record | {"decode_times": [259, 519, 1199], "encode_end": 1199}
    assert write_bundle(tmp_path / "c", later, files.items()).train_steps == 1200


def test_settings_can_be_given_as_such(tmp_path, record, files):
    settings = EditSettings(guidance_scale=3.0, tau=(0.2, 0.4), blend=("cat", ["dog", "puppy"]))
    bundle = write_bundle(tmp_path / "b", {**record, "defaults": settings}, files.items())
    assert bundle.defaults == settings


def test_without_guidance_embedding(tmp_path, record, files):
    files["unet/config.json"] = {"time_cond_proj_dim": None}
    assert not write_bundle(tmp_path / "b", record, files.items()).guidance_embedded


def test_unknown_parts_are_refused(folder):
    bundle = read_bundle(folder)
    with pytest.raises(BundleError, match="no part 'safety_checker'"):
        bundle.config("safety_checker")
    with pytest.raises(BundleError, match="no weights for part 'tokenizer'"):
        bundle.weights("tokenizer")


def test_importing_and_reading_needs_no_torch(folder):
    code = (
        "import sys; from icd_engine.bundles.bundle import read_bundle; import icd_engine.bundles.convert;"
        f"read_bundle({str(folder)!r}); print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert run.stdout.strip() == "[]", run.stderr


def required_files() -> list[str]:
    networks = [
        f"{p}/{n}"
        for p in ("vae", "unet", "unet_forward")
        for n in ("config.json", Path(UNET).name)
    ]
    return [
        "icd.json", "model_index.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
        "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors", *networks,
    ]  # fmt: skip


@pytest.mark.parametrize("name", required_files())
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        read_bundle(folder)


def test_a_missing_folder_and_a_pickle_are_named(folder):
    (folder / UNET).rename(folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(BundleError, match=r"unet/diffusion_pytorch_model\.bin is a pickle"):
        read_bundle(folder)
    shutil.rmtree(folder / "unet")
    with pytest.raises(BundleError, match=r"unet/config\.json is missing"):
        read_bundle(folder)
    with pytest.raises(BundleError, match="no model folder at"):
        read_bundle(folder / "nowhere")


@pytest.mark.parametrize("model", [None, 5, [], b"tiny", torch.zeros(3), "x" * 5000, "\0"], ids=str)
def test_what_names_no_folder_is_refused(model):
    with pytest.raises(BundleError, match=r"no model folder at|a model is a name"):
        read_bundle(model)


def test_a_missing_embedded_model_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(module.resources, "files", lambda package: tmp_path)
    with pytest.raises(BundleError, match="'tiny' is not part of this installation"):
        read_bundle("tiny")


def test_the_embedded_model_is_found_by_name(folder, monkeypatch):
    monkeypatch.setattr(module.resources, "files", lambda package: folder.parent)
    folder.rename(folder.with_name("tiny"))
    assert read_bundle("tiny").path.name == "tiny"


@pytest.mark.parametrize("where", [0, 9, -1], ids=["size", "header", "last weight"])
@pytest.mark.parametrize("name", [UNET, "text_encoder/model.safetensors"])
def test_one_flipped_bit_is_found(folder, name, where):
    data = bytearray((folder / name).read_bytes())
    data[where] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} was changed or damaged"):
        read_bundle(folder)


def test_large_bundles_are_verified_on_request_only(folder, monkeypatch):
    monkeypatch.setattr(module, "VERIFY_BELOW", 0)
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    bundle = read_bundle(folder)
    for verify in (bundle.verify, lambda: read_bundle(folder, verify=True)):
        with pytest.raises(BundleError, match=r"scheduler_config\.json was changed"):
            verify()


def test_a_listed_file_that_is_gone_is_named(tmp_path, record, files):
    bundle = write_bundle(tmp_path / "b", record, {**files, "card.md": "what it knows"}.items())
    (bundle.path / "card.md").unlink()
    with pytest.raises(BundleError, match=r"card\.md is missing"):
        read_bundle(bundle.path)


def failing(files: dict, error: BaseException):
    """All files, then an error where the last one would come."""
    yield from list(files.items())[:-1]
    raise error


@pytest.mark.parametrize("old", [False, True], ids=["new", "overwrite"])
@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(28, "No space left on device"), BundleError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=["disk full", "ctrl-c"],
)
def test_a_failed_write_leaves_what_was_there(tmp_path, record, files, old, error, expected):
    out = tmp_path / "b"
    before = write_bundle(out, record, files.items()) if old else None
    with pytest.raises(expected):
        write_bundle(
            out, {**record, "origin": {"made": "later"}}, failing(files, error), overwrite=True
        )
    assert [p.name for p in tmp_path.iterdir()] == (["b"] if old else [])
    if before is not None:
        assert read_bundle(out) == before


def test_a_failed_rename_brings_the_old_bundle_back(folder, record, files, monkeypatch):
    before, rename = read_bundle(folder), Path.rename

    def fails_for_the_new_one(self, target):
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails_for_the_new_one)
    with pytest.raises(BundleError, match="cannot be written"):
        write_bundle(folder, {**record, "origin": {}}, files.items(), overwrite=True)
    assert read_bundle(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_overwrite_replaces_the_whole_folder(folder, record, files):
    (folder / "stray.txt").write_text("from before")
    write_bundle(folder, {**record, "origin": {"made": "later"}}, files.items(), overwrite=True)
    assert read_bundle(folder).origin == {"made": "later"}
    assert not (folder / "stray.txt").exists()


def test_existing_targets_are_refused(tmp_path, folder, record, files):
    with pytest.raises(BundleError, match="is not empty"):
        write_bundle(folder, record, files.items())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("precious")
    with pytest.raises(BundleError, match="is not a bundle, so it is not overwritten"):
        write_bundle(tmp_path / "home", record, files.items(), overwrite=True)
    with pytest.raises(BundleError, match="is a file"):
        write_bundle(tmp_path / "home" / "thesis.txt", record, files.items(), overwrite=True)
    (tmp_path / "empty").mkdir()
    assert write_bundle(tmp_path / "empty", record, files.items()).family == "sd15"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unet/config.json": None}, r"unet/config\.json is missing"),
        ({UNET: {"conv.weight": torch.tensor([1.0, float("nan")])}}, "'conv.weight' holds NaN"),
        ({"unet/config.json": {"addition_embed_type": "image"}}, "'image' is not supported"),
    ],
    ids=["incomplete", "nan", "family"],
)
def test_an_unsound_bundle_is_not_written(tmp_path, record, files, change, message):
    kept = {name: value for name, value in {**files, **change}.items() if value is not None}
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "b", record, kept.items())
    assert not list(tmp_path.iterdir())


def test_a_model_card_is_no_part_of_the_fingerprint(small_bundle):
    bundle = read_bundle(small_bundle)
    digests = {**bundle.sha256, "README.md": "0" * 64, "demo.png": "1" * 64}
    assert replace(bundle, sha256=digests).fingerprint == bundle.fingerprint
    changed = {**bundle.sha256, "unet/config.json": "0" * 64}
    assert replace(bundle, sha256=changed).fingerprint != bundle.fingerprint
    assert replace(bundle, encode_end=899).fingerprint != bundle.fingerprint
