"""Dimension reduction against scikit-learn, SciPy, closed forms and sampling distributions."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal
from scipy.stats import norm, sobol_indices
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

import ppl_vae as pv
from ppl_vae import beds, likelihoods, networks, priors
from ppl_vae.diagnostics import latent_means
from ppl_vae.tasks.reduction import (
    embedding_quality,
    loading_intervals,
    plot_embedding_quality,
    plot_loadings,
    plot_variance_explained,
    variance_explained,
)
from ppl_vae.tasks.reduction.jackknife import jackknife_se
from ppl_vae.tasks.reduction.loadings import towards
from ppl_vae.tasks.reduction.neighbours import measured, neighbour_order, without

# --- posterior sds --------------------------------------------------------------------------------


def test_sds_are_those_of_the_posterior():
    bed = beds.linear_gaussian(num_data=20)
    found = latent_means(bed.guide, bed.x, progress=False)
    exact = bed.posterior_covariance.diagonal(dim1=-2, dim2=-1).sqrt().expand(20, -1)
    np.testing.assert_allclose(found.sd, exact, rtol=1e-10)


@pytest.mark.statistical
@pytest.mark.parametrize("kind", [AutoDiagonalNormal, AutoMultivariateNormal])
def test_means_of_a_joint_autoguide_are_those_of_its_normal(kind):
    """Its draw lies outside the plate, so that all particles of one run share it."""
    x = torch.randn(12, 2, generator=torch.Generator().manual_seed(0))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1), obs=x)

    guide = kind(model, init_scale=0.7)
    guide(x)
    guide.loc.data.copy_(torch.linspace(-2, 2, 12))
    found = latent_means(guide, x, num_particles=400, progress=False)
    exact = guide.get_posterior()
    sd = exact.variance.sqrt().detach().numpy()
    assert not found.exact
    error = np.abs(found.mean[:, 0] - exact.mean.detach().numpy())
    assert (error < 4.5 * sd / np.sqrt(400)).all()  # level 8e-5
    assert (np.abs(found.sd[:, 0] / sd - 1) < 4.5 / np.sqrt(800)).all()


def test_parameters_for_each_row_belong_to_the_rows_of_training(tmp_path):
    """In another order rows have their own parameters; other rows are refused."""
    x = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1), obs=x)

    guide = AutoDelta(model)
    training = pv.Training(num_epochs=5, batch_size=20, learning_rate=0.1, progress=False)
    pv.fit(model, guide, x, training=training)
    known = latent_means(guide, x, progress=False).mean
    np.testing.assert_array_equal(known[:, 0], guide.z.detach())
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(latent_means(guide, x[order], progress=False).mean, known[order])
    np.testing.assert_array_equal(latent_means(guide, x[3:7], progress=False).mean, known[3:7])
    np.save(tmp_path / "x.npy", x)
    in_file = pv.Dataset(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(latent_means(guide, in_file, progress=False).mean, known)
    for call in (
        lambda: latent_means(guide, x + 1, progress=False),
        lambda: pv.log_evidence(model, guide, x + 1, num_particles=10, progress=False),
        lambda: pv.to_datatree(model, guide, x + 1, num_samples=10, progress=False),
    ):
        with pytest.raises(ValueError, match="row 0 of x is not among the 20 rows for which"):
            call()
    pv.fit(model, guide, x + 1, training=training)  # the parameters are now those of other rows
    latent_means(guide, x + 1, progress=False)


@pytest.mark.statistical
def test_means_are_over_latents_outside_the_plate():
    """z = mu + x + noise, mu ~ N(0.2, 2^2) shared by all rows: sd (4 + 0.25)^(1/2)."""

    def guide(x):
        mu = pyro.sample("mu", dist.Normal(0.2, 2.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(mu + x[:, 0], 0.5))

    x = torch.linspace(-1, 1, 5)[:, None]
    found = latent_means(guide, x, num_particles=1000, progress=False)
    assert not found.exact
    np.testing.assert_allclose(found.variance, 4.25 / 1000, rtol=0.25)
    assert (np.abs(found.mean - 0.2 - x.numpy()) < 4.5 * np.sqrt(4.25 / 1000)).all()
    np.testing.assert_allclose(found.sd, np.sqrt(4.25), rtol=4.5 / np.sqrt(2000))


@pytest.mark.statistical
def test_sds_of_draws_where_a_posterior_has_no_variance():
    """A flow; 4 standard errors of an sd of 400 draws, and a tenth for its heavier tails."""
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.FlowPosterior(2), 3)
        x = torch.randn(30, 3)
    found = latent_means(guide, x, num_particles=400, progress=False)
    with pv.seeded(1), torch.no_grad():
        exact = guide.encode(x).sample((4000,)).std(0).numpy()
    assert (abs(found.sd / exact - 1) < 4 / np.sqrt(800) + 0.1).all()
    assert not found.exact


# --- neighbours -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6))
    return x, x[:, :2] + 0.5 * rng.normal(size=(120, 2))


@pytest.mark.parametrize("k", [1, 5, 30])
def test_measures_are_those_of_scikit_learn(points, k):
    x, z = points
    orders = neighbour_order(x), neighbour_order(z)
    found = measured(*orders, [k])[:, 0]
    assert found[0] == pytest.approx(trustworthiness(x, z, n_neighbors=k), abs=1e-12)
    assert found[1] == pytest.approx(trustworthiness(z, x, n_neighbors=k), abs=1e-12)
    shared = [len(set(a[:k]) & set(b[:k])) for a, b in zip(*orders, strict=True)]
    assert found[2] == pytest.approx(np.mean(shared) / k)


def test_leaving_rows_out_is_measuring_the_others(points):
    left_out = np.array([3, 50, 51, 119])
    orders = [without(neighbour_order(each), left_out) for each in points]
    rest = [neighbour_order(np.delete(each, left_out, axis=0)) for each in points]
    assert all(map(np.array_equal, orders, rest))


def test_coordinates_that_keep_distances_keep_all_neighbours(points):
    x, _ = points
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert (measured(neighbour_order(x), neighbour_order(3 * x @ turned), [5, 20]) == 1).all()


@pytest.mark.statistical
def test_jackknife_errors_are_sds_over_samples():
    """Of differences, or somewhat larger: 80 samples of 150 rows, relative error 8 %."""
    rng = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(80):
        x = rng.normal(size=(150, 5)) * [3, 2, 1, 1, 1]
        orders = [neighbour_order(each) for each in (x, x[:, :2], x[:, 1:3])]
        groups = np.array_split(np.arange(150), 20)
        kept = [[without(each, group) for each in orders] for group in groups]
        values.append(np.subtract(*_both(orders)))
        errors.append(jackknife_se(np.array([np.subtract(*_both(each)) for each in kept])))
    ratio = np.sqrt(np.square(errors).mean(0)) / np.std(values, axis=0, ddof=1)
    assert (ratio > 0.9).all()
    assert (ratio < 1.8).all()


def _both(orders):
    return [measured(orders[0], each, [5, 15]) for each in orders[1:]]


def test_a_linear_guide_has_the_quality_of_pca():
    """With the principal components as encoder, both are equal and so are their differences, 0."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 5)) * [3, 2, 1, 0.5, 0.5]
    train, held_out = x[:200], x[200:]

    class Components(torch.nn.Module):
        def forward(self, rows):
            return torch.as_tensor(PCA(2).fit(train).transform(rows.numpy()))

    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), 5, Components()).double()
    with torch.no_grad():
        guide.posterior.link.linear.weight[:2] = torch.eye(2)
        guide.posterior.link.linear.bias[:2] = 0
    found = embedding_quality(guide, held_out, train, num_neighbours=(5, 20), progress=False)
    np.testing.assert_allclose(found.difference, 0, atol=1e-12)
    np.testing.assert_allclose(found.difference_se, 0, atol=1e-12)
    by_hand = trustworthiness(held_out, PCA(2).fit(train).transform(held_out), n_neighbors=20)
    assert found.values[1, 0, 1] == pytest.approx(by_hand)
    assert list(found.to_frame().columns) == [
        "value",
        "se",
        "difference",
        "difference_se",
    ]
    assert str(found).count("\n") == 6  # a title, and three lines for each k
    assert len(plot_embedding_quality(found)) == 3


