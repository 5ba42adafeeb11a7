"""Contrasts of two groups: exact posteriors, p-values against SciPy, level and power."""

import itertools
from functools import partial
from math import comb

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds, likelihoods, posteriors, priors
from ppl_vae.tasks.contrasts import Design, GroupDifferences, permutation_test, plot_contrast

NUM_ROWS = 60
LABELS = np.where(np.arange(NUM_ROWS) < 24, "control", "treated")
SHARES = np.array([1 / 24, 1 / 36])


@pytest.fixture(scope="module")
def bed():
    return beds.linear_gaussian(num_data=NUM_ROWS)


def exact(bed, x, weights):
    """Mean and covariance of sum_n weights_n z_n given the observed entries of x."""
    mean, covariance = (each.numpy() for each in bed.model.posterior(x))
    total = np.einsum("n,nij->ij", weights**2, np.broadcast_to(covariance, (len(x), 2, 2)))
    return weights @ mean, total


@pytest.mark.statistical
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_posterior_of_a_linear_gaussian_model_is_exact(bed, missing):
    x = bed.x.clone()
    x[torch.from_numpy(np.random.default_rng(0).random(x.shape) < missing)] = torch.nan
    found = pv.contrast(bed.model, bed.guide, x, LABELS, num_permutations=99, num_samples=1000)
    weights = np.where(LABELS == "control", -1 / 24, 1 / 36)
    mean, covariance = exact(bed, x, weights)
    loading, noise = bed.model.loading.numpy(), bed.model.noise.numpy()
    noise_variance = (weights**2).sum() * noise**2
    laws = {
        "latents": (mean, covariance),
        "features": (loading @ mean, loading @ covariance @ loading.T + np.diag(noise_variance)),
    }
    for what, (centre, spread) in laws.items():
        differences = getattr(found, what)
        sd = np.sqrt(np.diag(spread))
        # 7 means, 7 sds and 7 probabilities within 4 standard errors: level 0.0013
        assert np.abs(differences.mean - centre) == pytest.approx(0, abs=4 * sd.max() / 1000**0.5)
        assert differences.sd == pytest.approx(sd, rel=4 / np.sqrt(2000))
        for threshold in (0.0, float(centre[0])):
            chance = stats.norm.sf(threshold, centre, sd)
            error = np.sqrt(chance * (1 - chance) / 1000)
            assert (abs(differences.probability(threshold) - chance) <= 4 * error + 0.001).all()
        low, high = differences.interval(0.9)
        assert high - low == pytest.approx(2 * stats.norm.ppf(0.95) * sd, rel=0.15)


def scipy_p_value(values, second, **options):
    def statistic(a, b, axis):
        return abs(a.mean(axis=axis) - b.mean(axis=axis))

    samples = (values[second], values[~second])
    options = {"vectorized": True, "alternative": "greater"} | options
    return stats.permutation_test(samples, statistic, **options).pvalue


def len_of(design):
    return comb(len(design.second), int(design.second.sum()))


@pytest.mark.parametrize(("first", "second"), [(4, 5), (3, 3), (2, 9)])
def test_p_values_of_few_rows_are_those_of_scipy(first, second):
    values = np.random.default_rng(first).normal(size=(first + second, 3)).round(1)  # with ties
    design = Design.of(len(values), [0] * first + [1] * second)
    found = permutation_test(design, values)
    assert found.is_exact
    for column, p_value in zip(values.T, found.p_values, strict=True):
        expected = scipy_p_value(column, design.second, n_resamples=np.inf)
        assert p_value == pytest.approx(expected, abs=1e-12)
    assert found.is_balanced == (first == second)
    ordered = permutation_test(design, design.second[:, None] + 0.01 * values)
    assert ordered.p_values[0] == ordered.smallest == (1 + found.is_balanced) / len_of(design)


@pytest.mark.statistical
def test_drawn_labellings_estimate_what_scipy_enumerates():
    values = np.random.default_rng(5).normal(size=(14, 4))
    design = Design.of(14, [0] * 7 + [1] * 7)
    found = permutation_test(design, values, 2000, seed=1)
    assert not found.is_exact
    for column, p_value in zip(values.T, found.p_values, strict=True):
        expected = scipy_p_value(column, design.second, n_resamples=np.inf)
        error = np.sqrt(expected * (1 - expected) / 2000)
        assert abs(p_value - expected) < 4 * error + 1 / 2001  # level 3e-4 in all


