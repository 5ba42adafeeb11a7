"""Collapse: active units, KL per dimension, rate and distortion against closed forms."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.diagnostics import (
    active_units,
    calibration,
    conditional_pit,
    elbo_surgery,
    kl_per_dimension,
    latent_means,
    linear_active_units,
    marginal_pit,
    rate_distortion,
    to_datatree,
)
from ppl_vae.diagnostics.latents.rate import noise_limit
from ppl_vae.evidence import log_evidence
from ppl_vae.objectives import MeanFieldELBO, TraceELBO
from ppl_vae.runtime.seeding import derived_seed

QUIET = {"progress": False}


@pytest.fixture
def bed():
    return beds.linear_gaussian(num_data=2000, latent_dim=2, data_dim=4)


def exact_kl(bed):
    """KL of the exact posterior from N(0, I), per row."""
    mean, covariance = bed.posterior_mean, bed.posterior_covariance
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)
    return 0.5 * (trace + mean.square().sum(-1) - mean.shape[1] - torch.logdet(covariance))


class NoMean(dist.Normal):
    """A normal that does not tell its mean, so that it has to be estimated."""

    @property
    def mean(self):
        raise NotImplementedError


def without_mean(bed):
    """The exact posterior's marginals, for which only draws tell the mean."""

    def guide(x, context=None):
        mean, covariance = bed.model.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt().expand_as(mean)
            pyro.sample("z", NoMean(mean, scale).to_event(1))

    return guide


def ignores_x(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", NoMean(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))


# --- active units ---------------------------------------------------------------------------------


def test_variance_is_that_of_the_exact_posterior_mean(bed):
    units = active_units(bed.model, bed.guide, bed.x, **QUIET)
    assert units.exact
    assert units.names == ("z[0]", "z[1]")
    assert np.allclose(units.variance, bed.posterior_mean.var(0), atol=1e-12)


@pytest.mark.statistical
def test_variance_is_its_closed_form(bed):
    """Var_x E[z|x] = I - S. A variance of N normal values has standard error v sqrt(2 / (N - 1)); 4
    of them, seed 0."""
    expected = 1 - bed.posterior_covariance[0].diagonal().numpy()
    variance = active_units(bed.model, bed.guide, bed.x, **QUIET).variance
    assert (np.abs(variance - expected) < 4 * expected * (2 / 1999) ** 0.5).all()


@pytest.mark.statistical
@pytest.mark.parametrize("num_particles", [2, 20])
def test_monte_carlo_means_are_debiased(bed, num_particles):
    """The noise s^2 / K of the means is taken off: with K = 2 it is many standard errors. 4 of
    them, seed 0."""
    units = active_units(bed.model, without_mean(bed), bed.x, num_particles=num_particles, **QUIET)
    expected = bed.posterior_mean.var(0).numpy()
    noise = bed.posterior_covariance[0].diagonal().numpy() / num_particles
    error = (2 * noise * (noise + 2 * expected) / 1999 + 2 * noise**2 / 2000) ** 0.5
    assert not units.exact
    assert (np.abs(units.variance - expected) < 4 * error).all()
    assert num_particles > 2 or (noise > 4 * error).all()


def test_a_guide_that_ignores_x_has_no_active_unit(bed):
    units = active_units(bed.model, ignores_x, bed.x, **QUIET)
    assert units.count == 0
    assert not units.active.any()
    constant = pv.Guide(pv.posteriors.MeanFieldNormal(2), 4)
    torch.nn.init.zeros_(constant.posterior.link.linear.weight)
    assert active_units(bed.model, constant, bed.x.float(), **QUIET).count == 0


def test_the_threshold_counts(bed):
    variance = bed.posterior_mean.var(0)
    between = float(variance.mean())
    assert active_units(bed.model, bed.guide, bed.x, threshold=between, **QUIET).count == int(
        (variance > between).sum()
    )


def test_dependent_sites_are_averaged_over_their_draws():
    """q(b given a) has the mean a + x, so its own mean is x only after averaging over a; a's own
    mean is exact."""

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
            pyro.sample("b", dist.Normal(a[..., None, None] + x[:, None, :1], 1.0).to_event(2))

    means = latent_means(
        guide, torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None], num_particles=50, **QUIET
    )
    assert means.names == ("a", "b[0, 0]")
    assert not means.exact
    assert np.array_equal(means.variance[:, 0], np.zeros(5))
    assert np.allclose(means.mean[:, 0], 0)
    # b given x has variance 2; 4 standard errors, seed 0
    assert (np.abs(means.mean[:, 1] - np.linspace(-1, 1, 5)) < 4 * (2 / 50) ** 0.5).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_mean_given_a_class_is_not_exact_where_two_draws_agree(seed):
    """One row, y of probability 0.3 and z about 10 y: two draws of y agree with probability 0.58.
    E z = 3 and sd z = sqrt(1 + 21); 5 standard errors of 2,000 draws."""

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Bernoulli(torch.full((len(x),), 0.3)))
            pyro.sample("z", dist.Normal(10 * y, 1.0))

    means = latent_means(guide, torch.zeros(1, 1), num_particles=2000, seed=seed, **QUIET)
    assert not means.exact
    assert means.variance[0, 0] == 0 < means.variance[0, 1]
    assert means.mean[0] == pytest.approx([0.3, 3], abs=5 * (22 / 2000) ** 0.5)
    assert means.sd[0, 1] == pytest.approx(22**0.5, rel=0.1)


