"""Model folders with something wrong in one of their files: configurations, records, tokenizers and
weights."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from icd_engine.bundles.bundle import read_bundle
from icd_engine.bundles.files import read_shapes, read_weights
from icd_engine.editing.words import PromptTokenizer
from icd_engine.engine import Engine
from icd_engine.errors import BundleError

pytestmark = pytest.mark.usefixtures("unharmed")
PARTS = ("scheduler", "tokenizer", "text_encoder", "vae", "unet", "unet_forward")
some = settings(max_examples=max(15, settings.default.max_examples // 3))
few = settings(max_examples=max(8, settings.default.max_examples // 8))

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 3000),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        [
            10**9,
            2**63,
            1e30,
            "silu",
            "gelu",
            "CrossAttnDownBlock2D",
            "epsilon",
            "../x",
            [64, 128],
            [[1]],
        ]
    ),
)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=9) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def unseal(folder: Path) -> Path:
    """The folder without its SHA-256 list, so that what is wrong is met and not the digest."""
    path = folder / "icd.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": {}}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A copy of the embedded model; each test puts back what it changes."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(read_bundle("tiny").path, path)
    return unseal(path)


def load_changed(tried, kind: str, file: Path, content: bytes) -> None:
    """Loads and uses the model with another content of one of its files."""
    before = file.read_bytes()
    folder = next(parent for parent in file.parents if (parent / "model_index.json").exists())

    def use() -> Any:
        return Engine.from_pretrained(folder).generate("a red circle", size=(16, 16), seed=1)

    try:
        file.write_bytes(content)
        tried(kind, use)
    finally:
        file.write_bytes(before)


@st.composite
def places(draw: st.DrawFn, value: Any) -> tuple:
    """A path into nested JSON."""
    path = []
    while isinstance(value, dict | list) and value and (not path or draw(st.booleans())):
        keys = sorted(value) if isinstance(value, dict) else range(len(value))
        path.append(draw(st.sampled_from(list(keys))))
        value = value[path[-1]]
    return tuple(path)


def changed(draw: Any, values: Any, new: st.SearchStrategy) -> Any:
    """A deep copy with one to three places replaced, removed or added."""
    values = json.loads(json.dumps(values))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(places(values))
        if not path:
            return draw(new)
        inner = values
        for key in path[:-1]:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "remove":
            del inner[path[-1]]
        elif kind == "add" and isinstance(inner, dict):
            inner[draw(st.text(max_size=5))] = draw(new)
        else:
            inner[path[-1]] = draw(new)
    return values


@some
@given(st.data())
def test_configurations(tried, folder, data):
    part = data.draw(st.sampled_from(PARTS))
    file = next((folder / part).glob("*config.json"))
    content = changed(data.draw, json.loads(file.read_text()), JSON)
    load_changed(tried, "models with a changed configuration", file, json.dumps(content).encode())


@some
@given(st.data())
def test_records(tried, folder, data):
    file = folder / data.draw(st.sampled_from(["icd.json", "model_index.json"]))
    content = changed(data.draw, json.loads(file.read_text()), JSON)
    load_changed(
        tried,
        "models with a changed icd.json or model_index.json",
        file,
        json.dumps(content).encode(),
    )


@some
@given(
    st.sampled_from(["icd.json", "vae/config.json", "tokenizer/tokenizer.json"]),
    st.binary(max_size=40),
)
def test_random_bytes_for_json(tried, folder, name, content):
    load_changed(tried, "models with random bytes in place of JSON", folder / name, content)


@given(st.data())
def test_tokenizers(tried, folder, tmp_path_factory, data):
    content = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())
    path = tmp_path_factory.getbasetemp() / "tokenizer.json"
    path.write_text(json.dumps(changed(data.draw, content, JSON)))

    def use() -> None:
        tokenizer = PromptTokenizer.from_file(path)
        for prompt in ("", "a small red circle", "never heard of it", "🐶 שלום", "<|endoftext|>"):
            tokenizer.encode(prompt)

    tried("changed tokenizers", use)


def weights_file(header: Any, body: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HEADERS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(
            ["F32", "F16", "BF16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X", 5]
        ),
        "shape": st.lists(st.integers(-2, 2**40) | st.integers(0, 4), max_size=4) | st.none(),
        "data_offsets": st.lists(st.integers(-4, 80), max_size=3) | st.none(),
    }
)


@given(
    st.dictionaries(st.text(max_size=6), HEADERS | LEAVES, max_size=3) | st.binary(max_size=60),
    st.binary(max_size=70),
)
def test_headers_of_weights(tried, tmp_path_factory, header, body):
    path = tmp_path_factory.getbasetemp() / "made.safetensors"
    path.write_bytes(weights_file(header, body))
    tried("safetensors files with a made up header", lambda: read_weights(path))
    tried("the same, shapes alone", lambda: read_shapes(path))


@given(st.data())
def test_damaged_weights(tried, folder, tmp_path_factory, data):
    content = bytearray((folder / "text_encoder" / "model.safetensors").read_bytes())
    length = struct.unpack("<Q", content[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 8 + length) | st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(
        bytes(content[: data.draw(st.just(len(content)) | st.integers(0, len(content)))])
    )
    for values in (tried("damaged safetensors files", lambda: read_weights(path)) or {}).values():
        assert values.isfinite().all()


@few
@given(st.data())
def test_models_with_damaged_weights(tried, folder, data):
    """Bits flipped and ends cut off; without its list of digests a model shows a change only where
    it cannot be."""
    name = data.draw(
        st.sampled_from(
            ["unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"]
        )
    )
    file = folder / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 3000) | st.integers(0, len(content) - 1))] ^= (
            1 << data.draw(st.integers(0, 7))
        )
    end = data.draw(st.just(len(content)) | st.integers(0, len(content)))
    load_changed(tried, "models with damaged weights", file, bytes(content[:end]))


class Writes:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.write_text, (self.path, "ran")


@pytest.mark.parametrize(
    "place", ["in place of the weights", "under the weights' name", "beside them"]
)
@pytest.mark.parametrize("part", ["unet", "unet_forward", "vae", "text_encoder"])
def test_a_pickle_is_never_run(folder, tmp_path, part, place):
    copied = shutil.copytree(folder, tmp_path / "model")
    trace = tmp_path / "trace"
    weights = next((copied / part).glob("*.safetensors"))
    data = pickle.dumps({"conv_in.weight": Writes(trace), "values": np.zeros(3)})
    if place == "in place of the weights":
        weights.with_suffix(".bin").write_bytes(data)
        weights.unlink()
    elif place == "under the weights' name":
        weights.write_bytes(data)
    else:
        (copied / part / "pytorch_model.bin").write_bytes(data)
    if place == "beside them":
        Engine.from_pretrained(copied)
    else:
        with pytest.raises(BundleError, match=part):
            Engine.from_pretrained(copied)
    assert not trace.exists()
    pickle.loads(data)
    assert trace.read_text() == "ran"  # so the pickle would have shown
