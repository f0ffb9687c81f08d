"""OpenAI's own clients, unchanged, against the service."""

from __future__ import annotations

import base64
import io
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("ray.serve")
pytest.importorskip("openai")

import openai

from icd_engine.saving import image_bytes
from tests.icd_engine.serving.conftest import SOURCE, TARGET, png

MORE = {"source_prompt": SOURCE, "seed": 5}
NODE = Path(__file__).with_name("client.mjs")


@pytest.fixture(scope="module")
def client(service):
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="any", max_retries=0) as made:
        yield made


def file_of(data: bytes, name: str = "a.png") -> io.BytesIO:
    file = io.BytesIO(data)
    file.name = name
    return file


def edited(client, **given) -> np.ndarray:
    given = {"image": file_of(png(80, 60)), "extra_body": MORE, **given}
    answer = client.images.edit(model="any", prompt=TARGET, **given)
    return pixels(answer.data[0].b64_json)


def pixels(text: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


@pytest.fixture(scope="module")
def plain(client) -> np.ndarray:
    return edited(client)


@pytest.mark.parametrize(
    "given",
    [
        {"image": [file_of(png(80, 60))]},
        {"background": "auto"},
        {"output_format": "png"},
        {"output_compression": 100},
        {"input_fidelity": "high"},
        {"quality": "high"},
        {"partial_images": 0, "stream": False},
        {"size": "auto", "n": 1, "response_format": "b64_json", "user": "someone"},
    ],
    ids=lambda given: ",".join(given),
)
def test_what_clients_send_is_the_plain_edit(client, plain, given):
    assert np.array_equal(edited(client, **given), plain)


def test_another_format_shows_the_same(client, plain):
    webp = edited(client, output_format="webp", output_compression=80)
    file = image_bytes(Image.fromarray(plain), "picture.webp", quality=80)
    assert np.array_equal(webp, Image.open(io.BytesIO(file)).convert("RGB"))


def test_a_stream_ends_with_the_plain_edit(client, plain):
    given = {"image": file_of(png(80, 60)), "extra_body": MORE, "partial_images": 2}
    events = list(client.images.edit(model="any", prompt=TARGET, stream=True, **given))
    kinds = ["image_edit.partial_image"] * 2 + ["image_edit.completed"]
    assert [event.type for event in events] == kinds
    assert [event.partial_image_index for event in events[:2]] == [0, 1]
    assert np.array_equal(pixels(events[-1].b64_json), plain)
    assert all(pixels(event.b64_json).shape == plain.shape for event in events)
    assert {event.size for event in events} == {"80x60"}


def test_without_a_source_prompt(client, plain, small_engine):
    answer = client.images.edit(model="any", image=file_of(png(80, 60)), prompt=TARGET)
    expected = small_engine.edit(png(80, 60), None, TARGET)
    # The service has one thread, which may round another way
    found = pixels(answer.data[0].b64_json).astype(int)
    assert np.abs(found - np.asarray(expected.image)).max() <= 1
    assert answer.data[0].settings["control"] == "none"
    assert "source_prompt" in answer.warnings[0]


def test_a_cut_prompt_is_told(client):
    long = "a dog " * 100
    answer = client.images.edit(
        model="any", image=file_of(png()), prompt=long, extra_body={"source_prompt": SOURCE}
    )
    assert answer.warnings[0].startswith("the target prompt is longer than 77 tokens")


def test_models(client):
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError, match="no model of that name"):
        client.models.retrieve("gpt-image-1")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"image": [file_of(png()), file_of(png())]}, "2 pictures are given"),
        ({"background": "transparent"}, "'transparent'"),
        ({"output_format": "svg"}, "'svg'"),
        ({"prompt": " "}, "the target prompt is empty"),
        ({"image": file_of(b"text")}, "not a PNG"),
        ({"markup": file_of(png())}, "unknown field 'markup'"),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_what_is_refused_is_the_clients_error(client, given, message):
    given = {"image": file_of(png()), "prompt": TARGET, "extra_body": MORE, **given}
    with pytest.raises(openai.BadRequestError, match=message):
        client.images.edit(model="any", **given)


def test_masks_are_openais(client, plain):
    """What is transparent may change; a picture that is transparent itself needs no mask."""
    hole = np.full((60, 80), 255, np.uint8)
    hole[:, :40] = 0
    rgb = np.asarray(Image.open(io.BytesIO(png(80, 60))))

    def file_with(colours: np.ndarray) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(np.dstack([colours, hole])).save(file, "PNG")
        return file_of(file.getvalue())

    masked = edited(client, mask=file_with(np.zeros_like(rgb)))
    assert np.array_equal(masked[:, 44:], rgb[:, 44:]) and not np.array_equal(masked, rgb)
    assert np.array_equal(edited(client, image=file_with(rgb)), masked)


# --- by JavaScript --------------------------------------------------------------------------------


def node_packages() -> str | None:
    """A folder with `node_modules/openai`, named by ICD_NODE_PACKAGES (`npm install openai` makes it)."""
    folder = os.environ.get("ICD_NODE_PACKAGES", "")
    has = folder and (Path(folder) / "node_modules" / "openai").is_dir()
    return folder if has and shutil.which("node") else None


@pytest.mark.long
@pytest.mark.skipif(node_packages() is None, reason="needs node, and openai: ICD_NODE_PACKAGES=...")
def test_openais_node_client(service, tmp_path, plain):
    """`cd FOLDER && npm install openai`, then ICD_NODE_PACKAGES=FOLDER pytest -m long of this file."""
    program = tmp_path / "client.mjs"
    shutil.copy(NODE, program)
    (tmp_path / "node_modules").symlink_to(Path(node_packages() or "") / "node_modules")
    (tmp_path / "a.png").write_bytes(png(80, 60))
    command = ["node", str(program), f"{service.url}/v1", str(tmp_path / "a.png"), SOURCE, TARGET]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(pixels((tmp_path / "a.png.edited").read_text()), plain)
