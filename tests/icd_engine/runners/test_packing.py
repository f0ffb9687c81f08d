"""Tensors packed and read again: values, memory order and structure, whatever lay there before."""

from __future__ import annotations

import torch

from icd_engine.runners.nested import leaves
from icd_engine.runners.packing import ALIGNED, Later, Packing


def nesting(seed: int) -> dict:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "dense": [draw(3, 5), draw(2, 4, 6, 5).transpose(1, 2), (draw(1), None)],
        "holes": draw(4, 9)[:, 2:5],
        "half": draw(7).half(),
        "map": draw(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "flag": torch.tensor(bool(seed % 2)),
        "step": 3,
    }


def test_what_is_packed_is_read_again():
    packing = Packing(nesting(0))
    assert len(packing.flats) == 3  # float32, float16, bool
    for seed in (1, 2):
        value = nesting(seed)
        packing.write(value)
        read = packing.read([flat.clone() for flat in packing.flats])
        assert list(read) == list(value)
        for ours, theirs in zip(leaves(read), leaves(value), strict=True):
            if not isinstance(theirs, torch.Tensor):
                assert ours is theirs or ours == theirs
                continue
            assert torch.equal(ours, theirs)
            assert ours.dtype == theirs.dtype
            assert ours.storage_offset() * ours.element_size() % ALIGNED == 0
    assert read["dense"][1].stride() == nesting(0)["dense"][1].stride()
    assert read["map"].is_contiguous(memory_format=torch.channels_last)
    assert read["holes"].is_contiguous()


def test_other_strides_than_the_first_are_taken():
    packing = Packing([torch.zeros(2, 3)])
    value = torch.arange(6.0).view(3, 2).t()
    packing.write([value])
    assert torch.equal(packing.read(packing.flats)[0], value)


def test_a_copy_outlives_the_next_write():
    packing = Packing([torch.zeros(4)])
    packing.write([torch.ones(4)])
    (first,) = packing.read([flat.clone() for flat in packing.flats])
    packing.write([torch.zeros(4)])
    assert first.tolist() == [1.0] * 4


def test_lists_are_read_when_they_are_looked_at():
    value = (torch.ones(2), [torch.zeros(3), [torch.ones(4)]])
    packing = Packing(value)
    packing.write(value)
    first, later = packing.read(packing.flats, later=True)
    assert isinstance(later, Later)
    for ours, theirs in zip(leaves((first, later)), leaves(value), strict=True):
        assert torch.equal(ours, theirs)


def test_lists_are_made_when_they_are_looked_at_and_once():
    made = []

    def make() -> list[torch.Tensor]:
        made.append(torch.zeros(2))
        return made

    later = Later(make)
    assert not made
    assert len(later) == 1 and later[-1] is made[0] and list(later) == made
    assert len(made) == 1