def test_means_after_points_are_exact():
    """A delta and a recorded value are not random; torch's own draws are, and have no site."""

    def guide(x, noise=0.0):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Delta(x[:, :2]).to_event(1))
            centre = pyro.deterministic("centre", a.sum(-1) + noise * torch.randn_like(a[..., 0]))
            pyro.sample("z", dist.Normal(centre, 2.0))

    x = torch.randn(5, 2)
    means = latent_means(guide, x, **QUIET)
    assert means.exact
    assert means.names == ("a[0]", "a[1]", "z")
    assert np.allclose(means.mean, torch.cat([x, x.sum(-1, keepdim=True)], -1))
    assert np.allclose(means.sd, [0, 0, 2])
    assert not latent_means(lambda x: guide(x, noise=1.0), x, **QUIET).exact


def test_too_few_data_or_draws_are_refused(bed):
    with pytest.raises(ValueError, match="the data have 1 row"):
        active_units(bed.model, bed.guide, bed.x[:1])
    with pytest.raises(ValueError, match="num_particles is 1"):
        active_units(bed.model, bed.guide, bed.x, num_particles=1)


@pytest.mark.parametrize("bad", [float("nan"), -1.0, "low"])
def test_thresholds_and_scales_are_numbers_in_range(bed, bad):
    with pytest.raises(ValueError, match="threshold is .*; it must be a finite number, at least 0"):
        active_units(bed.model, bed.guide, bed.x, threshold=bad)
    for scale in (bad, 0.0):
        with pytest.raises(ValueError, match="scale is .*; it must be a finite number, above 0"):
            linear_active_units(bed.x, scale)


def test_one_feature_has_one_eigenvalue():
    x = [1.0, 2.0, 3.0, 4.0]  # of variance 5 / 3
    limit = (5 / 3 / noise_limit(4, 1)) ** 0.5
    assert [linear_active_units(x, scale=scale) for scale in (limit - 1e-6, limit + 1e-6)] == [1, 0]
    with pytest.raises(ValueError, match="the data have 1 row; a covariance needs at least 2"):
        linear_active_units([[1.0, 2.0]], scale=1.0)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("num_rows", "num_features"), [(2, 1), (10, 3), (3, 10), (40, 40), (300, 20), (20, 100)]
)
def test_noise_has_no_active_unit(num_rows, num_features):
    """In 99 of 100 data sets, whatever its standard deviation: 500 data sets, 4.5 standard
    errors."""
    noise = (
        3.0
        * torch.randn(
            500, num_rows, num_features, generator=torch.Generator().manual_seed(0)
        ).double()
    )
    share = np.mean([linear_active_units(x, scale=3.0) > 0 for x in noise])
    assert share < 0.01 + 4.5 * (0.01 * 0.99 / 500) ** 0.5


