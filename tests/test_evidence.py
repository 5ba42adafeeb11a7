"""log p(x) against exact answers, its standard error by coverage, k-hat against theory and
ArviZ."""

import numpy as np
import pytest
import torch
from arviz_stats.base import array_stats
from cases import PROBLEMS, data_for, vae
from scipy import integrate, stats
from sklearn.decomposition import PCA
from test_importance import TwoSites

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.evidence import ImportanceSampling, pareto_k, reduce_log_weights
from ppl_vae.evidence.pareto import RESOLUTION

every_problem = pytest.mark.parametrize("problem", PROBLEMS)


@every_problem
@pytest.mark.parametrize("guide", [{"guide_scale": 1.3}, {"guide_shift": 0.4}])
def test_within_four_standard_errors_of_the_exact_value(problem, guide):
    bed = PROBLEMS[problem](16, **guide)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=2000)
    error = np.abs(evidence.log_evidence - bed.log_evidence.numpy())
    assert (error < 4 * evidence.mc_se).all()
    assert (evidence.mc_se > 0).all()


@every_problem
def test_intervals_cover(problem):
    """Nominal 95 % intervals hold 90 to 99 % of 400 runs, pooled over 3 rows (guide 1.3 times too
    wide)."""
    bed = PROBLEMS[problem](3, guide_scale=1.3)
    exact = bed.log_evidence.numpy()
    log_w = pv.log_weights(
        bed.model, bed.guide, bed.x.repeat(400, *[1] * (bed.x.dim() - 1)), num_particles=200, seed=1
    )
    evidence = reduce_log_weights(log_w.numpy())
    error = evidence.log_evidence.reshape(400, -1) - exact
    covered = (np.abs(error) < 1.96 * evidence.mc_se.reshape(400, -1)).mean()
    assert 0.90 < covered < 0.99


def test_exact_guide_has_no_error_and_minus_infinite_k():
    bed = beds.linear_gaussian(8)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
    np.testing.assert_allclose(evidence.log_evidence, bed.log_evidence, atol=1e-10)
    np.testing.assert_allclose(evidence.elbo, bed.log_evidence, atol=1e-10)
    np.testing.assert_allclose(evidence.ess, 30)
    assert (evidence.mc_se < 1e-10).all()
    assert (evidence.pareto_k == -np.inf).all()


def test_exact_guide_in_float32_is_exact_too():
    bed = beds.linear_gaussian(8)
    bed.model.to(torch.float32)
    assert (
        pv.log_evidence(bed.model, bed.guide, bed.x.float(), num_particles=30).pareto_k == -np.inf
    ).all()


def test_agrees_with_scikit_learns_pca_at_its_parameters():
    x = beds.linear_gaussian(200).x.numpy()
    pca = PCA(n_components=2).fit(x)
    loading = pca.components_.T * np.sqrt(pca.explained_variance_ - pca.noise_variance_)
    noise = torch.full((5,), np.sqrt(pca.noise_variance_))
    affine = beds.Affine(torch.tensor(loading), torch.tensor(pca.mean_), noise)
    bed = beds.linear_gaussian_at(torch.tensor(x), affine)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=30)
    np.testing.assert_allclose(evidence.log_evidence, pca.score_samples(x), atol=1e-10)


@pytest.mark.parametrize(
    "likelihood",
    ["Bernoulli", "Gaussian", "Poisson", "StudentT", "Categorical", "NegativeBinomial"],
)
@pytest.mark.parametrize("prior", ["StandardNormal", "GaussianMixture", "VampPrior", "FlowPrior"])
def test_our_models_agree_with_quadrature(likelihood, prior):
    """One latent dimension: log p(x) by scipy's trapezoid on a fine grid; within 4.5 standard
    errors (level 2e-4)."""
    model, guide = (program.double() for program in vae(prior, likelihood, latent_dim=1))
    x = data_for(likelihood, num_data=3).double()
    grid = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    with torch.no_grad():
        z = grid[:, None, None].expand(-1, 3, 1)
        joint = model.prior().log_prob(z) + model.decode(z).log_prob(x)
    exact = np.log(integrate.trapezoid(joint.exp().numpy(), grid.numpy(), axis=0))
    evidence = pv.log_evidence(model, guide, x, num_particles=4000)
    assert (np.abs(evidence.log_evidence - exact) < 4.5 * evidence.mc_se + 1e-7).all()


