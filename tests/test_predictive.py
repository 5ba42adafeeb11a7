"""Predictive checks and PIT: uniform for data of the model, whatever the likelihood, and not for
other data."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from cases import LIKELIHOODS, is_joint, vae
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds, likelihoods, posteriors, priors
from ppl_vae.diagnostics import (
    FEATURE_STATISTICS,
    STATISTICS,
    PredictiveCheck,
    conditional_pit,
    marginal_pit,
    observed_entries,
    plot_pit,
    plot_predictive_check,
    plot_reliability,
    predictive_check,
    reliability,
    to_datatree,
)
from ppl_vae.diagnostics.predictive import latents_given_x
from ppl_vae.diagnostics.predictive.cdf import below_and_at
from ppl_vae.diagnostics.predictive.check import _default_statistics, _evaluate
from ppl_vae.diagnostics.predictive.statistics import OF_ENTRIES, correlation
from ppl_vae.diagnostics.uniformity import uniformity_p_value
from ppl_vae.families.missing import observed_part

QUIET = {"progress": False}
REPEATS, ROWS = 40, 30


def simulated(likelihood, num_data, seed=1):
    """A small VAE of this likelihood with a decoder that bends, and data of it."""
    with pv.seeded(seed):
        model, _ = vae(likelihood=likelihood)
        with torch.no_grad():
            for parameter in model.decoder.parameters():
                parameter.mul_(2)
        return model, model.sample(num_data)


def from_the_prior(x, context=None):
    """A guide that ignores x: importance weights make up for it."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def overdispersed(num_data):
    """Counts of a negative binomial VAE, and a Poisson VAE of the same means."""
    right, _ = simulated("NegativeBinomial", 1)
    with torch.no_grad(), pv.seeded(2):
        right.likelihood.log_dispersion.fill_(-0.5)
        x = right.sample(num_data)
    wrong, _ = vae(likelihood="Poisson")
    wrong.decoder, wrong.likelihood.link = right.decoder, right.likelihood.link
    return right, wrong, x


# --- distribution functions -----------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if not is_joint(name)])
def test_distribution_functions_are_shares_of_draws(likelihood):
    """5 standard errors of 20,000 draws for 2 x 24 numbers, fixed seed: one false alarm in 30,000
    per likelihood."""
    model, x = simulated(likelihood, 8)
    with torch.no_grad(), pv.seeded(2):
        p = model.decode(torch.randn(8, 2))
        draws = p.sample((20_000,))
    below, at = below_and_at(p, x)
    for probability, found in ((below, draws < x), (at, draws == x)):
        error = np.sqrt(probability * (1 - probability) / 20_000) + 1e-4
        assert (np.abs(found.double().mean(0).numpy() - probability) < 5 * error).all()


def test_distribution_functions_are_scipys():
    k, rate = torch.tensor([[0.0, 1.0, 7.0, 40.0]]), torch.tensor([[0.3, 2.0, 7.5, 20.0]])
    below, at = below_and_at(dist.Poisson(rate).to_event(1), k)
    assert np.allclose(below, stats.poisson.cdf(k - 1, rate), atol=1e-6)
    assert np.allclose(at, stats.poisson.pmf(k, rate), atol=1e-6)
    below, _ = below_and_at(dist.NegativeBinomial(rate, logits=torch.tensor(0.4)).to_event(1), k)
    assert np.allclose(below, stats.nbinom.cdf(k - 1, rate, 1 - 1 / (1 + np.exp(-0.4))), atol=1e-6)
    below, _ = below_and_at(dist.StudentT(3.0, rate, 2.0).to_event(1), k)
    assert np.allclose(below, stats.t.cdf(k, 3.0, rate, 2.0), atol=1e-6)
    below, at = below_and_at(dist.Binomial(50, torch.tensor(0.3)).expand([1, 4]).to_event(1), k)
    assert np.allclose(below, stats.binom.cdf(k - 1, 50, 0.3), atol=1e-5)


def test_a_distribution_function_of_its_own_serves_for_counts_and_for_atoms():
    class Geometric(dist.Geometric):
        def cdf(self, value):
            return 1 - (1 - self.probs) ** (value + 1)

    class Rain(dist.Exponential):
        """No rain, with probability 0.4, or an exponential amount."""

        def point_mass(self, value):
            return 0.4 * (value == 0)

        def cdf(self, value):
            return 0.4 + 0.6 * super().cdf(value)

    k = torch.tensor([[0.0, 1.0, 7.0, 40.0]])
    below, at = below_and_at(Geometric(torch.full((1, 4), 0.3)).to_event(1), k)
    assert np.allclose(below, stats.geom.cdf(k, 0.3), atol=1e-6)
    assert np.allclose(at, stats.geom.pmf(k + 1, 0.3), atol=1e-6)
    below, at = below_and_at(Rain(torch.full((1, 4), 0.1)).to_event(1), k)
    assert np.allclose(below, [0, *(0.4 + 0.6 * stats.expon.cdf(k[0, 1:] / 10))], atol=1e-6)
    assert np.allclose(at, [[0.4, 0, 0, 0]])


# --- PIT ------------------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_marginal_pit_is_calibrated(likelihood):
    """P-values of 40 data sets of 30 rows are uniform: Kolmogorov-Smirnov at level 0.001 for each
    of 3 features."""
    model, x = simulated(likelihood, REPEATS * ROWS)
    pit = marginal_pit(model, x, num_samples=100, **QUIET)
    for feature in pit.values.T:
        p_values = uniformity_p_value(feature.reshape(REPEATS, ROWS))
        assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert pit.p_value > 0.001


