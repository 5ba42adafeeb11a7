"""The DataTree: what is in it is exact, its names are shared, and files give back every value."""

import subprocess
import sys
import warnings

import arviz as az
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.diagnostics import Draws, resampled, to_datatree
from ppl_vae.evidence import reduce_log_weights

SMALL = {"num_samples": 60, "progress": False}
DRAWN = (
    "posterior",
    "posterior_predictive",
    "prior",
    "prior_predictive",
    "log_likelihood",
    "log_prior",
    "sample_stats",
)


@pytest.fixture
def bed():
    return beds.linear_gaussian(num_data=6, data_dim=4)


@pytest.fixture
def conditional():
    """A small VAE with covariates, labels, names and missing values."""
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x[1, 2] = x[4, 0] = torch.nan
    data = pv.Dataset(
        x,
        context=torch.arange(10.0).reshape(5, 2),
        labels=np.array(["a", "b", "a", "c", "b"]),
        feature_names=["height", "weight", "age"],
        datum_names=[f"row {i}" for i in range(5)],
    )
    with pv.seeded(1):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 3, torch.nn.Identity(), context_dim=2)
        model = pv.Model(
            pv.priors.LearnedNormal(2, 2),
            pv.likelihoods.Gaussian(3),
            torch.nn.Identity(),
            context_dim=2,
        )
    return model, guide, data


def standard_errors(draws, exact):
    """How many standard errors the mean over draws (the first axis) is off."""
    return np.abs(draws.mean(0) - exact) / (draws.std(0, ddof=1) / len(draws) ** 0.5)


# --- the schema -----------------------------------------------------------------------------------


def test_every_group_is_there_with_named_dims(conditional):
    model, guide, data = conditional
    tree = to_datatree(model, guide, data, **SMALL)
    assert set(tree.children) == {*DRAWN, "importance", "observed_data", "constant_data"}
    assert tree.posterior.z.dims == tree.prior.z.dims == ("chain", "draw", "datum", "latent")
    assert (
        tree.posterior_predictive.x.dims
        == tree.prior_predictive.x.dims
        == ("chain", "draw", "datum", "feature")
    )
    assert tree.log_likelihood.x.dims == tree.sample_stats.log_p.dims == ("chain", "draw", "datum")
    assert set(tree.sample_stats.data_vars) == {"log_p", "log_q", "log_weights"}
    assert set(tree.importance.data_vars) == {"log_evidence", "mc_se", "ess", "pareto_k", "elbo"}
    assert set(tree.constant_data.data_vars) == {"mask", "context", "labels"}
    assert tree.constant_data.context.dims == ("datum", "covariate")


def test_names_and_facts_are_kept(conditional):
    tree = to_datatree(*conditional, **SMALL)
    assert tree.posterior_predictive.feature.values.tolist() == ["height", "weight", "age"]
    assert tree.importance.datum.values.tolist() == [f"row {i}" for i in range(5)]
    assert tree.attrs["inference_library_version"] == pv.__version__
    assert (tree.attrs["seed"], tree.attrs["num_particles"], tree.attrs["objective"]) == (
        0,
        60,
        "none",
    )
    assert tree.attrs["rows"] == "all 5"
    assert "unweighted" in tree.posterior.attrs["description"]


def test_there_is_always_one_chain(bed):
    tree = to_datatree(bed.model, bed.guide, bed.x, **SMALL)
    for group in DRAWN:
        assert tree[group].sizes["chain"] == 1, group
        assert tree[group].sizes["draw"] == 60, group


def test_one_dim_name_has_one_length_and_one_set_of_coordinates(conditional):
    found = {}
    for group in to_datatree(*conditional, **SMALL).children.values():
        for dim, values in group.coords.items():
            assert np.array_equal(found.setdefault(dim, values.values), values.values), dim


def test_missing_values_stay_missing_and_are_predicted(conditional):
    model, guide, data = conditional
    tree = to_datatree(model, guide, data, **SMALL)
    assert np.array_equal(tree.observed_data.x, data.x, equal_nan=True)
    assert np.array_equal(tree.constant_data.mask, data.mask)
    assert not tree.posterior_predictive.x.isnull().any()


