"""Predictions given a part of x, where the model has a class: its draws are those given x, whether
the guide draws it or the model sums it out."""

import warnings
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy.special import softmax
from scipy.stats import norm

import ppl_vae as pv
from ppl_vae.diagnostics import Draws, conditional_pit, plot_reconstructions, to_datatree
from ppl_vae.families.missing import observed_part

SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)
LOADING = torch.tensor([1.0, -0.5, 0.8], dtype=torch.float64)
MEANS = torch.tensor([[0.0, 0.0, 0.0], [2.0, 1.0, -1.0]]).double()
NOISE = 0.7
COVARIANCE = np.outer(LOADING, LOADING) + NOISE**2 * np.eye(3)  # of x given the class


def rows(num=30, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.choice(2, p=SHARES.numpy(), size=num)
    noise = NOISE * rng.normal(size=(num, 3))
    return MEANS.numpy()[y] + rng.normal(size=(num, 1)) * LOADING.numpy() + noise


def model(x, mark=None):
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(SHARES), infer=mark or {})
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        mean = LOADING * z.unsqueeze(-1) + MEANS[y]
        fn, observed = observed_part(dist.Normal(mean, NOISE).to_event(1), x)
        pyro.sample("x", fn, obs=observed)


def marked(x):
    model(x, {"enumerate": "parallel"})


def with_class(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("y", dist.Categorical(0.5 * torch.ones(len(x), 2).double()))
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.2))


def z_alone(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.2))


def half_normal(x):
    """A guide whose scale cannot be inflated."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Laplace(torch.zeros(len(x)).double(), 1.0))


def given_the_rest(x, place):
    """Shares, means and the sd of x at a place given the other entries, in (rows, 2)."""
    rest = [each for each in range(3) if each != place]
    inverse = np.linalg.inv(COVARIANCE[np.ix_(rest, rest)])
    slope = inverse @ COVARIANCE[rest, place]
    residual = x[:, None, rest] - MEANS.numpy()[:, rest]
    log_p = SHARES.log().numpy() - 0.5 * np.einsum("nci,ij,ncj->nc", residual, inverse, residual)
    shares = np.exp(log_p - log_p.max(1, keepdims=True))
    means = MEANS.numpy()[:, place] + residual @ slope
    sd = np.sqrt(COVARIANCE[place, place] - COVARIANCE[place, rest] @ slope)
    return shares / shares.sum(1, keepdims=True), means, sd


PAIRS = {
    "in the guide": (model, with_class),
    "marked in the model": (marked, z_alone),
    "marked, guide not normal": (marked, half_normal),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("num_particles", [300, 2000])
def test_conditional_pit_is_that_of_the_mixture(pair, num_particles):
    x = rows()
    options = {"num_folds": 3, "num_particles": num_particles, "seed": 1, "progress": False}
    found = conditional_pit(*pair, torch.from_numpy(x), **options).values
    exact = np.empty_like(x)
    for place in range(3):
        shares, means, sd = given_the_rest(x, place)
        exact[:, place] = (shares * norm.cdf(x[:, [place]], means, sd)).sum(1)
    # A few hundredths at an effective size of a fifth of the particles; 0.14 with y from p(y).
    assert np.sqrt(np.mean((found - exact) ** 2)) < 0.5 / np.sqrt(num_particles / 5)


@pytest.mark.parametrize("name", ["in the guide", "marked in the model"])
def test_missing_entries_are_imputed_from_the_mixture(name):
    x = rows()
    shares, means, sd = given_the_rest(x, 0)
    mean = (shares * means).sum(1)
    variance = sd**2 + (shares * (means - mean[:, None]) ** 2).sum(1)
    holed = torch.from_numpy(x.copy())
    holed[:, 0] = torch.nan
    options = {"method": "importance", "num_imputations": 10, "num_particles": 1000}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* draws that are not reliable")
        found = pv.impute(*PAIRS[name], holed, progress=False, **options)
    # 10,000 particles of which a fifth are effective.
    error = (found.mean[:, 0] - mean) / np.sqrt(variance / 2000)
    assert np.abs(error).max() < 4.5
    assert np.mean(error**2) < 1.8


def test_reconstructions_take_the_class_given_x():
    """E(x given z) averaged over y given z and x, with z from the guide, as quadrature has it."""
    x = rows(4)
    axes = plot_reconstructions(marked, z_alone, torch.from_numpy(x), 4, num_particles=20_000)
    z = np.linspace(-8, 8, 2001)[:, None, None]
    weights = norm.pdf(z, 0, 1.2)[:, 0] / norm.pdf(z, 0, 1.2).sum()
    centres = LOADING.numpy() * z[..., None] + MEANS.numpy()  # (z, 1, class, feature)
    log_p = norm.logpdf(x[:, None], centres, NOISE).sum(-1) + SHARES.log().numpy()
    shares = np.exp(log_p - log_p.max(-1, keepdims=True))
    shares = shares / shares.sum(-1, keepdims=True)
    exact = ((shares[..., None] * centres).sum(2) * weights[..., None]).sum(0)
    for ax, expected in zip(axes, exact, strict=True):
        [dots] = [line for line in ax.lines if line.get_marker() not in ("", "None", None)]
        assert np.allclose(dots.get_ydata(), expected, atol=0.06)  # 5 standard errors


CENTRES = torch.tensor([[-1.5, 0.0], [1.0, 0.5], [0.0, -1.0]]).double()
LOADINGS = torch.tensor([[1.0, -0.5, 0.8], [0.3, 0.9, 0.0]]).double()


def class_of_z(x, *, one_hot):
    """z is a vector whose mean is that of its class."""
    kind = dist.OneHotCategorical if one_hot else dist.Categorical
    shares = torch.tensor([0.2, 0.5, 0.3]).double()
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", kind(shares), infer={"enumerate": "parallel"})
        mean = y @ CENTRES if one_hot else CENTRES[y]
        z = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ LOADINGS, NOISE).to_event(1), obs=x)


def normal(x):
    with pyro.plate("data", len(x), dim=-1):
        mean = x @ torch.linalg.pinv(LOADINGS)
        pyro.sample("z", dist.Normal(mean, 0.7).to_event(1))


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_class_of_a_vector_is_drawn_given_it(one_hot):
    x = torch.from_numpy(rows(10))
    model = partial(class_of_z, one_hot=one_hot)
    tree = to_datatree(model, normal, x, Draws(4000), seed=1, progress=False)
    z, y = (tree["posterior"][name].values[0] for name in ("z", "y"))
    log_p = norm.logpdf(z[..., None, :], CENTRES).sum(-1) + np.log([0.2, 0.5, 0.3])
    exact = softmax(log_p, axis=-1)
    found = y if one_hot else np.eye(3)[y.astype(int)]
    error = (found - exact).mean(0) / np.sqrt((exact * (1 - exact)).mean(0) / 4000)
    assert np.abs(error).max() < 4.0  # of 30
    assert np.mean(error**2) < 1.8
