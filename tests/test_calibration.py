"""Calibration: exact guides pass, wrong ones are caught, and what is caught is as large as it
is."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from arviz_stats.base import array_stats
from cases import EVENT, data_for, vae
from pyro import poutine
from scipy import stats
from tqdm.auto import tqdm

import ppl_vae as pv
from ppl_vae import beds
from ppl_vae.diagnostics import (
    GuideDraws,
    HMCDraws,
    ImportanceDraws,
    calibration,
    guide_errors,
    plot_calibration,
    to_datatree,
)
from ppl_vae.diagnostics.sbc.against_hmc import BY_CHANCE
from ppl_vae.diagnostics.sbc.plot import LEVEL
from ppl_vae.diagnostics.sbc.ranks import weighted_pit
from ppl_vae.diagnostics.sbc.sources import draws_worth_one
from ppl_vae.diagnostics.uniformity import holm, uniform_band, uniformity_p_value
from ppl_vae.hmc import HMC, Chains
from ppl_vae.runtime import progress

REPEATS, NUM_DATA = 40, 1000
BATCH = GuideDraws(num_samples=30, chunk_size=2_000_000)
MANY = GuideDraws(num_samples=200, chunk_size=2_000_000)


def repeated(bed, guide=None, repeats=REPEATS, num_data=NUM_DATA):
    """Independent calibrations from one run: their summaries."""
    found = calibration(
        bed.model, guide or bed.guide, bed.x, BATCH, num_data=repeats * num_data, seed=1
    )
    return [replace(found, pit=pit).summary() for pit in np.split(found.pit, repeats)]


def flags(summaries, names):
    """Share of the repeats in which some of these are flagged."""
    return np.mean([bool(set(names) & set(summary.flagged)) for summary in summaries])


# --- uniformity -----------------------------------------------------------------------------------


@pytest.mark.statistical
@pytest.mark.parametrize("num_data", [3, 40])
def test_p_values_of_uniform_numbers_are_uniform(num_data):
    p_values = uniformity_p_value(np.random.default_rng(0).uniform(size=(2000, num_data)))
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


@pytest.mark.statistical
def test_arviz_p_values_of_uniform_numbers_are_not_uniform():
    """The trap: never above a half, and below 5 % too often (4,000 samples: more than 4 standard
    errors, 0.35 %)."""
    p_values = array_stats.uniformity_test(np.random.default_rng(0).uniform(size=(4000, 100)))[0]
    assert p_values.max() < 0.5
    assert (p_values < 0.05).mean() > 0.05 + 4 * np.sqrt(0.05 * 0.95 / 4000)


def test_the_band_is_the_test():
    values = np.random.default_rng(1).uniform(size=(500, 40)) ** 1.1
    ranks, low, high = uniform_band(40, 0.95)
    ordered = np.sort(values)[:, ranks - 1]
    outside = ((ordered < low) | (ordered > high)).any(-1)
    assert 0 < outside.sum() < 500
    assert np.array_equal(outside, uniformity_p_value(values) <= 0.05)


def test_small_p_values_go_on_below_what_is_simulated():
    values = np.linspace(0.1, 0.9, 1000)
    expected = (
        50 * 2 * stats.beta(1, 1000).sf(0.1)
    )  # 50 positions; the smallest value is the most extreme
    assert uniformity_p_value(values) == pytest.approx(expected, rel=1e-6)


@pytest.mark.statistical
def test_rare_outliers_are_seen_where_kolmogorov_smirnov_sees_none():
    """One datum in fifty with errors four times too large: power 0.95 at level 0.001."""
    rng = np.random.default_rng(0)
    scale = np.where(rng.uniform(size=(60, 1000)) < 0.02, 4.0, 1.0)
    pit = stats.norm.cdf(scale * rng.normal(size=scale.shape))
    assert (uniformity_p_value(pit) < 0.001).mean() > 0.95
    assert np.mean([stats.kstest(each, "uniform").pvalue < 0.001 for each in pit]) < 0.05


def test_holm_is_its_definition():
    p_values = np.array([0.04, 0.01, 0.03, 0.02, 0.9])
    assert np.allclose(holm(p_values), [0.09, 0.05, 0.09, 0.08, 0.9])


# --- ranks ----------------------------------------------------------------------------------------


def test_the_gaps_between_draws_are_filled_and_ties_shared():
    draws = torch.tensor([1.0, 2.0, 2.0, 4.0])[:, None, None]
    for truth, low, high in (
        (0.0, 0, 1),
        (3.0, 3, 4),
        (5.0, 4, 5),
        (2.0, 1, 4),
    ):  # a tie with two draws: three places
        values = torch.cat([torch.tensor([[[truth]]]), draws])
        ends = [
            weighted_pit(values, torch.zeros(4, 1), torch.tensor([[u]]))[0].item()
            for u in (0.0, 1.0)
        ]
        assert np.allclose(ends, [low / 5, high / 5])


def test_weighted_draws_count_as_many_as_they_are_worth():
    """Two draws of four that carry all the weight are two draws."""
    values = torch.tensor([2.5, 1.0, 9.0, 3.0, 0.0])[:, None, None]
    log_weights = torch.tensor([0.0, -torch.inf, 0.0, -torch.inf])[:, None] - 700.0
    pit, num_effective = weighted_pit(values, log_weights, torch.full((1, 1), 0.5))
    assert num_effective.item() == pytest.approx(2)
    assert pit.item() == pytest.approx((1 + 0.5) / 3)


def test_draws_that_alternate_around_the_mean_are_thinned():
    """Their mean is known well, their distance from it hardly moves; independent draws are all
    kept."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 4, 5, 1, generator=random, dtype=torch.float64)
    log_size = torch.zeros_like(noise)
    for t in range(1, 400):
        log_size[t] = 0.95 * log_size[t - 1] + 0.3 * noise[t]
    nothing = torch.zeros(4, 5)
    for draws, low, high in (
        (noise, 1, 2),
        (log_size.exp() * (-1.0) ** torch.arange(400)[:, None, None, None], 5, 100),
    ):
        chains = Chains(draws, nothing, nothing, nothing)
        assert low <= draws_worth_one(chains) <= high
    assert np.median(chains.ess()) > 1600  # by the means alone, more than there are draws