def test_strata_and_subjects_against_all_labellings_written_out():
    """Twelve subjects of one to three rows in two sites; every labelling by hand, and |t|."""
    rng = np.random.default_rng(2)
    subjects = np.repeat(np.arange(9), [1, 3, 2, 2, 1, 1, 3, 2, 1])
    site = np.array(list("aaaabbbbb"))[subjects]
    treated = np.array([0, 1, 1, 0, 0, 1, 0, 1, 1], bool)
    values = rng.normal(size=(len(subjects), 3))
    design = Design.of(len(values), treated[subjects], site, subjects)
    found = permutation_test(design, values)
    means = np.stack([values[subjects == i].mean(0) for i in range(9)])
    in_b = np.arange(9) >= 4
    sizes = np.stack([np.ones(9), in_b]).T

    def fitted(labels):
        """Coefficient of the group in the regression on group and site, and |t|."""
        inputs = np.column_stack([labels, sizes]).astype(float)
        coefficients, squares, *_ = np.linalg.lstsq(inputs, means)
        error = np.sqrt(squares / (9 - 3) * np.linalg.inv(inputs.T @ inputs)[0, 0])
        return coefficients[0], abs(coefficients[0]) / error

    difference, observed = fitted(treated)
    assert design.difference(values) == pytest.approx(difference)
    all_t = []
    for one in itertools.combinations(range(4), 2):
        for other in itertools.combinations(range(4, 9), 3):
            labels = np.isin(np.arange(9), one + other)
            all_t.append(fitted(labels)[1])
    all_t = np.array(all_t)
    assert found.num_permutations == len(all_t) == 60
    assert found.p_values == pytest.approx((all_t >= observed - 1e-9).mean(0))
    largest = (all_t.max(1)[:, None] >= observed - 1e-9).mean(0)
    assert found.max_t.min() == pytest.approx(largest.min())  # the first step is the single one
    assert (found.max_t <= largest + 1e-12).all()
    assert (found.max_t >= found.p_values - 1e-12).all()
    order = np.argsort(-observed)
    step_down = [(all_t[:, order[i:]].max(1) >= observed[order[i]] - 1e-9).mean() for i in range(3)]
    assert found.max_t[order] == pytest.approx(np.maximum.accumulate(step_down))


def encoded(bed, x):
    """Posterior means of z, (..., 2), as in the linear-Gaussian bed."""
    loading, noise = bed.model.loading.numpy(), bed.model.noise.numpy()[0]
    gain = np.linalg.solve(loading.T @ loading + noise**2 * np.eye(2), loading.T)
    return (x - bed.model.mean.numpy()) @ gain.T


def simulated(bed, rng, z):
    loading, noise = bed.model.loading.numpy(), bed.model.noise.numpy()
    return z @ loading.T + bed.model.mean.numpy() + noise * rng.normal(size=(len(z), 5))


NUM_REPEATS = 300


@pytest.mark.statistical
def test_without_a_group_effect_no_more_than_alpha_is_found(bed):
    """300 draws of 24 rows: latents by max-T, features by BH and BY; level 0.0013 each."""
    rng = np.random.default_rng(3)
    alpha = 0.1
    found = {"max-t": 0, "bh": 0, "by": 0, "one": 0}
    groups = np.arange(24) % 3 == 0
    site = np.arange(24) // 12
    for repeat in range(NUM_REPEATS):
        z = rng.normal(size=(24, 2)) + site[:, None]  # a site effect, which strata take away
        x = simulated(bed, rng, z)
        design = Design.of(24, groups, site)
        means = encoded(bed, x)
        latents = permutation_test(design, means, 199, seed=repeat)
        features = permutation_test(design, means @ bed.model.loading.numpy().T, 199, seed=repeat)
        found["one"] += latents.p_values[0] <= alpha
        found["max-t"] += latents.max_t.min() <= alpha
        for method in ("bh", "by"):
            adjusted = stats.false_discovery_control(features.p_values, method=method)
            found[method] += adjusted.min() <= alpha
    shares = {name: count / NUM_REPEATS for name, count in found.items()}
    error = np.sqrt(alpha * (1 - alpha) / NUM_REPEATS)
    assert all(share <= alpha + 3 * error for share in shares.values()), shares
    assert abs(shares["one"] - alpha) <= 3 * error, shares
    assert abs(shares["max-t"] - alpha) <= 3 * error, shares


