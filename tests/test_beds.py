"""Test beds: closed forms against independent oracles, and exact guides that leave nothing to
chance."""

import numpy as np
import pyro
import pytest
import torch
from scipy import integrate, stats

from ppl_vae import beds
from ppl_vae.runtime.seeding import seeded

BEDS = {
    "linear_gaussian": beds.linear_gaussian,
    "gaussian_mixture": beds.gaussian_mixture,
    "discrete_mixture": beds.discrete_mixture,
    "gamma_poisson": beds.gamma_poisson,
    "beta_bernoulli": beds.beta_bernoulli,
    "rainforth": beds.rainforth,
}
every_bed = pytest.mark.parametrize("name", BEDS)
continuous_bed = pytest.mark.parametrize(
    "name", [name for name in BEDS if name != "discrete_mixture"]
)


def log_weights(bed, x, num_particles=1, guide=None, seed=0):
    """log p(x, z) - log q(z|x), (K, N), from Pyro traces alone."""
    guide = bed.guide if guide is None else guide

    def under_particles(program):
        def run(*args):
            with pyro.plate("particles", num_particles, dim=-2):
                return program(*args)

        return run

    with seeded(seed), torch.no_grad():
        drawn = pyro.poutine.trace(under_particles(guide)).get_trace(x)
        scored = pyro.poutine.trace(
            pyro.poutine.replay(under_particles(bed.model), drawn)
        ).get_trace(x)
    scored.compute_log_prob()
    drawn.compute_log_prob()
    total = (
        scored.nodes["x"]["log_prob"] + scored.nodes["z"]["log_prob"] - drawn.nodes["z"]["log_prob"]
    )
    return total.expand(num_particles, len(x))


def with_missing(bed):
    """Every bed's data with a hole, and a row that is missing altogether."""
    x = bed.x[:16].clone()
    x[0, 0] = x[3, -1] = float("nan")
    x[5] = float("nan")
    return x


@every_bed
@pytest.mark.parametrize("missing", [False, True])
def test_the_exact_guide_makes_every_log_weight_log_p(name, missing):
    bed = BEDS[name](num_data=16)
    x = with_missing(bed) if missing else bed.x
    exact = bed.exact_log_evidence(x)
    assert exact.shape == (16,)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(log_weights(bed, x, 7), exact.expand(7, 16), rtol=0, atol=1e-10)


@every_bed
def test_a_row_with_nothing_observed_has_probability_one(name):
    bed = BEDS[name](num_data=16)
    torch.testing.assert_close(
        bed.exact_log_evidence(with_missing(bed))[5].item(), 0.0, rtol=0, atol=1e-12
    )


@continuous_bed
def test_the_distorted_guide_is_inexact_and_still_unbiased(name):
    # mean of exp(log w - log p) is 1; 16 rows x 4000 draws, 4.5 standard errors each (level 1e-4
    # over all rows)
    bed = BEDS[name](num_data=16, guide_scale=1.3, guide_shift=0.2)
    ratios = (log_weights(bed, bed.x, 4000) - bed.log_evidence).exp()
    error = ratios.std(0) / 4000**0.5
    assert (error > 1e-3).all()
    assert ((ratios.mean(0) - 1).abs() < 4.5 * error).all()


@pytest.mark.parametrize("name", ["linear_gaussian", "rainforth"])
def test_normal_distortion_is_in_posterior_sds(name):
    bed, moved = BEDS[name](num_data=8), BEDS[name](num_data=8, guide_scale=2.0, guide_shift=-1.5)
    exact, distorted = bed.guide.posterior(bed.x), moved.guide.posterior(moved.x)
    sd = exact.variance.sqrt()
    torch.testing.assert_close(distorted.variance.sqrt(), 2 * sd)
    torch.testing.assert_close(distorted.mean, exact.mean - 1.5 * sd)


def test_gamma_distortion_multiplies_the_sd_and_moves_the_mean():
    bed = beds.gamma_poisson(num_data=8)
    exact = bed.guide.posterior(bed.x)
    wide = beds.gamma_poisson(num_data=8, guide_scale=0.5).guide.posterior(bed.x)
    moved = beds.gamma_poisson(num_data=8, guide_shift=0.3).guide.posterior(bed.x)
    torch.testing.assert_close(wide.mean, exact.mean)
    torch.testing.assert_close(wide.variance.sqrt(), 0.5 * exact.variance.sqrt())
    torch.testing.assert_close(moved.mean, exact.mean + 0.3 * exact.variance.sqrt())


