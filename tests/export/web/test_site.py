"""A site's files, its manifest, its runtime, and what becomes of weights in half precision."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import threading
import urllib.request

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export import web_runtime, web_site
from export.half_storage import WeightParts, exact_half, store_in_half
from export.web_manifest import casefolds, tokenizer_tables
from export.web_runtime import FILES, has_runtime, unpack
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.files import file_digest
from icd_engine.cli import main
from icd_engine.cli.web import ISOLATION, check_site, open_server
from icd_engine.errors import BundleError, RunnerError
from icd_engine.runners.onnx_options import session_options


@pytest.fixture(scope="module")
def manifest(small_site) -> dict:
    return json.loads((small_site / "icd.json").read_text())


def files(manifest: dict) -> list[dict]:
    graphs = manifest["graphs"].values()
    weights = [data for graph in graphs for data in graph["data"]]
    return [manifest["tokenizer"], *graphs, *weights, *manifest["runtime"]["files"]]


def test_the_manifest_tells_of_every_file(small_site, manifest):
    for entry in files(manifest):
        path = small_site / entry["file"]
        assert (path.stat().st_size, file_digest(path)) == (entry["bytes"], entry["sha256"])
    assert set(manifest["graphs"]) == set(web_site.GRAPHS)
    assert all(0 <= graph["error"] <= 1e-4 for graph in manifest["graphs"].values())
    assert {"index.html", "icd.js", "worker.js", "engine.js"} <= {
        path.name for path in small_site.iterdir()
    }


def test_numbers_are_the_models(small_bundle, manifest, small_engine):
    model = small_engine.model
    for name in ("encode_hops", "decode_hops"):
        found = [(hop["t"], hop["s"], hop["A"], hop["B"]) for hop in manifest[name]]
        assert found == [(hop.t, hop.s, hop.A, hop.B) for hop in getattr(model, name)]
    assert manifest["anchors"] is model.anchors and manifest["steps"] == model.steps
    assert manifest["defaults"]["guidance_scale"] == model.default_settings.guidance_scale
    assert manifest["fingerprint"] == read_bundle(small_bundle).fingerprint


def test_graphs_load_with_their_weights(small_site, manifest):
    for entry in manifest["graphs"].values():
        model = onnx.load(small_site / entry["file"])
        onnx.checker.check_model(model)
        assert [(one.domain, one.version) for one in model.opset_import] == [("", 20)]


# --- weights ----------------------------------------------------------------------------------------


def graph_of(weight: np.ndarray) -> ir.Model:
    """x + weight."""
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(weight.shape))
    own = ir.Value(
        name="w",
        type=ir.TensorType(ir.DataType.FLOAT),
        shape=ir.Shape(weight.shape),
        const_value=ir.tensor(weight, name="w"),
    )
    node = ir.node("Add", [x, own])
    node.outputs[0].name = "y"
    node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape(weight.shape)
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=[own], opset_imports={"": 20}, name="g"
    )
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("exact", [True, False])
def test_weights_are_stored_in_half_where_that_is_exact(tmp_path, exact):
    import onnxruntime

    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    if exact:
        weight = weight.astype(np.float16).astype(np.float32)
    model = graph_of(weight)
    assert store_in_half(model) == ((1, 0) if exact else (0, 1))
    from export.onnx_files import save

    save(model, tmp_path / "g.onnx", WeightParts(tmp_path / "g.bin", 2**30))
    assert (tmp_path / "g.bin").stat().st_size == weight.nbytes // (2 if exact else 1)
    session = onnxruntime.InferenceSession(str(tmp_path / "g.onnx"), session_options())
    (y,) = session.run(None, {"x": np.zeros_like(weight)})
    assert np.array_equal(y, weight)


@pytest.mark.parametrize("value", [1e6, 1 + 2**-20, np.inf, np.nan, 1e-9])
def test_what_half_precision_does_not_hold_is_no_half(value):
    assert exact_half(np.array([1, value], dtype=np.float32)) is None
    assert np.array_equal(exact_half(np.array([1, -0.5, 65504], np.float32)), [1, -0.5, 65504])


def test_weights_are_parted(tmp_path):
    parts = WeightParts(tmp_path / "w.bin", 1000)
    values = [np.full(100, i, dtype=np.float32) for i in range(6)]
    placed = [(*parts.place(one.tobytes()), parts.path) for one in values]
    assert [path.name for path in parts.paths] == ["w.bin", "w.bin_1", "w.bin_2"]
    assert all(path.stat().st_size <= 1000 for path in parts.paths)
    for (offset, length, path), wanted in zip(placed, values, strict=True):
        assert path.read_bytes()[offset : offset + length] == wanted.tobytes()


# --- tables -----------------------------------------------------------------------------------------


def test_an_unknown_tokenizer_is_refused(small_bundle, tmp_path):
    file = json.loads((small_bundle / "tokenizer" / "tokenizer.json").read_text())
    config = (small_bundle / "tokenizer" / "tokenizer_config.json").read_text()
    (tmp_path / "tokenizer_config.json").write_text(config)
    file["normalizer"]["normalizers"].pop()
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    with pytest.raises(BundleError, match="do not know this kind of tokenizer"):
        tokenizer_tables(tmp_path)


def test_casefolds_are_those_that_lower_case_misses():
    found = casefolds()
    assert found["ß"] == "ss" and "A" not in found and len(found) < 500


# --- the runtime ------------------------------------------------------------------------------------


def package(names: tuple[str, ...] = FILES) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for name in names:
            data = f"content of {name}".encode()
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def test_the_runtime_is_held_to_its_hash(tmp_path):
    data = package()
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()
    unpack(data, tmp_path / "ort", integrity)
    assert has_runtime(tmp_path / "ort") and len(list((tmp_path / "ort").iterdir())) == len(FILES)
    assert (tmp_path / "ort" / FILES[0]).read_bytes() == f"content of {FILES[0]}".encode()
    with pytest.raises(BundleError, match="is not the package that was pinned"):
        unpack(data + b"\0", tmp_path / "other", integrity)
    assert not (tmp_path / "other").exists()


def test_a_runtime_that_is_there_is_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setenv(web_runtime.FOLDER, str(tmp_path))
    monkeypatch.setattr(web_runtime, "ADDRESS", "https://127.0.0.1:1/nothing.tgz")
    with pytest.raises(BundleError, match=r"cannot fetch .*--no-runtime"):
        web_runtime.runtime()
    for name in FILES:
        (tmp_path / name).touch()
    assert web_runtime.runtime() == tmp_path


# --- icd web ----------------------------------------------------------------------------------------


def test_sites_are_handed_out_with_isolation_and_types(tmp_path):
    for name in ("a.js", "a.mjs", "a.wasm", "a.onnx"):
        (tmp_path / name).write_bytes(b"1")
    wanted = ("text/javascript", "text/javascript", "application/wasm", "application/octet-stream")
    for isolated in (True, False):
        with open_server(tmp_path, 0, isolated) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for name, kind in zip(("a.js", "a.mjs", "a.wasm", "a.onnx"), wanted, strict=True):
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{server.server_port}/{name}"
                ) as answer:
                    assert answer.headers["Content-Type"] == kind
                    found = {one: answer.headers[one] for one in ISOLATION}
                    assert found == (ISOLATION if isolated else dict.fromkeys(ISOLATION))
            with pytest.raises(RunnerError, match=r"cannot listen on 127\.0\.0\.1"):
                open_server(tmp_path, server.server_port)
            server.shutdown()


def test_a_folder_that_is_no_site_is_refused(tmp_path, capsys, small_site):
    assert main(["web", str(tmp_path / "none")]) == 1
    assert "is no site: write one with icd export" in capsys.readouterr().err
    (tmp_path / "icd.json").write_text('{"format": 1}')
    with pytest.raises(BundleError, match="is no site"):
        check_site(tmp_path)
    manifest = json.loads((small_site / "icd.json").read_text())
    manifest["runtime"]["files"] = []
    (tmp_path / "icd.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="ort is missing: export it with --runtime"):
        check_site(tmp_path)


def test_options_of_other_layouts_are_refused(tmp_path, capfd):
    command = ["export", "tiny", "--out", str(tmp_path / "site"), "--layout", "web"]
    assert main([*command, "--precision", "fp16"]) == 1
    assert "--precision is not for the layout web" in capfd.readouterr().err
    assert not (tmp_path / "site").exists()