# --- what must pass -------------------------------------------------------------------------------


@pytest.mark.statistical
def test_the_exact_guide_passes_and_its_p_values_are_uniform():
    """200 repeats; each quantity at level 0.001. After Holm's correction at most 5 % are flagged (+
    4 se)."""
    summaries = repeated(beds.linear_gaussian(), repeats=200, num_data=200)
    for p_values in np.stack([summary.p_value for summary in summaries], axis=1):
        assert stats.kstest(p_values, "uniform").pvalue > 0.001
    assert flags(summaries, summaries[0].names) < 0.05 + 4 * (0.05 * 0.95 / 200) ** 0.5


EXACT = {
    "gaussian_mixture": beds.gaussian_mixture,
    "gamma_poisson": beds.gamma_poisson,
    "beta_bernoulli": beds.beta_bernoulli,
    "discrete_mixture": beds.discrete_mixture,
    "rainforth": lambda: beds.rainforth(64, latent_dim=4),
}


@pytest.mark.statistical
@pytest.mark.parametrize("bed", EXACT)
def test_every_exact_guide_passes(bed):
    """Level 0.001 each. Discrete latents have ties everywhere."""
    bed = EXACT[bed]()
    found = calibration(bed.model, bed.guide, bed.x, BATCH, num_data=3000)
    assert found.summary(0.001).flagged == ()


@pytest.mark.statistical
def test_holes_of_the_data_are_imitated():
    """The exact guide knows of them, and passes at level 0.001; the guide of complete data does not
    know."""
    bed = beds.linear_gaussian(num_data=50)
    x = bed.x.clone()
    x[::2, :4] = torch.nan

    class Filled(torch.nn.Module):
        def forward(self, x, context=None):
            return bed.guide(x.nan_to_num(nan=0.0))

    assert calibration(bed.model, bed.guide, x, BATCH, num_data=2000).summary(0.001).flagged == ()
    assert (
        calibration(bed.model, Filled(), x, BATCH, num_data=2000)
        .summary(0.001)
        .verdict.startswith("fail")
    )