@pytest.mark.statistical
@pytest.mark.parametrize("noise", [0.1, 0.5, 2.0])
@pytest.mark.parametrize(("num_rows", "num_samples"), [(100, 50), (1_500, 50)])
def test_more_rows_than_draws_reject_no_right_model(noise, num_rows, num_samples):
    """At most 6 of 40 right models have p < 0.05 (3 in 1,000 have more): between the draws of z
    lies from nearly all to nearly none of the variance of x."""
    p_values = []
    for seed in range(40):
        bed = beds.linear_gaussian(num_rows, data_dim=2, noise=noise, seed=seed)
        p_values.append(
            marginal_pit(bed.model, bed.x, num_samples=num_samples, seed=seed, **QUIET).p_value
        )
    assert np.sum(np.array(p_values) < 0.05) <= 6


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if not is_joint(name)])
def test_conditional_pit_is_calibrated_whatever_the_guide(likelihood):
    """Level 0.001, fixed seed."""
    model, x = simulated(likelihood, 150)
    pit = conditional_pit(model, from_the_prior, x, num_folds=3, num_particles=200, **QUIET)
    assert pit.p_value > 0.001
    assert abs(pit.summary().spread - 1) < 0.15


def test_marginal_pit_is_the_exact_marginal():
    """Counts with a Gamma rate are negative binomial. The error of a mean over 4,000 draws is at
    most 0.5 / sqrt(S)."""
    bed = beds.gamma_poisson(num_data=40)
    pit = marginal_pit(bed.model, bed.x, num_samples=4000, **QUIET)
    exact = stats.nbinom(2.0, 0.5 / 1.5)
    assert np.abs(pit.below - exact.cdf(bed.x - 1)).max() < 4.5 * 0.5 / 4000**0.5
    assert np.abs(pit.at - exact.pmf(bed.x)).max() < 4.5 * 0.5 / 4000**0.5


def exact_conditional(bed, x):
    """P(X_j <= x_j given the rest) of a multivariate normal, entry by entry."""
    covariance = bed.loading @ bed.loading.T + torch.diag(bed.noise**2)
    precision, residual = torch.linalg.inv(covariance), x - bed.mean
    scale = precision.diagonal().rsqrt()
    location = residual - (residual @ precision) * scale**2
    return stats.norm.cdf((residual - location) / scale)


@pytest.mark.parametrize("guide_scale", [1.0, 1.3])
def test_conditional_pit_is_the_exact_conditional(guide_scale):
    """Leaving out one at a time; with 4,000 weighted draws (ESS above 2,000) within 4.5 x 0.5 /
    sqrt(2,000)."""
    bed = beds.linear_gaussian(num_data=30, data_dim=4, guide_scale=guide_scale)
    pit = conditional_pit(bed.model, bed.guide, bed.x, num_folds=4, num_particles=4000, **QUIET)
    assert np.abs(pit.below - exact_conditional(bed, bed.x)).max() < 4.5 * 0.5 / 2000**0.5
    assert not pit.at.any()
    assert (pit.pareto_k < 0.7).all()


def test_a_narrow_likelihood_makes_no_false_tails():
    """With sd 1e-3 the mean of 50 distribution functions is 0 or 1 for 1 in 25 rows: x counts as
    one of the draws."""

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1e-3).to_event(1), obs=x)

    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    pit = marginal_pit(model, x, num_samples=50, **QUIET)
    assert (pit.below < 1e-6).any()
    assert pit.p_value > 0.01


@pytest.mark.statistical
def test_overdispersed_counts_are_flagged():
    """300 rows; the p-values of a right model are below 0.001 once in 1,000 runs, those of the
    wrong one far below."""
    right, wrong, x = overdispersed(300)
    assert marginal_pit(right, x, num_samples=300, **QUIET).p_value > 0.001
    found = marginal_pit(wrong, x, num_samples=300, **QUIET)
    assert found.p_value < 1e-6
    assert found.summary().spread > 1.1
    assert (
        conditional_pit(wrong, from_the_prior, x, num_folds=3, num_particles=300, **QUIET).p_value
        < 1e-6
    )
    check = predictive_check(wrong, from_the_prior, x, **QUIET)
    assert (
        check.p_values()["variance"] == check.p_values()["zero_fraction"] == pytest.approx(1 / 201)
    )
    assert predictive_check(right, from_the_prior, x, **QUIET).p_values()["variance"] > 0.01


def test_a_fitted_poisson_is_flagged_on_new_rows():
    """Eight counts of dispersion 1.5 around one latent dimension: two latents cannot take up the
    noise of eight."""
    rng = np.random.default_rng(0)
    rate = np.exp(1.0 + rng.normal(size=(800, 1)) * rng.normal(0, 0.5, 8))
    data = pv.Dataset(rng.poisson(rate * rng.gamma(1.5, 1 / 1.5, rate.shape))).split(
        valid=0, test=300
    )
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 8, torch.nn.Linear(8, 16))
        model = pv.Model(
            pv.priors.StandardNormal(2), pv.likelihoods.Poisson(8), torch.nn.Identity()
        )
    pv.fit(
        model, guide, data, training=pv.Training(num_epochs=20, learning_rate=0.02, progress=False)
    )
    assert (
        conditional_pit(model, guide, data.test, num_folds=4, num_particles=100, **QUIET).p_value
        < 1e-6
    )
    assert marginal_pit(model, data.test, num_samples=200, **QUIET).p_value < 1e-6


