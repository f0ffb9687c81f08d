"""A folder to run `icd` in, and a model that is loaded already."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from icd_engine.engine import Engine


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """An empty current folder but for cat.png, 80x60."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("cat.png")
    return tmp_path


@pytest.fixture
def loaded(monkeypatch, small_engine) -> Engine:
    """Every command gets the engine already loaded."""
    monkeypatch.setattr(Engine, "load", lambda model, placement: small_engine)
    return small_engine
