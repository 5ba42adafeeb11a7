"""Counts and ordered categories: joint densities, moments, where a likelihood starts, exposure, and
the fit of proportional odds."""

import itertools
import math
import re
from pathlib import Path

import mpmath as mp
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, entry_of, whole_numbers
from count_laws import LAWS, log_negative_binomial, log_poisson
from scipy import special, stats

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.diagnostics.predictive.cdf import below_and_at
from ppl_vae.experiment import build, read_config
from ppl_vae.families import densities
from ppl_vae.programs.simulate import simulate

DTYPES = {"float32": torch.float32, "float64": torch.float64}
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
JOINT = ("Multinomial", "DirichletMultinomial")
RATES = ("Poisson", "NegativeBinomial", "ZeroInflatedPoisson", "HurdleNegativeBinomial")


# --- parts of a total -----------------------------------------------------------------------------


def log_multinomial(x, logits, log_c):
    """log p(x) of mpmath's numbers; with a concentration of None, that of the multinomial."""
    weights = [mp.exp(logit) for logit in logits]
    n, shares = mp.fsum(x), [weight / mp.fsum(weights) for weight in weights]
    if log_c is None:
        terms = [log_poisson(each, mp.log(n * p)) for each, p in zip(x, shares, strict=True)]
        return mp.fsum(terms) - log_poisson(n, mp.log(n))
    pairs = zip(x, shares, strict=True)
    terms = [log_negative_binomial(each, mp.log(n * p), mp.log(p) + log_c) for each, p in pairs]
    return mp.fsum(terms) - log_negative_binomial(n, mp.log(n), log_c)


PARTS = [
    ([1.0, 0.0, 0.0], [0.0, 0.0, 0.0]),
    ([3.0, 4.0, 5.0], [0.1, -2.0, 1.0]),
    ([0.0, 1.0, 9.0], [-30.0, -20.0, 30.0]),
    ([500.0, 200.0, 300.0], [0.9162907, 0.0, 0.4054651]),
    ([100.0, 0.0, 1e5], [0.0, -15.0, 7.0]),
]
CONCENTRATIONS = (None, -6.9, 0.0, 5.0, 18.4)


@every_dtype
@pytest.mark.parametrize("log_c", CONCENTRATIONS)
def test_parts_of_a_total_have_the_density_and_gradient_of_the_law(log_c, dtype):
    x, logits = (torch.tensor(each, dtype=dtype) for each in zip(*PARTS, strict=True))
    logits.requires_grad_()
    law = densities.SoftmaxMultinomial(logits)
    inputs = [logits]
    if log_c is not None:
        inputs.append(torch.full((len(x),), log_c, dtype=dtype, requires_grad=True))
        law = densities.SoftmaxDirichletMultinomial(*inputs)
    log_prob = law.log_prob(x)
    slopes = torch.autograd.grad(log_prob.sum(), inputs)
    mp.mp.dps = 60
    for row in range(len(x)):
        counts, eta = ([mp.mpf(v) for v in each[row].tolist()] for each in (x, logits))
        c = None if log_c is None else mp.mpf(inputs[1][row].item())
        expected = log_multinomial(counts, eta, c)
        assert log_prob[row].item() == pytest.approx(float(expected), rel=TOLERANCE[dtype])
        # The slopes are differences of terms of the size of the total.
        allowed = TOLERANCE[dtype] + 8 * torch.finfo(dtype).eps * float(mp.fsum(counts))
        step = mp.mpf(10) ** -20
        for i, found in enumerate(slopes[0][row].tolist()):
            moved = [value + (step if j == i else 0) for j, value in enumerate(eta)]
            exact = (log_multinomial(counts, moved, c) - expected) / step
            assert found == pytest.approx(float(exact), abs=allowed)
        if c is not None:
            exact = (log_multinomial(counts, eta, c + step) - expected) / step
            assert slopes[1][row].item() == pytest.approx(float(exact), abs=allowed)