@pytest.mark.parametrize("chosen", [slice(None), slice(2, 6), [5, 0, 3]])
@pytest.mark.parametrize("options", [{}, {"num_data": 3}])
def test_the_weights_of_the_rows_are_the_data_s(chosen, options):
    bed = beds.linear_gaussian(num_data=6, data_dim=4)
    weights = np.array([0.5, 2.0, 1.0, 7.25, 3.0, 1.5])
    data = pv.Dataset(bed.x.numpy(), weights=weights, dtype=torch.float64)
    tree = to_datatree(bed.model, bed.guide, data[chosen], **SMALL, **options)
    found = tree.constant_data.row_weights
    assert found.dims == tree.importance.log_evidence.dims == ("datum",)
    assert np.array_equal(found, weights[chosen][: options.get("num_data")])
    mean = tree.importance.log_evidence.weighted(found).mean()
    exact = np.average(tree.importance.log_evidence, weights=found)
    assert float(mean) == pytest.approx(exact, rel=1e-12)
    plain = to_datatree(bed.model, bed.guide, bed.x, **SMALL)
    assert "row_weights" not in plain.constant_data


# --- the values -----------------------------------------------------------------------------------


def test_weights_are_those_of_log_weights_and_evidence_is_their_reduction(bed):
    guide = beds.linear_gaussian(num_data=6, data_dim=4, guide_scale=1.3).guide
    tree = to_datatree(bed.model, guide, bed.x, seed=3, **SMALL)
    log_w = tree.sample_stats.log_weights.values[0]
    assert np.array_equal(log_w, pv.log_weights(bed.model, guide, bed.x, num_particles=60, seed=3))
    assert np.allclose(
        log_w, (tree.sample_stats.log_p - tree.sample_stats.log_q).values[0], atol=1e-12
    )
    for name in ("log_evidence", "mc_se", "ess", "pareto_k", "elbo"):
        assert np.array_equal(tree.importance[name], getattr(reduce_log_weights(log_w), name)), name


def test_densities_are_exact_at_the_draws(bed):
    tree = to_datatree(bed.model, bed.guide, bed.x, **SMALL)
    z = torch.tensor(tree.posterior.z.values[0])
    log_likelihood = dist.Normal(z @ bed.loading.T + bed.mean, bed.noise).log_prob(bed.x).sum(-1)
    log_prior = dist.Normal(0.0, 1.0).expand([2]).to_event(1).log_prob(z)
    log_q = dist.MultivariateNormal(bed.posterior_mean, bed.posterior_covariance).log_prob(z)
    assert np.allclose(tree.log_likelihood.x[0], log_likelihood, atol=1e-10)
    assert np.allclose(tree.log_prior.z[0], log_prior, atol=1e-10)
    assert np.allclose(tree.sample_stats.log_p[0], log_likelihood + log_prior, atol=1e-10)
    assert np.allclose(tree.sample_stats.log_q[0], log_q, atol=1e-10)
    assert np.allclose(tree.importance.log_evidence, bed.log_evidence, atol=1e-10)
    assert np.isneginf(tree.importance.pareto_k).all()  # the guide is exact


@pytest.mark.parametrize("chunk_size", [1, 7, 60, 200])
def test_chunks_do_not_matter(bed, chunk_size):
    tree = to_datatree(bed.model, bed.guide, bed.x, chunk_size=chunk_size, **SMALL)
    assert np.allclose(tree.sample_stats.log_weights, bed.log_evidence, atol=1e-10)
    assert np.array_equal(tree.observed_data.x, bed.x)


def test_the_seed_alone_decides(bed):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = to_datatree(bed.model, bed.guide, bed.x, seed=1, **SMALL)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert first.identical(to_datatree(bed.model, bed.guide, bed.x, seed=1, **SMALL))
    assert not first.identical(to_datatree(bed.model, bed.guide, bed.x, seed=2, **SMALL))


@pytest.mark.statistical
def test_draws_follow_their_distributions(bed):
    """Fixed seed; 5 standard errors: one false alarm in 1.7 million per value, about 100 values."""
    x = bed.x.clone()
    x[0, 1] = x[2, 3] = torch.nan
    bed = beds.linear_gaussian_at(x, bed.model.affine)
    tree = to_datatree(bed.model, bed.guide, x, num_samples=2000, progress=False)
    predicted = bed.posterior_mean @ bed.loading.T + bed.mean
    assert standard_errors(tree.posterior.z.values[0], bed.posterior_mean.numpy()).max() < 5
    assert standard_errors(tree.posterior_predictive.x.values[0], predicted.numpy()).max() < 5
    assert standard_errors(tree.prior.z.values[0], 0.0).max() < 5
    assert standard_errors(tree.prior_predictive.x.values[0], bed.mean.numpy()).max() < 5
    variance = (bed.loading.square().sum(-1) + bed.noise.square()).numpy()
    assert (
        standard_errors((tree.prior_predictive.x.values[0] - bed.mean.numpy()) ** 2, variance).max()
        < 5
    )


