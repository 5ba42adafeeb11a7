"""Replicates of x given x: a class that the model sums out, a latent that all rows share, and a
class that is known for some rows; each against its closed form."""

import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro.infer.autoguide import AutoNormal, init_to_median
from scipy.special import softmax

import ppl_vae as pv
from ppl_vae.diagnostics import Draws, to_datatree
from ppl_vae.programs.observed.known import known_parts

QUIET = {"progress": False}
MARK = {"enumerate": "parallel"}
SHARES = np.array([0.4, 0.6])
MEANS = np.array([[-2.0, 0.5, 1.0], [2.0, -0.5, 0.0]])
LOADING = np.array([0.5, 1.0, -0.5])
NOISE = 0.7


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def rows(width, num=60, seed=0):
    """x of this width and its class, the second group with more of class 1."""
    rng = np.random.default_rng(seed)
    group = np.arange(num) % 2
    y = (rng.random(num) < np.where(group, 0.8, 0.2)).astype(int)
    noise = NOISE * rng.normal(size=(num, width))
    return MEANS[y, :width] + rng.normal(size=(num, 1)) * LOADING[:width] + noise, y, group


def given_class(x):
    """p(y given x), and mean and variance of z given x and y, in (rows, 2)."""
    loading = LOADING[: x.shape[1]]
    covariance = np.outer(loading, loading) + NOISE**2 * np.eye(len(loading))
    residual = x[:, None] - MEANS[:, : len(loading)]
    inverse = np.linalg.inv(covariance)
    distance = np.einsum("nci,ij,ncj->nc", residual, inverse, residual)
    mean = residual @ inverse @ loading
    return softmax(np.log(SHARES) - distance / 2, axis=1), mean, 1 - loading @ inverse @ loading


def means_of_replicates(x, shares):
    """E(x' given x), (rows, width), with these probabilities of the classes."""
    _, mean, _ = given_class(x)
    by_class = MEANS[:, : x.shape[1]] + mean[..., None] * LOADING[: x.shape[1]]
    return (shares[..., None] * by_class).sum(1)


def difference(values, group):
    return values[group == 1].mean(0) - values[group == 0].mean(0)


def observe(y, z, x, shift=0.0):
    width = x.shape[1]
    first, second = tensor(MEANS[:, :width])
    mean = torch.where((y == 1).unsqueeze(-1), second, first) + tensor(
        LOADING[:width]
    ) * z.unsqueeze(-1)
    pyro.sample("x", dist.Normal(mean + shift, NOISE).to_event(1), obs=x)


def marked(x, context=None):
    """A model that sums out its class; covariates shift x."""
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(tensor(SHARES)), infer=MARK)
        z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
        observe(y, z, x, 0.0 if context is None else context)


def wide(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.1))


@pytest.mark.parametrize("width", [1, 3])
def test_a_summed_out_class_is_drawn_given_x(width):
    x, _, group = rows(width)
    shares, *_ = given_class(x)
    exact = means_of_replicates(x, shares)
    own = {"difference": lambda x: difference(x, group)}
    check = pv.predictive_check(marked, wide, tensor(x), own, num_samples=400, **QUIET)
    found = check.posterior_predictive["difference"].mean(0)
    assert found == pytest.approx(difference(exact, group), abs=0.06)  # 4 standard errors
    contrasted = pv.contrast(marked, wide, tensor(x), group, **QUIET).to_frame()["difference"]
    assert contrasted["feature"].to_numpy() == pytest.approx(difference(exact, group), abs=0.06)
    assert contrasted["latent"]["y"] == pytest.approx(difference(shares[:, 1], group), abs=0.02)


