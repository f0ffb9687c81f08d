"""The eager runner row by row: rows do not see each other but for what an edit asks, and constants
are per hop."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from icd_engine.editing.plan import EditStep
from icd_engine.errors import ImageError
from icd_engine.runners.buckets import take_prompts
from icd_engine.runners.contract import Blend, DecodeInputs, Prompts
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


def prompts(runner, rows: int, seed: int = 0) -> Prompts:
    ids = torch.randint(0, 500, (rows, TOKENS), generator=torch.Generator().manual_seed(seed))
    return runner.encode_prompts(ids.tolist())


def neutral_edits(source_row: torch.Tensor, words: bool = False) -> list[EditStep]:
    """Steps that change nothing; with `words`, the maps of the second token are read."""
    targets = len(source_row)
    word = torch.eye(TOKENS)[1].expand(targets, TOKENS) if words else None
    nothing, whole = torch.zeros(targets, TOKENS, TOKENS), torch.ones(targets, TOKENS)
    return [
        EditStep(source_row, nothing, whole, torch.zeros(targets, dtype=torch.bool), word, word)
    ] * len(HOPS)


def close(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return bool((got - expected).abs().max() <= ROUNDING * expected.abs().max())


def test_one_hop_is_A_x_plus_B_eps(runner):
    x, prompt, hop = draw(2, 4, 8, 8), prompts(runner, 2), Hop(t=519, s=259, A=1.5, B=-0.25)
    embedding = torch.from_numpy(guidance_embedding([0.0, 7.0], 64))
    with torch.no_grad():
        eps = runner.decode_network(x, torch.full((2,), 519.0), prompt.features, embedding).eps
    decoded = runner.decode(DecodeInputs(x, prompt, [[0.0, 7.0]]), [hop], None)
    assert decoded.masks is None
    assert close(decoded.latents, 1.5 * x - 0.25 * eps)


def test_encode_uses_the_forward_network_unguided(runner):
    x, prompt, hop = draw(2, 4, 8, 8), prompts(runner, 2), Hop(t=19, s=259, A=0.8, B=0.5)
    with torch.no_grad():
        unguided = torch.from_numpy(guidance_embedding([0, 0], 64))
        eps = runner.encode_network(x, torch.full((2,), 19.0), prompt.features, unguided).eps
    (passed,) = runner.encode(x, prompt, [hop], None)
    assert close(passed, 0.8 * x + 0.5 * eps)


def test_rows_do_not_see_each_other(runner):
    x, prompt = draw(3, 4, 8, 8), prompts(runner, 3)
    guidance = [[0.0, 3.0, 9.0]] * len(HOPS)
    together = runner.decode(DecodeInputs(x, prompt, guidance), HOPS, None).latents
    for row in range(3):
        alone = DecodeInputs(
            x[row : row + 1], take_prompts(prompt, [row]), [w[row : row + 1] for w in guidance]
        )
        assert close(together[row : row + 1], runner.decode(alone, HOPS, None).latents)


def test_neutral_edit_is_plain_decoding(runner):
    x, prompt, guidance = draw(4, 4, 8, 8), prompts(runner, 4), [[0.0, 0.0, 5.0, 5.0]] * len(HOPS)
    source_row = torch.tensor([1, 0])
    edited = DecodeInputs(x, prompt, guidance, edits=neutral_edits(source_row))
    plain = runner.decode(DecodeInputs(x, prompt, guidance), HOPS, None)
    assert close(runner.decode(edited, HOPS, None).latents, plain.latents)


def test_a_closed_mask_gives_each_target_its_own_source(runner):
    x, prompt, guidance = draw(4, 4, 8, 8), prompts(runner, 4), [[0.0, 0.0, 5.0, 5.0]] * len(HOPS)
    source_row = torch.tensor([1, 0])
    blend = [Blend(source_row, torch.tensor([False, False]), torch.zeros(2, 8, 8))] * len(HOPS)
    inputs = DecodeInputs(x, prompt, guidance, neutral_edits(source_row), blend)
    decoded = runner.decode(inputs, HOPS, None)
    assert torch.equal(decoded.latents[2:], decoded.latents[[1, 0]])
    assert torch.equal(torch.stack(decoded.masks), torch.zeros(len(HOPS), 2, 8, 8))


def test_word_maps_add_up_over_the_hops(runner, monkeypatch):
    """The mask after hop k is made of the maps of hops 0..k, so a run cut short gives the first
    masks."""
    x, prompt, guidance = draw(2, 4, 8, 8), prompts(runner, 2), [[0.0, 5.0]] * len(HOPS)
    source_row = torch.tensor([0])
    inputs = DecodeInputs(
        x,
        prompt,
        guidance,
        edits=neutral_edits(source_row, words=True),
        blend=[Blend(source_row, torch.tensor([True]))] * len(HOPS),
    )
    maps, seen = [], []

    def watched(*arguments):
        out = runner.decode_network.predict(*arguments)
        maps.append(out.word_maps)
        return out

    monkeypatch.setattr(runner, "stages", runner.stages._replace(decode_pass=watched))
    whole = runner.decode(inputs, HOPS, lambda k, t, latents: seen.append(latents.clone()))
    assert [mask.shape for mask in whole.masks] == [(1, 8, 8)] * 4
    for k in range(len(HOPS)):
        opened = torch.zeros(1, 8, 8, dtype=torch.bool)
        for kind in (0, 1):  # source words, target words
            summed = sum(m[kind] for m in maps[: k + 1])
            pooled = torch.nn.functional.max_pool2d(summed, 3, stride=1, padding=1)
            opened |= pooled / pooled.max() > 0.3
        assert torch.equal(whole.masks[k], opened.float())
    cut = runner.decode(replace(inputs, guidance=guidance[:2]), HOPS[:2], None)
    assert torch.equal(torch.stack(cut.masks), torch.stack(whole.masks[:2]))
    assert torch.equal(cut.latents, seen[1])


def test_inputs_are_not_changed(runner):
    x, prompt = draw(2, 4, 8, 8), prompts(runner, 2)
    kept = x.clone(), prompt.features.clone()
    source_row = torch.tensor([0])
    edits = neutral_edits(source_row, words=True)
    blend = [Blend(source_row, torch.tensor([True]), torch.ones(1, 8, 8))] * 4
    inputs = DecodeInputs(x, prompt, [[0.0, 5.0]] * 4, edits=edits, blend=blend)
    first, again = (runner.decode(inputs, HOPS, None) for _ in range(2))
    assert torch.equal(x, kept[0]) and torch.equal(prompt.features, kept[1])
    assert torch.equal(first.latents, again.latents)


def test_callback_gets_each_boundary(runner):
    seen = []
    x, prompt = draw(1, 4, 8, 8), prompts(runner, 1)
    runner.decode(
        DecodeInputs(x, prompt, [[0.0]] * 4), HOPS, lambda k, t, latents: seen.append((k, t))
    )
    assert seen == [(k, s) for k, (_, s) in enumerate(pairwise([999, 779, 519, 259, 0]))]


def edit_inputs(runner, targets: int, words: bool = True, share: bool = True) -> DecodeInputs:
    """One source and its targets under an edit that does something everywhere."""
    torch.manual_seed(1)
    prompt, x = prompts(runner, 1 + targets), draw(1, 4, 8, 8).expand(1 + targets, -1, -1, -1)
    source_row = torch.zeros(targets, dtype=torch.int64)
    step = neutral_edits(source_row, words)[0]
    mix = torch.softmax(draw(targets, TOKENS, TOKENS, seed=2), dim=1)
    step = step._replace(
        source_mix=mix,
        target_gain=draw(targets, TOKENS, seed=3).sigmoid(),
        share_self=~step.share_self,
    )
    edits = [step if share else step._replace(share_self=~step.share_self)] * len(HOPS)
    blend = [Blend(source_row, torch.ones(targets, dtype=torch.bool))] * 4 if words else None
    return DecodeInputs(x, prompt, [[0.0] + [5.0] * targets] * len(HOPS), edits, blend)


@pytest.mark.parametrize("share", [True, False], ids=["shared-self", "own-self"])
@pytest.mark.parametrize("words", [True, False], ids=["blend", "plain"])
def test_target_rows_alone_answer_as_with_their_source(runner, words, share):
    """What the source rows leave in a first pass stands for them in a second."""
    inputs = edit_inputs(runner, 2, words, share)
    first = runner.decode(replace(inputs, keep=True), HOPS, None)
    assert first.source is not None
    again = replace(
        inputs,
        latents=inputs.latents[1:],
        guidance=[w[1:] for w in inputs.guidance],
        source=first.source,
    )

    alone = runner.decode(again, HOPS, None)

    assert close(first.source.latents[-1], first.latents[:1])
    assert close(alone.latents, first.latents[1:])
    assert (first.masks is None) == (alone.masks is None) == (not words)
    for ours, theirs in zip(alone.masks or [], first.masks or [], strict=True):
        assert torch.equal(ours, theirs)


def test_what_is_kept_for_a_prompt_does_not_depend_on_its_batch(runner):
    ids = torch.randint(0, 500, (3, TOKENS)).tolist()
    together = runner.encode_prompts(ids).features
    runner._features.clear()
    assert torch.equal(runner.encode_prompts(ids[2:]).features, together[2:])


def test_prompts_are_encoded_as_many_at_once_as_ever(runner, monkeypatch):
    """Two a pass here: of three, the last is by itself and twice. What is kept is not made again."""
    ids = torch.randint(0, 500, (3, TOKENS)).tolist()
    alone = runner.encode_prompts(ids).features
    runner._features.clear()
    monkeypatch.setattr(runner, "prompts_a_pass", 2)
    seen = []

    def stage(given: torch.Tensor) -> object:
        seen.append(given.tolist())
        return whole(given)

    whole = runner.stages.prompt_features
    monkeypatch.setattr(runner, "stages", runner.stages._replace(prompt_features=stage))
    assert close(runner.encode_prompts(ids).features, alone)
    assert seen == [ids[:2], [ids[2], ids[2]]]
    assert close(runner.encode_prompts(ids[::-1]).features, alone.flip(0))
    assert len(seen) == 2


def test_tables_are_computed_once(runner):
    """A second decoding with the same prompts and guidance looks everything up."""
    inputs = edit_inputs(runner, 1)
    runner.decode(inputs, HOPS, None)
    tables = (runner._features, runner._values, runner._shifts)
    before = [table.made for table in tables]
    assert min(before) > 0
    runner.decode(inputs, HOPS, None)
    assert [table.made for table in tables] == before


def test_pictures_and_latents(runner):
    pixels = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    latents = runner.to_latents(pixels)
    assert latents.shape == (2, 4, 8, 8)
    pictures, seen = runner.to_image(latents), runner.to_pixels(latents)
    assert (
        pictures.shape == (2, 3, 64, 64)
        and seen.shape == (2, 64, 64, 3)
        and seen.dtype == torch.uint8
    )
    assert latents.dtype == pictures.dtype == torch.float32
    rounded = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    assert torch.equal(seen, rounded.permute(0, 2, 3, 1))
    with torch.no_grad():
        network_range = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        assert torch.equal(latents, runner.vae.to_latents(network_range.contiguous()))


def test_pictures_that_are_not_finite_are_refused(runner):
    with pytest.raises(ImageError, match="NaN"):
        runner.to_pixels(torch.full((1, 4, 8, 8), torch.nan))
