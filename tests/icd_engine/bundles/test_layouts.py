"""Every layout that weights are saved and served in converts to the same model; what does not hold
what it says is named."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from icd_engine.bundles.convert import convert
from icd_engine.bundles.files import read_weights
from icd_engine.bundles.layouts import find_weights, found_shapes, read_found
from icd_engine.errors import BundleError
from tests.icd_engine.bundles.golden_files import UNET

TEXT = "model.safetensors"
PARTS = {"unet": UNET, "vae": UNET, "text_encoder": TEXT}


def sharded(path: Path, variant: str = "", kind: str = "safetensors", stem: str = "") -> Path:
    """The tensors of a file in two shards, as diffusers and transformers name them: the index."""
    tensors = load_file(path)
    stem = stem or path.name.removesuffix(".safetensors")
    where = {}
    for i in (1, 2):
        name = f"{stem}{variant}-{i:05}-of-00002.{kind}"
        own = {key: tensors[key] for key in sorted(tensors)[i - 1 :: 2]}
        saved(own, path.with_name(name))
        where |= dict.fromkeys(own, name)
    path.unlink()
    index = path.with_name(f"{stem}.{kind}.index{variant}.json")
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return index


def saved(tensors: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def renamed(path: Path, name: str) -> None:
    saved(load_file(path), path.with_name(name))
    path.unlink()


def relaid(base: Path, layout: str) -> None:
    for part, name in PARTS.items():
        path = base / part / name
        pickled = "pytorch_model" if name == TEXT else "diffusion_pytorch_model"
        if layout == "shards":
            sharded(path)
        elif layout == "fp16":
            renamed(path, name.replace(".s", ".fp16.s"))
        elif layout == "fp16 shards":
            sharded(path, ".fp16")
        elif layout == "bin":
            renamed(path, f"{pickled}.bin")
        elif layout == "bin shards":
            sharded(path, kind="bin", stem=pickled)


@pytest.fixture(scope="module")
def plain(golden, tmp_path_factory):
    roles = (golden / f"iCD-SD15-{role}.safetensors" for role in ("forward", "reverse"))
    out = tmp_path_factory.mktemp("plain") / "out"
    return convert(golden / "base", golden / "sd15_cfg_distill.pt", *roles, out)


@pytest.mark.parametrize("layout", ["shards", "fp16", "fp16 shards", "bin", "bin shards"])
def test_every_layout_converts_to_the_same_model(published, plain, layout):
    """The files named fp16 hold float32 here, so that nothing is rounded."""
    relaid(published["base"], layout)
    bundle = convert(**published)
    assert bundle.sha256 == plain.sha256
    notes = [note for note in bundle.origin["notes"] if " read from " in note]
    assert [note.split()[0] for note in notes] == ["text_encoder", "vae"]


def test_a_teacher_in_shards(published, plain):
    """Its digests are those of the index and of every shard."""
    teacher = published["teacher"].parent / "teacher"
    teacher.mkdir()
    state = torch.load(published["teacher"], weights_only=True)
    save_file(state, teacher / UNET)
    sharded(teacher / UNET)
    bundle = convert(**(published | {"teacher": teacher}))
    assert bundle.sha256 == plain.sha256
    origin = bundle.origin["teacher"]
    assert origin["file"] == f"{UNET}.index.json" and len(origin["shards"]) == 2


def test_half_precision_is_written_as_asked(published, plain):
    """fp16 files read as fp32: the same numbers, rounded once to 11 bits."""
    for part, name in PARTS.items():
        path = published["base"] / part / name
        halves = {k: v.half() if v.is_floating_point() else v for k, v in load_file(path).items()}
        save_file(halves, path.with_name(name.replace(".s", ".fp16.s")))
        path.unlink()
    bundle = convert(**published)
    for part in ("vae", "text_encoder"):
        exact = read_weights(plain.weights(part))
        for key, value in read_weights(bundle.weights(part)).items():
            assert value.dtype == exact[key].dtype
            torch.testing.assert_close(value, exact[key], rtol=2**-11, atol=2**-24)


def test_tensors_of_a_pickle_may_share_memory(published, plain):
    path = published["base"] / "vae" / UNET
    state = load_file(path)
    whole = torch.cat([value.flatten() for value in state.values()])
    parts = whole.split([value.numel() for value in state.values()])
    shared = {key: own.view_as(state[key]) for key, own in zip(state, parts, strict=True)}
    path.unlink()
    torch.save(shared, path.with_name("diffusion_pytorch_model.bin"))
    assert convert(**published).sha256 == plain.sha256


def test_full_precision_is_taken_where_there_are_both(published, plain):
    for part, name in PARTS.items():
        path = published["base"] / part / name
        zeros = {key: torch.zeros_like(value) for key, value in load_file(path).items()}
        save_file(zeros, path.with_name(name.replace(".s", ".fp16.s")))
        saved(zeros, path.with_name("diffusion_pytorch_model.bin"))
    assert convert(**published).sha256 == plain.sha256


@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("size", ["10GB", "100KB"], ids=["whole", "shards"])
def test_what_diffusers_and_transformers_save_is_found(golden, tmp_path, variant, size):
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel

    kinds = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    for part, kind in kinds.items():
        network = kind.from_pretrained(golden / "base" / part)
        network.save_pretrained(tmp_path / part, max_shard_size=size, variant=variant)
        found = find_weights(tmp_path / part, PARTS[part])
        assert (len(found.files) > 1) == (size == "100KB")
        own = network.state_dict()
        assert found_shapes(found) == {key: tuple(value.shape) for key, value in own.items()}
        for key, value in read_found(found).items():
            assert torch.equal(value, own[key])


# --- what is refused ------------------------------------------------------------------------------


def refused(published, message: str) -> None:
    with pytest.raises(BundleError, match=message) as caught:
        convert(**published)
    assert "\n" not in str(caught.value)
    assert not list(published["out"].parent.iterdir())


def test_a_missing_shard_is_named(published):
    index = sharded(published["base"] / "unet" / UNET)
    (index.parent / "diffusion_pytorch_model-00002-of-00002.safetensors").unlink()
    refused(published, r"unet/diffusion_pytorch_model-00002-of-00002\.safetensors is missing")


@pytest.mark.parametrize("part", PARTS)
def test_shards_that_are_not_what_their_index_says_are_named(published, part):
    """In either direction, and of networks that are copied too."""
    index = sharded(published["base"] / part / PARTS[part])
    values = json.loads(index.read_text())
    key = sorted(values["weight_map"])[0]
    shard = values["weight_map"].pop(key)
    index.write_text(json.dumps(values))
    refused(published, rf"{shard}: '{key}' is not where .*index\.json says it is")
    values["weight_map"] |= {key: shard, "none.weight": shard}
    index.write_text(json.dumps(values))
    refused(published, rf"{shard}: 'none\.weight' is missing, which .*index\.json says it is")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not readable JSON"),
        ("{}", "weight_map must tell the file of every key"),
        ('{"weight_map": {}}', "weight_map must tell the file of every key"),
        ('{"weight_map": {"a": 1}}', "'a' must be in a .safetensors file beside it, not 1"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "'a' must be in a .safetensors file beside"),
        ('{"weight_map": {"a": "b.bin"}}', "'a' must be in a .safetensors file beside it"),
    ],
    ids=["cut", "no map", "empty", "number", "outside", "pickle"],
)
def test_an_index_that_is_none_is_named(published, content, message):
    sharded(published["base"] / "unet" / UNET).write_text(content)
    refused(published, rf"unet/{UNET}\.index\.json.*{message}")


def test_a_hostile_pickle_of_the_base_is_not_run(published, tmp_path):
    from tests.icd_engine.bundles.test_teacher import Payload

    path = published["base"] / "vae" / UNET
    path.unlink()
    torch.save({"a": Payload(tmp_path / "proof")}, path.with_name("diffusion_pytorch_model.bin"))
    refused(published, r"diffusion_pytorch_model\.bin is damaged or holds more than tensors")
    assert not (tmp_path / "proof").exists()


def test_gguf_is_refused_by_name(published):
    teacher = published["teacher"].rename(published["teacher"].with_suffix(".gguf"))
    refused(published | {"teacher": teacher}, r"sd15_cfg_distill\.gguf is GGUF")
    path = published["base"] / "unet" / UNET
    path.rename(path.with_name("model-Q4_0.gguf"))
    refused(published, r"unet/model-Q4_0\.gguf is GGUF, whose quantised weights")


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_single_file_that_is_no_whole_model_is_refused(published, name):
    one = published["base"].with_name(name)
    weights = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(2)}
    save_file(weights, one) if one.suffix == ".safetensors" else torch.save(weights, one)
    refused(published | {"base": one}, "has no text encoder of theirs")
    refused(published | {"teacher": one}, r"single-file checkpoint.*from_single_file\(FILE\)")


# --- the hub's cache ------------------------------------------------------------------------------


def cached(base: Path, root: Path, revision: str = "abc123") -> Path:
    """A folder as the hub's client keeps it: files are links to blobs named by their content."""
    repository = root / "models--org--base"
    (repository / "blobs").mkdir(parents=True, exist_ok=True)
    for i, path in enumerate(sorted(path for path in base.rglob("*") if path.is_file())):
        blob = repository / "blobs" / f"{i:064x}"
        shutil.copyfile(path, blob)
        link = repository / "snapshots" / revision / path.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(revision)
    return repository