@pytest.mark.statistical
@pytest.mark.parametrize(("num_rows", "num_features"), [(300, 20), (1000, 100), (2000, 5)])
def test_as_many_units_are_active_as_directions_stand_out_of_the_noise(num_rows, num_features):
    """Three of variance sigma^2 (1 + s), s eight times what is detectable for large N, or a fifth;
    20 data sets."""
    generator, detectable = torch.Generator().manual_seed(0), (num_features / num_rows) ** 0.5
    for s, expected in ((8 * detectable, 3), (detectable / 5, 0)):
        sd = 0.5 * torch.ones(num_features).double()
        sd[:3] *= (1 + s) ** 0.5
        data = (
            sd * torch.randn(num_rows, num_features, generator=generator).double()
            for _ in range(20)
        )
        assert np.mean([linear_active_units(x, scale=0.5) == expected for x in data]) >= 0.9


@pytest.mark.parametrize("diagnose", [active_units, rate_distortion, kl_per_dimension, to_datatree])
def test_a_guide_of_other_latents_is_named(diagnose):
    model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(4))
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(3), 4)
    with pytest.raises(ValueError, match="the model has 2 latent dimensions and the guide 3"):
        diagnose(model, guide, torch.zeros(5, 4), **QUIET)


def test_all_results_hang_into_one_tree_and_files_give_them_back(tmp_path):
    """netCDF and zarr; rows keep their names, and every group its values."""
    bed = beds.linear_gaussian(num_data=40)
    data = pd.DataFrame(
        bed.x.numpy(), index=pd.Index([f"no {i}" for i in range(40)], name="bottle")
    )
    pair, few = (bed.model, bed.mean_field_guide), {"num_particles": 30, **QUIET}
    pit = {f"{name}_pit": tree["pit"] for name, tree in pits(*pair, data).items()}
    evidence = {
        name: log_evidence(*pair, data, seed=seed, **few)
        for seed, name in enumerate(("one", "other"))
    }
    parts = {
        "latent_means": latent_means(pair[1], data, **few),
        "active_units": active_units(*pair, data, **few),
        "rate_distortion": rate_distortion(*pair, data, **few),
        "surgery": elbo_surgery(*pair, data, **QUIET),
        "models": pv.compare_models(evidence),
        "sbc": calibration(*pair, data, num_data=50, num_samples=20, progress=False),
    }
    tree = to_datatree(*pair, data, num_samples=30, num_data=40, **QUIET)
    for name, found in (
        {name: found.to_datatree()[name] for name, found in parts.items()} | pit
    ).items():
        tree[name] = found
    assert set(tree.children) >= {*parts, *pit, "posterior", "importance", "observed_data"}
    assert np.array_equal(tree["rate_distortion"]["rate"], parts["rate_distortion"].rate)
    assert tree["latent_means"]["datum"].values.tolist() == data.index.tolist()
    assert tree["models"]["mlpd"].values.tolist() == parts["models"].log_evidence.tolist()
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(Zarr V3|Zarr format 3) specification"
        )  # text labels: zarr's own
        tree.to_zarr(tmp_path / "tree.zarr", consolidated=False)
        for file, options in (
            ("tree.nc", {"engine": "h5netcdf"}),
            ("tree.zarr", {"engine": "zarr", "consolidated": False}),
        ):
            with xr.open_datatree(tmp_path / file, **options) as again:
                assert set(again.children) == set(tree.children)
                for name, node in tree.children.items():
                    assert again[name].to_dataset().equals(node.to_dataset()), (file, name)


def pits(model, guide, data):
    found = {"marginal": marginal_pit(model, data, num_samples=20, **QUIET)}
    found["conditional"] = conditional_pit(model, guide, data, num_particles=30, **QUIET)
    return {name: each.to_datatree() for name, each in found.items()}


# --- rate and distortion --------------------------------------------------------------------------


def test_rate_and_distortion_add_up_to_the_elbo(bed):
    found = rate_distortion(bed.model, bed.mean_field_guide, bed.x[:50], **QUIET)
    assert np.allclose(found.rate + found.distortion, -found.elbo, atol=1e-12)
    exact = rate_distortion(bed.model, bed.guide, bed.x[:50], num_particles=3, **QUIET)
    assert np.allclose(exact.elbo, bed.log_evidence[:50], atol=1e-10)
    assert np.allclose(exact.elbo_se, 0, atol=1e-10)


