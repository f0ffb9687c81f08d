"""The training losses against the method's formulas in float64, and where gradients may not go."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from icd_engine.sampling.schedule import NoiseSchedule
from training import losses

SCHEDULE = NoiseSchedule.scaled_linear()


def product(t: int) -> float:
    """alphas_cumprod from its definition, in Python floats."""
    roots = [
        math.sqrt(0.00085) + k / 999 * (math.sqrt(0.012) - math.sqrt(0.00085)) for k in range(t + 1)
    ]
    return math.prod(1 - root**2 for root in roots)


def a_sigma(t: int) -> tuple[float, float]:
    return (1.0, 0.0) if t == 0 else (math.sqrt(product(t)), math.sqrt(1 - product(t)))


def exact_hop(x: np.ndarray, eps: np.ndarray, t: int, s: int) -> np.ndarray:
    (a_t, sigma_t), (a_s, sigma_s) = a_sigma(t), a_sigma(s)
    return a_s * (x - sigma_t * eps) / a_t + sigma_s * eps


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def tables() -> losses.Boundaries:
    return losses.Boundaries(SCHEDULE, dtype=torch.float64)


class Toy(torch.nn.Module):
    """eps = scale x + shift t / 1000: enough for every formula to be written out."""

    def __init__(self, scale: float, shift: float):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scale, dtype=torch.float64))
        self.shift = torch.nn.Parameter(torch.tensor(shift, dtype=torch.float64))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.scale * x + self.shift * t.view(-1, 1, 1, 1) / 1000

    def exact(self, x: np.ndarray, t: int) -> np.ndarray:
        return self.scale.item() * x + self.shift.item() * t / 1000


def huber(d: np.ndarray, c: float = 0.001) -> np.ndarray:
    return np.sqrt(d**2 + c**2) - c


# --- tables and hops ------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0, 1, 19, 259, 999])
def test_noised_at_grid_ends_and_at_the_picture(tables, t):
    """The schedule is float32 as published: seven digits of alphas_cumprod, fewer of sigma at the
    first steps."""
    x, noise = draw(1, 2, 3, 3), draw(1, 2, 3, 3, seed=1)
    a, sigma = a_sigma(t)
    torch.testing.assert_close(
        tables.noised(x, noise, torch.tensor([t])),
        a * x + sigma * noise,
        rtol=0,
        atol=1e-4 if t == 1 else 1e-5,
    )
    if t == 0:
        assert torch.equal(tables.noised(x, noise, torch.tensor([0])), x)


@pytest.mark.parametrize(
    "t, s", [(19, 0), (259, 0), (999, 979), (999, 779), (19, 39), (19, 259), (979, 999), (519, 519)]
)
def test_hop_is_the_boundary_update(tables, t, s):
    x, eps = draw(1, 2, 3, 3), draw(1, 2, 3, 3, seed=1)
    expected = exact_hop(x.numpy(), eps.numpy(), t, s)
    got = tables.hop(x, eps, torch.tensor([t]), torch.tensor([s]))
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=3e-5)


def test_hop_equals_the_engines(tables):
    hop = SCHEDULE.hop(519, 259)
    x, eps = draw(2, 2, 3, 3), draw(2, 2, 3, 3, seed=1)
    got = tables.hop(x, eps, torch.tensor([519, 519]), torch.tensor([259, 259]))
    torch.testing.assert_close(got, hop.A * x + hop.B * eps, rtol=0, atol=1e-12)


def test_rows_of_a_batch_have_their_own_steps(tables):
    x, eps = draw(3, 2, 3, 3), draw(3, 2, 3, 3, seed=1)
    t, s = torch.tensor([999, 259, 19]), torch.tensor([779, 0, 259])
    together = tables.hop(x, eps, t, s)
    for row in range(3):
        alone = tables.hop(x[row : row + 1], eps[row : row + 1], t[row : row + 1], s[row : row + 1])
        assert torch.equal(together[row : row + 1], alone)


def test_true_noise_leads_along_the_trajectory(tables):
    """With the very noise that was added, a hop from t ends exactly at the noised picture of s."""
    x, noise, t, s = (
        draw(2, 2, 3, 3),
        draw(2, 2, 3, 3, seed=1),
        torch.tensor([999, 519]),
        torch.tensor([0, 779]),
    )
    arrived = tables.hop(tables.noised(x, noise, t), noise, t, s)
    torch.testing.assert_close(arrived, tables.noised(x, noise, s), rtol=0, atol=1e-12)


# --- single losses --------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma, most", [(5.0, 20.0), (1.0, 3.0)])
def test_denoising_loss(gamma, most):
    """min(1 / a^2, most) min(SNR, gamma) / SNR for each picture: early, middle and late steps,
    clipped and not."""
    eps, noise, t = draw(3, 2, 3, 3), draw(3, 2, 3, 3, seed=1), [19, 519, 999]
    a, sigma = (
        torch.tensor(values, dtype=torch.float64) for values in zip(*map(a_sigma, t), strict=True)
    )
    expected = []
    for e, n, step in zip(eps.numpy(), noise.numpy(), t, strict=True):
        snr = product(step) / (1 - product(step))
        expected.append(
            min(1 / product(step), most) * min(snr, gamma) / snr * ((e - n) ** 2).mean()
        )
    assert product(999) < 1 / most < product(19)
    assert losses.denoising_loss(eps, noise, a, sigma, gamma, most).item() == pytest.approx(
        np.mean(expected), rel=1e-9
    )


def test_pseudo_huber():
    x, y = draw(2, 5), draw(2, 5, seed=1)
    assert losses.pseudo_huber(x, y).item() == pytest.approx(
        huber((x - y).numpy()).mean(), rel=1e-12
    )
    assert losses.pseudo_huber(x, x).item() == 0
    assert losses.pseudo_huber(x, x + 3.0, c=4.0).item() == pytest.approx(1.0)  # sqrt(9 + 16) - 4


def test_guided_is_code_notation():
    c, u, w = (
        draw(3, 2, 3, 3),
        draw(3, 2, 3, 3, seed=1),
        torch.tensor([0.0, 1.0, 7.0], dtype=torch.float64),
    )
    got = losses.guided(c, u, w)
    assert torch.equal(got[0], c[0])
    torch.testing.assert_close(got[1], 2 * c[1] - u[1])
    torch.testing.assert_close(got[2], u[2] + 8 * (c[2] - u[2]))


# --- distillation ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "t, t_next, s",
    [
        (519, 499, 259),
        (279, 259, 259),
        (19, 0, 0),
        (39, 19, 0),
        (279, 299, 519),
        (499, 519, 519),
        (979, 999, 999),
    ],
    ids=[
        "down",
        "down_to_boundary",
        "down_to_picture",
        "down_last",
        "up",
        "up_to_boundary",
        "up_to_noise",
    ],
)
def test_consistency_loss(tables, t, t_next, s):
    student, teacher, x = Toy(0.3, 0.5), Toy(0.2, -0.4), draw(1, 2, 3, 3)
    steps = (torch.tensor([step]) for step in (t, t_next, s))
    got = losses.consistency_loss(student, teacher, tables, x, *steps)
    x_t = x.numpy()
    x_next = exact_hop(x_t, teacher.exact(x_t, t), t, t_next)
    target = x_next if t_next == s else exact_hop(x_next, student.exact(x_next, t_next), t_next, s)
    expected = huber(exact_hop(x_t, student.exact(x_t, t), t, s) - target).mean()
    # 3e-5 of a hop's rounding (the float32 schedule) enters the loss with slope at most 1.
    assert got.item() == pytest.approx(expected, abs=6e-5)


def test_consistency_loss_mixes_rows_at_and_before_their_boundary(tables):
    student, teacher, x = Toy(0.3, 0.5), Toy(0.2, -0.4), draw(2, 2, 3, 3)
    t, t_next, s = torch.tensor([519, 279]), torch.tensor([499, 259]), torch.tensor([259, 259])
    rows = [
        losses.consistency_loss(
            student, teacher, tables, x[i : i + 1], t[i : i + 1], t_next[i : i + 1], s[i : i + 1]
        )
        for i in range(2)
    ]
    both = losses.consistency_loss(student, teacher, tables, x, t, t_next, s)
    torch.testing.assert_close(both, torch.stack(rows).mean())


def test_a_consistent_student_has_no_loss(tables):
    """eps constant along a trajectory: student and teacher agree, whatever the boundary."""
    noise = draw(2, 2, 3, 3, seed=1)
    t, t_next, s = torch.tensor([519, 279]), torch.tensor([499, 259]), torch.tensor([259, 259])
    x_t = tables.noised(draw(2, 2, 3, 3), noise, t)
    same = lambda x, t: noise  # noqa: E731
    assert losses.consistency_loss(same, same, tables, x_t, t, t_next, s).item() == pytest.approx(
        0, abs=1e-12
    )


def test_no_gradient_through_the_target(tables):
    """The gradient is that of the student's own hop against a constant, and the teacher gets
    none."""
    student, teacher, x = Toy(0.3, 0.5), Toy(0.2, -0.4), draw(1, 2, 3, 3)
    t, t_next, s = torch.tensor([519]), torch.tensor([499]), torch.tensor([259])
    losses.consistency_loss(student, teacher, tables, x, t, t_next, s).backward()
    assert teacher.scale.grad is None and teacher.shift.grad is None
    got = torch.stack([student.scale.grad, student.shift.grad])
    with torch.no_grad():
        x_next = tables.hop(x, teacher(x, t), t, t_next)
        target = tables.hop(x_next, student(x_next, t_next), t_next, s)
        d = tables.hop(x, student(x, t), t, s) - target
        (a_t, sigma_t), (a_s, sigma_s) = a_sigma(519), a_sigma(259)
        slope = d / (d.square() + 1e-6).sqrt() * (sigma_s - a_s * sigma_t / a_t) / d.numel()
        expected = torch.stack([(slope * x).sum(), (slope * 519 / 1000).sum()])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "t, s, end", [(519, 259, 519), (259, 519, 259), (259, 0, 259), (19, 259, 0)]
)
def test_preservation_loss(tables, t, s, end):
    trained, other, x, target = (
        Toy(0.3, 0.5),
        Toy(0.2, -0.4),
        draw(1, 2, 3, 3),
        draw(1, 2, 3, 3, seed=2),
    )
    steps = (torch.tensor([step]) for step in (t, s, end))
    loss = losses.preservation_loss(trained, other, tables, x, *steps, target)
    x_s = exact_hop(x.numpy(), other.exact(x.numpy(), t), t, s)
    expected = huber(exact_hop(x_s, trained.exact(x_s, s), s, end) - target.numpy()).mean()
    assert loss.item() == pytest.approx(expected, abs=1e-4)
    loss.backward()
    assert other.scale.grad is None and other.shift.grad is None
    assert trained.scale.grad is not None and trained.scale.grad != 0


def test_exact_inverses_are_preserved(tables):
    noise, t, s = draw(1, 2, 3, 3, seed=1), torch.tensor([519]), torch.tensor([259])
    x = tables.noised(draw(1, 2, 3, 3), noise, t)
    same = lambda x, t: noise  # noqa: E731
    assert losses.preservation_loss(same, same, tables, x, t, s, t, x).item() == pytest.approx(
        0, abs=1e-12
    )
