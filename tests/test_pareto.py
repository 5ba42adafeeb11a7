"""The Pareto fit of all data at once: ArviZ's of each, and where that has no answer."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy.special import logsumexp

from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES, pareto_k, smooth

SIZES = (SMALLEST_NUM_PARTICLES, 31, 100, 224, 225, 226, 1000, 5000)


def pareto_weights(k, num_particles, num_data=3):
    """Log of generalised Pareto draws: their tail has this k."""
    u = np.random.default_rng(num_particles).random((num_particles, num_data))
    return np.log(-np.log(u) if k == 0 else np.expm1(-k * np.log(u)) / k)


def without(log_w, share):
    """Some weights are zero."""
    return np.where(np.random.default_rng(1).random(log_w.shape) < share, -np.inf, log_w)


KINDS = {
    "as drawn": lambda log_w: log_w,
    "ties": lambda log_w: log_w.round(2),
    "a third are zero": lambda log_w: without(log_w, 1 / 3),
    "four fifths are zero": lambda log_w: without(log_w, 0.8),
    "far below zero": lambda log_w: log_w - 1e4,
}


def arviz_smooth(log_w):
    """k-hat and the log of the mean smoothed weight of one datum; its least finite weight is only
    normalised."""
    normalised, k_hat = array_stats.psislw(-log_w)
    least = np.where(np.isneginf(log_w), np.inf, log_w).argmin()
    return np.inf if np.isnan(k_hat) else k_hat, logsumexp(normalised) + log_w[least] - normalised[
        least
    ]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # ArviZ's, of zero weights
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", SIZES)
def test_k_hat_is_arvizs(num_particles, kind):
    """From thin tails to heavy ones, k = -0.5 to 2."""
    log_w = np.hstack(
        [KINDS[kind](pareto_weights(k, num_particles)) for k in (-0.5, 0.0, 0.3, 0.7, 1.0, 2.0)]
    )
    found = pareto_k(log_w)
    unbounded = ~np.isneginf(found)
    assert unbounded.any()
    expected = [arviz_smooth(column)[0] for column in log_w.T[unbounded]]
    np.testing.assert_allclose(found[unbounded], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("num_particles", SIZES)
def test_smoothed_weights_are_arvizs(num_particles):
    log_w = np.hstack([pareto_weights(k, num_particles) for k in (-0.5, 0.3, 1.0)])
    expected = [arviz_smooth(column)[1] - np.log(num_particles) for column in log_w.T]
    np.testing.assert_allclose(smooth(log_w)[1], expected, atol=1e-10, rtol=0)


def test_the_fewest_particles_are_those_with_which_arviz_has_an_answer():
    log_w = pareto_weights(0.3, 100, 1)[:, 0]
    assert np.isfinite(array_stats.psislw(-log_w[:SMALLEST_NUM_PARTICLES])[1])
    assert np.isnan(array_stats.psislw(-log_w[: SMALLEST_NUM_PARTICLES - 1])[1])


def test_a_tail_beyond_the_range_of_floats_convicts():
    """The first quartile of the tail is subnormal, 720 nats down; ArviZ falls back on its prior:
    k-hat 0.17, good."""
    log_w = np.r_[
        np.full(80, -800.0), np.linspace(-722.0, -718.0, 10), np.linspace(-600.0, 0.0, 10)
    ]
    with np.errstate(all="ignore"):
        assert array_stats.psislw(-log_w)[1] == pytest.approx(5 / 30)
    assert pareto_k(log_w[:, None]).item() == np.inf


def test_zero_weights_do_not_pass_for_an_exact_guide():
    log_w = pareto_weights(1.5, 500)
    log_w[0] = -np.inf
    assert (pareto_k(log_w) > 1.0).all()
    assert (pareto_k(np.full((100, 2), -np.inf)) == np.inf).all()
    assert (smooth(np.full((100, 2), -np.inf))[1] == -np.inf).all()


def test_what_cannot_be_fitted_is_not_smoothed():
    """The least draws of the tail are equal: k-hat is inf, and the mean weight that of the
    draws."""
    log_w = np.r_[np.zeros(95), 1.0, 2.0, 3.0, 4.0, 5.0][:, None]
    k_hat, smoothed = smooth(log_w)
    assert k_hat.item() == np.inf
    assert smoothed.item() == pytest.approx(logsumexp(log_w) - np.log(100))


def test_data_are_fitted_apart():
    log_w = np.c_[pareto_weights(0.7, 200), np.zeros(200), np.full(200, -np.inf)]
    together = smooth(log_w)
    for i in range(log_w.shape[1]):
        np.testing.assert_allclose(
            [part[i] for part in together], np.squeeze(smooth(log_w[:, [i]])), atol=1e-12
        )


@pytest.mark.parametrize(
    ("size", "sd"), [(1e3, 0.2), (1e4, 0.5), (1e4, 3.0), (1e5, 1.5), (1e5, 3.0)]
)
def test_large_log_weights_have_the_k_of_their_differences(size, sd):
    """Neighbours among a thousand draws are closer than 64 floats of that size, and not tied."""
    log_w = sd * np.random.default_rng(0).normal(size=(1000, 200))
    found = pareto_k((log_w - size).astype(np.float32))
    assert np.abs(found - pareto_k(log_w)).max() < 0.25
    assert np.median(np.abs(found - pareto_k(log_w))) < 0.02


@pytest.mark.parametrize("size", [1.0, 1e4, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_draws_of_few_values_are_bounded_whatever_their_size(size, dtype):
    """Equal up to the rounding of a sum: 4 floats of that size."""
    rng = np.random.default_rng(0)
    log_w = 5.0 * rng.integers(-3, 1, size=(1000, 50)) - size
    rounded = log_w * (1 + 2 * np.finfo(dtype).eps * rng.uniform(-1, 1, size=log_w.shape))
    assert np.isneginf(pareto_k(rounded.astype(dtype))).all()