@pytest.mark.statistical
def test_a_model_with_covariates_passes_by_hmc_from_a_poor_guide():
    """Level 0.001. Covariates and holes are those of the data; the untrained guide itself fails."""
    with pv.seeded(0):
        guide = pv.Guide(
            pv.posteriors.MeanFieldNormal(2), EVENT, torch.nn.Identity(), context_dim=1
        )
        model = pv.Model(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Gaussian(EVENT),
            torch.nn.Tanh(),
            context_dim=1,
        )
    x = data_for("Gaussian")
    x[::3, 0] = torch.nan
    data, model, guide = (
        pv.Dataset(x, context=torch.randn(len(x), 1), dtype=torch.float64),
        model.double(),
        guide.double(),
    )
    method = HMCDraws(HMC(24, 40, num_leapfrog=4), chunk_size=10_000)
    assert calibration(model, guide, data, method, num_data=250).summary(0.001).flagged == ()
    assert (
        calibration(model, guide, data, BATCH, num_data=250)
        .summary(0.001)
        .verdict.startswith("fail")
    )


@pytest.mark.statistical
def test_weights_and_hmc_repair_a_guide_that_is_too_wide():
    """Level 0.001 each, on the same simulated data."""
    bed = beds.linear_gaussian(guide_scale=1.4)
    methods = [
        GuideDraws(200, chunk_size=500_000),
        ImportanceDraws(200, chunk_size=500_000),
        HMCDraws(HMC(50, 50, num_leapfrog=3), chunk_size=10_000),
    ]
    plain, weighted, sampled = (
        calibration(bed.model, bed.guide, bed.x, method, num_data=2000) for method in methods
    )
    assert plain.summary(0.001).verdict.startswith("fail: z[")
    assert weighted.summary(0.001).flagged == sampled.summary(0.001).flagged == ()
    # E[w]^2 / E[w^2] of one dimension is sqrt(2 s^2 - 1) / s^2
    assert weighted.num_effective.mean() / 200 == pytest.approx((2 * 1.4**2 - 1) / 1.4**4, abs=0.02)
    assert np.allclose(plain.num_effective, 200)


@pytest.mark.statistical
def test_too_few_weighted_draws_of_a_narrow_guide_fail():
    """Where the truth's own weight counted, every guide would pass."""
    bed = beds.linear_gaussian(guide_scale=0.5)
    few = calibration(bed.model, bed.guide, bed.x, ImportanceDraws(20, chunk_size=500_000))
    assert few.summary(0.001).verdict.startswith("fail: z[")


# --- what must be caught --------------------------------------------------------------------------

WRONG = {
    "draws too narrow": {"guide_scale": 0.7},
    "draws too wide": {"guide_scale": 1.4},
    "sd too high": {"guide_shift": 0.5},
}


@pytest.mark.statistical
@pytest.mark.parametrize("error", WRONG)
def test_power_is_above_95_per_cent_at_a_thousand_data(error):
    """By marginals alone, and the verdict says which error it is."""
    summaries = repeated(beds.linear_gaussian(**WRONG[error]))
    assert flags(summaries, ["z[0]", "z[1]"]) > 0.95
    assert np.mean([error in summary.verdict for summary in summaries]) > 0.95


@pytest.mark.statistical
@pytest.mark.parametrize("error", WRONG)
def test_the_size_of_the_error_is_told(error):
    """To 4 standard errors, and 3 % for tails that 200 draws do not reach."""
    bed = beds.linear_gaussian(**WRONG[error])
    scale, shift = bed.guide.distortion.scale, bed.guide.distortion.shift
    found = calibration(bed.model, bed.guide, bed.x, MANY, num_data=3000).summary()
    assert np.abs(found.bias[:2] + shift).max() < 4 / scale / 3000**0.5 + 0.03 * shift
    assert np.abs(found.spread[:2] * scale - 1).max() < 4 / 6000**0.5 + 0.03