def test_modules_are_left_as_they_were(conditional):
    model, guide, data = conditional
    model.train(), guide.eval()
    to_datatree(model, guide, data, **SMALL)
    assert (model.training, guide.training) == (True, False)


# --- the user's own models ------------------------------------------------------------------------


def two_sites(x, context=None):
    """Counts with a size and a profile each; the observed site has a name of its own, and one value
    per row."""
    with pyro.plate("data", len(x), dim=-1):
        size = pyro.sample("size", dist.Gamma(2.0, 1.0))
        profile = pyro.sample("profile", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        pyro.deterministic("rate", size * profile[..., 0, 0].exp())
        pyro.factor("penalty", -size)
        observed = ~x[..., 0].isnan()
        pyro.sample("count", dist.Poisson(size).mask(observed), obs=x[..., 0].nan_to_num())


def two_sites_guide(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("size", dist.Gamma(x[..., 0].nan_to_num() + 2.0, 2.0))
        pyro.sample("profile", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))


def test_any_sites_any_names_any_shapes():
    x = torch.tensor([[3.0], [torch.nan], [0.0]])
    tree = to_datatree(two_sites, two_sites_guide, x, **SMALL)
    assert set(tree.posterior.data_vars) == set(tree.prior.data_vars) == {"size", "profile"}
    assert tree.posterior["size"].dims == ("chain", "draw", "datum")
    assert tree.posterior.profile.dims == (
        "chain",
        "draw",
        "datum",
        "profile_dim_0",
        "profile_dim_1",
    )
    assert (
        set(tree.posterior_predictive.data_vars) == set(tree.log_likelihood.data_vars) == {"count"}
    )
    assert np.array_equal(tree.observed_data["count"], x[:, 0], equal_nan=True)
    size = tree.posterior["size"].values[0]
    expected = (
        dist.Poisson(torch.tensor(size)).log_prob(x[:, 0].nan_to_num()).numpy()
        * ~x[:, 0].isnan().numpy()
    )
    assert np.allclose(tree.log_likelihood["count"].values[0], expected, atol=1e-5)


def one_mean(x, context=None):
    """A location for all data: a latent outside the plate."""
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(mean, 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1e-3).to_event(1), obs=x)


def one_mean_guide(x, context=None):
    pyro.sample("mean", dist.Normal(torch.ones(2, dtype=torch.float64), 0.5).to_event(1))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x, 0.1).to_event(1))


@pytest.mark.parametrize("chunk_size", [20, 60, 10_000])
def test_global_latents_are_one_draw_for_all_data(chunk_size):
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree = to_datatree(one_mean, one_mean_guide, x, chunk_size=chunk_size, **SMALL)
    assert tree.posterior["mean"].dims == ("chain", "draw", "mean_dim")
    z, mean = (torch.tensor(tree.posterior[name].values[0]) for name in ("z", "mean"))
    prior = dist.Normal(mean[:, None], 1.0).to_event(1).log_prob(z)
    likelihood = dist.Normal(z, 1e-3).to_event(1).log_prob(x)
    assert np.allclose(tree.sample_stats.log_p[0], prior + likelihood, atol=1e-9)
    ratio = dist.Normal(0.0, 1.0).log_prob(mean) - dist.Normal(1.0, 0.5).log_prob(mean)
    assert np.allclose(tree.sample_stats.log_global[0], ratio.sum(-1), atol=1e-12)
    assert np.abs(tree.prior_predictive.x.values - tree.prior.z.values).max() < 0.01
    # given the mean, z is N(mean, 1) for every datum: 360 draws of two dims, 5 standard errors
    assert (
        abs((tree.prior.z - tree.prior["mean"].rename(mean_dim="latent")).values.std() - 1)
        < 5 / (2 * 720) ** 0.5
    )


def test_memory_beside_the_tree_is_bounded():
    largest = []

    def watched(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            largest.append(z.numel())
            pyro.sample(
                "x", dist.Normal(z[..., None], 1.0).expand(z.shape + (1,)).to_event(1), obs=x
            )

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    to_datatree(watched, guide, torch.zeros(30, 1), num_samples=40, chunk_size=100, progress=False)
    assert max(largest) == 80  # two rows of 40 draws


# --- sizes and names ------------------------------------------------------------------------------


def test_only_the_first_rows_by_default_and_it_says_so():
    bed = beds.linear_gaussian(num_data=130)
    tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=30, progress=False)
    assert tree.posterior.sizes["datum"] == 100
    assert tree.attrs["rows"] == "the first 100 of 130"
    assert np.array_equal(tree.observed_data.x, bed.x[:100])
    everything = to_datatree(
        bed.model, bed.guide, bed.x, num_samples=30, num_data=130, progress=False
    )
    assert everything.posterior.sizes["datum"] == 130