def test_beta_distortion_divides_the_concentration_and_moves_the_mean():
    bed = beds.beta_bernoulli(num_data=8)
    exact = bed.guide.posterior(bed.x)
    wide = beds.beta_bernoulli(num_data=8, guide_scale=0.5).guide.posterior(bed.x).base_dist
    moved = beds.beta_bernoulli(num_data=8, guide_shift=0.3).guide.posterior(bed.x)
    total = exact.base_dist.concentration1 + exact.base_dist.concentration0
    torch.testing.assert_close(wide.concentration1 + wide.concentration0, 4 * total)
    torch.testing.assert_close(wide.mean, exact.mean)
    torch.testing.assert_close(moved.mean, exact.mean + 0.3 * exact.variance.sqrt())


def test_mixture_distortion_moves_the_whole_posterior():
    bed, moved = (
        beds.gaussian_mixture(num_data=8),
        beds.gaussian_mixture(num_data=8, guide_shift=0.7),
    )
    exact, shifted = bed.guide.posterior(bed.x), moved.guide.posterior(bed.x)
    torch.testing.assert_close(shifted.mean, exact.mean + 0.7 * exact.variance.sqrt())


def test_discrete_distortion_tempers_and_tilts_the_log_odds():
    bed, moved = (
        beds.discrete_mixture(num_data=8),
        beds.discrete_mixture(num_data=8, guide_scale=2.0, guide_shift=0.5),
    )
    odds, tempered = (b.guide.posterior(b.x).logits.diff(dim=-1) for b in (bed, moved))
    torch.testing.assert_close(tempered, odds / 4 - torch.tensor([0.5, 0.0], dtype=torch.float64))


def test_impossible_distortions_are_named():
    with pytest.raises(ValueError, match="guide_scale is 0.0; it must be a finite number, above 0"):
        beds.linear_gaussian(guide_scale=0.0)
    bed = beds.gamma_poisson(guide_shift=-9.0)
    with pytest.raises(
        ValueError,
        match=r"guide_shift=-9.0 moves the posterior mean of row 0 to -.*use a smaller shift",
    ):
        bed.guide(bed.x)


def test_linear_gaussian_is_sklearns_pca():
    from sklearn.decomposition import PCA

    x = beds.linear_gaussian(num_data=200, data_dim=6).x.numpy()
    pca = PCA(2).fit(x)
    scale = np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    arrays = pca.components_.T * scale, pca.mean_, np.full(6, pca.noise_variance_**0.5)
    bed = beds.linear_gaussian_at(torch.from_numpy(x), beds.Affine(*map(torch.from_numpy, arrays)))
    np.testing.assert_allclose(bed.log_evidence, pca.score_samples(x), rtol=0, atol=1e-10)


def test_linear_gaussian_is_sklearns_factor_analysis():
    from sklearn.decomposition import FactorAnalysis

    x = beds.linear_gaussian(num_data=200, data_dim=6).x.numpy()
    fitted = FactorAnalysis(2).fit(x)
    arrays = fitted.components_.T.copy(), fitted.mean_, fitted.noise_variance_**0.5
    bed = beds.linear_gaussian_at(torch.from_numpy(x), beds.Affine(*map(torch.from_numpy, arrays)))
    np.testing.assert_allclose(bed.log_evidence, fitted.score_samples(x), rtol=0, atol=1e-10)
    np.testing.assert_allclose(bed.posterior_mean, fitted.transform(x), rtol=0, atol=1e-10)


def test_linear_gaussian_drops_missing_rows_of_the_loading():
    bed = beds.linear_gaussian(num_data=16)
    x = with_missing(bed)
    covariance = bed.loading @ bed.loading.T + torch.diag(bed.noise.square())
    for row, log_p in zip(x, bed.exact_log_evidence(x), strict=True):
        seen = ~row.isnan()
        if seen.any():
            part = covariance[seen][:, seen]
            oracle = stats.multivariate_normal(bed.mean[seen].numpy(), part.numpy()).logpdf(
                row[seen].numpy()
            )
            assert log_p.item() == pytest.approx(oracle, abs=1e-10)


