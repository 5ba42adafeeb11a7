"""Bounds without one particle, or with one replaced: the definition, in time and memory of order K
B."""

import math

import pytest
import torch
from cases import OBJECTIVES

from ppl_vae import objectives
from ppl_vae.objectives import VIMCO, ScoreFunction
from ppl_vae.objectives.renyi import power_mean
from ppl_vae.objectives.target import mean_of_others

NUM_PARTICLES, ROWS = 6, 3
WEIGHTS = {
    "usual": lambda w: w,
    "one e^500 larger": lambda w: w.index_put((torch.tensor(2),), w[2] + 500),
    "one e^500 smaller": lambda w: w.index_put((torch.tensor(4),), w[4] - 500),
    "one zero": lambda w: w.index_fill(0, torch.tensor(1), -math.inf),
    "two zeros beside a large one": lambda w: (
        w.index_fill(0, torch.tensor([0, 5]), -math.inf) * 100
    ),
    "all zero but one": lambda w: w.index_fill(0, torch.tensor([0, 1, 2, 4, 5]), -math.inf),
    "all zero": lambda w: torch.full_like(w, -math.inf),
    "equal": lambda w: torch.full_like(w, -1234.5),
    "nearly equal": lambda w: 1e-9 * w - 3,
    "far from 0": lambda w: w - 1e5,
}
MANY = {
    **{name: make for name, make in OBJECTIVES.items() if make().of_log_weights and name != "MCEM"},
    "Renyi(1)": lambda: objectives.Renyi(1.0, 4),
    "Renyi(1.001)": lambda: objectives.Renyi(1.001, 4),
    "Renyi(-3)": lambda: objectives.Renyi(-3.0, 4),
    "Renyi(5)": lambda: objectives.Renyi(5.0, 4),
    "ThermodynamicELBO, one interval": lambda: objectives.ThermodynamicELBO(4, ()),
}


def without(reduce, log_w):
    return torch.stack([reduce(torch.cat([log_w[:k], log_w[k + 1 :]])) for k in range(len(log_w))])


def replaced(reduce, log_w, instead):
    return torch.stack(
        [
            reduce(log_w.index_copy(0, torch.tensor([k]), instead[k : k + 1]))
            for k in range(len(log_w))
        ]
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("name", MANY)
def test_it_is_the_bound_of_the_other_particles(name, weights, dtype):
    """Within 20 roundings of the largest finite log w, against float64; undefined only where the
    bound itself is."""
    objective = MANY[name]()
    drawn = torch.randn(
        NUM_PARTICLES, ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    log_w = WEIGHTS[weights](drawn).to(dtype)
    instead = mean_of_others(log_w)
    exact = log_w.double()
    largest = exact[exact.isfinite()].abs().max().item() if exact.isfinite().any() else 1.0
    tolerance = {
        "rtol": 0,
        "atol": 20 * torch.finfo(dtype).eps * max(1.0, largest),
        "equal_nan": True,
    }
    pairs = [
        (
            objective.reduce_others(log_w, instead),
            replaced(objective.reduce, exact, instead.double()),
        )
    ]
    if not isinstance(objective, objectives.MIWAE):  # whose bounds have K - 1 particles then
        pairs.append((objective.reduce_others(log_w), without(objective.reduce, exact)))
    for found, expected in pairs:
        assert found.shape == log_w.shape
        torch.testing.assert_close(found.double(), expected, **tolerance)


def test_a_bound_that_states_no_short_form_has_the_long_one():
    class Median(objectives.Bound):
        def reduce(self, log_weights):
            return log_weights.median(0).values

    log_w = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    instead = log_w + 10
    bound = Median(5)
    assert torch.equal(bound.reduce_others(log_w), without(bound.reduce, log_w))
    assert torch.equal(bound.reduce_others(log_w, instead), replaced(bound.reduce, log_w, instead))
    message = r"Median in turn takes 50000 x 50000 x 2 numbers, more than 100,000,000: give fewer"
    with pytest.raises(ValueError, match=message):
        bound.rewards_without(torch.zeros(50_000, 2))
    with pytest.raises(ValueError, match=r"override reduce_others"):
        Median(50_000, gradient=ScoreFunction())


@pytest.mark.parametrize("gradient", [ScoreFunction(), VIMCO()], ids=repr)
@pytest.mark.parametrize(
    "name", ["TraceELBO", "IWAE", "CIWAE", "MIWAE", "PIWAE", "Renyi", "CUBO", "ThermodynamicELBO"]
)
def test_fifty_thousand_particles(name, gradient):
    """(K - 1, K, B) numbers would be 80 GB. The coefficients of log q are those of the definition
    at some particles."""
    if name in ("MIWAE", "PIWAE") and isinstance(gradient, ScoreFunction):
        return
    sizes = {
        "MIWAE": (5, 10_000),
        "PIWAE": (5, 10_000),
        "CIWAE": (0.5, 50_000),
        "Renyi": (0.5, 50_000),
        "CUBO": (2, 50_000),
    }
    bound = getattr(objectives, name)(*sizes.get(name, (50_000,)), gradient=gradient)
    log_w = (
        3 * torch.randn(50_000, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        - 100
    )
    found = gradient.coefficients(bound, log_w).log_q
    for k in (0, 7, 31_111, 49_999):
        rest = torch.cat([log_w[:k], log_w[k + 1 :]])
        if isinstance(gradient, VIMCO):
            changed = log_w.index_copy(0, torch.tensor([k]), rest.mean(0, keepdim=True))
            signal = bound.reduce(log_w) - bound.reduce(changed)
        else:
            baseline = bound.reduce(rest) / (50_000 if name == "TraceELBO" else 1)
            signal = bound.rewards(log_w)[k] - baseline
        torch.testing.assert_close(found[k], signal - bound.slopes(log_w)[k], rtol=0, atol=1e-10)


def test_power_means_of_others_are_power_means():
    """At orders so small that the weights to that power are 1 to rounding."""
    log_w = torch.randn(
        NUM_PARTICLES, ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for power in (1e-12, -1e-12, 1e-5, 0.3, -2.0):
        renyi = objectives.Renyi(1 - power, NUM_PARTICLES)
        expected = without(lambda rest, power=1 - renyi.alpha: power_mean(rest, power), log_w)
        torch.testing.assert_close(renyi.reduce_others(log_w), expected, rtol=0, atol=1e-14)