def test_default_rows_fit_the_size():
    bed = beds.linear_gaussian(num_data=130)
    # z and x of two groups, a log-likelihood, a log-prior, three statistics
    row = 8 * (2 * 2 + 2 * 5 + 1 + 1 + 3) * 1000 / 1e9
    tree = to_datatree(bed.model, bed.guide, bed.x, max_gigabytes=3.5 * row, progress=False)
    assert tree.attrs["rows"] == "the first 3 of 130"
    assert sum(
        array.nbytes for group in DRAWN for array in tree[group].data_vars.values()
    ) == round(3e9 * row)


def test_too_large_a_tree_is_one_clear_error(bed):
    with pytest.raises(
        ValueError, match=r"would take .* GB .* max_gigabytes=1e-06: lower num_samples or num_data"
    ):
        to_datatree(bed.model, bed.guide, bed.x, num_data=6, max_gigabytes=1e-6)
    with pytest.raises(ValueError, match="num_data=7, but the data have 6 rows"):
        to_datatree(bed.model, bed.guide, bed.x, num_data=7)
    with pytest.raises(
        ValueError, match=r"Draws\(num_samples\) is 0; it must be a whole number, at least 1"
    ):
        Draws(num_samples=0)
    with pytest.raises(ValueError, match="num_samples was given beside draws="):
        to_datatree(bed.model, bed.guide, bed.x, Draws(), num_samples=3)


def test_a_dim_of_the_data_that_is_taken_is_an_error_or_makes_way(bed):
    taken = xr.DataArray(bed.x.numpy(), dims=("datum", "draw"))
    with pytest.raises(ValueError, match="x has a dim named 'draw'"):
        to_datatree(bed.model, bed.guide, taken)
    latent = xr.DataArray(bed.x.numpy(), dims=("patient", "latent"))
    tree = to_datatree(bed.model, bed.guide, pv.Dataset(latent, dtype=torch.float64), **SMALL)
    assert tree.posterior.z.dims == ("chain", "draw", "patient", "z_dim")
    assert tree.posterior_predictive.x.dims == ("chain", "draw", "patient", "latent")
    covariate = xr.DataArray(bed.x.numpy(), dims=("datum", "covariate"))
    with pytest.raises(
        ValueError, match="dim 'covariate' would have length 1 at 'context', elsewhere 4"
    ):
        to_datatree(
            bed.model, bed.guide, pv.Dataset(covariate, context=torch.zeros(6), dtype=torch.float64)
        )


def test_few_draws_warn_once_that_k_hat_is_unknown(bed):
    with pytest.warns(UserWarning, match="k-hat needs at least 30 draws") as caught:
        tree = to_datatree(
            bed.model, bed.guide, bed.x, num_samples=10, chunk_size=10, progress=False
        )
    assert len(caught) == 1
    assert tree.importance.pareto_k.isnull().all()


# --- files and ArviZ ------------------------------------------------------------------------------


def test_netcdf_gives_every_value_back(conditional, tmp_path):
    tree = to_datatree(*conditional, **SMALL)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(tree, read.load())


def test_netcdf_keeps_infinite_k_hat(bed, tmp_path):
    tree = to_datatree(bed.model, bed.guide, bed.x, **SMALL)
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        assert np.isneginf(read.importance.pareto_k).all()
        xr.testing.assert_identical(tree, read.load())


def test_zarr_gives_every_value_back(conditional, tmp_path):
    tree = to_datatree(*conditional, **SMALL)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(Zarr V3|Zarr format 3) specification"
        )  # text labels: zarr's own
        tree.to_zarr(tmp_path / "tree.zarr", consolidated=False)
        with xr.open_datatree(tmp_path / "tree.zarr", engine="zarr", consolidated=False) as read:
            xr.testing.assert_identical(tree, read.load())