def test_best_mean_field_elbo_is_the_elbo_of_its_guide_and_the_best_there_is():
    bed = beds.linear_gaussian(num_data=16)
    q, p = (guide.posterior(bed.x) for guide in (bed.mean_field_guide, bed.guide))
    q_full = torch.distributions.MultivariateNormal(q.mean, torch.diag_embed(q.variance))

    def elbo(q):
        return bed.log_evidence - torch.distributions.kl_divergence(q, p)

    torch.testing.assert_close(elbo(q_full), bed.best_mean_field_elbo, rtol=0, atol=1e-10)
    for factor, shift in ((1.05, 0.0), (0.95, 0.0), (1.0, 0.05)):
        worse = torch.distributions.MultivariateNormal(
            q.mean + shift, torch.diag_embed(q.variance * factor)
        )
        assert (elbo(worse) < bed.best_mean_field_elbo).all()


@every_bed
def test_a_bed_moved_to_float32_stays_there(name):
    bed = BEDS[name](num_data=4)
    exact, x = bed.log_evidence, bed.x.float()
    bed.model.to(torch.float32)
    assert bed.guide.posterior(x).log_prob(bed.guide(x)).dtype == torch.float32
    torch.testing.assert_close(bed.exact_log_evidence(x), exact.float(), rtol=1e-4, atol=1e-4)


def sklearn_mixture(weights, means, covariances):
    from sklearn.mixture import GaussianMixture

    oracle = GaussianMixture(len(weights))
    oracle.weights_, oracle.means_, oracle.covariances_ = weights, means, covariances
    oracle.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(covariances))
    return oracle


def test_gaussian_mixture_is_sklearns():
    bed = beds.gaussian_mixture()
    means, covariances = bed.model.affine.marginal(*bed.model.moments)
    oracle = sklearn_mixture(bed.model.weights.numpy(), means.numpy(), covariances.numpy())
    np.testing.assert_allclose(
        bed.log_evidence, oracle.score_samples(bed.x.numpy()), rtol=0, atol=1e-10
    )


def test_discrete_mixture_is_sklearns_with_its_responsibilities():
    bed = beds.discrete_mixture()
    covariances = torch.diag_embed(bed.model.scales.square())
    oracle = sklearn_mixture(
        *(t.numpy() for t in (bed.model.weights, bed.model.means, covariances))
    )
    np.testing.assert_allclose(
        bed.log_evidence, oracle.score_samples(bed.x.numpy()), rtol=0, atol=1e-10
    )
    np.testing.assert_allclose(
        bed.guide.posterior(bed.x).probs, oracle.predict_proba(bed.x.numpy()), atol=1e-10
    )


def test_gamma_poisson_is_the_negative_binomial():
    bed = beds.gamma_poisson(shape=3.0, rate=0.7)
    oracle = stats.nbinom(3.0, 0.7 / 1.7).logpmf(bed.x[:, 0].numpy())
    np.testing.assert_allclose(bed.log_evidence, oracle, rtol=0, atol=1e-10)


def test_beta_bernoulli_is_the_beta_binomial_of_one_sequence():
    from scipy.special import binom

    bed = beds.beta_bernoulli(num_trials=6)
    successes = bed.x.sum(1).numpy()
    oracle = stats.betabinom(6, 2.0, 3.0).logpmf(successes) - np.log(binom(6, successes))
    np.testing.assert_allclose(bed.log_evidence, oracle, rtol=0, atol=1e-10)


def test_rainforth_is_a_wider_normal():
    bed = beds.rainforth(num_data=32, latent_dim=3)
    oracle = stats.multivariate_normal(bed.model.mu.detach().numpy(), 2 * np.eye(3)).logpdf(
        bed.x.numpy()
    )
    np.testing.assert_allclose(bed.log_evidence, oracle, rtol=0, atol=1e-10)