def test_what_has_no_neighbours_is_refused():
    bed = beds.linear_gaussian(num_data=120)
    ask = {"trained_on": bed.x, "progress": False}
    with pytest.raises(ValueError, match=r"num_neighbours=\(5, 60\) with 120 rows: .*, 57"):
        embedding_quality(bed.guide, bed.x, num_neighbours=(5, 60), **ask)
    holed = bed.x.clone()
    holed[7, 0] = torch.nan
    with pytest.raises(ValueError, match="row 7 has missing values"):
        embedding_quality(bed.guide, holed, num_neighbours=5, **ask)
    with pytest.raises(ValueError, match=r"others\['UMAP'\] has the shape \(119, 2\)"):
        embedding_quality(bed.guide, bed.x, others={"UMAP": np.zeros((119, 2))}, **ask)


# --- loadings -------------------------------------------------------------------------------------

TRUE = np.array([[1.0, 0.9, 0.8, 0, 0, 0.4], [0, 0, 0.3, 0.9, -0.8, 0.7]]).T
NOISE = 0.5


def fitted_loadings(x):
    """Maximum likelihood of probabilistic PCA, in closed form."""
    values, vectors = np.linalg.eigh(np.cov(x.T))
    noise = values[:-2].mean()
    return vectors[:, -2:] * np.sqrt(values[-2:] - noise)