@every_problem
def test_prior_monte_carlo_is_unbiased_too_and_worse(problem):
    bed = PROBLEMS[problem](8)
    naive = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=4000, proposal="prior")
    error = np.abs(naive.log_evidence - bed.log_evidence.numpy())
    assert (error < 4.5 * naive.mc_se).all()
    assert (naive.ess < 4000).all()


@pytest.mark.parametrize("chunk_size", [None, 1, 100, 10**7])
def test_no_metric_depends_on_chunks(chunk_size):
    bed = beds.linear_gaussian(17)
    method = ImportanceSampling(30, chunk_size=chunk_size)
    summary = pv.log_evidence(bed.model, bed.guide, bed.x, method).summary()
    assert summary.num_data == 17
    assert summary.log_evidence == pytest.approx(bed.log_evidence.mean().item(), abs=1e-10)
    assert summary.data_se == pytest.approx(bed.log_evidence.std().item() / 17**0.5, abs=1e-10)
    assert (summary.mc_se, summary.share_bad_k) == (pytest.approx(0.0, abs=1e-9), 0.0)


@pytest.mark.parametrize("chunk_size", [40, 4000])
def test_chunks_of_a_noisy_guide_agree_within_their_errors(chunk_size):
    """4 standard errors of each datum's difference (level 1e-3 over 16 rows)."""
    bed = beds.linear_gaussian(16, guide_scale=1.3)
    one, other = (
        pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=500, seed=seed, chunk_size=size)
        for seed, size in ((0, None), (1, chunk_size))
    )
    z = (one.log_evidence - other.log_evidence) / np.hypot(one.mc_se, other.mc_se)
    assert (np.abs(z) < 4).all()


def test_all_rows_count_and_in_their_order():
    """Not the last batch alone, and the first is not dropped."""
    bed = beds.linear_gaussian(23)
    evidence = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=30, chunk_size=30 * 5)
    np.testing.assert_allclose(evidence.log_evidence, bed.log_evidence, atol=1e-10)


def test_particles_are_as_many_as_asked():
    """K is the divisor and the number of draws: an off-by-one shifts every value by log(K / (K +
    1))."""
    bed = beds.linear_gaussian(2)
    for num_particles in (1, 2, 3, 25, 99, 100, 101):
        assert (
            pv.log_weights(bed.model, bed.guide, bed.x, num_particles=num_particles).shape[0]
            == num_particles
        )


def gaussian_log_weights(target_sd, num_particles, num_data, seed=0):
    """Target N(0, sd^2), proposal N(0, 1): in theory k = 1 - 1 / sd^2."""
    z = np.random.default_rng(seed).standard_normal((num_particles, num_data))
    return stats.norm.logpdf(z, scale=target_sd) - stats.norm.logpdf(z)


@pytest.mark.parametrize("target_sd", [1.2, 1.5, 2.0, 3.0])
def test_k_hat_agrees_with_theory(target_sd):
    """Mean over 40 repeats within 4 standard errors plus the small-sample bias of the fit
    (0.08)."""
    k_hat = pareto_k(gaussian_log_weights(target_sd, 20_000, 40))
    theory = 1 - 1 / target_sd**2
    assert abs(k_hat.mean() - theory) < 4 * k_hat.std() / 40**0.5 + 0.08


def test_k_hat_is_arvizs_and_the_sign_matters():
    log_w = gaussian_log_weights(2.0, 1000, 6)
    expected = [array_stats.psislw(-column)[1] for column in log_w.T]
    np.testing.assert_allclose(pareto_k(log_w), expected, atol=1e-10, rtol=0)
    assert (
        np.array([array_stats.psislw(column)[1] for column in log_w.T]) < -0.5
    ).all()  # the trap: "perfect"


def test_k_hat_does_not_depend_on_a_constant_or_on_the_float_type():
    log_w = gaussian_log_weights(2.0, 1000, 4)
    np.testing.assert_allclose(pareto_k(log_w - 800.0), pareto_k(log_w), atol=1e-8)
    np.testing.assert_allclose(pareto_k(log_w.astype(np.float32)), pareto_k(log_w), atol=1e-3)


def test_a_mixed_batch_keeps_exact_and_inexact_data_apart():
    log_w = np.concatenate([gaussian_log_weights(2.0, 1000, 1), np.full((1000, 1), -3.0)], axis=1)
    k_hat = pareto_k(log_w)
    assert k_hat[0] > 0.3
    assert k_hat[1] == -np.inf


