"""One optimisation step of every stage against the paper's equations, written out in float64 on toy
networks."""

import itertools
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")


from icd_engine.networks.text_encoder import PromptFeatures
from icd_engine.sampling.guidance import dynamic_guidance
from icd_engine.sampling.schedule import NoiseSchedule
from tests.training.toys import (
    FORWARD,
    REVERSE,
    SHAPE,
    TEACHER,
    Toy,
    ToyData,
    eps,
    gradient,
    hop,
    huber,
    noised,
)
from training import losses
from training.choices import Chain, Guidance, Preservation
from training.distil import cycle_loss, decode, encode, guidance_loss, icd_loss
from training.loop import fit
from training.recipe import Recipe

SCALES = (0.0, 7.0, 11.0)
CHAINS = [Chain(), Chain((19, 339, 699), (339, 699, 999)), Chain((259, 519), (519, 799))]


def consistency(data, chain, calls, student, numbers):
    """The loss of `numbers` from each row's call of the teacher, then of the student ahead."""
    teacher, ahead = calls
    down = ahead.role == "reverse"
    marks = [0, *chain.decode_times]
    total = []
    for r in range(SHAPE[0]):
        t, w, word = teacher.t[r], teacher.w[r], data.words[r]
        t_next = t - 20 if down else t + 20
        t_next = max(t_next, 0)
        assert ahead.t[r] == t_next
        if down:
            s = max(m for m in marks[:-1] if m <= t_next)
        else:
            s = min(m for m in (*chain.encode_times[1:], chain.end) if m >= t_next)
        x_t = noised(data.latents[r], data.noise[r], t)
        x_next = hop(x_t, eps(TEACHER, x_t, t, w, word), t, t_next)
        jumped = hop(x_next, eps(student, x_next, t_next, w, word), t_next, s)
        target = x_next if t_next == s else jumped
        total.append(huber(hop(x_t, eps(numbers, x_t, t, w, word), t, s) - target))
    return np.mean(total)