def test_arviz_reads_it(bed):
    import matplotlib as mpl

    mpl.use("Agg")
    import arviz_plots
    import arviz_stats

    tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=100, num_data=4, progress=False)
    summary = arviz_stats.summary(tree, round_to="none")
    assert summary.index[0] == "z[0, 0]"
    assert np.allclose(summary["mean"], tree.posterior.z.values[0].mean(0).ravel(), atol=1e-12)
    for plot in (
        arviz_plots.plot_forest,
        arviz_plots.plot_dist,
        arviz_plots.plot_ppc_dist,
        arviz_plots.plot_trace,
    ):
        plot(tree, backend="matplotlib")
        mpl.pyplot.close("all")
    arviz_plots.plot_pair(tree, coords={"datum": 0}, backend="matplotlib")
    mpl.pyplot.close("all")


def test_importing_the_room_loads_neither_arviz_nor_matplotlib():
    watched = {"arviz", "arviz_stats", "matplotlib", "xarray"}
    code = f"import sys, ppl_vae.diagnostics; print(*{watched} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_sensitivity_to_the_prior_is_read_from_its_density(bed):
    """With one row, log p(z) is that of all latents: the weights of psense are its power."""
    tree = to_datatree(bed.model, bed.guide, bed.x[:1], num_samples=400, progress=False)
    found = az.psense(tree, group="prior").z.values
    del tree["log_prior"]
    tree["log_prior"] = xr.Dataset({"z": tree.sample_stats.log_p - tree.log_likelihood.x})
    assert np.allclose(found, az.psense(tree, group="prior").z.values)
    assert (found > 0.01).all()


# --- resampled by weight --------------------------------------------------------------------------


def moments(tree):
    """Mean and standard deviation of each latent of each row."""
    z = tree.posterior.z.isel(chain=0)
    return z.mean("draw").values, z.std("draw").values


def test_resampled_draws_follow_the_exact_posterior():
    """The guide's mean is half an sd off and its sd 1.3 times the exact one; both are mended.

    Within five standard errors at the effective sample size, for 12 means and 12 sds."""
    bed = beds.linear_gaussian(num_data=6, data_dim=4, guide_scale=1.3, guide_shift=0.5)
    tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=20_000, progress=False)
    mean, sd = moments(resampled(tree, seed=1))
    exact_sd = bed.posterior_covariance.diagonal(dim1=-2, dim2=-1).sqrt().numpy()
    off = (mean - bed.posterior_mean.numpy()) / exact_sd
    ess = tree.importance.ess.values[:, None]
    assert (np.abs(off) < 5 / ess**0.5).all()
    assert (np.abs(sd / exact_sd - 1) < 5 * (0.5 / ess) ** 0.5).all()
    assert (moments(tree)[1] / exact_sd > 1.2).all()


def test_all_groups_hold_the_same_particles(conditional):
    model, guide, data = conditional
    tree = to_datatree(model, guide, data, **SMALL)
    chosen = resampled(tree, 200, seed=3)
    assert chosen.attrs["resampled"] == 200
    assert set(chosen.children) == set(tree.children)
    for row in range(len(data)):
        before = tree.posterior.z.values[0, :, row]
        after = chosen.posterior.z.values[0, :, row]
        which = (before[None] == after[:, None]).all(-1).argmax(1)
        for group in ("posterior", "posterior_predictive", "log_likelihood", "log_prior"):
            for name, values in tree[group].data_vars.items():
                expected = values.values[0, which, row]
                assert np.array_equal(chosen[group][name].values[0, :, row], expected)
        log_p = tree.sample_stats.log_p.values[0, which, row]
        assert np.array_equal(chosen.sample_stats.log_p.values[0, :, row], log_p)
    for group in ("prior", "observed_data", "constant_data", "importance"):
        assert chosen[group].to_dataset().identical(tree[group].to_dataset())


def test_what_cannot_be_resampled_is_refused(bed):
    tree = to_datatree(bed.model, bed.guide, bed.x, **SMALL)
    with pytest.raises(ValueError, match="no sample_stats.log_weights"):
        resampled(resampled(tree))
    with pytest.raises(ValueError, match="num_samples is 0"):
        resampled(tree, 0)
    with pytest.raises(ValueError, match="tree is a int"):
        resampled(3)
    tree.sample_stats["log_weights"][:, :, 2] = -np.inf
    with pytest.raises(ValueError, match="no log-weight of 1 row is finite"):
        resampled(tree)


def test_the_tree_says_for_how_many_rows_its_posterior_is_unreliable(bed):
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 4, torch.nn.Identity()).double()
    tree = to_datatree(bed.model, guide, bed.x, num_samples=400, progress=False)
    num_bad = int((tree.importance.pareto_k > 0.7).sum())
    assert num_bad > 0
    assert f"for {num_bad} of 6 rows" in tree.posterior.attrs["description"]
