"""The collapse panel: ELBO surgery against quadrature, linear VAEs against eigenvalues, and the
alarm."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.diagnostics import (
    ActiveUnits,
    active_units,
    elbo_surgery,
    kl_per_dimension,
    linear_active_units,
    plot_collapse,
    rate_distortion,
    to_datatree,
)
from ppl_vae.diagnostics.latents import surgery
from ppl_vae.training.monitoring.collapse_alarm import collapse_warning, mean_rate

QUIET = {"progress": False}
CENTRES = torch.tensor(
    [[0.0, 0.0], [1.5, 1.0], [-1.0, -1.5], [0.5, 2.0], [2.0, 1.5]], dtype=torch.float64
)
SPREAD = torch.tensor([0.5, 0.8], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.5, 0.3], [0.3, 0.4]], dtype=torch.float64)


def standard_model(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def mean_field(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, SPREAD).to_event(1))


def full_rank(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.MultivariateNormal(x, COVARIANCE))


def quadrature(components):
    """The parts of the rate for a mixture of normals in the plane, by sums over a grid."""
    step = 0.04
    grid = torch.arange(-6.0, 6.0, step, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1)
    each = components.log_prob(z[:, :, None]).exp()  # (grid, grid, N)
    q, p = each.mean(-1), dist.Normal(0.0, 1.0).log_prob(z).sum(-1)
    marginals = [q.sum(1 - d) * step for d in (0, 1)]
    log_marginals = torch.log(marginals[0])[:, None] + torch.log(marginals[1])

    def mean(values):
        return float((q * values).sum() * step**2)

    own = float((each * (each.log() - q.log()[..., None])).sum() * step**2 / each.shape[-1])
    return {
        "mutual_information": own,
        "marginal_kl": mean(q.log() - p),
        "total_correlation": mean(q.log() - log_marginals),
        "dimension_wise": mean(log_marginals - p),
    }


# --- against exact values -------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("guide", [mean_field, full_rank])
def test_a_mixture_of_normals_is_cut_as_by_quadrature(guide):
    """4 Monte Carlo standard errors, fixed seed: one false alarm in 4,000 for each of eight
    numbers."""
    components = {
        mean_field: dist.Normal(CENTRES, SPREAD).to_event(1),
        full_rank: dist.MultivariateNormal(CENTRES, COVARIANCE),
    }[guide]
    found = elbo_surgery(standard_model, guide, CENTRES, num_particles=4000, **QUIET).summary()
    for name, exact in quadrature(components).items():
        assert abs(found.mean[name] - exact) < 4 * found.mc_se[name], name
        assert found.mc_se[name] < 0.02


def test_the_parts_add_up():
    bed = beds.linear_gaussian(num_data=60)
    found = elbo_surgery(bed.model, bed.mean_field_guide, bed.x, num_particles=20, **QUIET)
    assert np.allclose(found.mutual_information + found.marginal_kl, found.rate, atol=1e-10)
    assert np.allclose(
        found.total_correlation + found.dimension_wise, found.marginal_kl, atol=1e-10
    )
    assert np.allclose(
        found.dimension_rate.sum(1), found.rate, atol=1e-10
    )  # this guide is a product
    exact = kl_per_dimension(bed.model, bed.mean_field_guide, bed.x, **QUIET)
    error = found.dimension_rate.mean(0) - exact.mean(0)
    assert (np.abs(error) < 4 / (60 * 20) ** 0.5).all()
    assert found.names == ("z[0]", "z[1]")


def test_rate_and_distortion_are_those_of_rate_distortion():
    bed = beds.linear_gaussian(num_data=60)
    found = elbo_surgery(bed.model, bed.guide, bed.x, num_particles=20, seed=3, **QUIET)
    other = rate_distortion(bed.model, bed.guide, bed.x, num_particles=20, seed=3, **QUIET)
    for name in ("rate", "distortion"):
        assert np.allclose(getattr(found, name), getattr(other, name), atol=1e-12)
        assert np.allclose(found.errors[name], getattr(other, f"{name}_se"), atol=1e-12)


def test_components_that_are_apart_carry_log_n_and_no_more():
    def apart(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 1e-3).to_event(1))

    found = elbo_surgery(standard_model, apart, CENTRES, num_particles=5, **QUIET)
    assert np.allclose(found.mutual_information, math.log(5), atol=1e-12)
    assert found.leave_one_out.min() > 1e4
    assert "cannot exceed log N = 1.609" in str(found)


def test_a_guide_that_is_the_prior_has_no_parts():
    def prior(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))

    found = elbo_surgery(standard_model, prior, CENTRES, num_particles=5, **QUIET)
    for name in (
        "rate",
        "mutual_information",
        "marginal_kl",
        "total_correlation",
        "dimension_wise",
        "leave_one_out",
    ):
        assert np.allclose(getattr(found, name), 0, atol=1e-12), name


@pytest.mark.statistical
def test_information_lies_between_its_two_estimates_and_the_errors_over_data_hold():
    """40 data sets of 100 rows from one model whose q(z) is the prior. 3 standard errors of means
    over 40."""
    whole = beds.linear_gaussian(num_data=4000)
    exact = -0.5 * torch.logdet(whole.posterior_covariance[0]).item()
    parts = [
        elbo_surgery(whole.model, whole.guide, rows, num_particles=5, **QUIET).summary()
        for rows in whole.x.split(100)
    ]
    means = {name: np.array([part.mean[name] for part in parts]) for name in parts[0].mean}
    error = 3 * means["mutual_information"].std(ddof=1) / 40**0.5
    assert means["mutual_information"].mean() < exact + error
    assert means["leave_one_out"].mean() > exact - error
    assert means["leave_one_out"].mean() - means["mutual_information"].mean() < 0.5
    ratio = np.mean([part.data_se["mutual_information"] for part in parts]) / means[
        "mutual_information"
    ].std(ddof=1)
    assert 0.7 < ratio < 1.4  # an sd of 40 values is within 11 % or so


def test_chunks_do_not_matter(monkeypatch):
    bed = beds.linear_gaussian(num_data=30)
    whole = elbo_surgery(bed.model, bed.guide, bed.x, num_particles=7, **QUIET)
    monkeypatch.setattr(surgery, "VALUES_PER_CHUNK", 500)
    parts = elbo_surgery(bed.model, bed.guide, bed.x, num_particles=7, **QUIET)
    assert np.allclose(whole.mutual_information, parts.mutual_information, atol=1e-12)
    assert np.allclose(whole.leave_one_out, parts.leave_one_out, atol=1e-12)
    assert np.allclose(whole.dimension_kl, parts.dimension_kl, atol=1e-12)


@pytest.mark.statistical
def test_several_sites_are_one_joint_latent():
    """q(b given a) = N(a, 1) over q(a given x) is one normal of covariance [[1, 1], [1, 2]]; 4
    standard errors."""

    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            pyro.sample("x", dist.Normal(torch.stack([a, b], -1), 1.0).to_event(1), obs=x)

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Normal(x[..., 0], 1.0))
            pyro.sample("b", dist.Normal(a, 1.0))

    def joint(x, context=None):
        covariance = torch.tensor([[1.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(x[..., :1].expand(x.shape), covariance))

    two = elbo_surgery(model, guide, CENTRES, num_particles=3000, **QUIET).summary()
    one = elbo_surgery(
        standard_model, joint, CENTRES, num_particles=3000, seed=1, **QUIET
    ).summary()
    for name in ("mutual_information", "marginal_kl", "leave_one_out"):
        assert abs(two.mean[name] - one.mean[name]) < 4 * math.hypot(
            two.mc_se[name], one.mc_se[name]
        ), name
    assert math.isnan(two.mean["total_correlation"])
    assert not math.isnan(one.mean["total_correlation"])


@pytest.mark.parametrize(
    ("prior", "posterior", "by_dimension", "correlation"),
    [
        (pv.priors.StandardNormal(2), pv.posteriors.LowRankNormal(2), True, True),
        (pv.priors.LearnedNormal(2), pv.posteriors.FullRankNormal(2), True, True),
        (pv.priors.GaussianMixture(2, 3), pv.posteriors.MeanFieldNormal(2), False, True),
        (
            pv.priors.StandardNormal(2),
            pv.posteriors.FlowPosterior(2, 2, hidden_dims=(8,)),
            False,
            False,
        ),
    ],
)
def test_every_family_has_the_parts_that_are_defined(prior, posterior, by_dimension, correlation):
    with pv.seeded(0):
        guide = pv.Guide(posterior, 3, torch.nn.Identity())
        model = pv.Model(prior, pv.likelihoods.Gaussian(3), torch.nn.Identity())
    x = torch.randn(20, 3)
    x[0, 1] = torch.nan
    mean = elbo_surgery(model, guide, x, num_particles=5, **QUIET).summary().mean
    assert mean["mutual_information"] + mean["marginal_kl"] == pytest.approx(mean["rate"], abs=1e-5)
    assert math.isnan(mean["dimension_wise"]) != by_dimension
    assert math.isnan(mean["total_correlation"]) != correlation


def test_covariates_in_the_prior_are_refused_and_others_are_not():
    data = pv.Dataset(torch.randn(10, 3), context=torch.arange(10.0))
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 3, torch.nn.Identity(), context_dim=1)
        model = pv.Model(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Gaussian(3),
            torch.nn.Identity(),
            context_dim=1,
        )
        other = pv.Model(
            pv.priors.LearnedNormal(2, 1),
            pv.likelihoods.Gaussian(3),
            torch.nn.Identity(),
            context_dim=1,
        )
    assert len(elbo_surgery(model, guide, data, **QUIET)) == 10
    with pytest.raises(
        ValueError, match=r"the prior of 'z' differs between rows \(by their covariates\)"
    ):
        elbo_surgery(other, guide, data, **QUIET)


@pytest.mark.parametrize("part", ["all", "half"])
def test_the_priors_of_all_latents_are_compared_over_all_rows(part, monkeypatch):
    """z ~ N(u + c, 1) after u ~ N(0, 1), c by row or by block of rows: none is one prior."""
    c = torch.arange(4.0) if part == "all" else torch.tensor([0.0, 0.0, 1.0, 1.0])
    monkeypatch.setattr(surgery, "rows_per_chunk", lambda *_: 2)

    def latents(c):
        u = pyro.sample("u", dist.Normal(torch.zeros(len(c)), 1.0))
        return pyro.sample("z", dist.Normal(u + c[:, 0], 1.0))

    def guide(x, c):
        with pyro.plate("data", len(x), dim=-1):
            latents(c)

    def model(x, c):
        with pyro.plate("data", len(x), dim=-1):
            z = latents(c)
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    data = pv.Dataset(torch.zeros(4, 1), context=c)
    with pytest.raises(ValueError, match=r"the prior of 'z' differs .* \(by their covariates\)"):
        elbo_surgery(model, guide, data, **QUIET)
    same = pv.Dataset(torch.zeros(4, 1), context=torch.ones(4))
    assert np.allclose(elbo_surgery(model, guide, same, **QUIET).marginal_kl, 0, atol=1e-5)


def test_a_class_that_the_model_marks_is_summed_out_of_the_prior():
    """p(z) is a mixture over y, the same for all rows; q(z given x) is p(z): all parts are 0. By
    dimension nothing is known, and a prior that differs by x is named without covariates."""
    weights, means = torch.tensor([0.3, 0.7]), torch.tensor([-2.0, 3.0])

    def model(x, shift=0.0):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(weights), infer={"enumerate": "parallel"})
            z = pyro.sample("z", dist.Normal(means[y] + shift, 1.0))
            pyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            mixture = dist.Categorical(weights.expand(len(x), 2))
            parts = dist.Normal(means.expand(len(x), 2), 1.0)
            pyro.sample("z", dist.MixtureSameFamily(mixture, parts))

    x = torch.arange(4.0)[:, None]
    found = elbo_surgery(model, guide, x, **QUIET)
    for name in ("rate", "marginal_kl", "mutual_information"):
        assert np.allclose(getattr(found, name), 0, atol=1e-5)
    assert np.isnan(found.dimension_kl).all()
    with pytest.raises(ValueError, match=r"the prior of 'z' differs between rows \(by x, a mask"):
        elbo_surgery(lambda x: model(x, x[:, 0]), guide, x, **QUIET)


def test_what_it_is_not_for_is_one_clear_error():
    with pytest.raises(ValueError, match="the data have 1 row"):
        elbo_surgery(standard_model, mean_field, CENTRES[:1])

    def model(x, context=None):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        standard_model(x)

    def guide(x, context=None):
        pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        mean_field(x)

    with pytest.raises(ValueError, match="site 'scale' is outside the data plate"):
        elbo_surgery(model, guide, CENTRES)


def test_one_particle_has_no_monte_carlo_error_but_one_over_data():
    found = elbo_surgery(standard_model, mean_field, CENTRES, num_particles=1, **QUIET).summary()
    assert math.isnan(found.mc_se["rate"])
    assert found.data_se["rate"] > 0


def test_it_hangs_into_a_tree_and_files_give_it_back(tmp_path):
    bed = beds.linear_gaussian(num_data=8)
    data = pv.Dataset(bed.x, datum_names=list("abcdefgh"), dtype=torch.float64)
    found = elbo_surgery(bed.model, bed.guide, data, **QUIET)
    tree = to_datatree(bed.model, bed.guide, data, num_samples=30, **QUIET)
    tree["surgery"] = found.to_datatree()["surgery"]
    assert tree["surgery"].rate.sel(datum="c") == found.rate[2]
    assert tree["surgery"].dimension_kl.sel(dimension="z[1]").shape == (8,)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(tree, read.load())


# --- linear VAEs ----------------------------------------------------------------------------------


def stretched(num_data=3000):
    """Data of six dimensions with variances about 9, 4, 1.5, 0.5, 0.2 and 0.05 along rotated
    axes."""
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    x = rng.normal(size=(num_data, 6)) * np.sqrt([9.0, 4.0, 1.5, 0.5, 0.2, 0.05])
    return torch.from_numpy(x @ rotation.T)


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.1, 6), (0.3, 5), (0.6, 4), (1.0, 3), (1.6, 2), (4.0, 0)]
)
def test_at_the_optimum_as_many_units_are_active_as_eigenvalues_exceed_the_noise(scale, expected):
    """W = U (Lambda - sigma^2)^(1/2), where Lambda is above; Var E[z_d given x] is 1 - sigma^2 /
    l_d."""
    x = stretched()
    values, vectors = torch.linalg.eigh(x.mT.cov(correction=0))
    loading = vectors * (values - scale**2).clamp(min=0).sqrt()
    affine = beds.Affine(loading, x.mean(0), torch.full((6,), scale, dtype=torch.float64))
    bed = beds.linear_gaussian_at(x, affine)
    assert linear_active_units(x, scale) == expected
    units = active_units(bed.model, bed.mean_field_guide, bed.x, **QUIET)
    assert units.count == expected
    assert np.allclose(units.variance, (1 - scale**2 / values.numpy()).clip(0), atol=2e-3)


def test_a_trained_linear_vae_finds_them():
    data = pv.Dataset(stretched())
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(4), 6, torch.nn.Identity())
        model = pv.Model(
            pv.priors.StandardNormal(4), pv.likelihoods.Gaussian(6, scale=1.4), torch.nn.Identity()
        )
    pv.fit(
        model,
        guide,
        data,
        training=pv.Training(num_epochs=20, batch_size=256, learning_rate=0.05, progress=False),
    )
    assert (
        active_units(model, guide, data, threshold=0.05, **QUIET).count
        == linear_active_units(data, 1.4)
        == 2
    )


def test_eigenvalues_need_complete_rows():
    x = stretched(10)
    x[3, 2] = torch.nan
    with pytest.raises(ValueError, match="x has missing values"):
        linear_active_units(x, 1.0)


def test_the_curve_of_active_units_goes_through_the_threshold():
    units = ActiveUnits(np.array([0.9, 0.02, 0.005]), ("a", "b", "c"), threshold=0.01, exact=True)
    assert units.counts(np.array([0.001, 0.01, 0.1, 1.0])).tolist() == [3, 2, 1, 0]
    assert units.counts(units.threshold) == units.count


# --- the alarm ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rates", "weights", "warns"),
    [
        ([5.0, 0.01, 0.01, 0.01], [1.0] * 4, True),
        ([0.01] * 3, [1.0] * 3, True),
        ([0.01] * 4, [1.0] * 4, False),  # said an epoch ago
        ([0.01, 0.01, 0.2], [1.0] * 3, False),
        ([0.01] * 5, [0.2, 0.5, 1.0, 1.0, 1.0], True),
        ([0.01] * 5, [0.0, 0.2, 0.5, 1.0, 1.0], False),
        ([0.01] * 4, [1.0, 1.0, 1.0, 0.5], False),
        ([math.nan] * 3, [1.0] * 3, False),
        ([], [], False),
    ],
)
def test_the_alarm_sounds_once_after_three_dead_epochs_at_full_weight(rates, weights, warns):
    message = collapse_warning(rates, weights, patience=3)
    assert (message is not None) == warns
    assert message is None or "below 0.1 nats per row for 3 epochs" in message


def rates_while_training(scale):
    """The rate after each of six epochs of a linear VAE on data of variance one."""
    x = torch.randn(128, 5, generator=torch.Generator().manual_seed(0))
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 5, torch.nn.Identity())
        model = pv.Model(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Gaussian(5, scale=scale),
            torch.nn.Identity(),
        )
    rates = []
    for epoch in range(6):
        training = pv.Training(
            num_epochs=10, batch_size=32, learning_rate=0.05, seed=epoch, progress=False
        )
        pv.fit(model, guide, x, training=training)
        rates.append(mean_rate(model, guide, (x,)))
    return rates, active_units(model, guide, x, **QUIET).count


def test_a_model_that_collapses_raises_it_and_one_that_does_not_does_not():
    dead, none = rates_while_training(scale=3.0)
    alive, some = rates_while_training(scale=0.3)
    assert (none, some) == (0, 2)
    assert [collapse_warning(dead[:i], [1.0] * i, patience=3) is not None for i in range(7)].count(
        True
    ) == 1
    assert not any(collapse_warning(alive[:i], [1.0] * i, patience=3) for i in range(7))


def test_the_rate_is_that_of_rate_distortion_and_unknown_with_enumerated_sites():
    bed = beds.linear_gaussian(num_data=2000)
    exact = rate_distortion(bed.model, bed.guide, bed.x, num_particles=20, **QUIET).rate.mean()
    assert abs(mean_rate(bed.model, bed.guide, (bed.x,)) - exact) < 4 * 1.5 / 2000**0.5

    def enumerated(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})

    assert math.isnan(mean_rate(enumerated, enumerated, (CENTRES,)))


# --- the picture ----------------------------------------------------------------------------------


def test_the_panel_shows_the_numbers():
    import matplotlib.pyplot as plt

    bed = beds.linear_gaussian(num_data=40)
    units = active_units(bed.model, bed.mean_field_guide, bed.x, **QUIET)
    found = elbo_surgery(bed.model, bed.mean_field_guide, bed.x, **QUIET)
    left, middle, right = plot_collapse(units, found)
    heights = [bar.get_height() for bar in left.patches]
    assert np.isclose(sum(heights), found.rate.mean())
    assert np.allclose(
        [bar.get_height() for bar in right.patches][0], found.mutual_information.mean()
    )
    assert middle.get_ylabel() == "active units (of 2)"
    with pv.seeded(0):
        guide = pv.Guide(
            pv.posteriors.FlowPosterior(2, 2, hidden_dims=(8,)), 5, torch.nn.Identity()
        )
        model = pv.Model(
            pv.priors.StandardNormal(2), pv.likelihoods.Gaussian(5), torch.nn.Identity()
        )
    x = bed.x.float()
    axes = plot_collapse(
        active_units(model, guide, x, **QUIET), elbo_surgery(model, guide, x, **QUIET)
    )
    assert axes[0].get_ylabel() == "variance of E[z_d | x]"
    assert len(axes[2].patches) == 2
    plt.close("all")


def test_programs_that_are_conditioned_on_a_shared_latent_are_those_with_a_constant():
    x = torch.randn(15, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def programs(mu_of):
        def model(x):
            mu = mu_of(0.0)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(mu, 1.0))
                pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1), obs=x)

        def guide(x):
            mu = mu_of(0.2)
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("z", dist.Normal((mu + x.sum(-1)) / 3, 3**-0.5))

        return model, guide

    value = torch.tensor(0.3, dtype=torch.float64)
    drawn = programs(lambda loc: pyro.sample("mu", dist.Normal(value * 0 + loc, 1.0)))
    given = [pyro.condition(program, {"mu": value}) for program in drawn]
    found, expected = (
        elbo_surgery(*each, x, **QUIET) for each in (given, programs(lambda _: value))
    )
    for name in ("rate", "mutual_information", "marginal_kl", "dimension_rate", "leave_one_out"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6)
    with pytest.raises(ValueError, match="site 'mu' is outside the data plate"):
        elbo_surgery(*drawn, x, **QUIET)