def test_too_few_particles_give_nan_and_one_warning():
    bed = beds.linear_gaussian(50, guide_scale=1.3)
    with pytest.warns(
        UserWarning, match="k-hat needs at least 30 particles and was given 10"
    ) as caught:
        evidence = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=10, chunk_size=20)
    assert len(caught) == 1
    assert np.isnan(evidence.pareto_k).all()
    assert np.isnan(evidence.summary().share_bad_k)


def test_a_narrow_guide_is_flagged():
    """q with 0.6 of the posterior's sd: k = 1 - 0.36 per dimension, its weights have infinite
    variance."""
    bed = beds.linear_gaussian(100, guide_scale=0.6)
    summary = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=2000).summary()
    assert summary.share_bad_k > 0.2
    wide = beds.linear_gaussian(100, guide_scale=1.5)
    assert (
        pv.log_evidence(wide.model, wide.guide, wide.x, num_particles=2000).summary().share_bad_k
        == 0.0
    )


def test_summary_is_the_arithmetic_it_says():
    log_w = np.random.default_rng(0).normal(size=(100, 7))
    evidence = reduce_log_weights(log_w)
    w = np.exp(log_w)
    np.testing.assert_allclose(evidence.log_evidence, np.log(w.mean(0)))
    np.testing.assert_allclose(evidence.mc_se, w.std(0, ddof=1) / w.mean(0) / 10)
    np.testing.assert_allclose(evidence.ess, w.sum(0) ** 2 / (w**2).sum(0))
    summary = evidence.summary()
    assert summary.mc_se == pytest.approx(np.sqrt((evidence.mc_se**2).sum()) / 7)
    assert summary.mc_bias == pytest.approx(-0.5 * (evidence.mc_se**2).mean())
    assert summary.elbo == pytest.approx(log_w.mean())
    assert "nats per row" in str(summary)


def test_ties_at_the_top_are_bounded_weights():
    """Discrete latents give few distinct weights; ArviZ raises when the tail is constant."""
    log_w = np.random.default_rng(0).choice([-1.0, 0.0], size=(500, 3))
    assert (pareto_k(log_w) == -np.inf).all()


def test_extreme_log_weights_do_not_overflow():
    log_w = np.array([[-1e5, 1e5], [-1e5 + 1, 1e5 + 1]]).repeat(20, axis=0)
    evidence = reduce_log_weights(log_w)
    np.testing.assert_allclose(
        evidence.log_evidence, [-1e5 + np.log((1 + np.e) / 2), 1e5 + np.log((1 + np.e) / 2)]
    )


def test_misuse_is_named():
    bed = beds.linear_gaussian(3)
    for options, error, message in (
        (
            {"proposal": "posterior"},
            ValueError,
            'proposal is \'posterior\'; it must be "guide", "prior" or Defensive',
        ),
        ({"num_particles": 0}, ValueError, "num_particles is 0"),
        ({"num_particles": 10.5}, ValueError, "num_particles is 10.5; it must be a whole number"),
        ({"num_particle": 5}, TypeError, "unexpected keyword argument 'num_particle'"),
        (
            {"method": ImportanceSampling(5), "num_particles": 7},
            ValueError,
            "num_particles was given beside method=",
        ),
    ):
        with pytest.raises(error, match=message):
            pv.log_evidence(bed.model, bed.guide, bed.x, **options)


def test_a_global_latent_gives_the_predictive_density():
    """theta ~ q is drawn for the particles of a cluster: the estimate is log E_q[p(x given theta)],
    here exact."""
    program, x = TwoSites(with_global=True), torch.randn(3, 4, dtype=torch.float64)
    torch.nn.init.zeros_(program.encoder.weight)
    program.encoder.bias.data = torch.tensor(
        [0.0, 0.5, 0.0, 0.0, -0.5, -0.5], dtype=torch.float64
    )  # wide enough
    with pytest.warns(
        UserWarning, match="'theta' lies outside the data plate: log p.x. is conditional on it"
    ):
        evidence = pv.log_evidence(program.model, program.guide, x, num_particles=30_000)
    assert (evidence.pareto_k < 0.7).all()
    W, b = program.decoder.weight.detach().numpy(), program.decoder.bias.detach().numpy()
    # given theta: a ~ N(theta, 1), b | a ~ N((a, -a), 0.25 I): u = (a, b) is normal, y = W u + b +
    # N(0, I)
    lift = np.array([[1.0], [1.0], [-1.0]])
    covariance_u = lift @ lift.T + np.diag([0.0, 0.25, 0.25])
    covariance = W @ (covariance_u + lift @ lift.T) @ W.T + np.eye(4)  # theta ~ N(0.3, 1) under q
    exact = stats.multivariate_normal(W @ lift[:, 0] * 0.3 + b, covariance).logpdf(x.numpy())
    assert (np.abs(evidence.log_evidence - exact) < 4 * evidence.mc_se).all()