def test_densities_of_totals_are_scipys():
    p = np.array([0.2, 0.5, 0.3])
    x = np.array([[1, 2, 3], [0, 0, 6], [6, 0, 0]])
    logits = torch.tensor(p).log()
    found = densities.SoftmaxMultinomial(logits).log_prob(torch.tensor(x).double())
    np.testing.assert_allclose(found, stats.multinomial.logpmf(x, 6, p), atol=1e-12)
    law = densities.SoftmaxDirichletMultinomial(logits, torch.tensor(2.5).double().log())
    expected = [stats.dirichlet_multinomial.logpmf(row, 2.5 * p, 6) for row in x]
    np.testing.assert_allclose(law.log_prob(torch.tensor(x).double()), expected, atol=1e-12)
    k = torch.arange(13).double()
    binomial = densities.LogitBinomial(12, logits=torch.tensor(0.4).double())
    np.testing.assert_allclose(
        binomial.log_prob(k), stats.binom.logpmf(k, 12, special.expit(0.4)), atol=1e-12
    )
    law = densities.LogitBetaBinomial(binomial.logits, torch.tensor(1.5).double().log(), k[-1])
    a = 1.5 * special.expit(0.4)
    np.testing.assert_allclose(
        law.log_prob(k), stats.betabinom.logpmf(k, 12, a, 1.5 - a), atol=1e-12
    )


@pytest.mark.statistical
@pytest.mark.parametrize("log_c", [None, -3.0, 1.0])
def test_draws_of_parts_are_those_of_their_law(log_c):
    """Chi-square over all 165 compositions of 8 in 4 parts; level 0.001, fixed seed."""
    logits = torch.tensor([0.0, 1.0, -1.5, 0.3]).double()
    total = torch.tensor(8.0).double()
    law = densities.SoftmaxMultinomial(logits, total)
    if log_c is not None:
        law = densities.SoftmaxDirichletMultinomial(logits, torch.tensor(log_c).double(), total)
    with pv.seeded(1):
        draws = law.sample((20_000,))
    assert (draws.sum(-1) == 8).all()
    values = whole_numbers(law.support, 4, most=8)
    values = values[values.sum(-1) == 8]
    expected = 20_000 * law.log_prob(values).exp().numpy()
    assert expected.sum() == pytest.approx(20_000, rel=1e-9)
    place = torch.tensor([729.0, 81.0, 9.0, 1.0]).double()
    found = np.array([(draws @ place == value @ place).sum().item() for value in values])
    rare = expected < 5
    found[rare.argmax()] = found[rare].sum() if rare.any() else found[0]
    expected[rare.argmax()] = expected[rare].sum() if rare.any() else expected[0]
    rare[rare.argmax()] = False
    assert stats.chisquare(found[~rare], expected[~rare]).pvalue > 0.001