@pytest.mark.statistical
def test_intervals_cover_the_true_loadings_towards_the_estimate():
    """300 samples of 200 rows, 40 bootstrap fits each. Over the 12 loadings of a sample coverage
    varies by 0.1 or so: 4 standard errors, and 0.02 for the bias of 200 rows."""
    rng = np.random.default_rng(0)
    unit = np.sqrt(np.square(TRUE).sum(1) + NOISE**2)
    covered = []
    for _ in range(300):
        x = rng.normal(size=(200, 2)) @ TRUE.T + NOISE * rng.normal(size=(200, 6))
        estimate = fitted_loadings(x)
        samples = x[rng.integers(200, size=(40, 200))]
        draws = towards(estimate, np.stack([fitted_loadings(each) for each in samples]), unit)
        found = pv.tasks.reduction.LoadingIntervals(estimate, draws, tuple("abcdef"))
        low, high = found.interval(0.9)
        truth = towards(estimate, TRUE[None], unit)[0]
        covered.append(((low < truth) & (truth < high)).mean())
    error = np.std(covered, ddof=1) / np.sqrt(300)
    assert abs(np.mean(covered) - 0.9) < 4 * error + 0.02


def test_fits_are_rotated_to_the_estimate():
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2, 2)))[0]
    np.testing.assert_allclose(towards(TRUE, TRUE @ turned, np.ones(6)), 5 * [TRUE], atol=1e-12)


@pytest.fixture(scope="module")
def factors():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 2)) @ TRUE.T + NOISE * rng.normal(size=(300, 6))
    data = pv.Dataset(x, dtype=torch.float64)
    with pv.seeded(1):
        likelihood = likelihoods.Gaussian(6, scale="global")
        model = pv.Model(priors.StandardNormal(2), likelihood, networks.Linear(2), start=data)
        posterior = pv.posteriors.FullRankNormal(2)
        guide = pv.Guide(posterior, 6, networks.Linear(6), start=data)
    rate = pv.training.schedules.Cosine(0.05)
    training = pv.Training(num_epochs=200, batch_size=300, learning_rate=rate, progress=False)
    pair = (model.double(), guide.double())
    pv.fit(*pair, data, training=training)
    return *pair, data, training