@pytest.mark.statistical
def test_coverage_is_the_closed_form():
    """Central: 2 Phi(s a) - 1; highest-density: chi2_2(s^2 c). 4.5 binomial standard errors (level
    1e-4 in all)."""
    bed = beds.linear_gaussian(guide_scale=0.7)
    found = calibration(bed.model, bed.guide, bed.x, MANY, num_data=3000)
    levels = np.array([0.5, 0.8, 0.95])
    central = 2 * stats.norm.cdf(0.7 * stats.norm.isf((1 - levels) / 2)) - 1
    regions = stats.chi2(2).cdf(0.7**2 * stats.chi2(2).ppf(levels))
    for seen, expected in (
        (found.coverage(levels)[:, :2], central[:, None]),
        (found.hpd_coverage(levels), regions),
    ):
        errors = (seen - expected) / np.sqrt(expected * (1 - expected) / 3000)
        assert np.abs(errors).max() < 4.5
    summary = found.summary()
    assert np.allclose(summary.coverage, found.coverage([0.5, 0.9]))
    assert np.allclose(summary.hpd_coverage, found.hpd_coverage([0.5, 0.9]))


def correlated():
    """z given x with correlation -0.8 in two dimensions."""
    affine = beds.Affine(
        torch.tensor([[2.0, 2.0]]).double(), torch.zeros(1).double(), torch.ones(1).double()
    )
    bed = beds.linear_gaussian_at(torch.zeros(1, 1).double(), affine)
    covariance = bed.posterior_covariance[0]
    assert covariance[0, 1] / covariance[0, 0] == pytest.approx(-0.8)
    return bed


def with_exact_marginals(bed):
    """The mean-field guide whose marginals are the posterior's, not the one that maximises the
    ELBO."""

    def guide(x, context=None):
        mean, covariance = bed.model.posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.Normal(mean, covariance.diagonal(dim1=-2, dim2=-1).sqrt()).to_event(1)
            )

    return guide


@pytest.mark.statistical
def test_missed_correlations_are_caught_by_regions_and_not_by_marginals():
    """Marginals are flagged as often as by chance (5 % after Holm + 4 se); regions and log joint
    tell."""
    bed = correlated()
    summaries = repeated(bed, with_exact_marginals(bed))
    assert flags(summaries, ["z[0]", "z[1]"]) < 0.05 + 4 * (0.05 * 0.95 / REPEATS) ** 0.5
    for name in ("hpd", "log_joint"):
        assert flags(summaries, [name]) > 0.95
    assert "q misses how latents depend on each other" in summaries[0].verdict


@pytest.mark.statistical
def test_the_mean_field_guide_of_the_best_elbo_is_too_narrow_and_caught_by_marginals():
    """Its variances are 1 - correlation^2 times the posterior's: sd x 0.6."""
    bed = correlated()
    summaries = repeated(bed, bed.mean_field_guide)
    assert flags(summaries, ["z[0]", "z[1]"]) == 1
    precision = torch.linalg.inv(bed.posterior_covariance[0])
    assert (1 / precision[0, 0] / bed.posterior_covariance[0, 0, 0]) ** 0.5 == pytest.approx(0.6)


@pytest.mark.statistical
def test_the_prior_as_guide_is_caught_by_the_log_joint_alone():
    """It is calibrated in every function of z alone: level 0.001."""
    bed = beds.linear_gaussian()

    def prior(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))

    summary = calibration(bed.model, prior, bed.x, BATCH, num_data=2000).summary(0.001)
    assert summary.flagged == ("log_joint",)
    assert "on x" in summary.verdict


def test_an_error_that_is_seen_and_small_is_a_look():
    pit = stats.norm.cdf(stats.norm.ppf((np.arange(20_000)[:, None] + 0.5) / 20_000) + 0.05)
    found = calibration(*OWN, num_data=5)
    summary = replace(
        found, pit=pit, names=("z",), shapes={"z": ()}, num_effective=np.ones(20_000)
    ).summary()
    assert summary.verdict == "look: z departs from uniform: draws 0.05 sd too low"


# --- the user's own programs ----------------------------------------------------------------------


def counts(x, context=None):
    """A size and a profile for each count; the profile is not seen."""
    with pyro.plate("data", len(x), dim=-1):
        size = pyro.sample("size", dist.Gamma(x.new_tensor(2.0), 1.0))
        pyro.sample("profile", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))
        pyro.sample("count", dist.Poisson(size), obs=x[..., 0])


def counts_guide(x, context=None):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("size", dist.Gamma(2.0 + x[..., 0], 2.0))
        pyro.sample("profile", dist.Normal(x.new_zeros(2, 3), 1.0).to_event(2))