# --- log-weights that their float type cannot tell apart ------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_errors_are_unknown_where_floats_lie_further_apart_than_the_resolution(dtype, spread):
    """Over magnitudes of log w from 1 to the end of the type; the guide is exact, or nearly so."""
    scale = 10.0 ** np.arange(0, 30 if dtype == np.float32 else 300, 0.5)
    noise = spread * np.random.default_rng(0).normal(size=(200, 1))
    for sign in (1, -1):
        log_w = (sign * scale + noise).astype(dtype)
        evidence = reduce_log_weights(log_w)
        too_large = np.finfo(dtype).eps * scale > RESOLUTION
        clear = np.abs(np.finfo(dtype).eps * scale / RESOLUTION - 1) > 0.1
        assert too_large.any()
        for unknown in (
            np.isnan(evidence.mc_se),
            np.isnan(evidence.pareto_k),
            ~evidence.is_estimate,
        ):
            np.testing.assert_array_equal(unknown[clear], too_large[clear])
        if spread == 0.0:
            assert np.isneginf(evidence.pareto_k[~too_large & clear]).all()


@pytest.mark.parametrize(
    "method", [{}, {"bootstrap": 50}, {"target_se": 0.01}], ids=["plain", "bootstrap", "target"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_called_an_estimate_is_right_however_far_x_lies(dtype, method):
    """The guide is exact, so log p(x) is right to rounding: within the resolution wherever it is
    called an estimate."""
    told = []
    for shift in (0.0, 10.0, 1e2, 1e3, 1e4, 1e6):
        bed = beds.linear_gaussian(num_data=4)
        x = (bed.x + shift).to(dtype)
        exact = bed.model.log_evidence(x.double()).numpy()
        model, guide = bed.model.to(dtype), bed.guide.to(dtype)
        evidence = pv.log_evidence(model, guide, x, num_particles=200, **method)
        known = evidence.is_estimate
        assert (np.abs(evidence.log_evidence - exact)[known] < RESOLUTION).all()
        assert (np.isnan(evidence.pareto_k) == ~known).all()
        told.append(bool(known.all()))
        remedy = "standardise x, or use float64"
        assert (remedy in str(evidence.summary())) == (not known.all())
    assert told == (
        [True, True, True, False, False, False] if dtype == torch.float32 else [True] * 6
    )


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e5, 1e6, 1e7])
def test_rows_whose_residuals_are_rounded_are_no_estimates(offset):
    """x is exact in float32 and the model centred on it; its mean given z is what is rounded."""
    rng = np.random.default_rng(1)
    values = (rng.normal(size=(4, 2)), rng.normal(size=4) + offset, np.full(4, 0.5))
    loading, mean, noise = (each.astype(np.float32).astype(float) for each in values)
    x = rng.normal(size=(60, 2)) @ loading.T + mean + noise * rng.normal(size=(60, 4))
    x = x.astype(np.float32)
    x[:10] += np.float32(8)  # sixteen standard deviations of the noise
    law = stats.multivariate_normal(mean, loading @ loading.T + np.diag(noise**2))
    exact = law.logpdf(x.astype(float))
    share = {}
    for dtype in (torch.float32, torch.float64):
        parts = (torch.as_tensor(each, dtype=dtype) for each in (loading, mean, noise))
        affine = beds.Affine(*parts)
        bed = beds.linear_gaussian_at(torch.as_tensor(x, dtype=dtype), affine, 1.2, 0.2)
        found = pv.log_evidence(bed.model, bed.guide, bed.x, num_particles=2000)
        known = found.is_estimate
        error = (found.log_evidence - exact)[known]
        allowed = np.hypot(4 * found.mc_se[known], 2 * RESOLUTION)
        assert (np.abs(error) < allowed).all()
        share[dtype] = known.mean()
    assert share[torch.float64] > 0.9
    if offset < 1e4:
        assert share[torch.float32] == share[torch.float64]
    elif offset > 1e5:
        assert share[torch.float32] < 0.05