@pytest.mark.parametrize("layout", ["plain", "shards", "fp16"])
@pytest.mark.parametrize("given", ["repository", "snapshot"])
def test_the_hubs_cache_is_a_base(published, plain, tmp_path, given, layout):
    relaid(published["base"], layout)
    repository = cached(published["base"], tmp_path / "hub")
    base = repository if given == "repository" else repository / "snapshots" / "abc123"
    bundle = convert(**(published | {"base": base}))
    assert bundle.sha256 == plain.sha256
    assert bundle.origin["base"] == "org/base@abc123"
    assert not any(path.is_symlink() for path in bundle.path.rglob("*"))


def test_of_several_revisions_main_is_taken(published, plain, tmp_path):
    repository = cached(published["base"], tmp_path / "hub")
    (repository / "snapshots" / "other").mkdir()
    assert convert(**(published | {"base": repository})).sha256 == plain.sha256
    shutil.rmtree(published["out"])
    (repository / "refs" / "main").unlink()
    refused(published | {"base": repository}, r"one revision is needed, .*: abc123, other")


def test_a_link_to_nothing_is_a_missing_file(published, tmp_path):
    repository = cached(published["base"], tmp_path / "hub")
    path = repository / "snapshots" / "abc123" / "vae" / UNET
    path.resolve().unlink()
    refused(published | {"base": repository}, rf"vae/{UNET} is missing")
