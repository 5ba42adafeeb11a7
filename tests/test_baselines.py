"""Baselines against the models that the rows were simulated from, and against scikit-learn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp
from sklearn.decomposition import FactorAnalysis

import ppl_vae as pv
from ppl_vae import likelihoods
from ppl_vae.diagnostics.models.mixtures import Counts, Mixture, OverdispersedCounts

ROWS = {"train": range(1000), "test": range(1000, 1300)}


def near(found, truth):
    """A fitted model is as good as the truth but for its parameters: at most 0.1 nats a row worse,
    in the mean."""
    loss = (truth - found.log_evidence).mean()
    assert -3 * (truth - found.log_evidence).std() / len(truth) ** 0.5 < loss < 0.1


def mixture(rng, means, draw):
    which = rng.integers(len(means), size=1300)
    return draw(means[which])


def exact_mixture(log_p):
    """(N, C, D) -> (N,)."""
    parts = log_p.sum(-1)
    return logsumexp(parts, axis=1) - np.log(parts.shape[1])


@pytest.mark.parametrize(
    ("likelihood", "draw", "log_p", "name"),
    [
        (likelihoods.Bernoulli, "binomial", stats.bernoulli.logpmf, "Bernoullis"),
        (likelihoods.Poisson, "poisson", stats.poisson.logpmf, "Poissons"),
    ],
)
def test_a_mixture_is_found(likelihood, draw, log_p, name):
    rng = np.random.default_rng(0)
    means = rng.beta(0.5, 0.5, size=(4, 12)) * (1 if draw == "binomial" else 8) * 0.98 + 0.01
    x = mixture(rng, means, lambda m: rng.binomial(1, m) if draw == "binomial" else rng.poisson(m))
    found = pv.baselines(pv.Dataset(x, splits=ROWS), likelihood)
    near(found[f"mixture of 4 independent {name}"], exact_mixture(log_p(x[1000:, None], means)))
    alone = found[f"independent {name}"].log_evidence
    by_hand = log_p(x[1000:], (x[:1000].sum(0) + 0.5) / (1001 if draw == "binomial" else 1000)).sum(
        1
    )
    np.testing.assert_allclose(alone, by_hand, rtol=1e-3)


def test_categories_are_found():
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.3] * 3, size=(2, 8))
    which = rng.integers(2, size=1300)
    x = (rng.random((1300, 8, 1)) > p[which].cumsum(-1)[..., :-1]).sum(-1)
    found = pv.baselines(pv.Dataset(x, splits=ROWS), likelihoods.Categorical(8, num_categories=3))
    log_p = np.log(p)[:, np.arange(8), x[1000:]].transpose(1, 0, 2)
    near(found["mixture of 2 independent categoricals"], exact_mixture(log_p))


def test_mixtures_of_binomials_and_of_multinomials_are_found():
    rng = np.random.default_rng(4)
    which = rng.integers(2, size=1300)
    p, total = rng.beta(0.5, 0.5, size=(2, 6)), np.array([1, 2, 5, 5, 9, 20])
    x = rng.binomial(total, p[which])
    found = pv.baselines(
        pv.Dataset(x, splits=ROWS), likelihoods.BetaBinomial(6, total=total.tolist())
    )
    log_p = stats.binom.logpmf(x[1000:, None], total, p)
    near(found["mixture of 2 independent binomials"], exact_mixture(log_p))
    p = rng.dirichlet([0.5] * 6, size=2)
    x = np.stack([rng.multinomial(5 + i % 30, p[which[i]]) for i in range(1300)])
    data = pv.Dataset(x, splits=ROWS)
    found = pv.baselines(data, likelihoods.Multinomial)
    totals = x[1000:].sum(1)[:, None]
    log_p = stats.multinomial.logpmf(x[1000:, None], totals, p)[..., None]
    name = next(name for name in found if name.startswith("mixture"))
    assert name.endswith(" multinomials")
    near(found[name], exact_mixture(log_p))
    shares = (x[:1000].sum(0) + 0.5) / (x[:1000] + 0.5 / 1000).sum()
    by_hand = stats.multinomial.logpmf(x[1000:], totals[:, 0], shares)
    np.testing.assert_allclose(found["multinomials"].log_evidence, by_hand, rtol=1e-3)
    with pytest.raises(ValueError, match="Binomial need its total: give the likelihood itself"):
        pv.baselines(data, likelihoods.Binomial)


def test_overdispersed_counts_are_negative_binomials():
    rng = np.random.default_rng(2)
    x = stats.nbinom.rvs(2.0, 0.2, size=(1300, 4), random_state=rng)
    found = pv.baselines(pv.Dataset(x, splits=ROWS), likelihoods.NegativeBinomial)
    near(found["independent negative binomials"], stats.nbinom.logpmf(x[1000:], 2.0, 0.2).sum(1))
    fitted = OverdispersedCounts.fit(x.astype(float)).failures
    np.testing.assert_allclose(
        fitted, 2.0, atol=4 * 0.12
    )  # the ML estimate's standard error is 0.12 at 1,300 rows


def test_factors_are_those_of_scikit_learn_in_the_rows_own_units():
    """Three features in other units: the density is that of x itself, by the change of
    variables."""
    rng = np.random.default_rng(3)
    loadings = rng.normal(size=(2, 6))
    x = (rng.normal(size=(1300, 2)) @ loadings + 0.5 * rng.normal(size=(1300, 6))) * np.array(
        [1, 100, 1, 0.01, 1, 1]
    ) + 5
    data = pv.Dataset(x, splits=ROWS)
    found = pv.baselines(data, likelihoods.Gaussian)
    scale = np.array([1, 100, 1, 0.01, 1, 1])
    truth = stats.multivariate_normal(
        np.full(6, 5.0), np.outer(scale, scale) * (loadings.T @ loadings + 0.25 * np.eye(6))
    )
    near(found["factor analysis, 2 factors"], truth.logpdf(x[1000:]))
    by_hand = stats.norm(x[:1000].mean(0), x[:1000].std(0)).logpdf(x[1000:]).sum(1)
    np.testing.assert_allclose(found["independent normals"].log_evidence, by_hand, rtol=1e-4)
    assert sum(name.startswith("Gaussian mixture, 1 component, full") for name in found) == 1


def test_baselines_stand_beside_a_model():
    """Rows and measure are recognised: linear-Gaussian data, whose own factor analysis comes within
    sampling error."""
    bed = pv.beds.linear_gaussian(400, 2)
    data = pv.Dataset(bed.x, splits={"train": range(300), "test": range(300, 400)})
    model = pv.log_evidence(bed.model, bed.guide, data.test, num_particles=100)
    found = pv.baselines(data, likelihoods.Gaussian)
    comparison = pv.compare_models({"model": model} | found, reference="model")
    assert comparison.names[0] == "model"
    assert not any("rows it was computed on" in note for note in comparison.notes)
    with pytest.raises(
        ValueError, match="a probability of x in one and of a density|of a density of x in one and"
    ):
        pv.compare_models(
            {
                "a": found["independent normals"],
                "b": pv.Evidence.exact(np.zeros(100), data.test.x, measure="counting"),
            }
        )


def test_scores_of_scikit_learn_are_evidence():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    scores = FactorAnalysis(1).fit(x).score_samples(x)
    evidence = pv.Evidence.exact(scores, x, measure="lebesgue")
    np.testing.assert_array_equal(evidence.log_evidence, scores)
    assert evidence.is_estimate.all()
    assert (evidence.summary().mc_se, evidence.summary().share_bad_k) == (0.0, 0.0)
    again = pv.Evidence.exact(scores, pv.Dataset(x).x, measure="lebesgue")
    np.testing.assert_array_equal(again.digests, evidence.digests)
    with pytest.raises(ValueError, match=r"log_p has shape \(60,\) and x 59 rows"):
        pv.Evidence.exact(scores, x[1:], measure="lebesgue")
    with pytest.raises(ValueError, match="a finite number for each row"):
        pv.Evidence.exact(np.where(np.arange(60) == 3, np.nan, scores), x, measure="lebesgue")
    with pytest.raises(
        ValueError, match="measure is 'density'; it must be 'counting' or 'lebesgue'"
    ):
        pv.Evidence.exact(scores, x, measure="density")


def test_missing_entries_add_nothing():
    """Rows without any entry have log p = 0, half rows the sum over what was observed."""
    rng = np.random.default_rng(4)
    x = rng.normal(loc=[-1.0, 40.0], scale=[0.5, 20.0], size=(1300, 2))
    x[::3, 0] = np.nan
    x[::6] = np.nan
    found = pv.baselines(pv.Dataset(x, splits=ROWS), likelihoods.Gaussian)
    mean, sd = np.nanmean(x[:1000], 0), np.nanstd(x[:1000], 0)
    by_hand = np.nansum(stats.norm.logpdf(x[1000:], mean, sd), 1)
    alone = found["independent normals"].log_evidence
    np.testing.assert_allclose(alone, by_hand, atol=0.02)
    np.testing.assert_allclose(alone[np.isnan(x[1000:]).all(1)], 0.0, atol=1e-12)
    which = rng.integers(2, size=1300)
    bits = (rng.random((1300, 8)) < np.array([0.1, 0.9])[which][:, None]).astype(float)
    whole = pv.baselines(pv.Dataset(bits, splits=ROWS), likelihoods.Bernoulli)
    bits[:1000, 0] = np.where(rng.random(1000) < 0.5, np.nan, bits[:1000, 0])
    half = pv.baselines(pv.Dataset(bits, splits=ROWS), likelihoods.Bernoulli)
    for one, other in zip(whole.values(), half.values(), strict=True):
        assert one.log_evidence.mean() == pytest.approx(other.log_evidence.mean(), abs=0.05)


def test_few_rows_are_refused():
    x = np.random.default_rng(0).normal(size=(40, 3))
    with pytest.raises(ValueError, match="10 training rows or more; there are 5"):
        pv.baselines(
            pv.Dataset(x[10:], splits={"train": range(5), "test": range(20, 30)}),
            likelihoods.Gaussian,
        )


def test_em_raises_the_likelihood():
    x = np.random.default_rng(0).poisson(3.0, size=(200, 5)).astype(float)
    one, more = (Mixture.fit(x, Counts(), size, 0).log_prob(x).mean() for size in (1, 5))
    assert more > one


def test_mixed_columns_have_latent_classes():
    """Two classes that differ in a real column, a count, and a category, against the truth."""
    rng = np.random.default_rng(3)
    which = rng.integers(2, size=1300)
    mean, rate, share = np.array([-2.0, 3.0]), np.array([1.0, 6.0]), np.array([0.1, 0.8])
    x = np.stack(
        [
            1e3 * rng.normal(mean[which]),
            rng.poisson(rate[which]),
            rng.random(1300) < share[which],
        ],
        axis=1,
    )
    families = {
        "a": likelihoods.Gaussian,
        "b": likelihoods.Poisson,
        "c": likelihoods.Categorical(1, num_categories=2),
    }
    data = pv.Dataset(x, feature_names=list(families), splits=ROWS)
    likelihood = likelihoods.Columns(families)
    found = pv.baselines(data, likelihood)
    held_out = x[1000:, :, None]
    log_p = (
        stats.norm.logpdf(held_out[:, 0], 1e3 * mean, 1e3)
        + stats.poisson.logpmf(held_out[:, 1], rate)
        + stats.bernoulli.logpmf(held_out[:, 2], share)
    )
    mixed = next(name for name in found if name.startswith("mixture of"))
    near(found[mixed], logsumexp(log_p, axis=1) - np.log(2))
    assert found["independent columns"].measure == likelihood.measure
    one = likelihoods.Columns({"a": likelihoods.Gaussian, "b": likelihoods.Gaussian})
    pair = pv.Dataset(x[:, :2], feature_names=["a", "b"], splits=ROWS)
    assert "independent normals" in pv.baselines(pair, one)


def test_positive_values_have_densities_beside_them_and_other_measures_have_none():
    x = np.random.default_rng(4).gamma(2.0, size=(200, 3))
    data = pv.Dataset(x, splits={"train": range(150), "test": range(150, 200)})
    assert "independent normals" in pv.baselines(data, likelihoods.Gamma(3))
    bounded = pv.Dataset((x / 9).clip(0, 1).round(1), splits=data.splits)
    for likelihood in (
        likelihoods.Censored(likelihoods.LogNormal(3), lower=0.5),
        likelihoods.DiscretizedLogistic(3, num_levels=11),
    ):
        with pytest.raises(ValueError, match=f"no baselines for {type(likelihood).__name__}: "):
            pv.baselines(bounded, likelihood)


def test_independent_columns_have_the_law_that_describes_them_best():
    rng = np.random.default_rng(5)
    x = np.stack(
        [
            rng.lognormal(1.0, 0.8, size=1300),
            1e-6 * rng.standard_t(3, size=1300),
            rng.gamma(0.8, 50.0, size=1300),
            rng.negative_binomial(0.5, 0.1, size=1300),
        ],
        axis=1,
    )
    families = dict.fromkeys("abc", likelihoods.StudentT) | {"d": likelihoods.NegativeBinomial}
    data = pv.Dataset(x, feature_names=list("abcd"), splits=ROWS)
    found = pv.baselines(data, likelihoods.Columns(families))
    test = x[1000:]
    truth = (
        stats.lognorm.logpdf(test[:, 0], 0.8, scale=np.e)
        + stats.t.logpdf(test[:, 1], 3, scale=1e-6)
        + stats.gamma.logpdf(test[:, 2], 0.8, scale=50.0)
        + stats.nbinom.logpmf(test[:, 3], 0.5, 0.1)
    )
    near(found["independent columns"], truth)


@pytest.mark.parametrize("ordered", [False, True])
def test_levels_that_training_lacks_have_their_share(ordered):
    """The probabilities of all values sum to one, whichever level is new."""
    levels = list("abcd")
    for absent in range(4):
        codes = np.r_[np.tile([i for i in range(4) if i != absent], 20), np.arange(4)]
        column = pd.Categorical.from_codes(codes, levels, ordered=ordered)
        splits = {"train": range(60), "test": range(60, 64)}
        data = pv.Dataset(pd.DataFrame({"a": column}), splits=splits)
        kind = likelihoods.Ordinal if ordered else likelihoods.Categorical
        for likelihood in (likelihoods.Columns.of(data), kind(1, num_categories=4), kind):
            for found in pv.baselines(data, likelihood).values():
                assert np.exp(found.log_evidence).sum() == pytest.approx(1.0)
                assert found.log_evidence[absent] < -4
    with pytest.raises(ValueError, match="categories are numbered 0 to 2"):
        pv.baselines(data, kind(1, num_categories=3))


def test_rows_that_the_likelihood_refuses_have_no_baseline():
    x = np.random.default_rng(0).multinomial(5, [0.2, 0.3, 0.5], 120).astype(float)
    x[110, 0] = np.nan
    data = pv.Dataset(x, splits={"train": range(100), "test": range(100, 120)})
    with pytest.raises(ValueError, match="row 10 of x lacks some parts of a total"):
        pv.baselines(data, likelihoods.Multinomial)
    with pytest.raises(ValueError, match="missing in all parts of a total or in none"):
        pv.baselines(data, likelihoods.Multinomial(3, total=5))


@pytest.mark.parametrize("missing", [False, True])
def test_a_constant_column_changes_no_comparison(missing):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 3))
    x = x + 0.5 * rng.normal(size=x.shape)
    if missing:
        x[::7, 0] = np.nan
    splits = {"train": range(200), "test": range(200, 300)}
    without = pv.baselines(pv.Dataset(x, splits=splits), likelihoods.Gaussian)
    wide = np.column_stack([x, np.full(300, 3.0)])
    with pytest.warns(UserWarning, match="1 column without variation .*, '3' first"):
        found = pv.baselines(pv.Dataset(wide, splits=splits), likelihoods.Gaussian)
    assert list(found) == list(without)
    for name, each in found.items():
        expected = without[name].log_evidence + stats.norm.logpdf(0.0)
        np.testing.assert_allclose(each.log_evidence, expected, atol=1e-5)