@pytest.mark.parametrize("name", [*LAWS, "Poisson", "NegativeBinomial", *JOINT])
def test_moments_are_those_of_the_density(name):
    """Mean and variance against sums over the support."""
    joint = name in JOINT
    likelihood = LIKELIHOODS[name][0]((1 + joint,))
    likelihood.build((2,))
    likelihood.double()
    with torch.no_grad():
        law = entry_of(likelihood(torch.tensor([[0.3, -0.5]]).double()))
        values = whole_numbers(law.support, 1 + joint)[:, None]
        if joint:
            values = values[values.sum(-1) == 20][:, None]
        p = law.log_prob(values).exp().reshape(len(values), -1, 1)
        values = values.reshape(len(values), 1, -1)
        mean = (p * values).sum(0)
        variance = (p * (values - mean).square()).sum(0)
    torch.testing.assert_close(law.mean.reshape(mean.shape), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(law.variance.reshape(mean.shape), variance, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [*LAWS, "Poisson", "NegativeBinomial"])
def test_distribution_functions_are_sums(name):
    """P(X < k) of every k up to 12, where means are small and where they are not."""
    likelihood = LIKELIHOODS[name][0]((2,))
    likelihood.build((1,))
    likelihood.double()
    with torch.no_grad():
        likelihood.link.linear.bias[:2] = torch.tensor([-18.0, 1.0])
        law = likelihood(torch.zeros(13, 1).double())
        most = {"Binomial": 5, "BetaBinomial": 5, "Ordinal": 3}.get(name, 12)
        k = torch.arange(13.0).clamp(max=most).double()[:, None].expand(13, 2)
        below, at = below_and_at(law, k)
    sums = np.cumsum(at[: most + 1], axis=0)
    np.testing.assert_allclose(below[1 : most + 1], sums[:-1], atol=1e-9)
    assert (below[0] == 0).all()


def test_pyros_zero_inflated_counts_have_a_distribution_function():
    rate = torch.tensor([[0.3, 2.0, 7.5]]).double()
    k = torch.tensor([[0.0, 1.0, 9.0]]).double()
    law = dist.ZeroInflatedPoisson(rate, gate=torch.tensor(0.3).double())
    below, _ = below_and_at(law.to_event(1), k)
    expected = (0.3 + 0.7 * stats.poisson.cdf(k - 1, rate)) * (k.numpy() > 0)
    np.testing.assert_allclose(below, expected, atol=1e-12)


X = torch.tensor([0.0, 1.0, 4.0, 12.0]).double()
TRIALS = torch.tensor(12.0).double()
CURVED = {
    "negative binomial": lambda a, b: densities.LogMeanNegativeBinomial(a, b).log_prob(X),
    "hurdle": lambda a, b: densities.Hurdle(
        densities.LogMeanNegativeBinomial(a, b), gate_logits=b
    ).log_prob(X),
    "zero-inflated": lambda a, b: densities.ZeroInflated(
        densities.LogRatePoisson(a), gate_logits=b
    ).log_prob(X),
    "binomial": lambda a, b: densities.LogitBinomial(TRIALS, logits=a + b).log_prob(X),
    "beta-binomial": lambda a, b: densities.LogitBetaBinomial(a, b, TRIALS).log_prob(X),
    "Dirichlet-multinomial": lambda a, b: densities.SoftmaxDirichletMultinomial(a, b[0]).log_prob(
        X
    ),
    "ordered": lambda a, b: densities.OrderedCategorical(a, b[:2].expand(4, 2)).log_prob(
        torch.arange(4)
    ),
}


@pytest.mark.parametrize("law", CURVED)
def test_second_derivatives_are_those_of_differences(law):
    a = torch.tensor([0.3, -1.0, 2.0, 0.1]).double().requires_grad_()
    b = torch.tensor([0.5, 1.0, -0.5, 0.2]).double().requires_grad_()
    assert torch.autograd.gradgradcheck(CURVED[law], (a, b))


def test_a_probability_given_totals_is_not_compared_with_one_of_independent_counts():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 40.0]])
    found = {}
    for name in ("Multinomial", "Poisson"):
        model = pv.Model(priors.StandardNormal(1), getattr(likelihoods, name)(3))
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
        found[name] = pv.log_evidence(model, guide, x, num_particles=30, progress=False)
    with pytest.raises(ValueError, match="a probability of x given totals in one and of a prob"):
        pv.compare_models(found)


def test_a_total_is_that_of_x_or_of_the_exposure_or_given():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 40.0], 3 * [torch.nan]])
    model = pv.Model(priors.StandardNormal(1), likelihoods.Multinomial(3))
    imitated, _ = simulate(model, pv.Dataset(x))
    assert imitated.x.sum(1).tolist()[:2] == [6.0, 40.0]
    assert imitated.x[2].isnan().all()
    with pytest.raises(ValueError, match="the total of each row is not known here: give total="):
        model.sample(3)
    given = pv.Model(priors.StandardNormal(1), likelihoods.DirichletMultinomial(3, total=7))
    assert given.sample(3).sum(1).tolist() == [7.0] * 3
    model = pv.Model(
        priors.StandardNormal(1), likelihoods.Multinomial((2, 3)), context_dim=1, exposure=0
    )
    drawn = model.sample(context=torch.tensor([[5.0], [9.0]]))
    assert drawn.sum(-1).tolist() == [[5.0, 5.0], [9.0, 9.0]]
    model.check(drawn, torch.tensor([[5.0], [9.0]]))
    with pytest.raises(ValueError, match="exposure=0 is 8 at row 1, where x adds up to 9"):
        model.check(drawn, torch.tensor([[5.0], [8.0]]))