def preservation(data, chain, calls, other, numbers):
    """The loss of `numbers` on each row's way back, after the other network's way there."""
    there, back = calls
    total = []
    for r in range(SHAPE[0] // 2):
        t, s, word = there.t[r], back.t[r], data.words[r]
        x = noised(data.latents[r], data.noise[r], t)
        end, target = (
            (0, data.latents[r])
            if t == chain.encode_times[0] and back.role == "reverse"
            else (t, x)
        )
        x_s = hop(x, eps(other, x, t, 0, word), t, s)
        total.append(huber(hop(x_s, eps(numbers, x_s, s, 0, word), s, end) - target))
    return np.mean(total)


def check_calls(calls, chain):
    """Which networks were asked, at which guidance scales, between which boundaries."""
    assert [call.role for call in calls] == [
        *("teacher", "reverse", "reverse"),
        *("teacher", "forward", "forward"),
        *("reverse", "forward"),
        *("forward", "reverse"),
    ]
    # w: the same for teacher and student; none where the forward network learns or invertibility is
    # kept.
    assert (
        calls[0].w == calls[1].w == calls[2].w
        and set(calls[0].w) <= set(SCALES)
        and any(calls[0].w)
    )
    assert not any(any(call.w) for call in calls[3:])
    # The ways down and up lie between neighbouring boundaries.
    pairs = set(itertools.pairwise(chain.decode_times))
    assert {(low, high) for high, low in zip(calls[6].t, calls[7].t, strict=True)} <= pairs
    assert set(zip(calls[8].t, calls[9].t, strict=True)) <= set(
        itertools.pairwise((*chain.encode_times, chain.end))
    )


@pytest.mark.parametrize("chain", CHAINS, ids=["four", "three", "from_259_to_799"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_of_consistency_distillation(chain, seed):
    """All four terms and their gradients. 1e-4: the schedule is float32 as published, sigma_19 has
    six digits."""
    toy, data, keep = Toy(), ToyData(), Preservation(1.5, 0.7, share=0.5)
    draw = (
        toy,
        data,
        chain,
        Guidance(SCALES),
        keep,
        losses.pseudo_huber,
        np.random.default_rng(seed),
        SHAPE[0],
    )
    parts = {part.name: part for part in icd_loss(*draw)}
    assert {name: part.weight for name, part in parts.items()} == {
        "reverse": 1.0,
        "forward": 1.0,
        "keep_forward": 1.5,
        "keep_reverse": 0.7,
    }
    calls = toy.calls
    check_calls(calls, chain)
    found = {
        "reverse": partial(consistency, data, chain, calls[0:2], REVERSE),
        "forward": partial(consistency, data, chain, calls[3:5], FORWARD),
        "keep_forward": partial(preservation, data, chain, calls[6:8], REVERSE),
        "keep_reverse": partial(preservation, data, chain, calls[8:10], FORWARD),
    }
    for name, function in found.items():
        own = name.removeprefix("keep_")
        numbers = {"forward": FORWARD, "reverse": REVERSE}[own]
        assert parts[name].loss.item() == pytest.approx(function(numbers), rel=1e-4, abs=1e-6), name
        (got,) = torch.autograd.grad(parts[name].loss, toy.numbers[own])
        np.testing.assert_allclose(
            got.numpy(), gradient(function, numbers), rtol=2e-3, atol=2e-4, err_msg=name
        )


@pytest.mark.parametrize("seed", [0, 1])
def test_a_step_of_guidance_distillation(monkeypatch, seed):
    """The student's eps at (x_t, t, w) against eps_c + w (eps_c - eps_u) of the teacher,
    squared."""
    monkeypatch.setattr("training.distil.predict", _predict)
    toy, data = Toy(), ToyData()
    (part,) = guidance_loss(
        toy.numbers["reverse"],
        toy.numbers["teacher"],
        data,
        Guidance(SCALES),
        "fp32",
        (rng := Spy(seed)),
        SHAPE[0],
    )
    (t,) = (drawn for drawn in rng.integers_drawn if len(drawn) == SHAPE[0])
    w = _predict.w
    assert t.min() >= 1 and t.max() <= 999 and set(w) <= set(SCALES)

    def expected(numbers):
        total = []
        for r in range(SHAPE[0]):
            x = noised(data.latents[r], data.noise[r], t[r])
            c, u = (eps(TEACHER, x, t[r], 0, word) for word in (data.words[r], 0.0))
            total.append(
                ((eps(numbers, x, t[r], w[r], data.words[r]) - (c + w[r] * (c - u))) ** 2).mean()
            )
        return np.mean(total)

    assert part.loss.item() == pytest.approx(expected(REVERSE), rel=1e-4)
    (got,) = torch.autograd.grad(part.loss, toy.numbers["reverse"])
    np.testing.assert_allclose(got.numpy(), gradient(expected, REVERSE), rtol=1e-3, atol=1e-4)


def _predict(numbers, x, t, prompt, w=None, precision="fp32"):
    if w is not None:
        _predict.w = w.tolist()
    column = (len(x), 1, 1, 1)
    w = torch.zeros(len(x)) if w is None else w
    return eps(numbers, x, t.view(column), w.view(column), prompt.tokens.view(column))


class Spy:
    """A generator that notes the integers it gave."""

    def __init__(self, seed):
        self._rng, self.integers_drawn = np.random.default_rng(seed), []

    def __getattr__(self, name):
        return getattr(self._rng, name)

    def integers(self, *bounds):
        self.integers_drawn.append(np.asarray(self._rng.integers(*bounds)))
        return self.integers_drawn[-1]


def test_a_step_of_cycle_training():
    """Four hops up, four down, a linear VAE; error squared and absolute; the forward network alone
    learns."""
    toy, data, chain = Toy(trained=("forward",)), ToyData(), Chain((0, 259, 519, 779))
    vae = SimpleNamespace(to_pictures=lambda latents: 0.5 * latents - 0.1)
    loss, psnr = cycle_loss(toy, vae, data, chain, np.random.default_rng(0), SHAPE[0])

    def expected(numbers):
        errors = []
        for r in range(SHAPE[0]):
            x = data.latents[r]
            for t, s in itertools.pairwise((0, 259, 519, 779, 999)):
                x = hop(x, eps(numbers, x, t, 0, data.words[r]), t, s)
            for t, s in itertools.pairwise((999, 779, 519, 259, 0)):
                x = hop(x, eps(REVERSE, x, t, 0, data.words[r]), t, s)
            errors.append(0.5 * (x - data.latents[r]))
        d = np.stack(errors)
        return (d**2).mean() + np.abs(d).mean()

    assert loss.loss.item() == pytest.approx(expected(FORWARD), rel=1e-4)
    loss.loss.backward()
    np.testing.assert_allclose(
        toy.numbers["forward"].grad.numpy(), gradient(expected, FORWARD), rtol=1e-3
    )
    assert toy.numbers["reverse"].grad is None and psnr.weight == 0.0


def test_one_optimiser_step_of_the_loop(tmp_path):
    """AdamW's first step moves every number by lr against its gradient's sign, after decay."""
    toy, data = Toy(), ToyData()
    recipe = Recipe(
        samples=6, batch=6, lr=1e-2, warmup=0, cosine=False, ema=None, weight_decay=0.1, clip=1e9
    )

    def parts(rng, count):
        return icd_loss(
            toy, data, Chain(), Guidance(SCALES), Preservation(), losses.pseudo_huber, rng, count
        )

    before = {role: numbers.detach().clone() for role, numbers in toy.numbers.items()}
    total = sum(part.weight * part.loss for part in parts(np.random.default_rng([0, 0, 0, 0]), 6))
    gradients = torch.autograd.grad(total, [toy.numbers["forward"], toy.numbers["reverse"]])
    fit("toy", tmp_path, recipe, toy, parts)
    for role, g in zip(("forward", "reverse"), gradients, strict=True):
        expected = before[role] * (1 - 1e-2 * 0.1) - 1e-2 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(toy.numbers[role].detach(), expected, rtol=0, atol=1e-6)
    assert torch.equal(toy.numbers["teacher"], before["teacher"])


def test_encode_and_decode_are_the_engines_hops():
    """Exact inverses of one another where eps is constant, and dynamic guidance hop by hop."""
    toy, schedule, chain = Toy(), NoiseSchedule.scaled_linear(), Chain()
    x, prompt = (
        torch.ones(1, 2, 3, 3, dtype=torch.float64),
        PromptFeatures(torch.ones(1, dtype=torch.float64)),
    )
    w = [dynamic_guidance(t, 7.0, 0.8) for t in reversed(chain.decode_times)]
    noise = encode(toy, schedule, chain, x, prompt)
    decode(toy, schedule, chain, noise, prompt, w)
    assert [call.t[0] for call in toy.calls] == [19, 259, 519, 779, 999, 779, 519, 259]
    assert [call.w[0] for call in toy.calls] == [0, 0, 0, 0, 0, 7.0, 7.0, 7.0]


def test_networks_must_hop_between_the_same_boundaries():
    for chain in (Chain((19, 259, 519, 779), (339, 699, 999)), Chain((0, 259), (259, 999))):
        with pytest.raises(ValueError, match="same boundaries"):
            next(
                iter(
                    icd_loss(
                        Toy(), ToyData(), chain, Guidance(), Preservation(), losses.squared, None, 2
                    )
                )
            )
