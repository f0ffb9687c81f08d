"""Inversions come back from disk bit-equal or not at all; results decode only what is asked for."""

import hashlib
import io
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from csrc_triton.pixels import to_pixels
from icd_engine.errors import BundleError, SettingsError
from icd_engine.images import to_pil
from icd_engine.model import OUTPUT_TYPES, as_pictures, check_output_type
from tests.icd_engine.plain_loops import assert_close

SOURCE, TARGET = "a cat sits on the mat", "a dog sits on the mat"


@pytest.fixture(scope="module")
def inversion(small_engine):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return small_engine.invert(Image.fromarray(pixels), SOURCE, seed=11, size=(96, 64))


@pytest.fixture
def saved(inversion, tmp_path):
    return inversion.save(tmp_path / "kept.safetensors")


def rewrite(path, tensors=None, **metadata):
    """The file again with other tensors or metadata."""
    with safe_open(path, framework="pt") as file:
        kept = {name: file.get_tensor(name) for name in ("latents", "boundaries")}
        about = file.metadata()
    save_file(kept if tensors is None else tensors, path, metadata=about | metadata)


def test_saved_inversion_edits_bit_equal(small_engine, inversion, saved):
    loaded = small_engine.load_inversion(saved)
    assert (loaded.source, loaded.seed, loaded.size) == (SOURCE, 11, (96, 64))
    assert torch.equal(loaded.latents, inversion.latents)
    assert all(map(torch.equal, loaded.boundaries, inversion.boundaries))
    first, again = (one.edit(TARGET, blend=("cat", "dog")) for one in (inversion, loaded))
    assert torch.equal(first.latents, again.latents)
    assert (first.network_calls, again.network_calls) == (4, 5)  # the source's, once
    assert (
        again.settings.seed == 11 and again.settings.detail == 0
    )  # the picture is not in the file
    decoded = inversion.edit(TARGET, blend=("cat", "dog"), detail=0.0)
    assert np.array_equal(decoded.image, again.image)
    with pytest.raises(SettingsError, match="detail is asked for"):
        loaded.edit(TARGET, detail=1.0)
    with pytest.raises(SettingsError, match="do not carry the picture"):
        _ = loaded.reconstruction


def test_a_file_of_the_first_format_edits_unanchored(small_engine, inversion, saved):
    """It holds the noise alone; what it says goes into the settings of its results."""
    digest = hashlib.sha256(np.asarray(inversion.latents).tobytes()).hexdigest()
    rewrite(saved, {"latents": inversion.latents}, icd_inversion="1", sha256=digest)
    loaded = small_engine.load_inversion(saved)
    with pytest.warns(UserWarning, match="not anchored"):
        result = loaded.edit(TARGET)
    expected = inversion.edit(TARGET, anchor=0.0)
    assert result.settings == expected.settings and result.settings.anchor == 0
    assert_close(result.latents, expected.latents)


def test_saved_pictures_say_that_a_model_made_them(inversion, tmp_path):
    result = inversion.edit([TARGET, "a fox sits on the mat"])
    for target, options in ((0, {}), (1, {"provenance": False})):
        path = result.save(tmp_path / "made" / f"{target}.png", target, **options)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(result.images[target]))
        assert (b"compositeWithTrainedAlgorithmicMedia" in path.read_bytes()) == (target == 0)
    buffer = io.BytesIO()
    assert result.save(buffer, np.int64(1), format="PNG") is buffer
    assert np.array_equal(np.asarray(Image.open(buffer)), np.asarray(result.images[1]))
    for wrong in (2, -1, "0", True, 1.0):
        with pytest.raises(SettingsError, match="one of 2 pictures"):
            result.save(tmp_path / "wrong.png", wrong)
    with pytest.raises(SettingsError, match="'pil'"):
        inversion.edit(TARGET, output_type="np").save(tmp_path / "wrong.png")
    assert not (tmp_path / "wrong.png").exists()


def test_one_of_several_inversions_saves_its_own(small_engine, tmp_path):
    from icd_engine.results import EditRequest

    pictures = np.random.default_rng(1).random((2, 64, 64, 3), dtype=np.float32)
    results = small_engine.edit_many([EditRequest(image, SOURCE, TARGET) for image in pictures])
    kept = results[1].inversion
    assert torch.equal(
        small_engine.load_inversion(kept.save(tmp_path / "second")).latents, kept.latents
    )