def test_only_the_conditional_sees_dependence_that_the_model_lacks():
    x = torch.randn(150, 1, generator=torch.Generator().manual_seed(0)).repeat(1, 2)
    x = x + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(1))

    def independent(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 0.1).mask(~x.isnan()).to_event(1), obs=x.nan_to_num())

    def dependent(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            location = z[..., :1].expand(z.shape)
            pyro.sample(
                "x", dist.Normal(location, 0.1).mask(~x.isnan()).to_event(1), obs=x.nan_to_num()
            )

    swapped = torch.stack([x[:, 0], -x[:, 1]], dim=-1)  # the marginals are as before
    for model, data in ((dependent, x), (independent, x), (dependent, swapped)):
        assert marginal_pit(model, data, num_samples=200, **QUIET).p_value > 1e-3
    settings = QUIET | {"num_folds": 2, "num_particles": 1000}
    assert conditional_pit(dependent, from_the_prior, x, **settings).p_value > 1e-3
    assert conditional_pit(dependent, from_the_prior, swapped, **settings).p_value < 1e-6


def test_missing_entries_have_no_value_and_unequal_features_are_tested():
    model, x = simulated("Gaussian", 300)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = torch.nan
    x[:, 2] = torch.nan
    pit = marginal_pit(model, x, num_samples=100, **QUIET)
    assert np.array_equal(np.isnan(pit.values), x.isnan())
    assert np.isnan(pit.p_values).tolist() == [False, False, True]
    assert pit.p_value > 0.001
    assert marginal_pit(model, x + 1.0, num_samples=100, **QUIET).p_value < 1e-6
    assert len(pit.one_entry()) == (~x.isnan()).any(1).sum()
    assert set(pit.one_entry()) <= set(pit.values[~np.isnan(pit.values)])


def test_a_likelihood_without_a_distribution_function_is_drawn_from():
    """Any sites, any names: shares drawn from a Beta around a latent, observed at a site
    "share"."""

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            size = pyro.sample("size", dist.Gamma(5.0, 1.0))
            pyro.sample(
                "share", dist.Beta(size[..., None], 2.0).expand([*size.shape, 2]).to_event(1), obs=x
            )

    def prior(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("size", dist.Gamma(5.0, 1.0))

    with pv.seeded(0):
        size = dist.Gamma(5.0, 1.0).sample((400, 1))
        x = dist.Beta(size.expand(400, 2), 2.0).sample()
    assert marginal_pit(model, x, num_samples=100, **QUIET).p_value > 0.001
    assert marginal_pit(model, x**1.5, num_samples=100, **QUIET).p_value < 1e-6
    assert predictive_check(model, prior, x, **QUIET).p_values()["mean"] > 0.01


def test_rows_seeds_and_modes_are_as_elsewhere():
    model, x = simulated("Gaussian", 230)
    model.train()
    state = torch.get_rng_state()
    first, again = (marginal_pit(model, x, num_samples=100, seed=3, **QUIET) for _ in range(2))
    conditional_pit(model, from_the_prior, x[:20], num_particles=20, **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert np.array_equal(first.values, again.values)
    assert len(first) == 230
    assert not np.array_equal(
        first.values, marginal_pit(model, x, num_samples=100, seed=4, **QUIET).values
    )


def test_what_cannot_be_done_is_one_clear_error():
    bed = beds.linear_gaussian(num_data=5)
    with pytest.raises(ValueError, match="num_folds is 0; it must be a whole number, at least 1"):
        conditional_pit(bed.model, bed.guide, bed.x, num_folds=0)
    assert (
        len(conditional_pit(bed.model, bed.guide, bed.x, num_folds=9, num_particles=30).pareto_k)
        == 5
    )

    with pytest.raises(ValueError, match=r"reliability is for 0 and 1"):
        reliability(marginal_pit(bed.model, bed.x, num_samples=30))

    def other(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("first", dist.Normal(0.0, 1.0), obs=x[:, 0] + x[:, 1])

    def other_guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"none of the observed sites \['first'\] holds x"):
        marginal_pit(other, bed.x)
    with pytest.raises(ValueError, match=r"none of the observed sites \['first'\] holds x"):
        predictive_check(other, other_guide, bed.x)


def test_a_model_that_cannot_miss_is_blamed_and_not_its_guide():
    bed = beds.linear_gaussian(num_data=5)

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., [0, 0, 0, 0, 0]], 1.0).to_event(1), obs=x)

    with pytest.raises(
        ValueError, match=r"log p\(x, z\) of a row with hidden entries is NaN: the model must mask"
    ):
        conditional_pit(model, bed.guide, bed.x, num_particles=30)


def test_nothing_observed_is_one_clear_error():
    bed = beds.linear_gaussian(num_data=5)
    x = torch.full_like(bed.x, torch.nan)
    for check in (
        lambda: marginal_pit(bed.model, x),
        lambda: conditional_pit(bed.model, bed.guide, x),
        lambda: predictive_check(bed.model, bed.guide, x),
    ):
        with pytest.raises(ValueError, match=r"x of shape \(5, 5\) has no observed entry"):
            check()


@pytest.mark.parametrize("statistics", [[np.mean], "mean", {"mean": "mean"}, {}])
def test_statistics_are_functions_by_name(statistics):
    bed = beds.linear_gaussian(num_data=5)
    with pytest.raises(ValueError, match="give functions of x by name, as in {'mean': np.nanmean}"):
        predictive_check(bed.model, bed.guide, bed.x, statistics)


def test_numbers_of_draws_are_checked():
    bed = beds.linear_gaussian(num_data=5)
    with pytest.raises(ValueError, match="num_samples is 0; it must be a whole number, at least 1"):
        predictive_check(bed.model, bed.guide, bed.x, num_samples=0)
    with pytest.raises(ValueError, match="num_samples is 1.5"):
        marginal_pit(bed.model, bed.x, num_samples=1.5)
    with pytest.raises(ValueError, match="num_particles is 0"):
        conditional_pit(bed.model, bed.guide, bed.x, num_particles=0)


def test_unknown_k_hats_are_called_unknown():
    bed = beds.linear_gaussian(num_data=5)
    said = str(conditional_pit(bed.model, bed.guide, bed.x, num_particles=5))
    assert said.endswith("k-hat unknown for some of the weights")


# --- test statistics ------------------------------------------------------------------------------


def by_repeat(statistic):
    """The statistic of each of the repeats: its p-values are independent."""
    return lambda x: statistic(x.reshape(REPEATS, -1), axis=1)


