"""Every kind of source gives its pictures with their captions; what is not there is named."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from icd_engine.errors import ImageError, SettingsError
from training.sources import open_source, square
from training.world.scenes import parse_caption


def picture(shade: int, size=(20, 12)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 0))


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    picture(shade).save(buffer, "PNG")
    return buffer.getvalue()


def read(source) -> list[tuple[str, int]]:
    """Caption and shade of every picture."""
    return [(row.caption, row.read().getpixel((0, 0))[0]) for row in open_source(str(source))]


@pytest.fixture
def folder(tmp_path):
    for shade in (10, 20):
        (tmp_path / f"{shade}.png").write_bytes(png(shade))
    return tmp_path


@pytest.mark.parametrize(
    "names", [("picture", "caption"), ("file_name", "text"), ("image", "prompt")]
)
def test_csv_and_jsonl(folder, names):
    rows = [
        dict(zip(names, (f"{shade}.png", f"shade, {shade}"), strict=True)) for shade in (20, 10)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    (folder / "list.csv").write_text(",".join(names) + '\n20.png,"shade, 20"\n10.png,"shade, 10"\n')
    wanted = [("shade, 20", 20), ("shade, 10", 10)]
    assert read(folder / "metadata.jsonl") == read(folder) == read(folder / "list.csv") == wanted


def test_folder_with_a_text_beside_each_picture(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "30.webp").write_bytes(b"")
    picture(30).save(folder / "deep" / "30.webp", lossless=True)
    for path, text in (("10.txt", "ten\n"), ("20.txt", "twenty"), ("deep/30.txt", "thirty")):
        (folder / path).write_text(text)
    assert [caption for caption, _ in read(folder)] == ["ten", "twenty", "thirty"]


def test_webdataset_shards(tmp_path):
    pytest.importorskip("webdataset")
    for shard in range(2):
        with tarfile.open(tmp_path / f"part-{shard}.tar", "w") as tar:
            for i in range(2):
                shade = 10 * (2 * shard + i + 1)
                caption = (
                    ("txt", f"shade {shade}")
                    if i
                    else ("json", json.dumps({"caption": f"shade {shade}"}))
                )
                for suffix, data in (("png", png(shade)), (caption[0], caption[1].encode())):
                    info = tarfile.TarInfo(f"{shade:04d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    assert read(tmp_path / "part-{0..1}.tar") == [(f"shade {s}", s) for s in (10, 20, 30, 40)]


def test_the_world_is_the_same_every_time_and_not_the_evaluations():
    one, two = (list(open_source("world:5")) for _ in range(2))
    assert [row.caption for row in one] == [row.caption for row in two]
    assert all(np.array_equal(a.read(), b.read()) for a, b in zip(one, two, strict=True))
    assert parse_caption(one[0].caption)
    assert np.asarray(one[0].read()).shape == (128, 128, 3)


def test_a_bad_picture_is_an_error_of_its_own(folder):
    (folder / "list.csv").write_text(
        "picture,caption\n10.png,ok\nbroken.png,broken\nnone.png,none\n"
    )
    (folder / "broken.png").write_bytes(png(1)[:40])
    good, *bad = open_source(str(folder / "list.csv"))
    assert good.read().size == (20, 12)
    for row in bad:
        with pytest.raises(ImageError, match=row.caption):
            row.read()


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("no.csv", None, "no pictures at"),
        ("world:0", None, "how many scenes"),
        ("world:many", None, "how many scenes"),
        ("a.csv", "picture,words\n1.png,x\n", "line 2: needs a picture"),
        (
            "a.jsonl",
            '{"picture": "1.png", "caption": "x"}\n{"picture": 3}\n',
            "line 2: needs a picture",
        ),
        ("a.jsonl", '{"picture"\n', "not readable"),
        ("a.jsonl", "[1]\n", "line 1 is not an object"),
        (".", None, "neither metadata.csv"),
        ("none.tar", None, "not readable"),
    ],
)
def test_what_is_no_source(tmp_path, name, text, message):
    if name.endswith(".tar"):
        pytest.importorskip("webdataset")
    if text is not None:
        (tmp_path / name).write_text(text)
    source = name if name.startswith("world") else str(tmp_path / name)
    with pytest.raises(SettingsError, match=message):
        list(open_source(source))


@pytest.mark.parametrize("size", [(8, 8), (20, 12), (12, 20), (300, 7), (64, 64)])
def test_square_is_the_middle(size):
    """A gradient along the longer side: the middle stays in the middle, nothing is stretched."""
    width, height = size
    ramp = np.linspace(0, 255, max(size))
    grey = np.tile(ramp, (height, 1)) if width >= height else np.tile(ramp[:, None], (1, width))
    cut = square(Image.fromarray(np.repeat(grey.astype(np.uint8)[..., None], 3, axis=-1)), 16)
    assert cut.shape == (16, 16, 3)
    line = cut[8, :, 0] if width >= height else cut[:, 8, 0]
    # The slope is 255 / length a pixel, and a pixel of the cut is min / 16 pixels wide.
    slope = 255 / (max(size) - 1) * min(size) / 16
    assert abs(float(line[7:9].mean()) - 127.5) < 2 + slope
    assert float(np.median(np.diff(line.astype(float)))) == pytest.approx(slope, abs=1)