@pytest.mark.statistical
def test_rows_of_a_subject_are_no_independent_rows(bed):
    """Twelve subjects of eight rows: permuted rows reject far too often, subjects at the level."""
    rng = np.random.default_rng(4)
    alpha = 0.1
    subjects = np.repeat(np.arange(12), 8)
    groups = subjects % 2 == 0
    rejected = {"rows": 0, "subjects": 0}
    for repeat in range(NUM_REPEATS):
        z = rng.normal(size=(12, 2))[subjects] + 0.5 * rng.normal(size=(96, 2))
        means = encoded(bed, simulated(bed, rng, z))
        for name, units in (("rows", None), ("subjects", subjects)):
            test = permutation_test(Design.of(96, groups, None, units), means, 199, seed=repeat)
            rejected[name] += test.max_t.min() <= alpha
    shares = {name: count / NUM_REPEATS for name, count in rejected.items()}
    error = np.sqrt(alpha * (1 - alpha) / NUM_REPEATS)
    assert shares["rows"] > 0.4, shares
    assert abs(shares["subjects"] - alpha) <= 3 * error, shares


DESIGNS = {
    "rows": {},
    "strata": {"strata": np.arange(48) // 16},
    "subjects": {"subjects": np.arange(48) // 2},
    "subjects within strata": {"subjects": np.arange(48) // 2, "strata": np.arange(48) // 16},
    "pairs": {"strata": np.arange(48) // 2},
}


@pytest.mark.statistical
@pytest.mark.parametrize("name", DESIGNS)
def test_every_design_keeps_its_level(bed, name):
    """Effects of subjects and strata, none of the group: shares of 200 data sets with a discovery,
    each 3 standard errors above alpha at most; level 0.0013 each."""
    rng = np.random.default_rng(7)
    alpha, repeats = 0.1, 200
    parts = DESIGNS[name]
    subject, stratum = np.arange(48) // 2, np.arange(48) // 16
    found = dict.fromkeys(("max-t", "bh", "by"), 0)
    for repeat in range(repeats):
        labels = np.concatenate([rng.permutation(8) % 2 for _ in range(3)])[subject]
        if name == "pairs":
            labels = np.concatenate([rng.permutation(2) for _ in range(24)])
        z = rng.normal(size=(24, 2))[subject] * ("subjects" in parts or name == "pairs")
        z = z + rng.normal(size=(48, 2)) + stratum[:, None] * ("strata" in parts)
        features = encoded(bed, simulated(bed, rng, z)) @ bed.model.loading.numpy().T
        test = permutation_test(Design.of(48, labels, **parts), features, 199, seed=repeat)
        differences = GroupDifferences("features", tuple("abcde"), features[:2], test, "bh")
        for method in found:
            found[method] += (differences.adjusted(method) <= alpha).any()
    error = np.sqrt(alpha * (1 - alpha) / repeats)
    shares = {method: count / repeats for method, count in found.items()}
    assert all(share <= alpha + 3 * error for share in shares.values()), shares
    assert abs(shares["max-t"] - alpha) <= 3 * error, shares
    assert shares["by"] <= shares["bh"]


@pytest.mark.statistical
@pytest.mark.parametrize("method", ["bh", "by"])
def test_false_discoveries_beside_true_ones_keep_their_rate(method):
    """Ten features of which four differ: the mean share of false discoveries among all."""
    rng = np.random.default_rng(8)
    alpha, repeats = 0.2, 200
    differs = np.arange(10) < 4
    shares = []
    for repeat in range(repeats):
        groups = np.arange(30) < 15
        values = rng.normal(size=(30, 10)) + 1.2 * np.outer(groups, differs)
        test = permutation_test(Design.of(30, groups), values, 499, seed=repeat)
        found = GroupDifferences("features", tuple("abcdefghij"), values[:2], test, method)
        is_found = found.adjusted() <= alpha
        shares.append(is_found[~differs].sum() / max(1, is_found.sum()))
    error = np.std(shares) / np.sqrt(repeats)
    assert np.mean(shares) <= alpha * 6 / 10 + 3 * error  # of independent features; level 0.0013
    assert np.mean(shares) > 0


@pytest.mark.statistical
def test_power_on_a_shifted_group_is_that_of_the_t_test(bed):
    """z[0] shifted by 0.8 of its sd in 20 of 40 rows: power by the noncentral t distribution."""
    rng = np.random.default_rng(5)
    groups = np.arange(40) < 20
    loading, noise = bed.model.loading.numpy(), bed.model.noise.numpy()[0]
    gain = np.linalg.solve(loading.T @ loading + noise**2 * np.eye(2), loading.T)
    spread = np.sqrt(np.diag(gain @ (loading @ loading.T + noise**2 * np.eye(5)) @ gain.T))
    size = 0.8 * (gain @ loading[:, 0])[0] / spread[0] * np.sqrt(10)
    limit = stats.t.ppf(0.975, 38)
    expected = stats.nct.sf(limit, 38, size) + stats.nct.cdf(-limit, 38, size)
    powers = []
    for repeat in range(NUM_REPEATS):
        z = rng.normal(size=(40, 2)) + 0.8 * np.outer(groups, [1, 0])
        means = encoded(bed, simulated(bed, rng, z))
        powers.append(permutation_test(Design.of(40, groups), means, 199, seed=repeat).p_values[0])
    power = (np.array(powers) <= 0.05).mean()
    assert power == pytest.approx(expected, abs=3 * np.sqrt(0.25 / NUM_REPEATS) + 0.01)


@pytest.mark.statistical
def test_the_encoder_costs_power_and_not_validity(bed):
    """A guide far from the posterior: p-values of 50 contrasts without a group effect."""
    poor = beds.linear_gaussian(num_data=20, guide_shift=2.0, guide_scale=0.5)
    rng = np.random.default_rng(6)
    p_values = []
    for repeat in range(50):
        x = torch.from_numpy(simulated(bed, rng, rng.normal(size=(20, 2)))).float()
        settings = {"num_samples": 20, "num_permutations": 99, "seed": repeat}
        found = pv.contrast(poor.model, poor.guide, x, np.arange(20) % 2, **settings)
        p_values.append(found.latents.adjusted().min())
    rejected = (np.array(p_values) <= 0.1).mean()
    assert rejected <= 0.1 + 3 * np.sqrt(0.09 / 50)  # level 0.0013


def pair(x, context=None):
    """A model and a guide of these rows, not trained."""
    data = pv.Dataset(x, context=context)
    with pv.seeded(0):
        likelihood = likelihoods.Columns.of(data)
        model = pv.Model(priors.StandardNormal(2), likelihood, start=data)
        guide = pv.Guide(posteriors.MeanFieldNormal(2), data.event_shape, start=data)
    return model, guide, data


def table(num_rows=40):
    rng = np.random.default_rng(7)
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 8, num_rows),
            "region": rng.choice(["north", "south", "west"], num_rows),
            "sex": rng.choice(["female", "male"], num_rows),
        }
    )
    frame.loc[::7, "height"] = np.nan
    return frame


def test_categories_are_compared_by_their_shares_and_covariates_held_equal():
    frame = table()
    groups = frame["sex"].map({"female": "f", "male": "m"})
    model, guide, data = pair(frame.drop(columns="sex"), context=None)
    settings = {"num_samples": 50, "num_permutations": 99}
    found = pv.contrast(model, guide, data, groups, **settings)
    names = ["height", "region=north", "region=south", "region=west"]
    assert list(found.features.names) == names
    assert found.features.draws[:, 1:].sum(1) == pytest.approx(0, abs=1e-12)
    other = pv.contrast(model, guide, data, groups, reference="m", **settings)
    assert other.design.names == ("m", "f")
    assert other.features.mean == pytest.approx(-found.features.mean)
    assert other.features.p_values.tolist() == found.features.p_values.tolist()
    flat = found.to_frame()
    north = frame["region"] == "north"
    expected = north[frame["sex"] == "male"].mean() - north[frame["sex"] == "female"].mean()
    assert flat.loc[("feature", "region=north"), "observed"] == pytest.approx(expected)
    assert np.isnan(flat.loc[("feature", "height"), "observed"])  # some are missing
    assert flat.loc[("feature", "height"), "p_value"] == found.features.p_values[0]
    assert len(flat) == 2 + 4


@pytest.mark.statistical
def test_features_are_predicted_under_the_same_covariates():
    """x = 10 c + noise with c tied to the group: nothing is left under one c."""
    rng = np.random.default_rng(8)
    groups = np.arange(60) < 30
    c = groups + 0.1 * rng.normal(size=60)
    data = pv.Dataset(rng.normal(size=(60, 2)) + 10 * c[:, None], context=c)
    with pv.seeded(0):
        model = pv.Model(
            priors.StandardNormal(1), likelihoods.Gaussian(2), torch.nn.Identity(), context_dim=1
        )
        guide = pv.Guide(posteriors.MeanFieldNormal(1), 2, context_dim=1)
        for weights in model.parameters():
            weights.data.zero_()
        link = model.likelihood.link
        next(w for w in link.parameters() if w.dim() > 1).data[:, 1] = 10.0
    settings = {"num_permutations": 99, "num_samples": 200}
    equal = pv.contrast(model, guide, data, groups, **settings).features
    # each difference of means has sd sqrt(noise variance / 15), its mean 1 / sqrt(200) of it
    assert np.abs(equal.mean) == pytest.approx(0, abs=4 * equal.sd.max() / 200**0.5)
    own = pv.contrast(model, guide, data, groups, context=data.context, **settings).features
    assert own.mean == pytest.approx(10 * (c[groups].mean() - c[~groups].mean()), abs=0.3)
    fixed = pv.contrast(model, guide, data, groups, context={"0": 0.5}, **settings).features
    assert np.abs(fixed.mean) == pytest.approx(0, abs=4 * fixed.sd.max() / 200**0.5)


def test_groups_that_the_guide_was_given_are_refused(bed):
    frame = table()
    model, guide, data = pair(frame, context=["sex"])
    with pytest.raises(ValueError, match="covariate 'sex.*' is the group itself"):
        pv.contrast(model, guide, data, frame["sex"])
    numbers = pv.Dataset(bed.x, feature_names=list("abcde"))
    numbers.x[:, 1] = torch.from_numpy((LABELS == "treated").astype(float))
    with pytest.warns(UserWarning, match="column 'b' of x equals the groups"):
        pv.contrast(bed.model, bed.guide, numbers, LABELS, num_permutations=9, num_samples=2)

    numbers.x[::3, 1] = torch.nan  # the others still equal the groups
    with pytest.warns(UserWarning, match="column 'b' of x equals the groups"):
        pv.contrast(bed.model, bed.guide, numbers, LABELS, num_permutations=9, num_samples=2)


def test_labels_in_another_order_than_the_rows_are_refused(bed):
    """Pandas objects are joined by position, so that their indexes have to be equal."""
    frame = pd.DataFrame(bed.x.numpy(), columns=list("abcde"))
    labels = pd.Series(LABELS)
    settings = {"num_permutations": 9, "num_samples": 2}
    pv.contrast(bed.model, bed.guide, frame, labels, **settings)
    numbers = pd.Series(np.arange(NUM_ROWS))
    for what, of in (("groups", labels), ("strata", numbers % 2), ("subjects", numbers)):
        parts = {"groups": labels, what: of.iloc[::-1]}
        with pytest.raises(ValueError, match=f"row 0 is 0 in x and 59 in {what}"):
            pv.contrast(bed.model, bed.guide, frame, **parts, **settings)
    pv.contrast(bed.model, bed.guide, frame, labels.iloc[::-1].to_numpy(), **settings)


def test_copied_rows_are_said_unless_a_subject_holds_them(bed):
    x = bed.x[:20].repeat(2, 1)
    groups = np.tile(np.arange(20) % 2, 2)
    settings = {"num_permutations": 9, "num_samples": 2}
    with pytest.warns(UserWarning, match="20 rows of 40 with fractions equal an earlier one"):
        pv.contrast(bed.model, bed.guide, x, groups, **settings)
    pv.contrast(bed.model, bed.guide, x, groups, subjects=np.tile(np.arange(20), 2), **settings)
    x[::2] = x[::2].round()
    with pytest.warns(UserWarning, match="10 rows of 20 with fractions equal an earlier one"):
        pv.contrast(bed.model, bed.guide, x, groups, **settings)
    pv.contrast(bed.model, bed.guide, x.round(), groups, **settings)  # whole numbers are repeated


def test_what_cannot_be_compared_is_refused_in_one_line(bed):
    def said(*args, match, **options):
        with pytest.raises((ValueError, TypeError), match=match):
            pv.contrast(bed.model, bed.guide, bed.x, *args, **options)

    rows = np.arange(NUM_ROWS)
    said(LABELS[:5], match="groups has 5 labels for 60 rows")
    said(rows % 3, match=r"3 values \(0, 1, 2\), and a contrast compares two")
    said(rows * 0, match=r"1 value \(0\)")
    said(
        np.where(rows == 4, np.nan, rows % 2),
        match="groups is missing at 1 row, the first is row 4",
    )
    said(LABELS, reference="placebo", match="reference is 'placebo': Allowed: control, treated")
    said(LABELS, subjects=rows % 6, match="subject '0' has rows in both groups: give strata=")
    said(
        LABELS, subjects=rows // 2, strata=rows % 2, match="subject '0' has rows in several strata"
    )
    said(LABELS, strata=LABELS, match="no stratum has rows of both groups")
    said(LABELS, num_samples=0, match="num_samples")
    said(LABELS, context={"age": 1}, match="has no covariates")
    said(LABELS, sampels=3, match="contrast has no argument 'sampels'")
    with pytest.warns(UserWarning, match="1 of 2 strata have rows of one group alone"):
        Design.of(NUM_ROWS, LABELS, strata=rows < 6)
    x = bed.x.clone()
    x[3, 1] = torch.nan
    with pytest.warns(UserWarning, match="missing in group 'control' alone"):
        pv.contrast(bed.model, bed.guide, x, LABELS, num_permutations=9, num_samples=2)


def test_too_few_labellings_are_said_and_a_picture_is_drawn(bed):
    found = pv.contrast(bed.model, bed.guide, bed.x, LABELS, num_permutations=9, num_samples=20)
    with pytest.warns(UserWarning, match=r"9 permutations allow, 0.1, .*num_permutations=100"):
        found.features.discoveries(0.05)
    again = pv.contrast(bed.model, bed.guide, bed.x, LABELS, num_permutations=199, num_samples=20)
    latents, features = plot_contrast(again, alpha=0.5)
    assert features.get_title().endswith("of 5 features differ (bh, 50%)")
    assert latents.get_xlabel() == "treated minus control, in sds"
    latents.figure.clear()
    assert "treated (36 rows) minus control (24 rows)" in str(again)
    assert repr(again).startswith("Contrast(treated (36 rows) minus control (24 rows): ")


def test_x_in_a_plate_of_its_columns_is_x_as_one_event():
    def model(x, *, in_plate):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            if not in_plate:
                mean = z[..., None].expand(*z.shape, 3)
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
                return
            with pyro.plate("columns", 3, dim=-2):
                pyro.sample("x", dist.Normal(z, torch.ones(())), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(1) / 4, 0.5))

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(NUM_ROWS, 3))).float()
    first, second = (
        pv.contrast(partial(model, in_plate=where), guide, x, LABELS, num_samples=1000)
        for where in (False, True)
    )
    for what in ("latents", "features"):
        one, other = getattr(first, what), getattr(second, what)
        assert one.names == other.names
        assert np.abs(one.mean - other.mean).max() < 4 * (2 / 1000) ** 0.5 * one.sd.max()
        assert other.sd == pytest.approx(one.sd, rel=4 / 1000**0.5)