def test_a_part_alone_is_binomial_and_none_is_hidden_without_the_others():
    x = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 40.0]])
    model = pv.Model(priors.StandardNormal(1), likelihoods.Multinomial(3))
    with torch.no_grad():
        p = model.likelihood_at(torch.zeros(2, 1), x=x)
        below, at = below_and_at(p, x)
        shares = p.logits.exp().numpy()
    n = x.sum(1, keepdim=True).numpy()
    np.testing.assert_allclose(below, stats.binom.cdf(x.numpy() - 1, n, shares), atol=1e-5)
    np.testing.assert_allclose(at, stats.binom.pmf(x.numpy(), n, shares), atol=1e-5)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3)
    with pytest.raises(ValueError, match="entries of Multinomial have one joint density"):
        pv.conditional_pit(model, guide, x)


def test_numbers_of_trials_are_checked_and_shown():
    assert "total=3 to 9" in repr(likelihoods.Binomial(2, total=[3, 9]))
    for total, message in (
        (0, "total is 0"),
        (2.5, "total is 2.5; it must be a whole number"),
        ([1, 2, 3], r"total has shape \(3,\): give one number of trials, or one for each feature"),
    ):
        with pytest.raises(ValueError, match=message):
            likelihoods.BetaBinomial(2, total=total)
    with pytest.raises(ValueError, match="x is 4 at row 0, feature 0; x counts the successes"):
        likelihoods.Binomial(2, total=[3, 9]).check(torch.tensor([[4.0, 4.0]]))


# --- where a likelihood starts --------------------------------------------------------------------


def started(likelihood, x, **options):
    """The law where features are zero, of a model that starts at x."""
    decoder = torch.nn.Linear(1, 4)
    torch.nn.init.zeros_(decoder.weight)
    torch.nn.init.zeros_(decoder.bias)
    model = pv.Model(priors.StandardNormal(1), likelihood, decoder, start=x, **options)
    with torch.no_grad():
        return entry_of(model.likelihood(torch.zeros(1, 4)))


def drawn(law, num_rows=20_000):
    with pv.seeded(3):
        return law.sample((num_rows,))


@pytest.mark.parametrize("kind", [densities.ZeroInflated, densities.Hurdle])
@pytest.mark.parametrize("log_r", [None, 0.7])
def test_gates_rates_and_dispersions_start_at_those_of_the_counts(kind, log_r):
    """Within a tenth, or 0.03 of a probability, at 20,000 rows of which half have exposure 1 and
    half 4."""
    log_mean = torch.tensor([0.5, 2.0])
    exposure = torch.tensor([1.0, 4.0]).repeat(10_000)[:, None]
    laws = {
        None: densities.LogRatePoisson,
        0.7: lambda log_mean: densities.LogMeanNegativeBinomial(log_mean, torch.tensor(0.7)),
    }
    gate = torch.tensor([-1.0, 0.5])
    law = kind(laws[log_r](log_mean + exposure.log()), gate_logits=gate)
    x = drawn(law, 1)[0]
    x[::50, 0] = torch.nan
    name = f"{'Hurdle' if kind is densities.Hurdle else 'ZeroInflated'}"
    name += "NegativeBinomial" if log_r else "Poisson"
    data = pv.Dataset(x, context=exposure)
    found = started(getattr(likelihoods, name)(2), data, exposure=0)
    assert (found.gate[0] - gate.sigmoid()).abs().max() < 0.03
    torch.testing.assert_close(found.base_dist.mean[0], log_mean.exp(), rtol=0.1, atol=0)
    if log_r:
        r = found.base_dist.log_dispersion.exp()
        torch.testing.assert_close(r, torch.full((2,), math.exp(0.7)), rtol=0.2, atol=0)


def test_concentrations_start_at_those_of_the_counts():
    total = torch.tensor([5.0, 30.0])
    law = densities.LogitBetaBinomial(torch.tensor([0.4, -2.0]), torch.tensor([1.0, 2.0]), total)
    found = started(likelihoods.BetaBinomial(2, total=[5, 30]), drawn(law))
    torch.testing.assert_close(found.mean[0], law.mean, rtol=0.02, atol=0)
    torch.testing.assert_close(found.variance[0], law.variance, rtol=0.05, atol=0)
    law = densities.SoftmaxDirichletMultinomial(
        torch.tensor([0.0, 1.0, -1.0]), torch.tensor(1.5), torch.tensor(12.0)
    )
    found = started(likelihoods.DirichletMultinomial(3), drawn(law))
    torch.testing.assert_close(found.logits[0], law.logits, rtol=0.03, atol=0)
    assert found.log_concentration.item() == pytest.approx(1.5, abs=0.1)