@pytest.mark.statistical
def test_bootstrap_fits_spread_as_the_estimator_does(factors):
    """Standard errors of 20 fits, each with a relative error of 16 %, against those of 400 samples;
    those of the 12 loadings depend on each other."""
    model, guide, data, _ = factors
    training = pv.Training(
        num_epochs=60, batch_size=300, learning_rate=pv.training.schedules.Cosine(0.05)
    )
    options = {"training": training, "num_fits": 20, "progress": False}
    found = loading_intervals(model, pv.bootstrap_fits(model, guide, data, **options))
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(400, 300, 2)) @ TRUE.T + NOISE * rng.normal(size=(400, 300, 6))
    each = np.stack([fitted_loadings(x) for x in samples])
    unit = np.sqrt(np.square(TRUE).sum(1) + NOISE**2)
    ratio = np.log(found.se / towards(found.estimate, each, unit).std(0, ddof=1))
    assert abs(ratio.mean()) < 0.2
    assert abs(ratio).max() < 0.8
    assert found.to_frame().shape == (12, 4)
    assert "x[5]" in str(found)
    assert len(plot_loadings(found)) == 2


def test_what_has_no_loadings_is_refused(factors):
    model = factors[0]
    with pytest.raises(ValueError, match="there are 1 fits.*bootstrap_fits"):
        loading_intervals(model, [factors[:2]])
    with pytest.raises(ValueError, match="rotation"):
        loading_intervals(model, [factors[:2]] * 2, rotation=None)


# --- variance -------------------------------------------------------------------------------------


def test_linear_shares_are_exact(factors):
    """Squares of W over the variance of x: as in PCA where x is in one unit."""
    model, _, data, _ = factors
    loadings = pv.factor_loadings(model, None)
    with torch.no_grad():
        noise = model.decode(torch.zeros(1, 2).double()).variance[0].numpy()
    variance = np.square(loadings).sum(1) + noise
    found = variance_explained(model, units="x")
    np.testing.assert_allclose(found.first_order, np.square(loadings).sum(0) / variance.sum())
    np.testing.assert_allclose(found.total, found.first_order)
    np.testing.assert_allclose(found.total_se, 0, atol=1e-12)
    by_feature = np.square(loadings) / variance[:, None]
    by_column = variance_explained(model)
    np.testing.assert_allclose(by_column.by_feature, by_feature)
    np.testing.assert_allclose(by_column.first_order, by_feature.mean(0))
    ratio = PCA().fit(data.x.numpy()).explained_variance_ratio_
    assert found.explained == pytest.approx(ratio[:2].sum() - ratio[2:].mean() * 2, abs=0.02)


class Product(torch.nn.Module):
    """Features z_0 + z_0 z_1, and 2 z_1: variances 1 + 1 and 4."""

    def forward(self, z):
        return torch.stack([z[:, 0] * (1 + z[:, 1]), 2 * z[:, 1]], -1)


def curved(prior, scale=1.0):
    likelihood = likelihoods.Gaussian(2, scale="global")
    model = pv.Model(prior, likelihood, Product()).double()
    with torch.no_grad():
        model.likelihood.link.linear.weight.copy_(torch.eye(2))
        model.likelihood.link.linear.bias.zero_()
    return model


@pytest.mark.statistical
def test_interactions_are_in_the_total_alone():
    """Var(E[m|z_0]) = 1, Var(E[m|z_1]) = 4, and z_0 z_1 adds 1 to both totals."""
    model = curved(priors.StandardNormal(2))
    with torch.no_grad():
        noise = model.decode(torch.zeros(1, 2).double()).variance[0].sum().item()
    found = variance_explained(model, units="x", num_draws=20000)
    for share, error, exact in (
        (found.first_order, found.first_order_se, [1, 4]),
        (found.total, found.total_se, [2, 5]),
    ):
        np.testing.assert_array_less(abs(share - np.array(exact) / (6 + noise)), 4 * error)
        assert (error < 0.02).all()
    assert abs(found.explained - 6 / (6 + noise)) < 4 * found.explained_se
    again = variance_explained(model, units="x", num_draws=20000)
    assert np.array_equal(found.total, again.total)
    assert plot_variance_explained(found).get_xticklabels()[0].get_text() == "z[1]"