@pytest.mark.statistical
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_prior_predictive_p_values_are_uniform(likelihood, monkeypatch):
    """40 data sets of 30 rows: Kolmogorov-Smirnov at level 0.001; ties (counts) make p too large,
    never too small."""
    monkeypatch.setattr(
        latents_given_x, "NUM_PARTICLES", 50
    )  # of the posterior predictive, unused here
    model, x = simulated(likelihood, REPEATS * ROWS)
    own = {name: by_repeat(statistic) for name, statistic in OF_ENTRIES.items()}
    own["correlation"] = lambda x: np.array(
        [correlation(part) for part in x.reshape(REPEATS, ROWS, -1)]
    )
    check = predictive_check(model, from_the_prior, x, own, num_samples=39, **QUIET)
    assert check.p_values()["mean"].shape == (REPEATS,)
    for name, p in check.p_values().items():
        ties = len(np.unique(check.observed[name])) < REPEATS
        assert (
            stats.kstest(p, "uniform", alternative="greater" if ties else "two-sided").pvalue
            > 0.001
        ), name


@pytest.mark.statistical
def test_posterior_predictive_p_values_are_too_near_one_but_never_too_small():
    """Meng 1994: P(p < a) <= 2 a. 100 data sets of 20 rows; a = 0.1, 3 standard errors 0.12."""
    bed = beds.linear_gaussian(num_data=2000)
    own = {"variance": lambda x: x.reshape(100, -1).var(1)}
    check = predictive_check(bed.model, bed.guide, bed.x, own, num_samples=99, **QUIET)
    p = check.p_values("posterior_predictive")["variance"]
    assert p.mean() > 0.6
    assert (p < 0.1).mean() < 0.2


def test_correlation_is_that_of_pairs_of_features():
    """Whichever of N and D is larger; constants and what is missing count as nothing."""
    rng = np.random.default_rng(0)
    for shape in ((30, 4), (4, 30)):
        x = rng.normal(size=shape)
        pairs = np.corrcoef(x.T)[~np.eye(shape[1], dtype=bool)]
        assert correlation(x) == pytest.approx(np.sqrt((pairs**2).mean()))
        beside = np.concatenate(
            [x, np.full((len(x), 1), 0.1)], 1
        )  # no pair of it has a correlation
        assert correlation(beside) == pytest.approx(
            np.sqrt((pairs**2).sum() / (shape[1] * (shape[1] + 1)))
        )
    assert correlation(np.array([[1.0, 2.0], [2.0, np.nan], [3.0, 2.0]])) == 0.0
    assert np.isnan(correlation(rng.normal(size=(30, 1))))


def test_features_that_the_model_takes_for_independent_are_flagged_by_their_correlations_alone():
    """A model that has collapsed: right margins, and nothing between them. Level 1 / 201."""
    bed = beds.linear_gaussian(num_data=300, noise=0.5)
    mean, scale = bed.x.mean(0), bed.x.std(0)

    def collapsed(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean, scale).to_event(1), obs=x)

    p_values = predictive_check(collapsed, from_the_prior, bed.x, **QUIET).joint_p_values()
    assert p_values.pop("correlation") == pytest.approx(1 / 201)
    assert p_values.pop("partial_correlation") == pytest.approx(1 / 201)
    assert min(p_values.values()) > 0.05


def test_statistics_of_bits_that_are_one_count_once():
    model, x = simulated("Bernoulli", 60)
    check = predictive_check(model, from_the_prior, x, num_samples=50, **QUIET)
    assert set(check.observed) == set(STATISTICS)
    shares = check.prior_predictive["mean"]
    one_side = (shares < 0.5).all() or (shares > 0.5).all()  # where m (1 - m) is monotone
    assert check.num_distinct() == 3 + (not one_side)  # max is always 1
    model, x = simulated("Gaussian", 60)
    assert (
        predictive_check(model, from_the_prior, x, num_samples=50, **QUIET).num_distinct() == 5
    )  # no zeros


def test_latents_that_data_share_are_refused():
    def shared(x, context=None):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(mean[..., None], x.new_ones(5)).to_event(1), obs=x)

    bed = beds.linear_gaussian(num_data=20)
    with pytest.raises(ValueError, match="latent site 'mean' is outside the plate"):
        marginal_pit(shared, bed.x, num_samples=30)
    known = pyro.condition(shared, data={"mean": bed.x.new_zeros(())})
    assert marginal_pit(known, bed.x, num_samples=30).kind == "marginal"


def test_what_is_no_pit_and_no_tree_is_named():
    with pytest.raises(ValueError, match="pit is a ndarray; give what marginal_pit"):
        plot_pit(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="tree is a int; give what to_datatree returned"):
        observed_entries(3)


def test_a_statistic_without_a_value_has_no_p_value():
    """NaN for the data, for every replicate, for some replicates, for one feature of five."""
    bed = beds.linear_gaussian(num_data=50)
    some = iter([np.nan, *[0.0] * 1000])
    statistics = {
        "never": lambda x: np.nan,
        "of x alone": lambda x: np.nan if np.array_equal(x, bed.x.numpy()) else x.mean(),
        "at times": lambda x: next(some),
        "of four": lambda x: np.where(np.arange(5) == 2, np.nan, x.mean(0)),
    }
    check = predictive_check(bed.model, bed.guide, bed.x, statistics, num_samples=20)
    p_values, rows = check.p_values(), check.summary()
    for name in ("never", "of x alone", "at times"):
        assert np.isnan(p_values[name])
        assert np.isnan(rows[name]["prior p"])
        assert re.search(rf"^{name} .* nan ", str(check), re.MULTILINE)
    assert np.isnan(p_values["of four"]).tolist() == [False, False, True, False, False]
    [(_, row)] = [item for item in rows.items() if item[0].startswith("of four[")]
    assert row["prior p"] == check.joint_p_values()["of four"] > 0.0


def test_replicates_are_missing_what_the_data_are_missing():
    model, x = simulated("Poisson", 60)
    x[torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.3] = torch.nan
    x[:, 1] = torch.nan
    check = predictive_check(
        model, from_the_prior, x, {"seen": lambda x: (~np.isnan(x)).sum(0)}, **QUIET
    )
    for drawn in (check.prior_predictive["seen"], check.posterior_predictive["seen"]):
        assert (drawn == check.observed["seen"]).all()
    by_feature = predictive_check(
        model, from_the_prior, x, FEATURE_STATISTICS, num_samples=50, **QUIET
    )
    assert np.isnan(by_feature.p_values()["max"]).tolist() == [False, True, False]
    assert (
        by_feature.observed["zero_fraction"][0] == (x[:, 0] == 0).sum() / (~x[:, 0].isnan()).sum()
    )


