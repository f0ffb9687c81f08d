"""The cache of latents: the VAE's posterior of every readable picture, however often it was
interrupted."""

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("diffusers")


from icd_engine.bundles.files import read_weights
from icd_engine.errors import SettingsError
from training.base import Base
from training.latents import Held, Latents, write_latents

SIDE = 64


@pytest.fixture
def folder(tmp_path):
    """Ten captioned pictures, two of them broken."""
    rng = np.random.default_rng(0)
    lines = ["picture,caption"]
    for i in range(10):
        Image.fromarray(rng.integers(0, 256, (SIDE, 80, 3), dtype=np.uint8)).save(
            tmp_path / f"{i}.png"
        )
        lines.append(f"{i}.png,number {i}")
    for i in (1, 7):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    return tmp_path


@pytest.fixture(scope="module")
def encoder(base):
    return Base(base)


@pytest.fixture
def cache(tmp_path, folder, encoder, monkeypatch):
    monkeypatch.setattr("training.latents.SHARD", 4)
    write_latents(tmp_path / "cache", encoder, str(folder), SIDE, held_out=2, batch=3)
    return tmp_path / "cache"


def test_good_pictures_are_kept_and_bad_ones_counted(cache):
    """0 and 2 are held out; 1 and 7 are broken."""
    held, latents = Held(cache), Latents(cache)
    assert held.captions == ["number 0", "number 2"] and held.pixels.shape == (2, SIDE, SIDE, 3)
    assert len(latents) == 6
    assert sorted(name.partition(":")[0] for name in latents.skipped) == ["1.png", "7.png"]
    _, captions = latents.draw(np.random.default_rng(0), 200)
    assert set(captions) == {f"number {i}" for i in (3, 4, 5, 6, 8, 9)}


def test_what_is_drawn_is_the_posterior(cache, folder, encoder):
    """Mean and spread over many draws of one picture; half precision keeps eleven bits."""
    picture = np.asarray(Image.open(folder / "5.png").convert("RGB"))[:, 8:72]
    tensor = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    mean, deviation = encoder.moments(tensor)
    rows, captions = Latents(cache).draw(np.random.default_rng(0), 1200)
    own = rows[[caption == "number 5" for caption in captions]]
    assert len(own) > 100
    standard = (own - mean) / deviation
    assert abs(float(standard.mean())) < 0.02 and float(standard.std()) == pytest.approx(
        1, abs=0.02
    )


def test_an_interrupted_cache_is_completed_and_not_made_again(cache, folder, encoder, monkeypatch):
    monkeypatch.setattr("training.latents.SHARD", 4)
    shards = sorted(cache.glob("latents-*"))
    before = read_weights(shards[1])
    shards[1].unlink()
    times = {path: path.stat().st_mtime_ns for path in cache.iterdir()}
    write_latents(cache, encoder, str(folder), SIDE, held_out=2, batch=3)
    after = read_weights(shards[1])
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize(
    "side, held_out, message", [(60, 2, "multiple of 8"), (SIDE, 8, "beyond the 8 held out")]
)
def test_what_cannot_be_cached(tmp_path, folder, encoder, side, held_out, message):
    with pytest.raises(SettingsError, match=message):
        write_latents(tmp_path / "cache", encoder, str(folder), side, held_out)


def test_no_cache(tmp_path):
    with pytest.raises(SettingsError, match="training latents"):
        Held(tmp_path)
