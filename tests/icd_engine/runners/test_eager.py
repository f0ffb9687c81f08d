"""The eager runner row by row: rows do not see each other but for what an edit asks, and constants are per hop."""

from itertools import pairwise

import pytest
import torch

from icd_engine.networks.attention import EditStep
from icd_engine.runners.contract import Blend, DecodeInputs
from icd_engine.sampling.guidance import guidance_embedding
from icd_engine.sampling.schedule import Hop, NoiseSchedule

HOPS = NoiseSchedule.scaled_linear().decode_hops()
TOKENS = 77
ROUNDING = 2e-5  # other batch sizes sum in another order


@pytest.fixture
def runner(small_engine):
    return small_engine.runner


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def prompts(runner, rows: int, seed: int = 0) -> torch.Tensor:
    ids = torch.randint(0, 500, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))
    return runner.encode_prompts(ids)


def neutral_edits(source_row: torch.Tensor, words: bool = False) -> list[EditStep]:
    """Steps that change nothing; with `words`, the maps of the second token are read."""
    targets = len(source_row)
    word = torch.eye(TOKENS)[1].expand(targets, TOKENS) if words else None
    nothing, whole = torch.zeros(targets, TOKENS, TOKENS), torch.ones(targets, TOKENS)
    return [EditStep(source_row, nothing, whole, torch.zeros(targets, dtype=torch.bool), word, word)] * len(HOPS)


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((got - expected).abs().max() <= ROUNDING * expected.abs().max())


def test_one_hop_is_A_x_plus_B_eps(runner):
    x, prompt, hop = draw(2, 4, 8, 8), prompts(runner, 2), Hop(t=519, s=259, A=1.5, B=-0.25)
    embedding = torch.from_numpy(guidance_embedding([0.0, 7.0], 64))
    with torch.no_grad():
        eps = runner.reverse(x, torch.full((2,), 519.0), prompt, embedding).eps
    decoded = runner.decode(DecodeInputs(x, prompt, [[0.0, 7.0]]), [hop], None)
    assert decoded.masks is None
    assert close(decoded.latents, 1.5 * x - 0.25 * eps)


def test_encode_uses_the_forward_network_unguided(runner):
    x, prompt, hop = draw(2, 4, 8, 8), prompts(runner, 2), Hop(t=19, s=259, A=0.8, B=0.5)
    with torch.no_grad():
        eps = runner.forward(x, torch.full((2,), 19.0), prompt, torch.from_numpy(guidance_embedding([0, 0], 64))).eps
    assert close(runner.encode(x, prompt, [hop], None), 0.8 * x + 0.5 * eps)


def test_rows_do_not_see_each_other(runner):
    x, prompt = draw(3, 4, 8, 8), prompts(runner, 3)
    guidance = [[0.0, 3.0, 9.0]] * len(HOPS)
    together = runner.decode(DecodeInputs(x, prompt, guidance), HOPS, None).latents
    for row in range(3):
        alone = DecodeInputs(x[row : row + 1], prompt[row : row + 1], [w[row : row + 1] for w in guidance])
        assert close(together[row : row + 1], runner.decode(alone, HOPS, None).latents)


def test_neutral_edit_is_plain_decoding(runner):
    x, prompt, guidance = draw(4, 4, 8, 8), prompts(runner, 4), [[0.0, 0.0, 5.0, 5.0]] * len(HOPS)
    source_row = torch.tensor([1, 0])
    edited = DecodeInputs(x, prompt, guidance, edits=neutral_edits(source_row))
    plain = runner.decode(DecodeInputs(x, prompt, guidance), HOPS, None)
    assert close(runner.decode(edited, HOPS, None).latents, plain.latents)


def test_a_closed_mask_gives_each_target_its_own_source(runner):
    x, prompt, guidance = draw(4, 4, 8, 8), prompts(runner, 4), [[0.0, 0.0, 5.0, 5.0]] * len(HOPS)
    blend = Blend(torch.tensor([1, 0]), torch.tensor([False, False]), torch.zeros(2, 8, 8))
    inputs = DecodeInputs(x, prompt, guidance, blend=blend)
    decoded = runner.decode(inputs, HOPS, None)
    assert torch.equal(decoded.latents[2:], decoded.latents[[1, 0]])
    assert torch.equal(decoded.masks, torch.zeros(len(HOPS), 2, 8, 8))


def test_word_maps_add_up_over_the_hops(runner):
    """The mask after hop k is made of the maps of hops 0..k, so a run cut short gives the first masks."""
    x, prompt, guidance = draw(2, 4, 8, 8), prompts(runner, 2), [[0.0, 5.0]] * len(HOPS)
    source_row = torch.tensor([0])
    inputs = DecodeInputs(
        x,
        prompt,
        guidance,
        edits=neutral_edits(source_row, words=True),
        blend=Blend(source_row, torch.tensor([True])),
    )
    maps, seen = [], []
    hook = runner.reverse.register_forward_hook(lambda module, args, out: maps.append(out.word_maps))
    try:
        whole = runner.decode(inputs, HOPS, lambda k, t, latents: seen.append(latents.clone()))
    finally:
        hook.remove()
    assert whole.masks.shape == (4, 1, 8, 8)
    for k in range(len(HOPS)):
        opened = torch.zeros(1, 8, 8, dtype=torch.bool)
        for kind in ("source", "target"):
            summed = sum(getattr(m, kind) for m in maps[: k + 1])
            pooled = torch.nn.functional.max_pool2d(summed, 3, stride=1, padding=1)
            opened |= pooled / pooled.max() > 0.3
        assert torch.equal(whole.masks[k], opened.float())
    cut = runner.decode(inputs, HOPS[:2], None)
    assert torch.equal(cut.masks, whole.masks[:2])
    assert torch.equal(cut.latents, seen[1])


def test_inputs_are_not_changed(runner):
    x, prompt = draw(2, 4, 8, 8), prompts(runner, 2)
    kept = x.clone(), prompt.clone()
    source_row = torch.tensor([0])
    edits = neutral_edits(source_row, words=True)
    blend = Blend(source_row, torch.tensor([True]), torch.ones(1, 8, 8))
    inputs = DecodeInputs(x, prompt, [[0.0, 5.0]] * 4, edits=edits, blend=blend)
    first, again = (runner.decode(inputs, HOPS, None) for _ in range(2))
    assert torch.equal(x, kept[0]) and torch.equal(prompt, kept[1])
    assert torch.equal(first.latents, again.latents)


def test_callback_gets_each_boundary(runner):
    seen = []
    x, prompt = draw(1, 4, 8, 8), prompts(runner, 1)
    runner.decode(DecodeInputs(x, prompt, [[0.0]] * 4), HOPS, lambda k, t, latents: seen.append((k, t)))
    assert seen == [(k, s) for k, (_, s) in enumerate(pairwise([999, 779, 519, 259, 0]))]


def test_pictures_and_latents_are_float32(runner):
    pictures = draw(2, 3, 64, 64).clamp(-1, 1)
    latents = runner.to_latents(pictures)
    assert latents.shape == (2, 4, 8, 8)
    assert runner.to_image(latents).shape == (2, 3, 64, 64)
    assert latents.dtype == runner.to_image(latents).dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(latents, runner.vae.to_latents(pictures))