OWN = counts, counts_guide, torch.zeros(10, 1, dtype=torch.float64), BATCH


@pytest.mark.statistical
def test_any_sites_any_shapes_and_quantities_of_the_users_own():
    """The guide is exact: level 0.001. A quantity may look at x."""
    quantities = {
        "surplus": lambda z, x: z["size"] - x[..., 0],
        "corner": lambda z, x: z["profile"][..., 0, 0].exp(),
    }
    found = calibration(*OWN, num_data=2000, quantities=quantities)
    assert found.names[:3] == ("size", "profile[0, 0]", "profile[0, 1]")
    assert found.names[7:] == ("log_joint", "hpd", "norm", "surplus", "corner")
    assert found.summary(0.001).flagged == ()
    tree = found.to_datatree()
    assert tree.sbc.profile.dims == ("simulation", "profile_dim_0", "profile_dim_1")
    assert np.array_equal(tree.sbc.profile[:, 1, 2], found["profile[1, 2]"])
    assert np.array_equal(tree.sbc["size"], found["size"])


def test_what_cannot_be_calibrated_says_so():
    bed, x = beds.linear_gaussian(), OWN[2]
    with pytest.raises(ValueError, match="Simulating from a custom Pyro model needs `data`"):
        calibration(bed.model, bed.guide)
    with pytest.raises(ValueError, match="quantity 'bad' is NaN at"):
        calibration(*OWN, num_data=5, quantities={"bad": lambda z, x: z["size"] * torch.nan})
    with pytest.raises(
        ValueError, match=r"quantity 'bad' has shape \(\): f\(z, x\) must return \(31, 5\)"
    ):
        calibration(*OWN, num_data=5, quantities={"bad": lambda z, x: z["size"].sum()})
    for name in ("log_joint", "hpd", "norm", "size", "profile", "profile[0, 1]"):
        with pytest.raises(
            ValueError, match=f"the name {name!r} is already used".replace("[", r"\[")
        ):
            calibration(*OWN, num_data=5, quantities={name: lambda z, x: z["size"]})
    with pytest.raises(ValueError, match="num_particles is 0"):
        GuideDraws(num_samples=0)
    for num_data in (0, 1, -5, 2.5):
        with pytest.raises(
            ValueError, match=f"num_data is {num_data}; it must be a whole number, at least 2"
        ):
            calibration(*OWN[:3], num_data=num_data)
    with pytest.raises(ValueError, match="quantity 'bad' returned a ndarray: f"):
        calibration(*OWN, num_data=5, quantities={"bad": lambda z, x: z["size"].numpy()})
    for method in ("hmc", GuideDraws):
        with pytest.raises(
            ValueError,
            match=r"method is .*; it must be GuideDraws\(\), ImportanceDraws\(\) or HMCDraws",
        ):
            calibration(*OWN[:3], method)
    with pytest.raises(
        ValueError, match=r"progress was given beside method=GuideDraws\(.*\): set it in method"
    ):
        calibration(*OWN, progress=False)

    def shared(x, context=None):
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(mean, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[..., 0])

    with pytest.raises(ValueError, match="'mean' is outside the plate"):
        calibration(shared, pyro.poutine.block(shared, hide=["x"]), x, num_data=5)


def test_a_guide_without_a_density_elsewhere_has_no_regions_and_no_weights():
    def model(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    flow = dist.transforms.Planar(2).requires_grad_(False)

    def guide(x, context=None):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.TransformedDistribution(dist.Normal(x, 1.0).to_event(1), [flow]))

    x = torch.zeros(10, 2)
    found = calibration(model, guide, x, GuideDraws(20), num_data=50)
    assert found.names == ("z[0]", "z[1]", "log_joint", "norm")
    assert "regions" not in str(found)
    assert plot_calibration(found).shape == (1, 4)
    with pytest.raises(ValueError, match="density is not known at points that it did not draw"):
        calibration(model, guide, x, ImportanceDraws(20), num_data=50)


# --- one seed, modes, words -----------------------------------------------------------------------