@pytest.mark.statistical
def test_rate_is_the_kl_and_its_standard_error_holds(bed):
    """Seed 0, 300 rows: none beyond 4.5 standard errors (one in 500 runs), 95 % intervals hold for
    91 to 98 %."""
    found = rate_distortion(bed.model, bed.guide, bed.x[:300], num_particles=400, **QUIET)
    off = np.abs(found.rate - exact_kl(bed)[:300].numpy()) / found.rate_se
    assert off.max() < 4.5
    assert 0.91 < (off < 1.96).mean() < 0.98
    expected = -bed.log_evidence[:300] - exact_kl(bed)[:300]
    assert (np.abs(found.distortion - expected.numpy()) / found.distortion_se).max() < 4.5


def test_means_are_those_of_the_objective(bed):
    found = rate_distortion(
        bed.model, bed.mean_field_guide, bed.x[:20], num_particles=30, seed=4, **QUIET
    )
    log_w = pv.log_weights(bed.model, bed.mean_field_guide, bed.x[:20], num_particles=30, seed=4)
    assert np.allclose(found.elbo, log_w.mean(0), atol=1e-12)
    with pv.seeded(derived_seed(4, 0)):
        bound = TraceELBO(30).bound(bed.model, bed.mean_field_guide, bed.x[:20])
    assert np.allclose(found.elbo, bound, atol=1e-12)


def test_one_particle_has_no_standard_error(bed):
    found = rate_distortion(bed.model, bed.guide, bed.x[:5], num_particles=1, **QUIET)
    assert np.isnan(found.rate_se).all()
    assert np.isfinite(found.rate).all()


def test_rows_are_measured_on_their_own(bed):
    """Exact guide: chunks of 100 rows and all of them at once tell the same ELBO."""
    many = rate_distortion(bed.model, bed.guide, bed.x[:230], num_particles=100, **QUIET)
    assert len(many) == 230
    assert np.allclose(many.elbo, bed.log_evidence[:230], atol=1e-10)


# --- KL per dimension -----------------------------------------------------------------------------


def small_vae(prior):
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(3), 4, torch.nn.Identity())
        return pv.Model(prior, pv.likelihoods.Gaussian(4), torch.nn.Identity()), guide


@pytest.mark.parametrize("prior", [pv.priors.StandardNormal(3), pv.priors.LearnedNormal(3)])
def test_dimensions_add_up_to_the_analytic_kl(prior):
    model, guide = small_vae(prior)
    x = torch.randn(150, 4)
    kl = kl_per_dimension(model, guide, x, **QUIET)
    with torch.no_grad():
        exact = torch.distributions.kl_divergence(guide.encode(x), model.prior())
    assert kl.shape == (150, 3)
    assert np.allclose(kl.sum(1), exact, rtol=1e-5)
    assert MeanFieldELBO().analytic_kl(model, guide, x) == {"z": True}


@pytest.mark.statistical
def test_without_a_closed_form_it_is_estimated():
    """Laplace from Student's t has none: against quadrature, 4 standard errors bounded by 2 /
    sqrt(K), seed 0."""

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.StudentT(5.0, torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Laplace(x, 0.5).to_event(1))

    x = torch.tensor([[0.0, 1.0], [-2.0, 0.5]], dtype=torch.float64)
    q, p = dist.Laplace(x, 0.5), dist.StudentT(5.0, torch.zeros(2, dtype=x.dtype), 1.0)
    grid = torch.linspace(-15, 15, 30001, dtype=torch.float64)[:, None, None]
    log_q, log_p = q.log_prob(grid), p.log_prob(grid)
    exact = torch.trapezoid(log_q.exp() * (log_q - log_p), dx=0.001, dim=0)
    kl = kl_per_dimension(model, guide, x, num_particles=20_000, **QUIET)
    assert np.abs(kl - exact.numpy()).max() < 4 * 2 / 20_000**0.5


def test_it_is_refused_where_it_is_not_defined(bed):
    with pytest.raises(
        ValueError, match=r"site 'z' has a MultivariateNormal, .* rate_distortion gives the total"
    ):
        kl_per_dimension(bed.model, bed.guide, bed.x[:3], **QUIET)
    model, guide = small_vae(pv.priors.GaussianMixture(3, 2))
    with pytest.raises(ValueError, match="site 'z' has a BroadcastMixture"):
        kl_per_dimension(model, guide, torch.zeros(3, 4), **QUIET)