def test_saving_replaces_a_file_and_leaves_nothing_beside_it(inversion, saved):
    saved.write_bytes(b"older")
    inversion.save(saved)
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("place", ["a_file/kept", "a_folder", "nul\0byte", "/", ""])
def test_unwritable_place_is_named(inversion, tmp_path, place):
    (tmp_path / "a_file").write_bytes(b"")
    (tmp_path / "a_folder").mkdir()
    with pytest.raises(SettingsError, match=re.escape(repr(str(tmp_path / place))[1:-1])):
        inversion.save(tmp_path / place)
    with pytest.raises(SettingsError, match="a path is needed"):
        inversion.save(None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_file", "a_folder"]


def test_another_model_is_refused(two_pass_bundle, saved):
    from icd_engine.engine import Engine

    with pytest.raises(BundleError, match="another model"):
        Engine.from_pretrained(two_pass_bundle, device="cpu").load_inversion(saved)


@pytest.mark.parametrize(
    "content", [b"", b"no inversion", b"\x10" + bytes(40)], ids=["empty", "text", "header"]
)
def test_not_an_inversion_is_refused(small_engine, tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(BundleError, match="not a saved inversion"):
        small_engine.load_inversion(path)


def test_missing_file_or_folder_is_named(small_engine, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=str(path)):
            small_engine.load_inversion(path)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_truncated_file_is_refused(small_engine, saved, share):
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BundleError, match="damaged"):
        small_engine.load_inversion(saved)


@pytest.mark.parametrize("place", [1, -1, -100, -384], ids=["length", "last", "middle", "first"])
def test_flipped_bit_is_refused(small_engine, saved, place):
    content = bytearray(saved.read_bytes())
    content[place] ^= 1
    saved.write_bytes(content)
    with pytest.raises(BundleError, match="damaged"):
        small_engine.load_inversion(saved)


@pytest.mark.parametrize(
    "metadata",
    [
        {"about": "{}"},
        {"about": "[1]"},
        {"about": "no json"},
        {"about": json.dumps({"source": SOURCE, "seed": "x", "size": [96, 64]})},
        {"about": json.dumps({"source": SOURCE, "seed": 1, "size": [96]})},
        {"icd_inversion": "3"},
    ],
    ids=["empty", "list", "text", "seed", "size", "format"],
)
def test_unreadable_record_is_refused(small_engine, saved, metadata):
    rewrite(saved, **metadata)
    with pytest.raises(BundleError, match="not a saved inversion"):
        small_engine.load_inversion(saved)


def test_other_tensors_are_refused(small_engine, saved):
    rewrite(saved, {"weights": torch.zeros(1, 4, 8, 12)})
    with pytest.raises(BundleError, match="not a saved inversion"):
        small_engine.load_inversion(saved)


@pytest.mark.parametrize("size", [[64, 64], [96, 96], [0, 0]], ids=str)
def test_latents_of_another_size_are_refused(small_engine, saved, size):
    rewrite(saved, about=json.dumps({"source": SOURCE, "seed": 1, "size": size}))
    with pytest.raises(BundleError, match="shape"):
        small_engine.load_inversion(saved)


# --- results --------------------------------------------------------------------------------------


def test_reconstruction_is_the_source_branch(small_engine, inversion):
    result = inversion.edit(TARGET, output_type="latent")
    assert np.array_equal(
        result.reconstruction, to_pil(small_engine.runner.to_image(result.source_latents)[0])
    )


def test_image_is_the_first(inversion):
    result = inversion.edit([TARGET, SOURCE])
    assert result.image is result.images[0]
    assert len(result.images) == 2


def test_timings_are_milliseconds_by_stage(small_engine, inversion):
    decode = inversion.edit(TARGET).timings
    assert set(decode) == {"source", "text_target", "decode", "vae_decode", "total"}
    assert decode["total"] >= sum(decode.values()) - decode["total"]
    whole = small_engine.edit(np.zeros((64, 64, 3), dtype=np.uint8), SOURCE, TARGET).timings
    assert set(whole) == {"text", "vae_encode", "encode", "reconstruct", *decode} - {"source"}


def test_pictures_are_clipped_and_their_axes_in_order():
    pictures = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 0.5]).reshape(1, 3, 2, 1)
    runner = SimpleNamespace(
        to_image=lambda latents: pictures,
        to_pixels=lambda latents: to_pixels(pictures),
        host=lambda tensor: tensor,
        as_torch=lambda values: values,
    )
    array, tensor, pil = (as_pictures(runner, torch.zeros(1), kind) for kind in ("np", "pt", "pil"))
    assert array.shape == (1, 2, 1, 3)
    assert array[0, :, 0, :].tolist() == [[0.0, 0.5, 1.0], [0.0, 1.0, 0.75]]
    assert torch.equal(tensor.permute(0, 2, 3, 1), torch.from_numpy(array))
    assert np.asarray(pil[0])[0, 0].tolist() == [0, 128, 255]


def test_output_types_are_checked():
    with_torch, without = SimpleNamespace(gives_torch=True), SimpleNamespace(gives_torch=False)
    for output_type in OUTPUT_TYPES:
        check_output_type(output_type, with_torch)
    with pytest.raises(SettingsError, match="pil, np, pt, latent"):
        check_output_type("png", with_torch)
    with pytest.raises(SettingsError, match="pil, np, latent, not 'pt'"):
        check_output_type("pt", without)