def test_a_rate_starts_at_the_counts_by_exposure():
    hours = 10 ** torch.linspace(0, 5, 200)[:, None]
    x = torch.poisson(hours * torch.tensor([0.02, 3.0]), torch.Generator().manual_seed(0))
    x[::3, 1] = torch.nan
    found = started(likelihoods.Poisson(2), pv.Dataset(x, context=hours), exposure=0).rate[0]
    expected = x.nansum(0) / (hours * ~x.isnan()).sum(0)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


# --- exposure -------------------------------------------------------------------------------------


def with_exposure(name):
    """Rows with the covariates age and hours, and a model and a guide."""
    generator = torch.Generator().manual_seed(0)
    hours = 5 * torch.rand(60, 1, generator=generator) + 0.5
    context = torch.cat([torch.randn(60, 1, generator=generator), hours], 1)
    x = torch.poisson(hours * torch.tensor([1.0, 0.3, 3.0]), generator)
    covariates = pd.DataFrame(context.numpy(), columns=["age", "hours"])
    data = pv.Dataset(x, context=covariates).split(0, 20)
    torch.manual_seed(1)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, torch.nn.Linear(5, 8), start=data)
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh())
    likelihood = getattr(likelihoods, name)(3)
    model = pv.Model(priors.StandardNormal(1), likelihood, decoder, start=data, exposure="hours")
    return data, model, guide


@pytest.mark.parametrize("name", RATES)
def test_doubled_exposure_doubles_the_mean_and_the_decoder_does_not_see_it(name):
    data, model, _ = with_exposure(name)
    model = model.double()
    z = torch.randn(4, 60, 1, dtype=torch.float64)
    once = data.context.double()
    twice = once * torch.tensor([1.0, 2.0])
    assert torch.equal(model.features(z, once), model.features(z, twice))
    laws = [entry_of(model.decode(z, each)) for each in (once, twice)]
    if name == "HurdleNegativeBinomial":  # of which the mean is that of counts above zero
        laws = [law.base_dist for law in laws]
    torch.testing.assert_close(2 * laws[0].mean, laws[1].mean, rtol=1e-14, atol=0)


def test_log_p_given_z_and_exposure_is_scipys():
    data, model, _ = with_exposure("Poisson")
    model = model.double()
    z = torch.randn(60, 1, dtype=torch.float64)
    context, x = data.context.double(), data.x.double()
    eta = model.likelihood.parameters_of(model.features(z, context))[0].detach()
    expected = stats.poisson.logpmf(x, context[:, 1:] * eta.exp()).sum(1)
    np.testing.assert_allclose(model.decode(z, context).log_prob(x).detach(), expected, rtol=1e-9)


@pytest.mark.parametrize("name", RATES)
def test_exposure_goes_through_fit_evidence_draws_and_files(name, tmp_path):
    data, model, guide = with_exposure(name)
    training = pv.Training(num_epochs=2, batch_size=20, progress=False)
    checkpoint = pv.Training(
        num_epochs=2, batch_size=20, progress=False, checkpoint=tmp_path / "state.pt"
    )
    pv.fit(model, guide, data, training=checkpoint)
    settings = {"num_particles": 50, "progress": False}
    evidence = pv.log_evidence(model, guide, data.test, **settings)
    pv.save_weights(tmp_path / "weights.pt", model, guide)
    _, other, other_guide = with_exposure(name)
    pv.load_weights(tmp_path / "weights.pt", other, other_guide)
    again = pv.log_evidence(other, other_guide, data.test, **settings)
    np.testing.assert_array_equal(evidence.log_evidence, again.log_evidence)
    more = data.test.with_context({"hours": 1e4})
    longer, _ = simulate(model, more)
    assert longer.x.mean() > 100 * data.x.mean()
    assert model.sample(context=more.context).mean() > 100 * data.x.mean()
    check = pv.predictive_check(model, guide, data.test, num_samples=9, progress=False)
    assert check.prior_predictive["mean"].max() < 100
    with pytest.warns(UserWarning, match="k-hat needs at least 30 draws"):
        pv.to_datatree(model, guide, data.test, num_samples=5)
    loss = pyro.infer.SVI(model, guide, pyro.optim.Adam({}), loss=pyro.infer.Trace_ELBO())
    assert math.isfinite(loss.step(data.x, data.context))
    pv.fit(model, guide, data, training=training)