def test_p_values_are_ranks_and_the_posterior_is_the_guides():
    bed = beds.linear_gaussian(num_data=30)
    check = predictive_check(
        bed.model, bed.guide, bed.x, {"mean": np.nanmean}, num_samples=99, **QUIET
    )
    above = (check.prior_predictive["mean"] > check.observed["mean"]).sum()
    upper = (above + 0.5) / 100
    assert check.p_values()["mean"] == pytest.approx(2 * min(upper, 1 - upper))
    constant = predictive_check(
        bed.model, bed.guide, bed.x, {"size": np.size}, num_samples=10, **QUIET
    )
    assert constant.p_values()["size"] == 1.0
    expected = (bed.posterior_mean @ bed.loading.T + bed.mean).mean().item()
    drawn = check.posterior_predictive["mean"]
    assert abs(drawn.mean() - expected) < 5 * drawn.std() / 99**0.5


def test_a_statistic_per_feature_names_the_worst():
    bed = beds.linear_gaussian(num_data=200)
    names = ["a", "b", "c", "d", "e"]
    x = bed.x.clone()
    x[:, 3] += 1.0
    data = pv.Dataset(x, feature_names=names, dtype=torch.float64)
    check = predictive_check(bed.model, bed.guide, data, FEATURE_STATISTICS, **QUIET)
    rows = check.summary()
    assert "mean[d]" in rows
    assert rows["mean[d]"]["prior p"] == pytest.approx(1 / 201)
    assert "mean[d]" in str(check)
    assert check.to_datatree().observed_data["mean"].sel(feature="d") == pytest.approx(
        x[:, 3].mean().item()
    )


def check_of(sets, num_train=None):
    """A check of the first of these values of a statistic against the others."""
    values = {"statistic": sets[1:]}
    return PredictiveCheck(
        observed={"statistic": sets[0]},
        prior_predictive=values,
        posterior_predictive=values,
        pareto_k=np.zeros(100),
        num_data=100,
        dims=("observation", "feature"),
        coords={"feature": np.arange(8)},
        num_train=num_train,
    )


def test_joint_p_values_are_uniform_whatever_the_dependence_of_the_elements():
    """400 checks of 8 dependent elements of a heavy-tailed statistic; level 0.001."""
    rng = np.random.default_rng(0)
    shared = rng.standard_t(3, size=(400, 100, 1))
    sets = shared + rng.standard_t(3, size=(400, 100, 8)) * np.arange(1, 9)
    p_values = [check_of(each).joint_p_values()["statistic"] for each in sets]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_the_pair_that_a_model_with_few_latents_cannot_explain_is_named():
    """Noise with a correlation of 0.5 in one pair of features; level 1 / 201."""
    rng = np.random.default_rng(1)
    bed = beds.linear_gaussian(num_data=300, data_dim=5, noise=0.5)
    residual = torch.from_numpy(rng.normal(size=(300, 5)))
    residual[:, 4] = 0.5 * residual[:, 1] + 0.75**0.5 * residual[:, 4]
    z = torch.from_numpy(rng.normal(size=(300, bed.latent_dim)))
    x = z @ bed.loading.T + bed.mean + 0.5 * residual
    data = pv.Dataset(x, feature_names=list("abcde"), dtype=torch.float64)
    check = predictive_check(bed.model, bed.guide, data, **QUIET)
    assert check.joint_p_values()["partial_correlation"] == pytest.approx(1 / 201)
    assert {"partial_correlation[b, e]", "partial_correlation[e, b]"} & set(check.summary())


# --- reliability ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bits():
    bed = beds.beta_bernoulli(num_data=1000, alpha=1.0, beta=1.5)
    return conditional_pit(
        bed.model, bed.guide, bed.x, num_folds=8, num_particles=200, progress=False
    )


def some_rows(pit, rows):
    halves = pit.at_halves[:, rows]
    return dataclasses.replace(
        pit, values=pit.values[rows], at_halves=halves, observed=pit.observed[rows]
    )


@pytest.mark.statistical
def test_right_predictions_are_reliable_and_intervals_by_datum_cover(bits):
    """20 sets of 50 rows: 95 % intervals hold for 0.90 to 0.98 of about 160 bins, fixed seed."""
    whole = reliability(bits)
    assert whole.p_value > 0.001
    assert whole.error < 0.025
    found = [reliability(some_rows(bits, slice(i, i + 50))) for i in range(0, 1000, 50)]
    inside = np.concatenate(
        [np.abs(each.frequency - each.predicted) < 1.96 * each.se for each in found]
    )
    assert 0.90 < inside.mean() < 0.98


@pytest.mark.statistical
def test_noise_of_few_draws_and_rare_bits_make_no_false_alarm():
    """60 sets of 300 rows simulated from the model, 30 draws: at the 5 % level at most 8 alarms,
    probability 0.998."""
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(0, 1.2, size=(2, 20)), rng.normal(-1.5, 1.0, size=20)

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = z @ torch.as_tensor(weight).float() + torch.as_tensor(bias).float()
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    alarms = 0
    for seed in range(60):
        p = 1 / (1 + np.exp(-(rng.normal(size=(300, 2)) @ weight + bias)))
        x = (rng.random(p.shape) < p).astype(np.float32)
        alarms += (
            reliability(marginal_pit(model, x, num_samples=30, seed=seed, progress=False)).p_value
            < 0.05
        )
    assert alarms <= 8


def test_predictions_are_those_of_beta_binomial_counts(bits):
    """P(X_j = 1 given the others) = (a + successes among them) / (a + b + 7); 100 draws: sd at most
    0.05."""
    x, at = bits.observed, bits.at
    exact = (1.0 + x.sum(1, keepdims=True) - x) / (2.5 + 7)
    assert np.abs(np.where(x == 1, at, 1 - at) - exact).mean() < 0.05
    assert reliability(bits, num_bins=4).count.sum() == x.size


