"""What is kept of graphs between processes: under a name that says what it was made of, and no more
than a cache may hold."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace

import pytest

from icd_engine.bundles import kept_graphs
from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.kept_graphs import compiled_folder, converted_folder, is_converted

pytest.importorskip("openvino")


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_conversion_belongs_to_weights_code_and_version(home, small_bundle, monkeypatch):
    bundle = read_bundle(small_bundle)
    folder = converted_folder(bundle, "fp32")
    assert folder.parent == home / "converted" and folder.name.startswith(f"{small_bundle.name}-")
    assert folder == converted_folder(read_bundle(small_bundle), "fp32")
    assert not is_converted(bundle, "fp32", "bf16")
    name = next(iter(bundle.sha256))
    others = [
        replace(bundle, sha256=bundle.sha256 | {"unet/more": "0" * 64}),
        replace(bundle, blend_downscale=2),
    ]
    found = {folder, converted_folder(bundle, "bf16")}
    found |= {converted_folder(other, "fp32") for other in others}
    for attribute, value in (("__version__", "0"), ("FORMAT", 0), ("_code", lambda: "other")):
        with monkeypatch.context() as patch:
            patch.setattr(kept_graphs, attribute, value)
            found.add(converted_folder(bundle, "fp32"))
    assert len(found) == 7 and name in bundle.sha256


def test_a_model_without_digests_is_known_by_its_files(home, small_bundle, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(small_bundle, copy)
    bundle = replace(read_bundle(copy), sha256={})
    folder = converted_folder(bundle, "fp32")
    assert converted_folder(replace(bundle), "fp32") == folder
    os.utime(copy / "unet" / "config.json", (1, 1))
    assert converted_folder(replace(bundle), "fp32") != folder


def test_code_that_makes_graphs_is_part_of_the_name(monkeypatch, tmp_path):
    before = kept_graphs._code()
    assert before == kept_graphs._code()
    monkeypatch.setattr(kept_graphs, "ROOT", tmp_path)
    for maker in kept_graphs.MAKERS:
        (tmp_path / maker).mkdir(parents=True)
    (tmp_path / "export" / "one.py").write_text("a = 1\n")
    one = kept_graphs._code()
    (tmp_path / "export" / "one.py").write_text("a = 2\n")
    assert len({before, one, kept_graphs._code()}) == 3


def test_compiled_graphs_are_cut_to_their_most_oldest_first(home, small_bundle, monkeypatch):
    bundle = read_bundle(small_bundle)
    folder = compiled_folder(bundle, {})
    assert folder is not None and folder.parent == home / "compiled"
    for i in range(4):
        path = folder / f"{i}.blob"
        path.write_bytes(bytes(100))
        os.utime(path, (1000 - i, 1000 - i))
    assert compiled_folder(bundle, {}) == folder and len(list(folder.glob("*.blob"))) == 4
    monkeypatch.setattr(kept_graphs, "MOST_COMPILED", 250)
    compiled_folder(bundle, {})
    assert {path.name for path in folder.glob("*.blob")} == {"0.blob", "1.blob"}


def test_compiled_graphs_belong_to_a_model_its_options_and_a_processor(
    home, small_bundle, monkeypatch
):
    bundle = read_bundle(small_bundle)
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    found = {
        compiled_folder(bundle, options),
        compiled_folder(bundle, {"INFERENCE_PRECISION_HINT": "bf16"}),
        compiled_folder(replace(bundle, sha256=bundle.sha256 | {"unet/more": "0" * 64}), options),
    }
    monkeypatch.setattr(kept_graphs, "processor", lambda: "another")
    found.add(compiled_folder(bundle, options))
    assert len(found) == 4 and None not in found


def test_where_nothing_can_be_written_or_told_apart_nothing_is_kept(
    small_bundle, tmp_path, monkeypatch
):
    bundle = read_bundle(small_bundle)
    (tmp_path / "file").touch()
    monkeypatch.setenv("ICD_HOME", str(tmp_path / "file" / "home"))
    assert compiled_folder(bundle, {}) is None
    monkeypatch.setenv("ICD_HOME", str(tmp_path))
    assert compiled_folder(replace(bundle, sha256={}), {}) is None