@pytest.mark.statistical
def test_shares_are_the_indices_of_scipy():
    """Of a network, by features and without the noise; SciPy's are quasi-random, 4,096 points."""
    with pv.seeded(2):
        decoder = networks.MLP(3, (16,))
        for layer in decoder.parameters():
            torch.nn.init.normal_(layer, std=0.7)
        model = pv.Model(priors.StandardNormal(3), likelihoods.Gaussian(4), decoder).double()

    def mean(z):
        with torch.no_grad():
            return model.decode(torch.as_tensor(z.T)).mean.T.numpy()

    theirs = sobol_indices(func=mean, n=4096, dists=[norm()] * 3, rng=0)
    found = variance_explained(model, num_draws=20000)
    with torch.no_grad():
        z = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)).double()
        likelihood = model.decode(z)
        share = likelihood.mean.var(0) / (likelihood.mean.var(0) + likelihood.variance.mean(0))
    first = (theirs.first_order * share.numpy()[:, None]).mean(0)
    total = (theirs.total_order * share.numpy()[:, None]).mean(0)
    assert (abs(found.first_order - first) < 4 * found.first_order_se + 0.005).all()
    assert (abs(found.total - total) < 4 * found.total_se + 0.005).all()
    assert (found.total - found.first_order > 4 * found.total_se).any()


def test_covariates_are_held_as_they_are():
    """x = z + 10 c: given c, z explains a half of the variance."""
    data = pv.Dataset(torch.zeros(4, 1), context=[0.0, 0.0, 1.0, 1.0])
    model = pv.Model(
        priors.StandardNormal(1), likelihoods.Gaussian(1), torch.nn.Identity(), start=data
    )
    with torch.no_grad():
        model.likelihood.link.linear.weight.copy_(torch.tensor([[1.0, 10.0]]))
        scale = model.decode(torch.zeros(1, 1), torch.zeros(1, 1)).variance.item()
    found = variance_explained(model, data.context, num_draws=20000)
    assert abs(found.explained - 1 / (1 + scale)) < 4 * found.explained_se


def test_what_has_no_shares_is_refused():
    mixture = pv.Model(priors.GaussianMixture(2, 3), likelihoods.Gaussian(3))
    with pytest.raises(ValueError, match="under GaussianMixture the latents depend on each other"):
        variance_explained(mixture)
    frame = pv.Dataset(pd.DataFrame({"a": ["x", "y", "z"], "b": [0.1, 0.2, 0.3]}))
    table = pv.Model(priors.StandardNormal(1), likelihoods.Columns.of(frame), start=frame)
    with pytest.raises(ValueError, match="^a has no finite mean or variance under Columns"):
        variance_explained(table)


def test_covariates_that_are_lacking_are_named():
    data = pv.Dataset(np.random.default_rng(0).normal(size=(20, 3)), context=np.arange(20.0))
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(3), context_dim=1)
    with pytest.raises(ValueError, match="the decoder takes 1 covariates and was given 0"):
        variance_explained(model)
    found = variance_explained(model, context=data, num_draws=64)
    expected = variance_explained(model, context=data.context, num_draws=64)
    np.testing.assert_array_equal(found.first_order, expected.first_order)


def test_covariates_of_a_data_set_have_the_levels_of_the_model():
    sex = ["f", "m"] * 10
    rows = np.random.default_rng(0).normal(size=(20, 3))
    frame = pd.DataFrame({"sex": pd.Categorical(sex, ["f", "m"])})
    data = pv.Dataset(rows, context=frame)
    likelihood = likelihoods.Gaussian(3)
    model = pv.Model(priors.StandardNormal(2), likelihood, context_dim=data.context_dim, start=data)
    other = pv.Dataset(rows, context=frame.assign(sex=pd.Categorical(sex, ["m", "f"])))
    assert not torch.equal(other.context, data.context)
    found, expected = (
        variance_explained(model, context=each, num_draws=64) for each in (other, frame)
    )
    np.testing.assert_array_equal(found.first_order, expected.first_order)