def test_wrong_predictions_are_not_reliable(bits):
    halves = bits.at_halves
    sharper = np.where(halves > 0.5, np.sqrt(halves), halves**2)
    assert reliability(dataclasses.replace(bits, at_halves=sharper)).p_value < 1e-6


# --- trees and pictures ---------------------------------------------------------------------------


def test_results_hang_into_the_tree_and_files_give_them_back(tmp_path):
    bed = beds.linear_gaussian(num_data=30)
    tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=50, **QUIET)
    pit = marginal_pit(bed.model, bed.x, num_samples=50, **QUIET)
    check = predictive_check(
        bed.model, bed.guide, bed.x, FEATURE_STATISTICS, num_samples=20, **QUIET
    )
    tree["pit"], tree["predictive_check"] = pit.to_datatree()["pit"], check.to_datatree()
    assert np.array_equal(tree["pit"].pit, pit.values)
    assert tree["predictive_check/prior_predictive"]["mean"].shape == (1, 20, 5)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(tree, read.load())


def test_entries_are_those_observed_and_counts_are_integers():
    model, x = simulated("Poisson", 20)
    x[0, 1] = x[7, 2] = torch.nan
    tree = to_datatree(model, from_the_prior, x, num_samples=30, **QUIET)
    entries = observed_entries(tree)
    assert entries.observed_data.x.dtype.kind == entries.posterior_predictive.x.dtype.kind == "i"
    assert np.array_equal(entries.observed_data.x, x[~x.isnan()])
    assert entries.prior_predictive.x.dims == ("chain", "draw", "entry")
    assert np.array_equal(
        entries.prior_predictive.x[0, 3], tree.prior_predictive.x.values[0, 3][~x.isnan().numpy()]
    )


@pytest.fixture
def close_figures():
    import matplotlib.pyplot as plt

    yield
    plt.close("all")


@pytest.mark.usefixtures("close_figures")
def test_arviz_draws_continuous_data_with_holes():
    import arviz_plots

    bed = beds.linear_gaussian(num_data=40)
    x = bed.x.clone()
    x[0, 1] = torch.nan
    tree = to_datatree(bed.model, bed.guide, x, num_samples=60, **QUIET)
    entries = observed_entries(tree)
    arviz_plots.plot_ppc_dist(entries, backend="matplotlib")
    arviz_plots.plot_ppc_dist(entries, group="prior_predictive", backend="matplotlib")
    arviz_plots.plot_ppc_pit(entries, backend="matplotlib")
    arviz_plots.plot_ppc_tstat(entries, t_stat="var", backend="matplotlib")
    seen = {"observed_tstat": {}}
    arviz_plots.plot_ppc_tstat(
        entries, t_stat=np.ptp, group="prior_predictive", visuals=seen, backend="matplotlib"
    )
    check = predictive_check(
        bed.model, bed.guide, x, {"mean": np.nanmean, "ptp": np.nanmax}, num_samples=50, **QUIET
    )
    own = {"title": {}, "observed_tstat": {}}
    where = {"group": "prior_predictive", "backend": "matplotlib"}
    arviz_plots.plot_ppc_tstat(check.to_datatree(), t_stat="mean", visuals=own, **where)


@pytest.mark.usefixtures("close_figures")
def test_arviz_draws_counts_and_bits():
    import arviz_plots

    bed = beds.gamma_poisson(num_data=60)
    counts = observed_entries(to_datatree(bed.model, bed.guide, bed.x, num_samples=60, **QUIET))
    arviz_plots.plot_ppc_rootogram(counts, backend="matplotlib")
    seen = {"observed_markers": {}}
    arviz_plots.plot_ppc_rootogram(
        counts, group="prior_predictive", visuals=seen, backend="matplotlib"
    )
    arviz_plots.plot_ppc_dist(counts, kind="ecdf", backend="matplotlib")
    arviz_plots.plot_ppc_pit(counts, method="prit_c", backend="matplotlib")
    bed = beds.beta_bernoulli(num_data=20)
    bits = observed_entries(to_datatree(bed.model, bed.guide, bed.x, num_samples=60, **QUIET))
    arviz_plots.plot_ppc_pava(bits, backend="matplotlib")


@pytest.mark.usefixtures("close_figures")
def test_arviz_draws_pit_values():
    import arviz_plots

    model, x = simulated("Poisson", 60)
    tree = marginal_pit(model, x, num_samples=50, **QUIET).to_datatree()
    where = {"group": "pit", "backend": "matplotlib"}
    arviz_plots.plot_ecdf_pit(tree, var_names="pit", sample_dims="datum", **where)
    arviz_plots.plot_ecdf_pit(tree, var_names="one_entry", sample_dims="entry", **where)
    arviz_plots.plot_ecdf_pit(
        tree, var_names="one_entry", sample_dims="entry", coverage=True, **where
    )


@pytest.mark.usefixtures("close_figures")
def test_own_pictures_show_the_numbers(bits):
    model, x = simulated("Poisson", 60)
    check = predictive_check(model, from_the_prior, x, FEATURE_STATISTICS, num_samples=30, **QUIET)
    axes = plot_predictive_check(check)
    assert [ax.get_xlabel() for ax in axes] == list(check.summary())
    assert axes[0].lines[0].get_xdata()[0] == check.summary()[axes[0].get_xlabel()]["data"]
    pit = marginal_pit(model, x, num_samples=50, **QUIET)
    ax = plot_pit(pit)
    assert [text.get_text() for text in ax.get_legend().get_texts()][1:] == [
        "feature 0",
        "feature 1",
        "feature 2",
    ]
    values = pit.values.copy()
    values[0, 0] = np.nan
    assert len(plot_pit(dataclasses.replace(pit, values=values)).lines) == 2
    drawn = plot_reliability(reliability(bits)).containers[0]
    assert np.allclose(drawn.lines[0].get_ydata(), reliability(bits).frequency)