def test_the_seed_alone_decides_and_methods_share_the_data():
    bed = beds.linear_gaussian()
    model, guide = vae()
    state = torch.get_rng_state()
    plain, again, other = (
        calibration(bed.model, bed.guide, bed.x, BATCH, num_data=50, seed=s) for s in (3, 3, 4)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(plain.pit, again.pit)
    assert not np.array_equal(plain.pit, other.pit)
    # the exact guide's weights are equal, so that nothing differs if the data and the draws are the
    # same
    weighted = calibration(
        bed.model, bed.guide, bed.x, ImportanceDraws(30, chunk_size=10**6), num_data=50, seed=3
    )
    assert np.allclose(weighted.pit, plain.pit)
    model.train()
    assert calibration(model, guide, method=GuideDraws(10), num_data=20).pit.shape == (20, 5)
    assert model.training


@pytest.mark.parametrize(
    "given", [{"method": GuideDraws(20, progress=False)}, {"num_samples": 20, "progress": False}]
)
def test_the_bar_can_be_silenced(given, monkeypatch):
    bars = []
    monkeypatch.setattr(
        progress, "_kind", lambda: lambda **options: bars.append(options) or tqdm(**options)
    )
    found = calibration(*OWN[:3], num_data=5, **given)
    assert all(bar["disable"] for bar in bars if bar["desc"] == "calibration")
    assert found.method == "GuideDraws(num_samples=20)"


def test_coverage_of_one_level_is_that_of_a_list(found):
    for coverage in (found.coverage, found.hpd_coverage):
        assert np.array_equal(coverage(0.9), coverage([0.5, 0.9])[1])


def test_what_is_no_calibration_is_not_drawn():
    for given in (3, {}, {"a": 3}):
        with pytest.raises(ValueError, match="give what calibration returned"):
            plot_calibration(given)


def test_words_name_the_worst_and_count_the_rest():
    bed = beds.linear_gaussian(latent_dim=12, data_dim=20, guide_scale=0.5)
    found = calibration(bed.model, bed.guide, bed.x, BATCH, num_data=300)
    text, summary = str(found), found.summary()
    worst = found.names[summary.p_value[:12].argmin()]
    assert text.splitlines()[-1].startswith(
        f"fail: {worst} and 11 more depart from uniform: draws too narrow"
    )
    assert "7 more latent dimensions have larger p" in text
    assert (
        "300 simulated observations, GuideDraws(num_samples=30): "
        "worth 30 independent draws per observation" in text
    )
    assert set(summary.flagged) >= {"hpd", "log_joint"}


# --- the tree and the pictures --------------------------------------------------------------------


@pytest.fixture
def found():
    bed = beds.linear_gaussian(guide_scale=0.7)
    return calibration(bed.model, bed.guide, bed.x, BATCH, num_data=300)


def test_the_tree_holds_every_pit_and_hangs_into_another(found, tmp_path):
    bed = beds.linear_gaussian(num_data=3)
    tree = to_datatree(bed.model, bed.guide, bed.x, num_samples=50, progress=False)
    tree["sbc"] = found.to_datatree()["sbc"]
    assert tree.sbc.z.dims == ("simulation", "latent")
    assert np.array_equal(tree.sbc.z, found.pit[:, :2])
    assert set(tree.sbc.data_vars) == {"z", "log_joint", "hpd", "norm"}
    assert tree.sbc.attrs["method"] == "GuideDraws(num_samples=30)"
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(tree, read.load())
    tree.to_zarr(tmp_path / "tree.zarr", consolidated=False)
    with xr.open_datatree(tmp_path / "tree.zarr", engine="zarr", consolidated=False) as read:
        xr.testing.assert_identical(tree, read.load())


def test_arviz_draws_pits_and_coverage(found):
    import matplotlib.pyplot as plt
    from arviz_plots import plot_ecdf_pit

    tree = found.to_datatree()
    for options in ({}, {"coverage": True}, {"var_names": "hpd"}):
        plot_ecdf_pit(tree, group="sbc", sample_dims="simulation", backend="matplotlib", **options)
        plt.close("all")


def test_the_picture_has_a_line_for_each_and_a_band_for_all(found):
    axes = plot_calibration(found)
    assert axes.shape == (1, 4)
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes[0]]
    assert legends == [["z[0]", "z[1]"], ["log_joint", "norm"], ["z[0]", "z[1]"], ["hpd"]]
    line, values = axes[0, 0].lines[0], np.sort(found["z[0]"])
    assert np.allclose(line.get_xdata()[1:-1], values)
    assert np.allclose(line.get_ydata()[1:-1], np.arange(1, 301) / 300 - values)
    ranks, low, _ = uniform_band(300, 1 - (1 - LEVEL) / 2)
    assert np.allclose(axes[0, 0].patches[0].get_xy()[1 : len(ranks) + 1, 0], low)
    both = plot_calibration({"guide": found, "again": found})
    assert both.shape == (2, 4)
    assert both[1, 0].get_ylabel() == "again\nECDF − uniform"
    with pytest.raises(
        ValueError, match="axes holds 4 Axes: plot_calibration draws on 4 for each of 2"
    ):
        plot_calibration({"a": found, "b": found}, axes=axes)


