"""The site of x is the one that observes x's values, whatever the names and widths of others."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, priors
from ppl_vae.diagnostics.plots import plot_samples
from ppl_vae.diagnostics.predictive.entries import EntriesOfX
from ppl_vae.families.missing import observed_part
from ppl_vae.programs.observed.site_of_x import entries_of_x

NAN = float("nan")
QUIET = {"progress": False}
NAMES = [("w", "x"), ("x", "obs"), ("a", "b")]  # of the other array's site and of x's
SETTINGS = {"num_particles": 50, **QUIET}


def program(names):
    """Another array near 100, as wide as x and observed before it, and x near 0."""
    other, own = names

    def model(x, w):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0)).unsqueeze(-1)
            pyro.sample(other, dist.Normal(100 + torch.zeros(2), 1.0).to_event(1), obs=w)
            fn, seen = observed_part(dist.Normal(0 * z + torch.zeros(2), 1.0).to_event(1), x)
            pyro.sample(own, fn, obs=seen)

    def guide(x, w):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    return model, guide


def rows(missing=()):
    """Normal rows of x with these cells missing, beside the other array."""
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(40, 2)), 100 + rng.normal(size=(40, 2))
    for cell in missing:
        x[cell] = NAN
    return pv.Dataset(x, args={"w": w})


@pytest.mark.parametrize("names", NAMES)
def test_tasks_draw_and_score_x_beside_an_array_as_wide(names):
    pair, data = program(names), rows()
    missing = rows([(slice(20), 0)])
    assert abs(pv.impute(*pair, missing, num_imputations=2, **SETTINGS).mean.mean()) < 5
    assert pv.overimpute(*pair, data, share=0.5, **SETTINGS).coverage(0.9).min() > 0.5
    found = pv.predictive_check(*pair, data, {"mean": np.mean}, num_samples=10, **QUIET)
    assert abs(found.prior_predictive["mean"]).max() < 5
    assert abs(found.posterior_predictive["mean"]).max() < 5
    assert pv.marginal_pit(pair[0], data, **QUIET).p_value > 1e-3
    assert pv.conditional_pit(*pair, data, **SETTINGS).p_value > 1e-3
    simulated, _ = pv.simulate(pair[0], data)
    assert simulated.x.abs().max() < 10 < simulated.args["w"].min()


def test_the_odd_columns_are_those_of_x():
    odd = rows()
    odd.x[0, 1] = 50.0
    found = pv.odd_columns(*program(("w", "obs")), rows(), odd, **SETTINGS)
    assert found.iloc[0, 1] == found.min(axis=None)


@pytest.mark.parametrize("names", NAMES)
def test_rows_without_a_value_tell_the_sites_apart_too(names):
    data = rows([slice(None)])
    model, _ = program(names)
    found = entries_of_x(model, (data.x, data.args["w"]))
    assert {name: places.tolist() for name, places in found.items()} == {names[1]: [0, 1]}


@pytest.mark.parametrize(("num_classes", "num_features"), [(3, 2), (3, 3), (2, 1)])
def test_a_class_as_wide_as_the_rows_is_not_x(num_classes, num_features):
    model = pv.SemiSupervisedModel(
        num_classes,
        priors.StandardNormal(1),
        likelihoods.Gaussian(num_features),
        nn.Linear(num_classes + 1, num_features),
    )
    x = np.random.default_rng(0).normal(size=(6, num_features))
    labels = [0.0, NAN, 1.0, 0.0, NAN, 1.0]
    found = EntriesOfX.of(model, pv.Dataset(np.column_stack([x, labels])))
    assert found.places["x"].tolist() == list(range(num_features))
    assert found.places.keys() == {"x"}


def test_x_at_two_sites_is_refused_where_it_is_drawn():
    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0)).unsqueeze(-1)
            for name in ("one", "two"):
                pyro.sample(name, dist.Normal(z + torch.zeros(2), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    x = torch.randn(4, 2)
    assert pv.log_evidence(model, guide, x, **SETTINGS).log_evidence.shape == (4,)
    with pytest.raises(ValueError, match="sites 'one' and 'two' both observe entry 0 of x, so "):
        pv.predictive_check(model, guide, x, {"mean": np.mean}, **QUIET)


@pytest.mark.parametrize("names", NAMES)
def test_the_tree_holds_each_array_at_its_site(names):
    data = rows([(0, 0)])
    tree = pv.to_datatree(*program(names), data, num_samples=30, **QUIET)
    for name, expected in zip(names, (data.args["w"], data.x), strict=True):
        np.testing.assert_array_equal(tree.observed_data[name], expected)


def test_generated_samples_are_of_the_site_that_the_model_returns():
    def model():
        with pyro.plate("data", 1, dim=-1):
            latent = pyro.sample("x", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            return pyro.sample("obs", dist.Normal(7 + 0 * latent, 1.0).to_event(1))

    lines = plot_samples(model, num=2).lines
    assert [line.get_ydata().tolist() for line in lines] == [[7.0] * 3] * 2