def test_under_other_covariates_the_class_is_kept():
    x, *_ = rows(3)
    exact = means_of_replicates(x, given_class(x)[0])
    data = pv.Dataset(tensor(x), context=np.zeros(len(x)))
    found = pv.counterfactual(marked, wide, data, {"0": 5.0}, num_samples=1000, **QUIET)
    error = found.mean - (exact + 5.0)
    assert np.abs(error).max() < 0.35  # sd up to 2, of 1,000 draws; 4 with y from p(y)
    assert np.abs(error.mean(0)).max() < 0.03


def test_a_class_inside_a_further_plate_has_no_contrast():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
            with pyro.plate("parts", 2, dim=-2):
                y = pyro.sample("y", dist.Bernoulli(tensor(0.5)), infer=MARK)
                pyro.sample("x", dist.Normal(z + y, 1.0), obs=x.T)

    x, _, group = rows(3)
    with pytest.raises(ValueError, match="site 'y' lies in a plate inside the plate \"data\""):
        pv.contrast(model, wide, tensor(x[:, :2]), group, **QUIET)


FACTOR, SPREAD, SMALL = 0.7, 0.5, 0.1  # of the guide's g, and the noise of x


def scaled(x, context=None):
    """x = g z + noise: z given x is x / g, whatever g is."""
    g = pyro.sample("g", dist.LogNormal(tensor(0.0), 1.0))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
        pyro.sample("x", dist.Normal((g * z).unsqueeze(-1), SMALL).to_event(1), obs=x)


def given_scale(x, context=None):
    g = pyro.sample("g", dist.LogNormal(tensor(FACTOR), SPREAD))
    variance = 1 / (1 + g**2 / SMALL**2)
    with pyro.plate("data", len(x), dim=-1):
        mean = variance * g * x[:, 0] / SMALL**2
        pyro.sample("z", dist.Normal(mean, 1.1 * variance.sqrt()))