def test_of_fifty_latents_the_worst_are_named():
    pit = np.tile((np.arange(400)[:, None] + 0.5) / 400, (1, 52))
    pit[:, 7] **= 2
    names = (*(f"z[{i}]" for i in range(50)), "log_joint", "hpd")
    found = replace(calibration(*OWN, num_data=5), pit=pit, names=names, shapes={"z": (50,)})
    legends = [
        [text.get_text() for text in ax.get_legend().get_texts()]
        for ax in plot_calibration(found)[0]
    ]
    assert legends[0] == ["z[7]", "49 more"]


# --- guide against truth --------------------------------------------------------------------------


@pytest.mark.statistical
def test_errors_of_a_normal_guide_are_the_closed_forms():
    """4.5 standard errors of means and sds over 2000 draws, the chains' included (level 2e-4 over
    20)."""
    scale, shift = 0.7, 0.5
    bed = beds.linear_gaussian(num_data=10, guide_scale=scale, guide_shift=shift)
    errors = guide_errors(bed.model, bed.guide, bed.x, sampler=HMC(500, 100, num_leapfrog=3))
    assert errors.converged.all()
    assert (
        np.abs(errors.shift - shift).max() < 4.5 * np.sqrt(scale**2 / 2000 + 1 / errors.ess).max()
    )
    assert np.abs(errors.sd_ratio - scale).max() < 4.5 * scale * (1 / 4000 + 1 / 1000) ** 0.5
    distance = stats.foldnorm(
        shift / (1 - scale), scale=1 - scale
    ).mean()  # E |shift + (1 - scale) z|
    assert errors.wasserstein.mean() == pytest.approx(distance, abs=0.03)
    q, p = (draws["z"][..., 3, 1].ravel() for draws in (errors.guide, errors.posterior))
    assert errors.wasserstein[3, 1] * p.std(ddof=1) == pytest.approx(
        stats.wasserstein_distance(q, p)
    )


@pytest.mark.statistical
def test_what_chance_makes_of_the_distance():
    """Mean over 400 pairs of 500 normal draws, to 4 standard errors."""
    draws = np.sort(np.random.default_rng(0).normal(size=(2, 400, 500)))
    distance = np.abs(draws[0] - draws[1]).mean(-1)
    assert BY_CHANCE * (2 / 500) ** 0.5 == pytest.approx(
        distance.mean(), abs=4 * distance.std() / 20
    )


def test_chains_that_have_not_converged_are_left_out():
    bed = beds.linear_gaussian(num_data=2)
    errors = guide_errors(
        bed.model, bed.guide, bed.x, sampler=HMC(8, 0, num_leapfrog=1), num_chains=2
    )
    assert not errors.converged.any()
    assert "the chains have not converged for 4 of 4: left out" in str(errors)
    some = replace(errors, r_hat=np.array([[1.0, 1.2], [1.0, 1.0]]), ess=np.full((2, 2), 500.0))
    assert "worst: " in str(some)
    assert "the chains have not converged for 1 of 4" in str(some)


