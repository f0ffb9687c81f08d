"""Parts of the prompt cover it, and the kernel runs where it can."""

import pytest
import torch

from tests.csrc_triton.edited_attention.rows import make_rows


def test_parts_cover_the_prompt_and_waste_little():
    pytest.importorskip("triton")
    from csrc_triton.edited_attention.kernel import LARGEST_PROMPT
    from csrc_triton.edited_attention.tiles import part, rest

    assert [(part(n), rest(n)) for n in (8, 77, 128, 154)] == [
        (16, 0),
        (64, 16),
        (128, 0),
        (128, 32),
    ]
    for tokens in range(1, LARGEST_PROMPT + 1):
        tiles = [tile for tile in (part(tokens), rest(tokens)) if tile]
        assert tokens <= sum(tiles) < max(2 * tokens, 17)
        assert all(tile >= 16 and tile & (tile - 1) == 0 for tile in tiles)


@pytest.mark.parametrize(
    ("capability", "tokens", "expected"),
    [((7, 5), 77, False), ((8, 0), 77, True), ((9, 0), 257, False)],
)
def test_the_kernel_is_for_matrix_units_and_prompts_that_fit(
    monkeypatch, capability, tokens, expected
):
    pytest.importorskip("triton")
    from csrc_triton.edited_attention.kernel import fits

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    q, k, *_ = make_rows((1, (0,), 1, 2, tokens, 16))
    assert fits(q, k) == expected