def test_a_file_names_its_exposure_and_a_mixed_table_gives_it_to_its_counts(tmp_path):
    data, _, _ = with_exposure("Poisson")
    path = tmp_path / "counts.csv"
    names = [*"abc", "age", "hours"]
    columns = np.concatenate([data.x, data.context], 1)
    pd.DataFrame(columns, columns=names).to_csv(path, index=False)
    changes = {
        "data.name": str(path),
        "data.context": ["age", "hours"],
        "data.exposure": "hours",
        "likelihood.name": "Poisson",
    }
    model = build(read_config(changes=changes.items())).model
    assert model.exposure_of(data.context)[:, 0].tolist() == data.context[:, 1].tolist()
    families = {"a": likelihoods.Poisson, "b": likelihoods.Gaussian, "c": likelihoods.Poisson}
    mixed = pv.Model(
        priors.StandardNormal(1), likelihoods.Columns(families), context_dim=2, exposure=1
    )
    twice = data.context * torch.tensor([1.0, 2.0])
    means = [entry_of(mixed.decode(torch.zeros(60, 1), c)).mean for c in (data.context, twice)]
    torch.testing.assert_close(means[1], means[0] * torch.tensor([2.0, 1.0, 2.0]))


def test_the_unit_of_an_exposure_does_not_matter():
    """Hours or microseconds: the encoder and the start are in units of the rows."""
    bounds = []
    for unit in (1.0, 3.6e9):
        data, _, _ = with_exposure("Poisson")
        data = data.with_context({"hours": data.context[:, 1].numpy() * unit})
        torch.manual_seed(2)
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, start=data)
        likelihood = likelihoods.Poisson(3)
        model = pv.Model(priors.StandardNormal(1), likelihood, start=data, exposure="hours")
        with pv.seeded(3):
            bounds.append(pv.objectives.TraceELBO(5).bound(model, guide, data.x, data.context))
    torch.testing.assert_close(*bounds, rtol=1e-4, atol=1e-3)


