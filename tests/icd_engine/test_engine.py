"""The path of an edit against plain loops over the networks: every number here has a second way to
get it."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import icd_engine
from icd_engine.engine import Engine
from icd_engine.errors import (
    BundleError,
    IcdError,
    ImageError,
    PromptError,
    RunnerError,
    SettingsError,
)
from icd_engine.images import to_model_range
from icd_engine.passes import MOST_BRANCHES, fitting
from icd_engine.results import EditRequest
from icd_engine.sampling.guidance import dynamic_guidance, guidance_embedding
from icd_engine.sampling.schedule import NoiseSchedule
from icd_engine.settings import EditSettings

SOURCE, TARGET, OTHER = (
    "a cat sits on the mat",
    "a dog sits on the mat",
    "a red bird sits on the mat",
)
ENCODE, DECODE = (19, 259, 519, 779, 999), (999, 779, 519, 259, 0)
# Another batch size sums in another order: about a hundred layers of 6e-8 each, magnified a little
# by every hop.
ROUNDING = 2e-5


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    )


def assert_close(got: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    assert got.shape == expected.shape
    assert float((got - expected).abs().max()) <= tolerance * float(expected.abs().max())


def prompt_features(engine: Engine, prompt: str) -> Tensor:
    return engine.runner.encode_prompts([engine.model.tokenizer.encode(prompt).ids]).features


@torch.no_grad()
def hop(engine: Engine, unet, x: Tensor, t: int, s: int, prompt: str, w: float) -> Tensor:
    """x_s = a_s (x_t - sigma_t eps) / a_t + sigma_s eps for one row, with two predictions where w
    is not embedded."""
    schedule, time = NoiseSchedule.scaled_linear(), torch.tensor([float(t)])
    features = prompt_features(engine, prompt)
    if unet.guidance_channels is not None:
        eps = unet(
            x, time, features, torch.from_numpy(guidance_embedding([w], unet.guidance_channels))
        ).eps
    else:
        eps, empty = unet(x, time, features).eps, unet(x, time, prompt_features(engine, "")).eps
        eps = empty + (1 + w) * (eps - empty)
    a, sigma = (1.0, 0.0) if s == 0 else (schedule.a(s), schedule.sigma(s))
    return a * (x - schedule.sigma(t) * eps) / schedule.a(t) + sigma * eps


def plain_decode(
    engine: Engine, x: Tensor, prompt: str, w: float = 0.0, tau: float | tuple = 1.0
) -> Tensor:
    for t, s in pairwise(DECODE):
        x = hop(engine, engine.runner.decode_network, x, t, s, prompt, dynamic_guidance(t, w, tau))
    return x


@contextmanager
def recorded(engine: Engine) -> Iterator[dict[str, list]]:
    """Rows of every call of the forward and the reverse network, and the time shifts of the reverse
    one."""
    seen: dict[str, list] = {"forward": [], "reverse": [], "shifts": []}

    def watched(name, predict):
        def call(latents, shifts, *others):
            seen[name].append(len(latents))
            if name == "reverse":
                seen["shifts"].append(shifts)
            return predict(latents, shifts, *others)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("forward", "reverse"):
            unet = getattr(engine.runner, name)
            patch.setattr(unet, "predict", watched(name, unet.predict))
        yield seen


@pytest.fixture(scope="module")
def two_pass_engine(two_pass_bundle) -> Engine:
    return Engine.from_pretrained(two_pass_bundle, device="cpu")


@pytest.fixture(scope="module")
def inversion(small_engine):
    return small_engine.invert(picture(), SOURCE, seed=3)


# --- the path of one edit -------------------------------------------------------------------------


def test_inversion_is_noise_then_upward_hops(small_engine, inversion):
    schedule = NoiseSchedule.scaled_linear()
    with torch.no_grad():
        x = small_engine.runner.vae.to_latents(
            torch.from_numpy(to_model_range(picture(), (64, 64)))
        )
    noise = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(3))
    x = schedule.a(19) * x + schedule.sigma(19) * noise
    for t, s in pairwise(ENCODE):
        x = hop(small_engine, small_engine.runner.encode_network, x, t, s, SOURCE, w=0.0)
    assert_close(inversion.latents, x)


@pytest.mark.parametrize("target", [TARGET, OTHER], ids=["same_length", "longer"])
def test_without_control_each_row_is_a_plain_decoding(small_engine, inversion, target):
    result = inversion.edit(target, control="none", guidance_scale=7.0, tau=0.8)
    assert_close(
        result.latents, plain_decode(small_engine, inversion.latents, target, w=7.0, tau=0.8)
    )
    assert_close(result.source_latents, plain_decode(small_engine, inversion.latents, SOURCE))


@pytest.mark.parametrize("control", ["replace", "refine", "none"])
def test_source_as_target_reconstructs(inversion, control):
    """Unguided, with S_k + diag(d_k) = 1 on equal prompts, both rows compute the same."""
    result = inversion.edit(
        SOURCE, control=control, cross_replace=0.6, self_replace=0.6, guidance_scale=0.0
    )
    assert_close(result.latents, result.source_latents)


def test_control_changes_the_edit(inversion):
    plain, controlled = (
        inversion.edit(TARGET, control=c, cross_replace=0.8).latents for c in ("none", "replace")
    )
    assert float((plain - controlled).abs().max()) > 1e-2 * float(plain.abs().max())


@pytest.mark.parametrize("guidance_scale", [0.0, 3.0, 19.0])
def test_source_row_is_never_guided(small_engine, inversion, guidance_scale):
    result = inversion.edit([TARGET, OTHER], guidance_scale=guidance_scale, tau=1.0)
    assert_close(result.source_latents, plain_decode(small_engine, inversion.latents, SOURCE))


def test_same_seed_is_bit_equal_and_another_differs(small_engine):
    first, again, other = (
        small_engine.edit(picture(), SOURCE, TARGET, seed=seed) for seed in (5, 5, 6)
    )
    assert torch.equal(first.latents, again.latents)
    assert np.array_equal(first.image, again.image)
    assert float((first.latents - other.latents).abs().max()) > 1e-2 * float(
        first.latents.abs().max()
    )


def test_several_targets_equal_single_edits(inversion):
    settings = {
        "cross_replace": 0.6,
        "self_replace": 0.6,
        "blend": (["cat", "sits"], "sits"),
        "amplify": {"mat": 2.0},
    }
    together = inversion.edit([TARGET, OTHER, SOURCE], **settings)
    for row, target in enumerate([TARGET, OTHER, SOURCE]):
        alone = inversion.edit(target, **settings)
        assert_close(together.latents[row : row + 1], alone.latents)
        assert torch.equal(together.masks[:, row], alone.masks[:, 0])


def test_result_settings_repeat_the_edit(small_engine):
    settings = {
        "blend": ("cat", "dog"),
        "amplify": {"dog": 3.0},
        "cross_replace": {"dog": (0.2, 0.9)},
        "seed": 4,
    }
    first = small_engine.edit(picture(), SOURCE, TARGET, mask=np.tri(64), **settings)
    used = {name: getattr(first.settings, name) for name in EditSettings.__dataclass_fields__}
    assert all(value is not None for value in used.values())
    assert torch.equal(small_engine.edit(picture(), SOURCE, TARGET, **used).latents, first.latents)
    assert_close(first.inversion.edit(TARGET, **used).latents, first.latents)


def test_other_sizes(small_engine):
    result = small_engine.edit(picture(), SOURCE, TARGET, size=(96, 64), blend=("cat", "dog"))
    assert result.latents.shape == (1, 4, 8, 12)
    assert result.masks.shape == (4, 1, 8, 12)
    assert result.image.size == result.reconstruction.size == (96, 64)


def test_generation_is_a_plain_decoding_of_noise(small_engine):
    prompts = ["a big blue bird", "a red cat"]
    latents = small_engine.generate(
        prompts, seed=9, guidance_scale=7.0, tau=0.8, output_type="latent"
    )
    noise = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    for row, prompt in enumerate(prompts):
        assert_close(
            latents[row : row + 1],
            plain_decode(small_engine, noise[row : row + 1], prompt, w=7.0, tau=0.8),
        )
    assert [image.size for image in small_engine.generate(prompts[0])] == [(64, 64)]


def test_generation_takes_the_models_seed(small_engine):
    given, left_out = (
        small_engine.generate(TARGET, seed=seed, output_type="latent") for seed in (0, None)
    )
    assert torch.equal(given, left_out)


# --- guidance -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tau, tau_low, expected",
    [
        (0.8, 0.0, [0, 10, 10, 10]),
        (1.0, 0.0, [10, 10, 10, 10]),
        ((0.3, 0.9), 0.0, [0, 10 * (0.9 - 0.779) / 0.6, 10 * (0.9 - 0.519) / 0.6, 10]),
        (0.8, 0.3, [0, 10, 10, 0]),
    ],
    ids=["step", "constant", "ramp", "interval"],
)
def test_dynamic_guidance_reaches_the_network(small_engine, tau, tau_low, expected):
    times, unet = [999.0, 779.0, 519.0, 259.0], small_engine.runner.decode_network
    with recorded(small_engine) as seen:
        result = small_engine.edit(
            picture(), SOURCE, [TARGET, OTHER], guidance_scale=10.0, tau=tau, tau_low=tau_low
        )
        result.inversion.edit([TARGET, OTHER], guidance_scale=10.0, tau=tau, tau_low=tau_low)
    assert len(seen["shifts"]) == 8
    for k, shifts in enumerate(seen["shifts"]):
        embedding = torch.from_numpy(guidance_embedding([0.0, expected[k % 4]], 64))
        with torch.no_grad():
            unguided, guided = unet.time_shifts(torch.full((2,), times[k % 4]), embedding)
        # 1000 w in float32 is a phase of up to 10^4: its rounding moves a sine by 1e-3.
        torch.testing.assert_close(shifts[-2:], torch.stack([guided, guided]), rtol=0, atol=2e-3)
        if k < 4:
            torch.testing.assert_close(shifts[0], unguided)
        assert len(shifts) == (3 if k < 4 else 2)  # a further edit runs the target rows alone


@pytest.mark.parametrize("tau", [0.8, (0.3, 0.9)], ids=["step", "ramp"])
def test_two_pass_model_equals_explicit_guidance(two_pass_engine, tau):
    """eps_u + (1 + w)(eps_c - eps_u): the difference of two near predictions times w loses a digit
    more."""
    kept = two_pass_engine.invert(picture(), SOURCE)
    result = kept.edit(TARGET, control="none", guidance_scale=4.0, tau=tau)
    expected = plain_decode(two_pass_engine, kept.latents, TARGET, w=4.0, tau=tau)
    assert_close(result.latents, expected, 10 * ROUNDING)
    assert_close(result.source_latents, plain_decode(two_pass_engine, kept.latents, SOURCE))


def test_two_pass_model_predicts_twice_on_guided_hops_only(two_pass_engine):
    with recorded(two_pass_engine) as seen:
        result = two_pass_engine.edit(
            picture(), SOURCE, [TARGET, OTHER], guidance_scale=4.0, tau=0.6
        )
        assert seen["forward"] == [1, 1, 1, 1]
        assert seen["reverse"] == [3, 3, 3, 2, 3, 2]  # w(999) = w(779) = 0
        assert result.network_calls == 10
        seen["reverse"].clear()
        assert (
            result.inversion.edit(TARGET, guidance_scale=0.0).network_calls
            == len(seen["reverse"])
            == 4
        )


# --- rows and calls -------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", [1, 3])
def test_only_the_needed_rows_run(small_engine, targets):
    with recorded(small_engine) as seen:
        result = small_engine.edit(
            picture(), SOURCE, [TARGET] * targets, blend=("cat", "dog"), guidance_scale=19.0
        )
        assert seen["forward"] == [1] * 4
        assert seen["reverse"] == [1 + targets] * 4
        assert result.network_calls == 8
        seen["reverse"].clear()
        assert result.inversion.edit([TARGET, OTHER]).network_calls == 4
        assert seen["reverse"] == [2] * 4  # the source branch is kept
        assert seen["forward"] == [1] * 4


@pytest.mark.parametrize(
    "settings",
    [{}, {"blend": ("cat", "sits")}, {"mask": np.tri(64), "control": "none"}],
    ids=["plain", "blend", "mask"],
)
def test_a_further_edit_equals_a_first_one(small_engine, settings):
    """With another edit before it, whose source branch it takes, and without."""
    kept = small_engine.invert(picture(), SOURCE)
    first = kept.edit(TARGET, **settings)
    kept.edit(OTHER)
    again = kept.edit([SOURCE, TARGET], **settings)
    assert_close(again.latents[1:], first.latents)
    assert torch.equal(again.source_latents, first.source_latents)
    assert first.masks is None or torch.equal(again.masks[:, 1:], first.masks)


def test_source_branches_are_kept_for_the_last_few(small_engine):
    inversions = [small_engine.invert(picture(i), SOURCE) for i in range(MOST_BRANCHES + 1)]
    with recorded(small_engine) as seen:
        for kept in [*inversions, inversions[-1], inversions[0]]:
            kept.edit(TARGET)
    assert seen["reverse"] == [2] * 4 * len(inversions) + [1] * 4 + [2] * 4


def test_a_callback_sees_all_rows_and_leaves_nothing_kept(small_engine):
    kept = small_engine.invert(picture(), SOURCE)
    plain = kept.edit(TARGET)
    seen = []
    shifted = kept.edit(TARGET, callback_on_step_end=lambda k, t, x: seen.append(len(x)) or x + 1)
    assert seen == [2] * 4
    assert not torch.equal(shifted.source_latents, plain.source_latents)
    assert torch.equal(kept.edit(TARGET).source_latents, plain.source_latents)


def test_reconstruction_is_decoded_on_first_use(small_engine, monkeypatch):
    result = small_engine.edit(picture(), SOURCE, TARGET)
    runner, calls = small_engine.runner, []
    to_pixels = runner.to_pixels
    monkeypatch.setattr(
        runner, "to_pixels", lambda latents: calls.append(len(latents)) or to_pixels(latents)
    )
    assert calls == []
    first, again = result.reconstruction, result.reconstruction
    assert first is again
    assert calls == [1]


# --- masks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("blend", [None, ("cat", "dog")], ids=["mask", "mask_and_blend"])
def test_outside_the_mask_the_source_stays(inversion, blend):
    mask = np.zeros((64, 64))
    mask[:, 32:] = 1
    result = inversion.edit(TARGET, mask=mask, blend=blend)
    assert not result.masks[..., :4].any()
    assert torch.equal(result.latents[..., :4], result.source_latents[..., :4])
    assert not torch.equal(result.latents[..., 4:], result.source_latents[..., 4:])


def test_blend_words_close_a_part_after_every_hop(small_engine):
    kept, seen = small_engine.invert(picture(), SOURCE, size=(128, 128)), []
    result = kept.edit(
        TARGET, blend="mat", callback_on_step_end=lambda k, t, x: seen.append(x.clone())
    )
    rows, closed = torch.stack(seen), (result.masks[:, 0] == 0)[:, None].expand(4, 4, 16, 16)
    assert 0 < int(closed.sum()) < closed.numel()
    assert torch.equal(rows[:, 1][closed], rows[:, 0][closed])
    assert not torch.equal(rows[:, 1], rows[:, 0])


def test_open_mask_is_the_plain_edit(inversion):
    assert torch.equal(
        inversion.edit(TARGET, mask=np.ones((64, 64))).latents, inversion.edit(TARGET).latents
    )


def test_mask_from_a_stream_is_read_once(small_engine):
    stream = io.BytesIO()
    Image.fromarray(np.tri(64, dtype=np.uint8) * 255).save(stream, "PNG")
    stream.seek(0)
    from_stream = small_engine.edit(picture(), SOURCE, TARGET, mask=stream)
    assert torch.equal(
        from_stream.latents, small_engine.edit(picture(), SOURCE, TARGET, mask=np.tri(64)).latents
    )


# --- many at once ---------------------------------------------------------------------------------


def mixed_requests() -> list[EditRequest]:
    """Every setting somewhere, beside requests without it."""
    return [
        EditRequest(picture(1), SOURCE, TARGET, EditSettings(seed=1, blend="sits")),
        EditRequest(
            picture(2),
            "a photo of a bird",
            "a photo of a big blue bird",
            EditSettings(amplify={"blue": 3.0}),
        ),
        EditRequest(
            picture(3),
            SOURCE,
            [TARGET, OTHER],
            EditSettings(guidance_scale=9.0, tau=(0.4, 0.9), seed=2),
        ),
        EditRequest(picture(4), SOURCE, OTHER, EditSettings(control="none", mask=np.tri(64))),
        EditRequest(
            picture(1),
            SOURCE,
            SOURCE,
            EditSettings(self_replace=1.0, cross_replace=1.0, guidance_scale=0.0),
        ),
    ]


@pytest.mark.parametrize("targets", [16, 3], ids=["one_pass", "in_turns"])
def test_edit_many_equals_single_edits(small_engine, monkeypatch, targets):
    monkeypatch.setattr("icd_engine.passes.MOST_TARGETS", targets)
    requests = mixed_requests()
    for request, result in zip(requests, small_engine.edit_many(requests), strict=True):
        given = {
            name: getattr(request.settings, name) for name in EditSettings.__dataclass_fields__
        }
        alone = small_engine.edit(request.image, request.source, request.target, **given)
        assert_close(result.latents, alone.latents)
        assert_close(result.source_latents, alone.source_latents)
        assert_close(result.inversion.latents, alone.inversion.latents)
        assert result.settings == alone.settings
        assert len(result.images) == len(alone.images)
        assert (result.masks is None) == (alone.masks is None)
        if alone.masks is not None:
            assert torch.equal(result.masks, alone.masks)


def test_edit_many_shares_passes(small_engine):
    with recorded(small_engine) as seen:
        small_engine.edit_many(mixed_requests())
    assert seen["forward"] == [5] * 4
    assert seen["reverse"] == [5 + 6] * 4
    assert small_engine.edit_many([]) == []


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        ([], []),
        ([2], [1]),
        ([2, 2, 2], [2, 1]),
        ([9, 2, 2, 1], [1, 2, 1]),
    ],
    ids=["none", "one", "full", "too_large_alone"],
)
def test_passes_hold_at_most_their_rows(rows, sizes):
    found = []
    while rows:
        found.append(fitting(rows, 4))
        rows = rows[found[-1] :]
    assert found == sizes


@pytest.mark.parametrize(
    "change, error",
    [
        ({"source": " "}, PromptError),
        ({"target": ""}, PromptError),
        ({"target": []}, PromptError),
        ({"image": b"no picture"}, ImageError),
        ({"settings": EditSettings(blend=("zebra", "dog"))}, PromptError),
        ({"settings": EditSettings(mask=b"no mask")}, ImageError),
    ],
    ids=["source", "target", "no_target", "image", "blend", "mask"],
)
def test_edit_many_checks_all_requests_first(small_engine, monkeypatch, change, error):
    monkeypatch.setattr("icd_engine.passes.MOST_TARGETS", 1)
    good = EditRequest(picture(), SOURCE, TARGET)
    with recorded(small_engine) as seen, pytest.raises(error):
        small_engine.edit_many([good, replace(good, **change)])
    assert seen["forward"] == []


@pytest.mark.parametrize(
    "requests", [5, None, "ab", [5], [EditRequest(picture(), SOURCE, TARGET), None]], ids=str
)
def test_edit_many_takes_requests_alone(small_engine, requests):
    with pytest.raises(SettingsError, match="edit_many takes a list of EditRequest"):
        small_engine.edit_many(requests)


def test_threads_on_one_engine_equal_serial_edits(small_engine):
    def run(request: EditRequest) -> Tensor:
        given = {
            name: getattr(request.settings, name) for name in EditSettings.__dataclass_fields__
        }
        return small_engine.edit(request.image, request.source, request.target, **given).latents

    def run_together(request: EditRequest) -> Tensor:
        start.wait()
        return run(request)

    requests = mixed_requests()[:4]
    serial = [run(request) for request in requests]
    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            assert all(map(torch.equal, pool.map(run_together, requests), serial))


# --- callbacks and outputs ------------------------------------------------------------------------


def test_callbacks_see_every_hop(small_engine):
    up, down, ticks = [], [], []
    note = lambda seen: lambda step, t, latents: seen.append((step, t, tuple(latents.shape)))  # noqa: E731
    kept = small_engine.invert(
        picture(), SOURCE, callback_on_step_end=note(up), progress=ticks.append
    )
    result = kept.edit([TARGET, OTHER], callback_on_step_end=note(down), progress=ticks.append)
    assert up == [(k, t, (1, 4, 8, 8)) for k, t in enumerate(ENCODE[1:])]
    assert down == [(k, t, (3, 4, 8, 8)) for k, t in enumerate(DECODE[1:])]
    assert ticks == [1] * 8
    assert result.latents.shape == (2, 4, 8, 8)


def test_progress_leaves_the_source_branch_kept(small_engine):
    inversion = small_engine.invert(picture(), SOURCE)
    with recorded(small_engine) as seen:
        first = inversion.edit(TARGET, progress=lambda hops: None)
        again = inversion.edit(TARGET, progress=lambda hops: None)
    assert seen["reverse"] == [2] * 4 + [1] * 4
    assert_close(again.latents, first.latents)


def test_callback_may_replace_latents(small_engine, inversion):
    result = inversion.edit(
        TARGET, callback_on_step_end=lambda step, t, x: x.clone().fill_(0.5) if t == 259 else None
    )
    start = torch.full((1, 4, 8, 8), 0.5)
    expected = hop(small_engine, small_engine.runner.decode_network, start, 259, 0, SOURCE, w=0.0)
    assert_close(result.source_latents, expected)


@pytest.mark.parametrize("given", [torch.zeros(1), "latents"], ids=["shape", "kind"])
def test_callback_that_returns_no_latents_is_refused(inversion, given):
    with pytest.raises(SettingsError, match=r"\[2, 4, 8, 8\]"):
        inversion.edit(TARGET, callback_on_step_end=lambda step, t, x: given)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_callback_error_passes_and_leaves_the_engine_whole(small_engine, inversion, error):
    def fail(step, t, latents):
        latents.zero_()
        raise error

    inversion.edit(TARGET)  # so that all later ones are further edits, alike to the bit
    before = inversion.edit(TARGET, blend=("cat", "dog"))
    for run in (
        inversion.edit,
        lambda target, **kw: small_engine.edit(picture(), SOURCE, target, **kw),
    ):
        with pytest.raises(error):
            run(TARGET, blend=("cat", "dog"), callback_on_step_end=fail)
    assert torch.equal(inversion.edit(TARGET, blend=("cat", "dog")).latents, before.latents)


def test_output_types_agree(small_engine, inversion):
    pil, array, tensor, latent = (
        inversion.edit([TARGET, OTHER], output_type=kind).images
        for kind in ("pil", "np", "pt", "latent")
    )
    assert [image.mode for image in pil] == ["RGB", "RGB"]
    assert array.shape == (2, 64, 64, 3)
    assert tensor.shape == (2, 3, 64, 64)
    assert array.dtype == np.float32 and array.min() >= 0 and array.max() <= 1
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert (
        np.abs(np.stack([np.asarray(image) for image in pil]) / 255 - array).max()
        <= 0.5 / 255 + 1e-6
    )
    assert torch.equal(latent, inversion.edit([TARGET, OTHER]).latents)


def test_results_are_ordinary_tensors(inversion):
    """Nothing handed out is an inference tensor: those refuse changes in place and gradients."""
    result = inversion.edit(TARGET, output_type="latent", blend=("cat", "dog"))
    tensors = (
        inversion.latents,
        result.latents,
        result.source_latents,
        result.masks,
        result.images,
    )
    assert not any(tensor.is_inference() for tensor in tensors)


def test_bfloat16_runs_near_float32(small_bundle, inversion):
    engine = Engine.from_pretrained(small_bundle, device="cpu", dtype="bfloat16")
    result = engine.edit(picture(), SOURCE, TARGET, seed=3, blend=("cat", "dog"))
    exact = inversion.edit(TARGET, control="none").source_latents
    assert result.latents.dtype == torch.float32
    # The rounding is 2^15 times float32's, whose errors here stay below 1e-5; the worst seen was
    # 0.1.
    assert_close(result.source_latents, exact, 0.3)
    assert result.image.size == (64, 64)


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, error, named",
    [
        ({"source": ""}, PromptError, "empty"),
        ({"target": "  "}, PromptError, "empty"),
        ({"target": []}, PromptError, "prompt"),
        ({"target": None}, PromptError, "prompt"),
        ({"target": [TARGET, 5]}, PromptError, "5"),
        ({"blend": ("cat", "zebra")}, PromptError, "zebra"),
        ({"blend": ("zebra", "dog")}, PromptError, "zebra"),
        ({"amplify": {"zebra": 2.0}}, PromptError, "zebra"),
        ({"target": OTHER, "control": "replace"}, PromptError, "word"),
        ({"guidence_scale": 3.0}, SettingsError, "guidance_scale"),
        ({"size": (60, 64)}, SettingsError, "16"),
        ({"size": (64,)}, SettingsError, "size"),
        ({"size": 64}, SettingsError, "size"),
        ({"output_type": "jpg"}, SettingsError, "jpg"),
        ({"mask": np.full((64, 64), np.nan)}, ImageError, "mask"),
        ({"image": "nowhere.png"}, ImageError, "nowhere.png"),
    ],
    ids=str,
)
def test_bad_input_is_named_before_any_network_call(small_engine, change, error, named):
    arguments = {"image": picture(), "source": SOURCE, "target": TARGET} | change
    with recorded(small_engine) as seen, pytest.raises(error, match=named):
        small_engine.edit(**arguments)
    assert seen["forward"] == []


def test_a_kept_inversion_has_its_seed(inversion):
    assert inversion.edit(TARGET, seed=3).settings.seed == 3
    with pytest.raises(SettingsError, match="seed"):
        inversion.edit(TARGET, seed=4)


def test_generation_needs_a_prompt(small_engine):
    for prompts in ([], "", None, ["a cat", " "]):
        with pytest.raises(PromptError):
            small_engine.generate(prompts)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"device": "tpu"}, "tpu"),
        ({"device": "mps"}, "mps"),
        ({"dtype": "int8"}, "int8"),
        ({"runner": "fast"}, "fast"),
    ],
    ids=str,
)
def test_unknown_device_dtype_or_runner(small_bundle, options, named):
    with pytest.raises(RunnerError, match=named):
        Engine.from_pretrained(small_bundle, **options)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"device": []}, "device must be a name"),
        ({"dtype": torch.float16}, "dtype must be a name, not torch.float16"),
        ({"runner": {}}, "runner must be a name"),
        ({"weights": None}, "weights must be a name, not None"),
        ({"offload": "no"}, "offload must be True or False, not 'no'"),
        ({"vae_tiling": 1}, "vae_tiling must be True or False, not 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_of_another_kind(small_bundle, options, named):
    with pytest.raises(RunnerError, match=named):
        Engine.from_pretrained(small_bundle, **options)
    with pytest.raises(RunnerError, match=named):
        icd_engine.edit(picture(), SOURCE, TARGET, model=small_bundle, **options)


def test_unknown_model(tmp_path):
    for model in ("huge", tmp_path):
        with pytest.raises(BundleError, match=str(model)):
            Engine.from_pretrained(model)


def test_all_errors_are_one_family():
    assert all(
        issubclass(e, IcdError)
        for e in (BundleError, ImageError, PromptError, RunnerError, SettingsError)
    )


# --- the package ----------------------------------------------------------------------------------


def test_package_hands_out_the_engine():
    assert icd_engine.Engine is Engine
    assert icd_engine.EditRequest is EditRequest
    with pytest.raises(AttributeError, match="Motor"):
        _ = icd_engine.Motor


def test_package_edit_loads_a_model_once(small_engine, small_bundle):
    results = [
        icd_engine.edit(picture(), source=SOURCE, target=TARGET, model=model, device="cpu", seed=1)
        for model in (small_bundle, str(small_bundle))
    ]
    assert results[0].inversion.engine is results[1].inversion.engine
    assert torch.equal(
        results[0].latents, small_engine.edit(picture(), SOURCE, TARGET, seed=1).latents
    )