# --- parameters that were fitted ------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("num_train", [100, 300, 1000])
def test_uniformity_under_a_distribution_function_that_was_fitted(num_train):
    """That of the training rows themselves, the least smooth: level 0.05 within 3 se of 2,000 sets;
    known, above it."""
    rng = np.random.default_rng(0)
    train = np.sort(rng.normal(size=(2000, num_train)))
    x = rng.normal(size=(2000, 200))
    ranks = np.array([np.searchsorted(row, values) for row, values in zip(train, x, strict=True)])
    values = (ranks + rng.random(x.shape)) / (num_train + 1)
    error = (0.05 * 0.95 / 2000) ** 0.5
    assert abs((uniformity_p_value(values, num_train) <= 0.05).mean() - 0.05) < 3 * error
    assert (uniformity_p_value(values) <= 0.05).mean() > 0.05 + 3 * error


@pytest.mark.statistical
def test_statistics_under_parameters_that_were_fitted():
    """Mean and sd of 100 rows against those of 100 others: level 0.05 within 3 se of 400 sets;
    known, above it."""
    shares = {}
    for num_train in (100, None):
        rng, below = np.random.default_rng(1), []
        for _ in range(400):
            train, x = rng.normal(size=(2, 100))
            drawn = rng.normal(train.mean(), train.std(ddof=1), (200, 100))
            found = {"mean": np.asarray(x.mean())}, {"mean": drawn.mean(1)}
            check = PredictiveCheck(
                found[0], found[1], found[1], np.zeros(100), 100, ("row",), {}, num_train
            )
            below.append(check.p_values()["mean"] <= 0.05)
        shares[num_train] = np.mean(below)
    error = (0.05 * 0.95 / 400) ** 0.5
    assert abs(shares[100] - 0.05) < 3 * error
    assert shares[None] > 0.05 + 3 * error


def test_reliability_allows_for_parameters_that_were_fitted(bits):
    fitted = dataclasses.replace(bits, num_train=500)
    assert reliability(fitted).se == pytest.approx(3**0.5 * reliability(bits).se)  # 1 + 1000 / 500
    assert reliability(fitted).frequency.tolist() == reliability(bits).frequency.tolist()


def test_a_fitted_model_knows_how_many_rows_it_was_fitted_to(tmp_path):
    data = pv.Dataset(torch.randn(90, 2)).split(valid=10, test=20)
    model, guide = (make() for make in (gaussian_model, gaussian_guide))
    assert marginal_pit(model, data.test, num_samples=10, **QUIET).num_train is None
    pv.fit(model, guide, data, training=pv.Training(num_epochs=1, batch_size=20, progress=False))
    assert marginal_pit(model, data.test, num_samples=10, **QUIET).num_train == 60
    assert conditional_pit(model, guide, data.test, num_particles=10, **QUIET).num_train == 60
    assert predictive_check(model, guide, data.test, num_samples=2, **QUIET).num_train == 60
    path = pv.save_weights(tmp_path / "weights.pt", model, guide)
    again = gaussian_model()
    pv.load_weights(path, again, gaussian_guide())
    assert marginal_pit(again, data.test, num_samples=10, **QUIET).num_train == 60


def gaussian_model():
    return pv.Model(priors.StandardNormal(1), likelihoods.Gaussian(2), torch.nn.Identity())


def gaussian_guide():
    return pv.Guide(posteriors.MeanFieldNormal(1), 2, torch.nn.Identity())


# --- guides that are wrong, or take no missing values ---------------------------------------------


def test_conditional_pit_by_a_guide_that_takes_no_missing_values():
    """The exact guide given all of x, NaN where one is missing: within 4.5 x 0.5 / sqrt(ESS), ESS
    above 500."""
    bed = beds.linear_gaussian(num_data=30, data_dim=4)

    def complete(x, context=None):
        exact = bed.guide.posterior(x.nan_to_num())
        missing = (0 * x).sum(-1, keepdim=True)  # NaN where an entry is
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.MultivariateNormal(exact.loc + missing, scale_tril=exact.scale_tril)
            )

    pit = conditional_pit(bed.model, complete, bed.x, num_folds=4, num_particles=4000, **QUIET)
    assert np.abs(pit.below - exact_conditional(bed, bed.x)).max() < 4.5 * 0.5 / 500**0.5


@pytest.mark.statistical
@pytest.mark.parametrize(
    "distortion", [{"guide_scale": 0.8}, {"guide_scale": 1.25}, {"guide_shift": 0.4}]
)
def test_the_posterior_predictive_is_that_of_the_model_and_not_of_its_guide(distortion):
    """Means of T over 400 sets, under a distorted guide and the exact one, within 4 of their own
    standard errors."""
    exact, distorted = (beds.linear_gaussian(num_data=200, **kwargs) for kwargs in ({}, distortion))
    sets = [
        predictive_check(
            bed.model, bed.guide, exact.x, num_samples=400, seed=i, **QUIET
        ).posterior_predictive
        for i, bed in enumerate((exact, distorted))
    ]
    for name in ("mean", "variance", "correlation"):
        one, other = (found[name] for found in sets)
        error = np.hypot(one.std(ddof=1), other.std(ddof=1)) / 400**0.5
        assert abs(one.mean() - other.mean()) < 4 * error