def of_guide(function):
    """Mean and sd of a function of g under the guide."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    values = function(np.exp(FACTOR + SPREAD * nodes))
    mean = values @ weights / weights.sum()
    return mean, np.sqrt((values - mean) ** 2 @ weights / weights.sum())


def test_z_goes_with_the_shared_latent_that_it_was_drawn_with():
    group = np.repeat([0, 1], 20)
    x = np.where(group, 2.0, -2.0)[:, None] + SMALL * np.random.default_rng(0).normal(size=(40, 1))
    own = {"row": lambda x: x[0, 0], "difference": lambda x: difference(x, group)}
    check = pv.predictive_check(scaled, given_scale, tensor(x), own, num_samples=300, **QUIET)
    share, _ = of_guide(lambda g: g**2 / (g**2 + SMALL**2))
    noise = np.sqrt(of_guide(lambda g: SMALL**2 * g**2 / (g**2 + SMALL**2) + SMALL**2)[0])
    row = check.posterior_predictive["row"]
    assert row.mean() == pytest.approx(share * x[0, 0], abs=4 * noise / np.sqrt(300))
    assert row.std() == pytest.approx(noise, rel=0.2)  # 1.5 with z and g from two draws
    frame = pv.contrast(scaled, given_scale, tensor(x), group, num_samples=400, **QUIET).to_frame()
    feature, latent = frame.loc[("feature", "0")], frame.loc[("latent", "z")]
    apart = difference(x, group)[0]
    assert feature["difference"] == pytest.approx(share * apart, abs=0.02)
    assert feature["sd"] == pytest.approx(noise * np.sqrt(1 / 10), rel=0.2)
    mean, sd = of_guide(lambda g: g / (g**2 + SMALL**2))
    assert latent["difference"] == pytest.approx(mean * apart, abs=4 * sd * apart / np.sqrt(400))
    assert latent["sd"] == pytest.approx(sd * apart, rel=0.25)  # 0.01 given one draw of g


def test_a_shared_latent_has_its_uncertainty_in_counterfactuals():
    """x = g + z + noise: z given x and g is b (x - g), and x' is b x + (1 - b) g + noise."""
    scale, share = 2.0, 1 / (1 + NOISE**2)

    def model(x, context):
        g = pyro.sample("g", dist.Normal(tensor(0.0), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
            mean = (g + z).unsqueeze(-1) + context
            pyro.sample("x", dist.Normal(mean, NOISE).to_event(1), obs=x)

    def guide(x, context):
        g = pyro.sample("g", dist.Normal(tensor(0.0), scale))
        with pyro.plate("data", len(x), dim=-1):
            sd = np.sqrt(share) * NOISE
            pyro.sample("z", dist.Normal(share * (x - context)[:, 0] - share * g, sd))

    x = np.array([[-3.0], [0.0], [3.0]])
    data = pv.Dataset(tensor(x), context=np.zeros(3))
    found = pv.counterfactual(model, guide, data, {"0": 1.0}, num_samples=600, **QUIET)
    variance = (1 - share) ** 2 * scale**2 + share * NOISE**2 + NOISE**2
    assert found.mean == pytest.approx(share * x + 1, abs=4 * np.sqrt(variance / 600))
    assert found.draws.var(0) == pytest.approx(np.full((3, 1), variance), rel=0.25)


def known_class(x):
    """A model whose class is the last column of x, NaN where it is not known."""
    labels = x[:, -1]
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample(
            "y",
            dist.Categorical(tensor(SHARES)),
            obs=labels.nan_to_num(),
            obs_mask=~labels.isnan(),
        )
        z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
        observe(y, z, x[:, :-1])


def class_in_guide(x):
    shares, mean, variance = map(tensor, given_class(x[:, :-1].numpy()))
    known = ~x[:, -1].isnan()
    with pyro.plate("data", len(x), dim=-1):
        with pyro.poutine.mask(mask=~known):
            y = pyro.sample("y_unobserved", dist.Categorical(0.9 * shares + 0.05))
        y = torch.where(known, x[:, -1].nan_to_num(), y).long()
        pyro.sample("z", dist.Normal(mean[torch.arange(len(x)), y], 1.05 * variance.sqrt()))


def class_summed_out(x):
    wide(x)


@pytest.mark.parametrize("in_guide", [True, False], ids=["in the guide", "summed out"])
def test_a_known_class_is_kept(in_guide):
    x, y, group = rows(3)
    labels = np.where(np.arange(len(x)) % 4 < 2, y, np.nan)
    known = ~np.isnan(labels)
    data = tensor(np.column_stack([x, labels]))

    marks = {} if in_guide else {"y_unobserved": MARK}
    model = pyro.poutine.infer_config(known_class, lambda site: marks.get(site["name"], {}))
    guide = class_in_guide if in_guide else class_summed_out
    assert known_parts(model, (data,)) == {"y_observed"}
    shares = np.where(known[:, None], np.eye(2)[y], given_class(x)[0])
    exact = means_of_replicates(x, shares)
    own = {"labelled": lambda x: x[known, :3].mean(0), "classes": lambda x: x[:, 3]}
    check = pv.predictive_check(model, guide, data, own, num_samples=400, **QUIET)
    found = check.posterior_predictive["labelled"].mean(0)
    assert found == pytest.approx(exact[known].mean(0), abs=0.05)
    assert np.isnan(check.posterior_predictive["classes"]).all()
    with pytest.warns(UserWarning, match="predicted features are without '3'"):
        frame = pv.contrast(model, guide, data, group, **QUIET).to_frame()["difference"]
    assert list(frame["feature"].index) == ["0", "1", "2"]
    assert frame["feature"].to_numpy() == pytest.approx(difference(exact, group), abs=0.06)
    expected = difference(shares[:, 1], group)
    assert frame["latent"]["y_unobserved"] == pytest.approx(expected, abs=0.02)

    tree = to_datatree(model, guide, data, Draws(2000), progress=False)
    weights = softmax(tree["sample_stats"]["log_weights"].values[0], axis=0)
    replicates = tree["posterior_predictive"]["x"].values[0]
    means = (weights[..., None] * replicates).sum(0)
    assert means[known].mean(0) == pytest.approx(exact[known].mean(0), abs=0.05)
    classes = tree["posterior"]["y_unobserved"].values[0]
    assert (classes[:, known] == y[known]).all()


def test_a_value_that_nothing_depends_on_is_drawn_with_the_others():
    """The known part of an entry that is missing at times is an observation like others."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
            fn, given = dist.Normal(z, NOISE), x[:, 1].nan_to_num()
            pyro.sample("first", dist.Normal(z, NOISE), obs=x[:, 0])
            pyro.sample("second", fn, obs=given, obs_mask=~x[:, 1].isnan())

    x = tensor([[0.0, 1.0], [1.0, torch.nan]])
    assert known_parts(model, (x,)) == frozenset()


def test_semi_supervised_models_keep_the_known_classes():
    with pv.seeded(0):
        model = pv.SemiSupervisedModel(3, pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(2))
        guide = pv.SemiSupervisedGuide(3, pv.posteriors.MeanFieldNormal(1), 2)
        x = torch.randn(40, 3)
    group = np.repeat([0, 1], 20)
    x[:, 2] = torch.as_tensor(np.where(group, 2.0, np.arange(40) % 3))
    assert known_parts(model, (x,)) == {"y_observed"}
    with pytest.warns(UserWarning, match="predicted features are without '2'"):
        found = pv.contrast(model, guide, x, group, num_samples=20, **QUIET).to_frame()
    exact = difference(np.eye(3)[x[:, 2].long().numpy()], group)
    latents = found.loc["latent"].filter(like="y_unobserved", axis=0)
    assert latents["difference"].to_numpy() == pytest.approx(exact)
    assert latents["sd"].to_numpy() == pytest.approx(0.0)


def test_a_class_that_the_guide_leaves_out_is_drawn():
    """q(y given x) is sure of class 0: draws of each value have the probabilities of the model."""
    x, _, group = rows(3)
    shares, *_ = given_class(x)
    exact = means_of_replicates(x, shares)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(tensor(SHARES)))
            z = pyro.sample("z", dist.Normal(tensor(0.0), 1.0))
            observe(y, z, x)

    def sure(x):
        _, mean, variance = map(tensor, given_class(x.numpy()))
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(tensor([1 - 1e-9, 1e-9])))
            loc = mean[torch.arange(len(x)), y]
            pyro.sample("z", dist.Normal(loc, 1.1 * variance.sqrt()))

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* k-hat")
        found = pv.contrast(model, sure, tensor(x), group, **QUIET).to_frame()["difference"]
    assert found["latent"]["y"] == pytest.approx(difference(shares[:, 1], group), abs=0.02)
    assert found["feature"].to_numpy() == pytest.approx(difference(exact, group), abs=0.06)


def test_latents_of_pyros_guides_are_drawn_as_those_of_a_guide_of_ones_own():
    """AutoNormal draws each latent at an auxiliary site and sets it to that draw."""
    x = tensor(np.random.default_rng(0).normal(size=(12, 2)) + 1.0)

    def model(x):
        mu = pyro.sample("mu", dist.Normal(tensor([0.0, 0.0]), 2.0).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(tensor([0.0]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mu + z, 1.0).to_event(1), obs=x)

    auto = AutoNormal(model, init_loc_fn=init_to_median)
    auto(x)
    locs, scales = auto.locs, auto.scales

    def own(x):
        pyro.sample("mu", dist.Normal(locs.mu, scales.mu).to_event(1))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(locs.z[: len(x)], scales.z[: len(x)]).to_event(1))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, expected = (
            pv.predictive_check(model, guide, x, num_samples=20, **QUIET) for guide in (auto, own)
        )
    for name, values in expected.posterior_predictive.items():
        assert found.posterior_predictive[name] == pytest.approx(values)