def test_arviz_draws_the_guide_beside_hmc(tmp_path):
    import matplotlib.pyplot as plt
    from arviz_plots import plot_forest, plot_pair, plot_rank

    bed = beds.linear_gaussian(num_data=2)
    data = pv.Dataset(bed.x, datum_names=["one", "two"], dtype=torch.float64)
    errors = guide_errors(
        bed.model, bed.mean_field_guide, data, sampler=HMC(100, 50, num_leapfrog=3)
    )
    tree, trees = errors.to_datatree(), errors.trees()
    assert set(tree.children) == {"posterior", "guide", "guide_errors"}
    assert tree.guide.z.dims == tree.posterior.z.dims == ("chain", "draw", "datum", "latent")
    assert np.array_equal(tree.guide_errors.sd_ratio.sel(datum="two"), errors.sd_ratio[1])
    plot_rank(tree, coords={"datum": "one"}, backend="matplotlib")
    plot_forest(trees, combined=True, backend="matplotlib")
    over = {
        "facet_dims": ["__variable__", "latent"],
        "aes": {"color": ["model"], "overlay": ["chain"]},
    }
    plot_pair(trees, coords={"datum": "one"}, backend="matplotlib", **over)
    contours = {
        "aes_by_visuals": {"contour": ["color"]},
        "visuals": {"scatter": False, "contour": True},
    }
    plot_pair(trees, coords={"datum": "one"}, backend="matplotlib", **over, **contours).add_legend(
        "model"
    )
    plot_pair(tree, group="guide", coords={"datum": "one"}, backend="matplotlib")
    plt.close("all")
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf") as read:
        xr.testing.assert_identical(tree, read.load())
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*(Zarr V3|Zarr format 3) specification"
        )  # text labels: zarr's own
        tree.to_zarr(tmp_path / "tree.zarr", consolidated=False)
        with xr.open_datatree(tmp_path / "tree.zarr", engine="zarr", consolidated=False) as read:
            xr.testing.assert_identical(tree, read.load())


def test_a_guide_of_rows_without_their_class_is_judged():
    """The known part of a site with obs_mask counts in no row, and so needs no draw."""
    shares = torch.tensor([0.3, 0.7]).double()
    means = torch.tensor([-0.7, 0.7]).double()

    def model(x):
        label = x[:, 1]
        given = {"obs": label.nan_to_num().long(), "obs_mask": ~label.isnan()}
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(shares), **given)
            pyro.sample("x", dist.Normal(means[y], 1.0), obs=x[:, 0])

    def guide(x, shift=0.0):
        log_p = dist.Normal(means, 1.0).log_prob(x[:, :1]) + shares.log()
        logits = log_p + shift * torch.arange(2)
        with pyro.plate("data", len(x), dim=-1), poutine.mask(mask=x[:, 1].isnan()):
            pyro.sample("y_unobserved", dist.Categorical(logits=logits))

    x = torch.full((50, 2), torch.nan).double()
    x[:, 0] = torch.arange(50) / 10 - 2.5
    found = calibration(model, guide, x, BATCH, num_data=2000)
    assert found.summary(0.001).flagged == ()
    shifted = calibration(model, partial(guide, shift=0.5), x, BATCH, num_data=2000)
    assert shifted.summary(0.001).flagged != ()
    half = torch.arange(50) % 2 == 0
    labels = (torch.arange(50) // 2 % 2).double()
    labelled = torch.stack([x[:, 0], labels.masked_fill(half, torch.nan)], 1)
    drawn = pv.simulate(model, data=labelled.repeat(40, 1), seed=0)[0].x
    assert drawn[:, 1].isnan().equal(half.repeat(40))
    classes = drawn[~half.repeat(40), 1]  # numbers of the model's table, which takes no others
    assert set(classes.tolist()) == {0.0, 1.0}
    assert classes.mean().item() == pytest.approx(0.7, abs=4 * (0.21 / 1000) ** 0.5)
    assert calibration(model, guide, labelled, BATCH, num_data=2000).summary(0.001).flagged == ()
    one_hot = pv.SemiSupervisedModel(2, pv.priors.StandardNormal(1), pv.likelihoods.Gaussian(1))
    known = x.masked_fill(x.isnan(), 1.0).float()
    semi = pv.SemiSupervisedGuide(2, pv.posteriors.MeanFieldNormal(1), 1)
    with pytest.raises(ValueError, match="'y_observed' observes the known values .*is unknown"):
        calibration(one_hot, semi, known, BATCH, num_data=100)