def test_rainforth_is_near_its_optimum_and_learnable():
    # 1,000 perturbations of sd 0.01: their root mean square is within 4 of its standard errors,
    # 0.01 / sqrt(2000)
    bed = beds.rainforth(num_data=8, latent_dim=20)
    optimum = bed.x.mean(0)
    moved = torch.cat(
        [
            bed.model.mu - optimum,
            bed.amortised_guide.bias - optimum / 2,
            (bed.amortised_guide.weight - torch.eye(20) / 2).flatten(),
        ]
    )
    assert moved.square().mean().sqrt().item() == pytest.approx(
        0.01, abs=4 * 0.01 / (2 * moved.numel()) ** 0.5
    )
    assert torch.equal(
        beds.rainforth(num_data=8, perturbation=0.0).model.mu, beds.rainforth(num_data=8).x.mean(0)
    )
    assert [name for name, _ in bed.model.named_parameters()] == ["mu"]
    assert not list(bed.guide.parameters())


def test_rainforth_toy_guide_bounds_log_p_from_below():
    # ELBO gap of q = N(., 2/3 I) against N(., I/2) is D/2 (r - 1 - log r) with r = 4/3, plus the
    # perturbed mean's
    bed = beds.rainforth(num_data=64, latent_dim=4, perturbation=0.0)
    terms = log_weights(bed, bed.x, 2000, guide=bed.amortised_guide) - bed.log_evidence
    shift = bed.amortised_guide.posterior(bed.x).mean - bed.guide.posterior(bed.x).mean
    gap = (2 * (4 / 3 - 1 - np.log(4 / 3)) + shift.square().sum(1)).mean()
    error = terms.mean(1).std() / 2000**0.5  # 4 standard errors: level 6e-5
    assert abs(terms.mean() + gap) < 4 * error


@pytest.mark.parametrize("name", ["gamma_poisson", "beta_bernoulli"])
def test_one_latent_by_quadrature(name):
    bed = BEDS[name](num_data=4)
    upper = 1.0 if name == "beta_bernoulli" else 80.0

    def joint(z, row):
        z = torch.tensor([z], dtype=torch.float64)
        return (
            (bed.model.prior().log_prob(z) + bed.model.likelihood(z).log_prob(row).sum())
            .exp()
            .item()
        )

    for row, log_p in zip(bed.x, bed.log_evidence, strict=True):
        area, _ = integrate.quad(joint, 1e-12, upper, args=(row,), epsabs=1e-12)
        assert np.log(area) == pytest.approx(log_p.item(), abs=1e-8)


@every_bed
def test_one_seed_one_bed(name):
    first, again, other = (
        BEDS[name](num_data=8),
        BEDS[name](num_data=8),
        BEDS[name](num_data=8, seed=1),
    )
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.log_evidence, again.log_evidence)
    assert not torch.equal(first.x, other.x)


@every_bed
def test_building_a_bed_leaves_the_global_stream_alone(name):
    with seeded(3):
        expected = torch.rand(2)
    with seeded(3):
        BEDS[name](num_data=8)
        assert torch.equal(torch.rand(2), expected)


@every_bed
def test_the_data_are_from_the_model(name):
    # E over x of (the model's simulated mean) = mean of the bed's x; 4.5 standard errors, at most
    # 20 features
    bed = BEDS[name](num_data=4000)
    with seeded(0), torch.no_grad():
        simulated = bed.model()
    assert simulated.shape == bed.x.shape
    if name == "rainforth":  # mu is the mean of x, by definition of the optimum
        simulated = simulated + (bed.x.mean(0) - bed.model.mu.detach())
    error = ((bed.x.var(0) + simulated.var(0)) / 4000).sqrt()
    assert ((bed.x.mean(0) - simulated.mean(0)).abs() < 4.5 * error).all()


@continuous_bed
def test_rows_and_batches_do_not_matter(name):
    bed = BEDS[name](num_data=16)
    batches = [bed.exact_log_evidence(part) for part in bed.x.split(5)]
    torch.testing.assert_close(torch.cat(batches), bed.log_evidence, rtol=0, atol=1e-12)


@every_bed
def test_only_pathwise_guides_claim_gradients(name):
    bed = BEDS[name](num_data=4)
    assert bed.guide.posterior(bed.x).has_rsample == bed.reparameterized