def test_exposures_that_do_not_fit_are_refused():
    data, model, _ = with_exposure("Poisson")
    plain = priors.StandardNormal(1)
    new = likelihoods.Poisson
    z = torch.zeros(60, 1)
    for use, message in (
        (
            lambda: pv.Model(plain, likelihoods.Gaussian(3), context_dim=2, exposure=1),
            "exposure=1: Gaussian takes none, since it is for counts with a log link",
        ),
        (
            lambda: pv.Model(plain, new(3), start=data, exposure="hour"),
            "exposure='hour' is no column of context: did you mean hours",
        ),
        (
            lambda: pv.Model(plain, new(3), context_dim=2, exposure=2),
            "exposure=2 is no column of context, of which there are 2",
        ),
        (lambda: pv.Model(plain, new(3), exposure=0), "of which there are 0: context_dim= counts"),
        (
            lambda: pv.Model(plain, new(3), context_dim=2, exposure="hours").decode(
                z, data.context
            ),
            "exposure='hours' is a name, and the columns of context have none yet",
        ),
        (lambda: model.sample(5), "exposure='hours' is a column of context: pass context="),
        (
            lambda: model.check(data.x, data.context * torch.tensor([1.0, -1.0])),
            r"exposure='hours' is -\d.* at row 0: it must be positive",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            use()


def test_counts_are_told_from_other_whole_numbers():
    """Their encoders read log(1 + x)."""
    counts = {"Poisson", "NegativeBinomial", "Multinomial", "DirichletMultinomial"}
    counts |= {
        f"{zeros}{law}"
        for zeros, law in itertools.product(
            ("ZeroInflated", "Hurdle"), ("Poisson", "NegativeBinomial")
        )
    }
    for name, (make, _, _) in LIKELIHOODS.items():
        model = pv.Model(priors.StandardNormal(1), make((3,)), torch.nn.Linear(1, 4))
        assert model.has_counts == (name in counts)


# --- ordered categories ---------------------------------------------------------------------------


def test_ordered_categories_are_differences_of_cumulative_probabilities():
    likelihood = likelihoods.Ordinal(2, num_categories=5).double()
    torch.nn.init.normal_(likelihood.log_gaps, generator=torch.Generator().manual_seed(0))
    location = torch.tensor([[0.3, -1.0], [4.0, 0.0]]).double()
    found = likelihood.elementwise(location).probs.detach().numpy()
    upto = special.expit(likelihood.cutpoints.detach().numpy() - location.numpy()[..., None])
    expected = np.diff(upto, axis=-1, prepend=0, append=1)
    np.testing.assert_allclose(found, expected, atol=1e-14)


# OrderedModel(y, c, distr="logit").fit(method="bfgs", gtol=1e-10) of statsmodels 0.15.0 on these
# rows: two slopes, the first threshold, logs of the steps to the others, and the log-likelihood.
ORDERED_MODEL = [1.193226069, -0.535306230, -1.106094319, 0.345105728, 0.479328265]
ORDERED_LOG_LIKELIHOOD = -176.81604148425436


def ordered_rows():
    rng = np.random.default_rng(0)
    c = rng.normal(size=(150, 2))
    noise = rng.logistic(size=150)
    return c, np.digitize(c @ [1.0, -0.5] + noise, [-1.0, 0.3, 2.0])


def test_proportional_odds_are_fitted_as_by_statsmodels():
    """Features that are covariates alone: the fit by maximum likelihood is that of OrderedModel."""
    c, y = ordered_rows()
    likelihood = likelihoods.Ordinal(1, num_categories=4)
    likelihood.build((2,))
    likelihood = likelihood.double()
    x, features = torch.tensor(y)[:, None].double(), torch.tensor(c)
    optimiser = torch.optim.LBFGS(likelihood.parameters(), max_iter=200, tolerance_change=0)

    def closure():
        optimiser.zero_grad()
        value = -likelihood(features).log_prob(x).mean()
        value.backward()
        return value

    optimiser.step(closure)
    assert -150 * closure().item() == pytest.approx(ORDERED_LOG_LIKELIHOOD, abs=1e-9)
    linear = likelihood.link.linear
    found = [*linear.weight[0].tolist(), -linear.bias.item(), *likelihood.log_gaps[:, 0].tolist()]
    np.testing.assert_allclose(found, ORDERED_MODEL, atol=1e-5)


def test_the_stored_fit_is_that_of_statsmodels():
    models = pytest.importorskip("statsmodels.miscmodels.ordinal_model")
    c, y = ordered_rows()
    model = models.OrderedModel(y, c, distr="logit")
    assert model.loglike(np.array(ORDERED_MODEL)) == pytest.approx(ORDERED_LOG_LIKELIHOOD, abs=1e-9)
    np.testing.assert_allclose(model.score(np.array(ORDERED_MODEL)), 0, atol=1e-5)


# --- the page on likelihoods ----------------------------------------------------------------------


def test_the_page_on_likelihoods_runs_and_finds_the_rates(capsys):
    """12 months at the mean rate of its simulation, within a tenth or so; all totals are 40; the
    medians of metals before censoring are 1."""
    page = Path(__file__).parents[1] / "docs" / "howto" / "likelihoods.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    names = {"__name__": "likelihoods"}
    exec(
        compile("\n".join(blocks).replace("num_epochs=60", "num_epochs=20"), str(page), "exec"),
        names,
    )
    rates = 12 * np.exp(-2 + np.array([0.6, 0.4, 0.3]) ** 2 / 2)
    np.testing.assert_allclose(names["new_policies"].mean(0), rates, rtol=0.15)
    assert names["composition"].sample(3).sum(1).tolist() == [40.0] * 3
    np.testing.assert_allclose(names["before_censoring"].median(0).values, 1.0, rtol=0.15)
    text = page.read_text(encoding="utf-8")
    assert [name for name in likelihoods.__all__ if f"`{name}`" not in text] == []
