"""An exported folder: what is in it, how exact it is, and that a failed export leaves nothing."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export import folder, onnx_files
from export.folder import DATA, export_bundle
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.exported import NEEDED
from icd_engine.bundles.files import file_digest
from icd_engine.errors import BundleError, SettingsError

# Names and varying axes as optimum has them, so that its pipelines and others load the parts.
STANDARD = {
    "text_encoder": (
        {"input_ids": ["batch_size", 77]},
        {"last_hidden_state": ["batch_size", 77, 16]},
    ),
    "vae_encoder": (
        {"sample": ["batch_size", 3, "height", "width"]},
        {"latent_parameters": ["batch_size", 8, "height_latent", "width_latent"]},
    ),
    "vae_decoder": (
        {"latent_sample": ["batch_size", 4, "height_latent", "width_latent"]},
        {"sample": ["batch_size", 3, "height", "width"]},
    ),
} | {
    part: (
        {
            "sample": ["batch_size", 4, "height", "width"],
            "timestep": [],
            "encoder_hidden_states": ["batch_size", 77, 16],
            "timestep_cond": ["batch_size", 64],
        },
        {"out_sample": ["batch_size", 4, "height", "width"]},
    )
    for part in ("unet", "unet_forward")
}
EDIT = {
    "source_row": ["targets"],
    "source_mix": ["targets", 77, 77],
    "target_gain": ["targets", 77],
    "share_self": ["targets"],
    "source_words": ["targets", 77],
    "target_words": ["targets", 77],
    "use_blend": ["targets"],
    "word_maps": [2, "targets", "map_height", "map_width"],
    "user_mask": ["targets", "height", "width"],
    "boundary": ["rows", 4, "height", "width"],
    "anchor": ["rows"],
}


@pytest.fixture(scope="module")
def manifest(exported: Path) -> dict:
    return json.loads((exported / "manifest.json").read_text())


def shapes(values) -> dict[str, list]:
    """{name: axes} of ONNX inputs or outputs."""
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in values
    }


@pytest.mark.parametrize("part", STANDARD)
def test_standard_parts_have_the_names_stock_tools_know(exported, part):
    graph = onnx.load(exported / part / "model.onnx", load_external_data=False).graph
    assert (shapes(graph.input), shapes(graph.output)) == STANDARD[part]
    assert (exported / part / "config.json").is_file()


def test_a_decode_hop_takes_the_whole_edit(exported):
    graph = onnx.load(exported / "unet" / "decode_hop.onnx", load_external_data=False).graph
    inputs, outputs = shapes(graph.input), shapes(graph.output)
    assert {name: inputs[name] for name in EDIT} == EDIT
    assert set(inputs) - set(EDIT) == {
        "latents",
        "hop_a",
        "hop_b",
        "timestep",
        "timestep_cond",
        "encoder_hidden_states",
    }
    assert inputs["latents"] == outputs["next_latents"] == ["rows", 4, "height", "width"]
    assert outputs["next_word_maps"] == EDIT["word_maps"] and outputs["mask"] == EDIT["user_mask"]


def test_the_manifest_tells_of_every_graph(exported, manifest):
    assert (
        manifest["opset"] == 20
        and manifest["precision"] == "fp32"
        and set(manifest["graphs"]) == {*NEEDED, "text_encoder", "unet_forward"}
    )
    for entry in manifest["graphs"].values():
        model = onnx.load(exported / entry["file"], load_external_data=False)
        assert file_digest(exported / entry["file"]) == entry["sha256"]
        assert 0 <= entry["error"] <= 1e-4
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
        assert {name: port["shape"] for name, port in entry["inputs"].items()} == shapes(
            model.graph.input
        )
        assert {name: port["shape"] for name, port in entry["outputs"].items()} == shapes(
            model.graph.output
        )
    assert set(manifest["producer"]) == {"icd-engine", "torch", "onnx", "onnxscript"}


def test_graphs_of_one_network_share_its_weights(exported, small_bundle):
    """The three graphs of the decode network and the standard one take little more than its
    weights."""
    weights = (small_bundle / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    stored = (exported / "unet" / DATA[".onnx"]).stat().st_size
    files = sorted(path.name for path in (exported / "unet").iterdir())
    assert files == [
        "config.json",
        "decode_hop.onnx",
        "further_hop.onnx",
        "model.onnx",
        DATA[".onnx"],
    ]
    assert stored < weights + 400 * 4096  # each large tensor begins at a page


def test_graphs_do_not_say_where_they_were_made(exported):
    for path in exported.rglob("*.onnx"):
        data = path.read_bytes()
        assert (
            b"stack_trace" not in data
            and b".py" not in data
            and str(Path.cwd()).encode() not in data
        )


def test_icd_json_seals_every_file(exported):
    files = {
        path.relative_to(exported).as_posix() for path in exported.rglob("*") if path.is_file()
    } - {"icd.json"}
    bundle = read_bundle(exported, verify=True)
    assert set(bundle.sha256) == files


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"opset": 9}, "opset must be one of 20, 23"),
        ({"precision": "int4"}, "precision must be one of fp32, fp16"),
        ({"precision": "int8"}, "precision must be one of fp32, fp16, not 'int8'"),
        ({"layout": "flat"}, "layout must be one of optimum, triton"),
    ],
    ids=["opset", "precision", "precision of another layout", "layout"],
)
def test_unknown_options_are_refused(small_bundle, tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        export_bundle(read_bundle(small_bundle), tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(exported, small_bundle, two_pass_bundle, tmp_path):
    with pytest.raises(BundleError, match="exported already"):
        export_bundle(read_bundle(exported), tmp_path / "out")
    with pytest.raises(BundleError, match="guidance-distilled"):
        export_bundle(read_bundle(two_pass_bundle), tmp_path / "out")
    with pytest.raises(BundleError, match="not empty"):
        export_bundle(read_bundle(small_bundle), exported)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, OSError("No space left on device")], ids=["ctrl-c", "disk full"]
)
def test_an_interrupted_export_leaves_nothing(small_bundle, tmp_path, monkeypatch, error):
    done = []

    def interrupted(graph, opset):
        if done:
            raise error
        done.append(graph.name)
        return to_onnx(graph, opset)

    to_onnx = onnx_files.to_onnx
    monkeypatch.setattr(onnx_files, "to_onnx", interrupted)
    with pytest.raises((KeyboardInterrupt, BundleError)):
        export_bundle(read_bundle(small_bundle), tmp_path / "out", verify=False)
    assert done and not list(tmp_path.iterdir())


def test_a_graph_that_is_wrong_is_not_exported(small_bundle, tmp_path, monkeypatch):
    def wrong(graph, opset):
        model = to_onnx(graph, opset)
        weight = next(
            v
            for v in model.graph.initializers.values()
            if v.const_value and v.const_value.size > 100
        )
        import onnx_ir as ir

        weight.const_value = ir.tensor(1.01 * weight.const_value.numpy(), name=weight.name)
        return model

    to_onnx = onnx_files.to_onnx
    monkeypatch.setattr(onnx_files, "to_onnx", wrong)
    with pytest.raises(BundleError, match="text_encoder: onnxruntime differs from torch"):
        export_bundle(read_bundle(small_bundle), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.long
@pytest.mark.parametrize(
    ("opset", "precision"), [(23, "fp32"), (20, "fp16"), (23, "fp16")], ids=str
)
def test_every_opset_and_precision_edits_alike(
    small_bundle, small_engine, tmp_path, opset, precision
):
    """Whole loops too. Half precision: 40 dB of the picture; float32: 1e-4."""
    import numpy as np

    from icd_engine import Engine

    manifest = export_bundle(
        read_bundle(small_bundle), tmp_path / "out", opset=opset, precision=precision, unrolled=True
    )
    engine = Engine.from_pretrained(tmp_path / "out")
    types = {
        node.op_type for node in onnx.load(tmp_path / "out" / "unet" / "decode_hop.onnx").graph.node
    }
    assert ("GroupNormalization" in types) == (opset == 23)
    assert {"encode", "decode"} <= set(manifest["graphs"])
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    edit = {"source": "a red cat", "target": "a blue cat", "blend": ("cat", "cat")}
    ours, theirs = (
        np.asarray(e.edit(picture, **edit).image, dtype=float) for e in (engine, small_engine)
    )
    mse = ((ours - theirs) ** 2).mean() / 255**2
    assert mse <= (1e-8 if precision == "fp32" else 1e-4)


@pytest.mark.long
def test_triton_repository(small_bundle, tmp_path):
    """Every graph is there, and the batched hop of pairs is the hop of rows."""
    out = tmp_path / "out"
    manifest = export_bundle(read_bundle(small_bundle), out, layout="triton", unrolled=True)
    served = [name for name in folder.SERVED if name != "text_encoder_2"]  # SDXL's
    assert set(manifest["graphs"]) == set(served)
    for name in served:
        onnxruntime.InferenceSession(str(out / "models" / name / "1" / "model.onnx"))
        assert (out / "models" / name / "config.pbtxt").read_text().startswith(f'name: "{name}"\n')
    with pytest.raises(BundleError, match="--layout optimum"):
        read_bundle(out)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("part", ["unet", "unet_forward"])
def test_a_time_step_may_be_a_scalar_one_value_or_one_a_row(exported, part):
    """As optimum and diffusers send it, and as this project does."""
    import onnxruntime

    session = onnxruntime.InferenceSession(
        exported / part / "model.onnx", providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    shapes = {
        "sample": (2, 4, 8, 8),
        "encoder_hidden_states": (2, 77, 16),
        "timestep_cond": (2, 64),
    }
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    whole, one, scalar = (
        session.run(None, feeds | {"timestep": np.full(shape, 500)})[0]
        for shape in ((2,), (1,), ())
    )
    assert np.array_equal(whole, one) and np.array_equal(whole, scalar)
    (other,) = session.run(None, feeds | {"timestep": np.array([500, 20])})
    assert np.abs(other[0] - whole[0]).max() < 1e-5
    assert np.abs(other[1] - whole[1]).max() > 1e-3