@pytest.mark.statistical
@pytest.mark.parametrize("distortion", [(1.0, 0.0), (0.6, 0.0), (1.0, 1.0), (3.0, 0.0)])
def test_conditional_pit_holds_its_level_whatever_the_guide(distortion):
    """The true model, a mean-field guide that refuses NaN, K = 200: level 0.05 within 3 se of 20
    sets of 200 rows."""
    scale, shift = distortion
    loading = torch.tensor([[0.13, -0.13, 0.64, 0.1, -0.54], [0.36, 1.3, 0.95, -0.7, -1.27]])
    covariance = torch.linalg.inv(torch.eye(2) + loading @ loading.T / 0.25)
    sd = covariance.diagonal().sqrt()

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            fn, obs = observed_part(dist.Normal(z @ loading, 0.5).to_event(1), x)
            pyro.sample("x", fn, obs=obs)

    def guide(x, context=None):
        assert not x.isnan().any(), "no NaN"
        with pyro.plate("data", len(x), dim=-1):
            loc = x @ loading.T @ covariance / 0.25 + shift * sd
            pyro.sample("z", dist.Normal(loc, scale * sd).to_event(1))

    with pv.seeded(0):
        sets = [torch.randn(200, 2) @ loading + 0.5 * torch.randn(200, 5) for _ in range(20)]
    settings = {"num_particles": 200, "progress": False}
    below = [
        conditional_pit(model, guide, x, seed=i, **settings).p_value <= 0.05
        for i, x in enumerate(sets)
    ]
    assert np.mean(below) < 0.05 + 3 * (0.05 * 0.95 / 20) ** 0.5


@pytest.mark.parametrize("observed", [lambda x: x.log(), lambda x: x / 2, lambda x: x.flip(-1)])
def test_a_function_of_x_is_not_taken_for_x(observed):
    """What the model draws is on the scale of what it observes: replicates of log x are no
    replicates of x."""
    x = torch.rand(50, 2) + 0.5

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=observed(x))

    for check in (
        lambda: marginal_pit(model, x),
        lambda: conditional_pit(model, from_the_prior, x),
        lambda: predictive_check(model, from_the_prior, x),
        lambda: pv.calibration(model, from_the_prior, x),
    ):
        with pytest.raises(
            ValueError, match=r"site 'x' observes .* where x is .*: observe x itself"
        ):
            check()


def test_conditional_pit_of_latents_that_no_student_distribution_can_follow():
    """A discrete latent, and one whose support depends on another: the guide's draws alone, exact
    for the first."""
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    centres = torch.tensor([[-2.0, -1.0], [2.0, 1.0]], dtype=torch.float64)

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            k = pyro.sample("k", dist.Categorical(weights))
            fn, obs = observed_part(dist.Normal(centres[k], 1.0).to_event(1), x)
            pyro.sample("x", fn, obs=obs)

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("k", dist.Categorical(weights.expand(len(x), 2)))

    x = torch.tensor([[0.5, 1.0], [-1.0, 0.2]], dtype=torch.float64)
    pit = conditional_pit(model, guide, x, num_folds=2, num_particles=20_000, **QUIET)
    for j in range(2):
        log_p = weights.log() + dist.Normal(centres[:, 1 - j], 1.0).log_prob(x[:, 1 - j, None])
        exact = (log_p.softmax(-1) * dist.Normal(centres[:, j], 1.0).cdf(x[:, j, None])).sum(-1)
        assert np.abs(pit.below[:, j] - exact.numpy()).max() < 4.5 * 0.5 / 5_000**0.5

    def dependent(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Uniform(0.0, 1.0).expand([1]).to_event(1))
            z = pyro.sample("z", dist.Uniform(torch.zeros_like(top), top).to_event(1))
            fn, obs = observed_part(dist.Normal(z.expand(*z.shape[:-1], 2), 1.0).to_event(1), x)
            pyro.sample("x", fn, obs=obs)

    def of_the_prior(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            top = pyro.sample("top", dist.Uniform(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("z", dist.Uniform(torch.zeros_like(top), top).to_event(1))

    found = conditional_pit(dependent, of_the_prior, x, num_folds=2, num_particles=500, **QUIET)
    assert np.isfinite(found.values).all()


def test_a_site_beside_x_may_observe_something_else():
    """A covariate of the size of x, and a deterministic site: x itself is observed all the same."""
    x = torch.rand(40, 1) + 0.5

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = pyro.deterministic("loc", z[..., :1], event_dim=1)
            fn, obs = observed_part(dist.Normal(loc, 1.0).to_event(1), x)
            pyro.sample("x", fn, obs=obs)
            pyro.sample("y", dist.Normal(z[..., 1:], 1.0).to_event(1), obs=context)

    data = pv.Dataset(x, context=x + 1)
    assert len(marginal_pit(model, data, num_samples=20, **QUIET)) == 40
    assert predictive_check(model, from_the_prior, data, num_samples=5, **QUIET).num_data == 40


def test_categories_are_compared_by_the_frequencies_of_their_levels():
    """A model that exchanges two levels leaves the mean of the codes as it is, and is found."""
    frame = pd.DataFrame(
        {
            "colour": pd.Categorical(["a"] * 60 + ["b"] * 20 + ["c"] * 60),
            "size": np.linspace(-1, 1, 140),
        }
    )
    data = pv.Dataset(frame)

    statistics = _default_statistics(data)
    assert set(statistics) == {*FEATURE_STATISTICS, "levels of colour"}
    x = data.x.double().numpy()
    found = _evaluate(statistics, x)
    np.testing.assert_allclose(found["levels of colour"], [60 / 140, 20 / 140, 60 / 140])
    assert np.isnan(found["mean"][0])
    assert found["mean"][1] == pytest.approx(0.0, abs=1e-6)
    alone = pv.Dataset(frame[["colour"]])
    assert set(_default_statistics(alone)) == {"levels of colour"}
    wide = pv.Dataset(frame.assign(other=frame["size"] ** 2))
    assert set(_default_statistics(wide)) == {*STATISTICS, "levels of colour"}

    likelihood = likelihoods.Columns.of(data)
    torch.manual_seed(0)
    vae = pv.Model(priors.StandardNormal(1), likelihood, start=data)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, start=data)
    flat = pd.Categorical.from_codes(np.arange(140) % 3, list("abc"))
    others = pv.Dataset(frame.assign(colour=flat))
    check = predictive_check(vae, guide, others, num_samples=60, **QUIET)
    assert check.joint_p_values()["levels of colour"] < 0.05
    assert re.search(r"levels of colour\[[abc]\]", str(check))
    frequencies = check.to_datatree()["observed_data"]["levels of colour"]
    assert frequencies["levels of colour_dim_0"].values.tolist() == list("abc")
