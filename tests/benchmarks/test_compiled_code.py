"""Compiled code in files: cut where one would be too large, and handed back as it was."""

import pytest
import torch

from benchmarks import compiled_code


@pytest.fixture
def caches(monkeypatch):
    """torch's caches: what they hold, and what they were given."""
    monkeypatch.setattr(compiled_code, "PART", 4)
    held: list[bytes] = [b""]
    given: list[bytes] = []
    monkeypatch.setattr(torch.compiler, "save_cache_artifacts", lambda: (held[0], None))
    monkeypatch.setattr(torch.compiler, "load_cache_artifacts", given.append)
    return held, given


def test_code_comes_back_whole_and_by_name(caches, tmp_path):
    held, given = caches
    for name, code in {"edit": b"0123456789", "profile": b"abc"}.items():
        held[0] = code
        paths = compiled_code.save(tmp_path, name)
        assert all(path.stat().st_size <= 4 for path in paths)
    assert len(list(tmp_path.iterdir())) == 4
    compiled_code.load(tmp_path)
    assert sorted(given) == [b"0123456789", b"abc"]


def test_what_was_kept_before_is_replaced(caches, tmp_path):
    held, given = caches
    for held[0] in (b"0123456789", b"xyz"):
        compiled_code.save(tmp_path, "edit")
    compiled_code.load(tmp_path)
    assert given == [b"xyz"]


def test_nothing_compiled_is_nothing_kept(caches, tmp_path):
    _, given = caches
    assert compiled_code.save(tmp_path / "kept", "edit") == []
    compiled_code.load(tmp_path / "kept")
    assert not (tmp_path / "kept").exists() and not given
