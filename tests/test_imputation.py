"""Imputations against conditional laws that are known exactly, and tables that keep their types."""

import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats

import ppl_vae as pv
from ppl_vae import beds, likelihoods, posteriors, priors
from ppl_vae.beds import Affine
from ppl_vae.families.densities import FactorNormal
from ppl_vae.families.missing import observed_part
from ppl_vae.hmc import HMC
from ppl_vae.refinement import GradientRefinement

NAN = float("nan")
QUIET = {"progress": False}


def holed(x, share=0.3, seed=1):
    """x with this share of missing entries."""
    generator = torch.Generator().manual_seed(seed)
    return x.masked_fill(torch.rand(x.shape, generator=generator) < share, NAN)


def normal_given_observed(x, mean, covariance):
    """Means and sds of the missing entries given the observed ones of their row, (n,) each."""
    means, sds = [], []
    for row in np.asarray(x):
        gone = np.isnan(row)
        seen = ~gone
        slope = covariance[np.ix_(gone, seen)] @ np.linalg.inv(covariance[np.ix_(seen, seen)])
        means.append(mean[gone] + slope @ (row[seen] - mean[seen]))
        rest = covariance[np.ix_(gone, gone)] - slope @ covariance[np.ix_(seen, gone)]
        sds.append(np.sqrt(np.diag(rest)))
    return np.concatenate(means), np.concatenate(sds)


def exact_of(bed, x):
    """The exact law of the missing entries under a linear-Gaussian bed."""
    loading, noise = bed.loading.numpy(), bed.noise.numpy()
    return normal_given_observed(x, bed.mean.numpy(), loading @ loading.T + np.diag(noise**2))


def check_draws(imputations, mean, sd, *, num_draws):
    """Summaries, quantiles and imputations against normals, up to 5 Monte Carlo standard errors."""
    asked = imputations.asked
    error = 5 / np.sqrt(num_draws)
    assert np.abs((imputations.mean[asked] - mean) / sd).max() < error
    assert np.abs(imputations.sd[asked] / sd - 1).max() < error
    for level in (0.5, 0.9, 0.95):
        tail = (1 - level) / 2
        reached = stats.norm.cdf((imputations.interval(level)[:, asked] - mean) / sd)
        allowed = 5 * np.sqrt(tail * (1 - tail) / num_draws)
        assert np.abs(reached - np.array([[tail], [1 - tail]])).max() < allowed
    assert np.abs(stats.norm.cdf((imputations.median[asked] - mean) / sd) - 0.5).max() < error
    u = stats.norm.cdf((imputations.predictive.values - mean) / sd)
    assert stats.kstest(u[:, :: asked.shape[1]].ravel(), "uniform").pvalue > 0.01
    between = np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]
    assert abs(between) < 5 / np.sqrt(u[1:].size)


@pytest.mark.parametrize(
    ("method", "scale", "shift", "served", "num_data"),
    [
        ("auto", 1.0, 0.0, "importance", 40),
        ("auto", 0.3, 1.5, "refined", 40),
        ("hmc", 0.3, 1.5, "hmc", 12),
    ],
)
def test_draws_have_the_exact_conditional_law(method, scale, shift, served, num_data):
    bed = beds.linear_gaussian(num_data=num_data, guide_scale=scale, guide_shift=shift)
    x = holed(bed.x)
    options = {"refinement": GradientRefinement(num_steps=200), "sampler": HMC(150, 100)}
    imputations = pv.impute(bed.model, bed.guide, x, method=method, **options, **QUIET)
    rows = imputations.rows
    assert set(rows.method[rows.missing > 0]) == {served}
    assert (rows.method[rows.missing == 0] == "none").all()
    assert rows.reliable.all()
    num_draws = rows.ess[rows.missing > 0].min()
    check_draws(imputations, *exact_of(bed, x), num_draws=num_draws)


def test_a_bad_guide_alone_is_told_and_wrong():
    bed = beds.linear_gaussian(num_data=40, guide_scale=0.2, guide_shift=3.0)
    x = holed(bed.x)
    with pytest.warns(UserWarning, match=r"rows, the first of them .* not reliable.*num_particles"):
        imputations = pv.impute(bed.model, bed.guide, x, method="importance", **QUIET)
    mean, sd = exact_of(bed, x)
    bias = np.abs(imputations.mean[imputations.asked] - mean) / sd
    assert bias.mean() > 0.2
    assert not imputations.rows.reliable.any() or imputations.rows.reliable[bias.size :].all()
    assert "not reliable" in repr(imputations)


def test_intervals_of_exact_draws_cover():
    bed = beds.linear_gaussian(num_data=800)
    x = holed(bed.x)
    options = {"num_imputations": 5, "num_particles": 250, "method": "importance"}
    low, high = pv.impute(bed.model, bed.guide, x, **options, **QUIET).interval(0.95)
    inside = ((bed.x.numpy() >= low) & (bed.x.numpy() <= high))[x.isnan().numpy()]
    assert abs(inside.mean() - 0.95) < 4 * np.sqrt(0.05 * 0.95 / inside.size)


def test_correlated_noise_is_drawn_given_the_observed_entries():
    factor = torch.randn(4, 2, dtype=torch.float64)
    law = FactorNormal(torch.arange(4.0).double(), factor, torch.full((4,), 0.3).double())
    x = torch.tensor([[NAN, 2.0, NAN, 1.0]], dtype=torch.float64).expand(40_000, 4)
    part, _ = observed_part(law, x)
    drawn = pv.families.missing.completed(part).numpy()
    assert (drawn[:, [1, 3]] == [2.0, 1.0]).all()
    covariance = law.covariance_matrix.numpy()
    mean, sd = normal_given_observed(x[:1], law.loc.numpy(), covariance)
    error = (drawn[:, [0, 2]] - mean) / sd
    assert np.abs(error.mean(0)).max() < 5 / np.sqrt(len(x))
    assert np.abs(error.std(0) - 1).max() < 5 / np.sqrt(2 * len(x))
    gone, seen = np.ix_([0, 2], [0, 2]), np.ix_([0, 2], [1, 3])
    slope = covariance[seen] @ np.linalg.inv(covariance[np.ix_([1, 3], [1, 3])])
    rest = covariance[gone] - slope @ covariance[seen].T
    found = np.corrcoef(error.T)[0, 1]
    assert abs(found - rest[0, 1] / np.sqrt(rest[0, 0] * rest[1, 1])) < 5 / np.sqrt(len(x))


def two_signs(x, context=None):
    """x_1 shows the size of z, and not its sign, which x_2 shows."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
        fn = dist.Normal(torch.stack([z.square(), z], -1), 0.1).mask(~x.isnan()).to_event(1)
        pyro.sample("x", fn, obs=x.nan_to_num())


def wide_guide(x, context=None):
    """Both signs."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.5))


def test_two_modes_are_drawn_in_their_shares():
    x = torch.tensor([[1.0, NAN], [2.25, NAN]], dtype=torch.float64).repeat(40, 1)
    imputations = pv.impute(two_signs, wide_guide, x, num_particles=1000, **QUIET)
    drawn = imputations.predictive.values
    share = (drawn > 0).mean()
    assert abs(share - 0.5) < 5 * 0.5 / np.sqrt(drawn.size)
    size = np.abs(drawn).mean(0)
    assert np.abs(size - np.tile([1.0, 1.5], 40)).max() < 0.15
    assert (imputations.interval(0.9)[0, :, 1] < 0).all()
    assert (imputations.interval(0.9)[1, :, 1] > 0).all()


def test_a_mode_that_refinement_loses_is_told():
    x = torch.tensor([[1.0, NAN], [2.25, NAN]], dtype=torch.float64)
    options = {"refinement": GradientRefinement(num_steps=100), "sampler": HMC(100, 100)}
    with pytest.warns(UserWarning, match="2 rows, the first of them row 0, .* not reliable"):
        pv.impute(two_signs, wide_guide, x, num_particles=100, **options, **QUIET)


TABLE = torch.tensor([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])  # p(x_1 given z), two classes
ON = torch.tensor([0.9, 0.2])  # p(x_2 = 1 given z)
RATE = torch.tensor([1.0, 4.0])  # of the count x_3


def classes(x, context=None):
    """Two classes of rows with a category, a Boolean and a count."""
    seen = x.nan_to_num()
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        parts = [
            dist.Categorical(TABLE[z][..., None, :]),
            dist.Bernoulli(ON[z][..., None]),
            dist.Poisson(RATE[z][..., None]),
        ]
        law = pv.families.densities.Columnwise(parts, [[0], [1], [2]])
        pyro.sample("x", law.mask(~x.isnan()).to_event(1), obs=seen)


def either_class(x, context=None):
    """A guide that knows nothing."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Categorical(torch.full((len(x), 2), 0.5)))


def test_discrete_columns_agree_with_enumeration():
    frame = pd.DataFrame(
        {
            "colour": pd.Categorical(["b", None, "c", None], categories=["a", "b", "c"]),
            "on": pd.array([True, False, None, None], dtype="boolean"),
            "count": pd.array([None, 5, 1, None], dtype="Int64"),
        },
        index=["p", "q", "r", "s"],
    )
    imputations = pv.impute(classes, either_class, frame, num_particles=2000, **QUIET)
    counts = torch.arange(30.0)
    law = dist.Poisson(RATE).log_prob(counts[:, None]).exp()  # (counts, classes)
    seen = [
        TABLE[:, 1] * ON,
        (1 - ON) * law[5],
        TABLE[:, 2] * law[1],
        torch.ones(2),
    ]
    for i, likelihood in enumerate(seen):
        z = torch.tensor([0.3, 0.7]) * likelihood
        z = z / z.sum()
        exact = {"colour": z @ TABLE, "on": torch.stack([z @ (1 - ON), z @ ON]), "count": law @ z}
        for name, expected in exact.items():
            found = imputations.probabilities(name).to_numpy()[i]
            if not frame[name].isna().iloc[i]:
                assert set(found) == {0.0, 1.0}
                continue
            expected = expected.numpy()[: len(found)]
            error = np.sqrt(expected * (1 - expected) / imputations.rows.ess.iloc[i])
            assert (np.abs(found - expected) < 5 * error + 1e-6).all()
    found = imputations.probabilities("count").to_numpy()
    values = np.arange(found.shape[1])
    assert np.allclose(imputations.mean[[0, 3], 2], (found @ values)[[0, 3]], atol=1e-5)
    assert np.isnan(imputations.mean[:, 0]).all()
    assert imputations.mode[1, 0] == imputations.probabilities("colour").to_numpy()[1].argmax()
    sets = imputations.prediction_set(0.5)
    assert sets.loc["p", "colour"] == ("b",)
    assert sets.loc["p", "on"] == (1,)
    for name in frame:
        chances = imputations.probabilities(name)
        for i, chosen in enumerate(sets[name]):
            found = [chances.iloc[i][value] for value in chosen]
            assert sum(found) >= 0.5 - 1e-5
            assert sum(found) - min(found) < 0.5
    low, high = imputations.interval(0.9)
    assert ((low[:, 2] % 1 == 0) & (high[:, 2] % 1 == 0)).all()
    done = imputations.complete(3)
    assert done.dtypes.equals(frame.dtypes)
    assert done.notna().all().all()


def one_class(x, context=None):
    """A guide that hardly ever draws the second class."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Categorical(torch.tensor([0.99, 0.01]).expand(len(x), 2)))


def test_discrete_latents_that_the_guide_misses_are_refined():
    x = torch.tensor([[NAN, 0.0, 5.0]])
    found = pv.impute(classes, one_class, x, num_imputations=2, **QUIET)
    assert found.rows.method.tolist() == ["refined"]
    assert found.rows.reliable.all()


def table(num_rows=60, seed=0):
    """A frame with a column of each type, and holes in most of them."""
    rng = np.random.default_rng(seed)
    hole = rng.random((num_rows, 12)) < 0.3
    words = rng.choice(["red", "green", "blue"], num_rows)
    size = rng.choice([3, 1, 2], num_rows)
    frame = pd.DataFrame(
        {
            "double": rng.normal(size=num_rows) / 3,
            "single": rng.normal(size=num_rows).astype(np.float32),
            "whole": rng.poisson(3.0, num_rows),
            "counts": pd.array(rng.poisson(3.0, num_rows), dtype="Int64"),
            "bytes": pd.array(rng.poisson(100.0, num_rows), dtype="UInt8"),
            "nullable": pd.array(rng.normal(size=num_rows), dtype="Float64"),
            "flag": pd.array(rng.random(num_rows) < 0.4, dtype="boolean"),
            "boolean": rng.random(num_rows) < 0.4,
            "objects": (rng.random(num_rows) < 0.4).astype(object),
            "words": words.astype(object),
            "text": pd.array(words, dtype="string"),
            "category": pd.Categorical(words),
            "ordered": pd.Categorical(size, categories=[3, 1, 2], ordered=True),
            "signed": pd.array(rng.integers(-5, 5, num_rows), dtype="Int16"),
            "weight": rng.random(num_rows) + 0.5,
            "age": rng.integers(20, 80, num_rows),
            "sex": rng.choice(["f", "m"], num_rows),
        },
        index=pd.Index(rng.permutation(num_rows), name="id"),
    )
    complete = {"whole", "boolean", "weight", "age", "sex"}
    holed_columns = [name for name in frame if name not in complete]
    for place, name in enumerate(holed_columns):
        frame.loc[hole[:, place % 12], name] = pd.NA if name != "objects" else None
    return frame


def built(data, seed=0):
    """A model and a guide that start from a table."""
    with pv.seeded(seed):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), data.event_shape, missing=True, start=data)
        likelihood = likelihoods.Columns.of(data)
        model = pv.Model(priors.StandardNormal(2), likelihood, start=data)
    return model, guide


def same(left, right):
    """Equal values of equal type, missing ones too."""
    return left.dtype == right.dtype and left.equals(right)


def test_frames_keep_types_index_and_every_digit():
    frame = table()
    data = pv.Dataset(frame, context=["age", "sex"], weights="weight")
    model, guide = built(data)
    imputations = drawn(data, model, guide)
    for done in imputations:
        assert done.columns.equals(frame.columns)
        assert done.index.equals(frame.index)
        assert done.index.name == "id"
        assert done.notna().all().all()
        for name in frame:
            seen = frame[name].notna()
            expected = frame[name][seen]
            if name == "signed":  # its likelihood is continuous
                assert str(done[name].dtype) == "Float64"
                expected = expected.astype("Float64")
            assert same(done[name][seen], expected), name
    assert imputations.complete(0) is not imputations.complete(0)
    first, second = imputations
    assert not first.equals(second)
    part = drawn(data[[5, 3]], model, guide)
    assert part.complete(0).index.tolist() == frame.index[[5, 3]].tolist()


def test_a_frame_is_not_changed_by_its_imputations_or_the_other_way_round():
    frame = table()[["double", "words"]]
    kept = frame.copy()
    data = pv.Dataset(frame)
    model, guide = built(data)
    imputations = drawn(data, model, guide)
    done = imputations.complete(0)
    done["double"] = 0.0
    assert frame.equals(kept)
    frame["double"] = 0.0
    seen = kept.double.notna()
    assert imputations.complete(0).double[seen].equals(kept.double[seen])


def test_rows_keep_their_names_whatever_the_index():
    index = pd.MultiIndex.from_product([["a", "b"], range(30)], names=["site", "row"])
    frame = table()[["double", "category"]].set_axis(index)
    arrow = frame.astype({"double": "double[pyarrow]"})
    for given in (frame, arrow):
        imputations = drawn(given, *built(pv.Dataset(given)))
        tables = (imputations.complete(0), imputations.rows, imputations.probabilities("category"))
        assert all(each.index.equals(index) for each in tables)
        assert imputations.complete(1).dtypes.equals(given.dtypes)
        with pytest.raises(ValueError, match="in do_not_impute: reindex"):
            drawn(given, *built(pv.Dataset(given)), do_not_impute=given.isna()[::-1])


def test_small_integers_and_other_covariates():
    small = pd.DataFrame({"n": pd.array([1, 100, None] * 20, dtype="Int8"), "age": 1.0})
    data = pv.Dataset(small, context=["age"])
    model, guide = built(data)
    model.likelihood.parts[0].link.linear.bias.data += 3
    n = drawn(data, model, guide).complete(0)["n"]
    assert str(n.dtype) == "Int64"
    assert n.max() > 127
    other = drawn(data.with_context({"age": 2.0}), model, guide).complete(0)
    assert list(other) == ["n"]
    assert other.n.notna().all()


def test_the_tree_is_kept_by_a_file(tmp_path):
    frame = table()[["double", "category"]]
    tree = drawn(frame, *built(pv.Dataset(frame))).to_datatree()
    tree.to_netcdf(tmp_path / "tree.nc", engine="h5netcdf")
    found = xr.open_datatree(tmp_path / "tree.nc", engine="h5netcdf")["imputations"]
    assert found["x"].dims == ("imputation", "datum", "feature")
    assert found["x"].equals(tree["imputations"]["x"])
    assert found["x"].notnull().all()
    assert (found["method"] == tree["imputations"]["method"]).all()


def test_too_short_chains_are_not_believed():
    bed = beds.linear_gaussian(num_data=3)
    x = holed(bed.x, 0.5)
    short = HMC(num_samples=2, num_warmup=0)
    with pytest.warns(UserWarning, match="3 rows, the first of them row 0"):
        pv.impute(bed.model, bed.guide, x, method="hmc", sampler=short, **QUIET)


def test_levels_that_the_frame_lacks_are_added_in_order():
    known = pd.Categorical(["a", "b", "c"] * 20, categories=["c", "b", "a"], ordered=True)
    data = pv.Dataset(pd.DataFrame({"grade": known, "x": np.arange(60.0)}))
    model, guide = built(data)
    grade = pd.Categorical(["a", None] * 20, categories=["a"], ordered=True)
    other = pd.DataFrame({"grade": grade, "x": np.arange(40.0)})
    found = drawn(other, model, guide).complete(0)["grade"]
    assert found.cat.categories.tolist() == ["c", "b", "a"]
    assert found.cat.ordered
    assert found[::2].tolist() == ["a"] * 20
    assert set(found) > {"a"}
    unseen = pd.DataFrame({"grade": pd.Categorical(["d"]), "x": [1.0]})
    with pytest.raises(ValueError, match="'d' at row 0"):
        pv.impute(model, guide, unseen)


def gaussian(x, **options):
    """A small model of columns, untrained, and its guide."""
    with pv.seeded(0):
        guide = pv.Guide(posteriors.MeanFieldNormal(1), x.shape[1:], missing=True, start=x)
        model = pv.Model(
            priors.StandardNormal(1), likelihoods.Gaussian(x.shape[1:]), start=x, **options
        )
    return model, guide


def drawn(x, *programs, **options):
    """Two imputations by a model that is not trained, whose guide is not judged."""
    options = {"num_imputations": 2, "method": "importance"} | options
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not reliable")
        return pv.impute(*(programs or gaussian(x)), x, **options, **QUIET)


def test_arrays_keep_every_digit_and_their_type():
    x = np.random.default_rng(0).normal(size=(30, 3))
    x[::4, 1] = np.nan
    seen = ~np.isnan(x)
    for given in (x, pv.Dataset(x), torch.from_numpy(x)):
        done = drawn(given, *gaussian(pv.Dataset(x).x)).complete(1)
        assert done.dtype == np.float64
        assert (done[seen] == x[seen]).all()
        assert not np.isnan(done).any()
    assert drawn(torch.from_numpy(x).float()).complete(0).dtype == np.float32


def test_the_same_seed_gives_the_same_draws_and_the_callers_stream_is_kept():
    bed = beds.linear_gaussian(num_data=120)
    x = holed(bed.x)
    before = torch.get_rng_state()
    first, again, other = (
        drawn(x, bed.model, bed.guide, seed=seed).predictive.values for seed in (0, 0, 1)
    )
    assert (first == again).all()
    assert not (first == other).any()
    assert (torch.get_rng_state() == before).all()


def test_entries_of_do_not_impute_stay_missing():
    x = torch.tensor([[1.0, NAN], [NAN, NAN], [0.0, 2.0]])
    mask = np.array([[False, False], [True, False], [True, True]])
    for given in (mask, pd.DataFrame(mask[:, ::-1], columns=["1", "0"])):
        imputations = drawn(x, do_not_impute=given)
        for values in (imputations.complete(0), imputations.mean, imputations.sd):
            assert np.isnan(values).tolist() == [[False, False], [True, False], [False, False]]
        assert imputations.rows.missing.tolist() == [1, 1, 0]
    for wrong in (mask[:2], mask.astype(int), pd.DataFrame(mask, columns=["0", "2"])):
        with pytest.raises(ValueError, match="do_not_impute"):
            drawn(x, do_not_impute=wrong)


def test_rows_and_tables_that_hold_almost_nothing():
    empty = torch.full((6, 2), NAN)
    empty[0, 1] = 3.0
    start = torch.randn(20, 2)
    done = drawn(empty, *gaussian(start)).complete(0)
    assert done[0, 1] == 3.0
    assert np.isfinite(done).all()
    constant = torch.ones(20, 2)
    constant[::3, 0] = NAN
    assert np.isfinite(drawn(constant).complete(0)).all()
    full = torch.randn(4, 2)
    imputations = drawn(full)
    assert "nothing is missing" in repr(imputations)
    assert (imputations.complete(0) == full.numpy()).all()
    assert imputations.complete(0) is not imputations.complete(1)
    assert imputations.to_datatree()["imputations"]["x"].shape == (2, 4, 2)


def test_missing_rows_have_the_prior_predictive_law():
    bed = beds.linear_gaussian(num_data=100)
    x = torch.full_like(bed.x, NAN)
    imputations = pv.impute(bed.model, bed.guide, x, num_imputations=10, **QUIET)
    mean, sd = exact_of(bed, x)
    check_draws(imputations, mean, sd, num_draws=imputations.rows.ess.min())


def test_a_column_that_training_never_saw_is_refused_by_name():
    frame = pd.DataFrame({"a": np.random.default_rng(0).normal(size=40), "b": np.nan})
    model, guide = gaussian(pv.Dataset(frame).x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pv.fit(model, guide, pv.Dataset(frame), training=pv.Training(num_epochs=1, progress=False))
    with pytest.raises(ValueError, match="column 'b' was missing in all rows"):
        drawn(frame, model, guide)
    kept = drawn(frame, model, guide, do_not_impute=frame.isna())
    assert kept.complete(0).b.isna().all()
    assert kept.prediction_set().empty
    other = frame.assign(b=1.0)
    model, guide = gaussian(pv.Dataset(other).x)
    pv.fit(model, guide, pv.Dataset(other), training=pv.Training(num_epochs=1, progress=False))
    assert drawn(frame, model, guide).complete(0).b.notna().all()


def test_a_missing_composition_needs_its_total():
    x = torch.tensor([[2.0, 3.0, 5.0], [NAN, NAN, NAN]])
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, missing=True)
    unknown = pv.Model(priors.StandardNormal(1), likelihoods.Multinomial(3))
    with pytest.raises(ValueError, match=r"row 1 has no part observed.*Multinomial\(total=\)"):
        drawn(x, unknown, guide)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Multinomial(3, total=20))
    assert drawn(x, model, guide).complete(0)[1].sum() == 20
    hours = torch.tensor([[10.0], [7.0]])
    data = pv.Dataset(x, context=hours)
    model = pv.Model(
        priors.StandardNormal(1), likelihoods.Multinomial(3), context_dim=1, exposure=0
    )
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 3, missing=True, context_dim=1)
    assert drawn(data, model, guide).complete(0)[1].sum() == 7


def test_images_are_imputed_in_the_support_of_their_likelihood():
    x = holed(torch.bernoulli(torch.full((20, 4, 5), 0.3)))
    guide = pv.Guide(posteriors.MeanFieldNormal(2), (4, 5), missing=True)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Bernoulli((4, 5)))
    imputations = drawn(x, model, guide)
    done = imputations.complete(0)
    assert done.shape == (20, 4, 5)
    assert set(np.unique(done)) == {0.0, 1.0}
    assert np.allclose(imputations.mode, np.where(x.isnan(), imputations.mean > 0.5, x))


def test_exposure_and_covariates_reach_the_draws():
    x = torch.full((100, 1), NAN)
    context = torch.stack([torch.tensor([1.0, 10.0]).repeat(50)], 1)
    data = pv.Dataset(x, context=context)
    model = pv.Model(priors.StandardNormal(1), likelihoods.Poisson(1), context_dim=1, exposure=0)
    guide = pv.Guide(posteriors.MeanFieldNormal(1), 1, missing=True, context_dim=1)
    mean = drawn(data, model, guide).mean[:, 0].reshape(-1, 2).mean(0)
    assert 9 < mean[1] / mean[0] < 11.5


def shared_mean(x, context=None):
    """Rows around one mean, which is a latent outside the plate."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(mean, 0.1))
        fn = dist.Normal(z[..., None].expand(*z.shape, 2), 0.1).mask(~x.isnan()).to_event(1)
        pyro.sample("x", fn, obs=x.nan_to_num())


def guide_of_shared_mean(x, context=None):
    """A wide guide of the mean."""
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 5.0))
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(mean.expand(len(x)), 0.15))


def test_all_rows_of_an_imputation_share_its_draw_of_a_global_latent():
    x = torch.full((120, 2), NAN, dtype=torch.float64)
    imputations = pv.impute(
        shared_mean, guide_of_shared_mean, x, method="importance", num_imputations=6, **QUIET
    )
    means = np.array([done.mean() for done in imputations])
    within = np.mean([done.std() for done in imputations])
    assert within < 0.25
    assert means.std() > 1


def test_each_fit_has_its_share_of_imputations_and_of_the_draws():
    affine = [
        Affine(torch.ones(2, 1).double(), torch.full((2,), shift).double(), torch.ones(2).double())
        for shift in (0.0, 20.0)
    ]
    x = torch.full((50, 2), NAN, dtype=torch.float64)
    x[:, 0] = 10.0
    two = [beds.linear_gaussian_at(x, each) for each in affine]
    fits = [(bed.model, bed.guide) for bed in two]
    with pytest.raises(ValueError, match="fits are not a list of pairs"):
        pv.impute(*fits[0], x, fits=[])
    imputations = pv.impute(*fits[0], x, fits=fits, num_imputations=4, **QUIET)
    assert imputations.fit_numbers.tolist() == [0, 0, 1, 1]
    assert "2 fits" in repr(imputations)
    means = [done[:, 1].mean() for done in imputations]
    expected = [5.0, 5.0, 15.0, 15.0]  # both fit x_1 equally well; p(x) does not weight them
    assert np.abs(np.array(means) - expected).max() < 5 * np.sqrt(1.5 / 50)
    assert np.abs(imputations.mean[:, 1] - 10.0).max() < 0.5


def test_settings_are_checked():
    x = torch.tensor([[1.0, NAN]])
    with pytest.raises(TypeError, match="no argument 'num_imputation': did you mean num_imp"):
        pv.impute(*gaussian(torch.randn(5, 2)), x, num_imputation=3)
    with pytest.raises(ValueError, match="method is 'mcmc'"):
        pv.impute(*gaussian(torch.randn(5, 2)), x, method="mcmc")
    imputations = drawn(x, *gaussian(torch.randn(5, 2)))
    assert imputations.interval(0.99).shape == (2, 1, 2)
    with pytest.raises(ValueError, match="level is 0.999"):
        imputations.interval(0.999)
    with pytest.raises(ValueError, match="column '1' is continuous"):
        imputations.probabilities("1")
    with pytest.raises(IndexError, match="there are 2 imputations"):
        imputations.complete(2)


def test_a_category_of_one_level_is_imputed_by_it():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=40), "k": pd.Categorical(["a"] * 40)})
    frame.loc[::4, "k"] = np.nan
    found = pv.recipe(frame, num_steps=2, progress=False)
    found.fit()
    with torch.no_grad():  # at equal chances the model's second category is drawn
        for parameter in found.model.likelihood.parameters():
            parameter.zero_()
    imputations = pv.impute(found.model, found.guide, frame, num_imputations=20, progress=False)
    assert all((table["k"] == "a").all() for table in imputations)
    assert (imputations.probabilities("k")["a"] == 1).all()


def test_columns_can_be_named_that_stay_missing():
    frame = table()[["double", "words", "category"]]
    programs = built(pv.Dataset(frame))
    mask = pd.DataFrame(False, frame.index, frame.columns).assign(words=True)
    for given in (["words"], "words", pd.Index(["words"]), mask, mask.to_numpy()):
        done = drawn(frame, *programs, do_not_impute=given).complete(0)
        assert done["words"].equals(frame["words"])
        assert done[["double", "category"]].notna().all().all()
    assert drawn(frame, *programs, do_not_impute=[]).asked.sum() == frame.isna().sum().sum()
    with pytest.raises(ValueError, match="no column 'word' among double, words, category"):
        drawn(frame, *programs, do_not_impute=["word"])


def test_messages_name_the_label_of_a_row():
    frame = pd.DataFrame({"x": [0.0, np.inf], "g": ["a", "b"]}, index=["eve", "bob"])
    with pytest.raises(ValueError, match=r"x is inf at row 1 \('bob'\), feature x"):
        pv.Dataset(frame)
    with pytest.raises(ValueError, match=r"'b' at row 1 \('bob'\), which is none of its"):
        pv.Dataset(frame[["g"]]).with_levels({"g": ["a"]})
    with pytest.raises(ValueError, match=r"context is nan at row 0 \('eve'\), covariate c"):
        pv.Dataset(frame[["g"]], context=pd.DataFrame({"c": [NAN, 1.0]}, frame.index))
    with pytest.raises(ValueError, match=r"weight 0 at row 0 \('eve'\)"):
        pv.Dataset(frame.assign(w=[0.0, 1.0])[["g", "w"]], weights="w")
    bed = beds.linear_gaussian(num_data=3)
    data = pv.Dataset(holed(bed.x, 0.5), datum_names=["eve", "bob", "amy"])
    short = HMC(num_samples=2, num_warmup=0)
    with pytest.warns(UserWarning, match=r"3 rows, the first of them row 0 \('eve'\)"):
        pv.impute(bed.model, bed.guide, data, method="hmc", sampler=short, **QUIET)


def test_half_precision_and_sparse_columns_keep_their_types():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"half": rng.normal(size=40), "few": rng.poisson(0.3, 40) * 1.0})
    frame = frame.mask(rng.random(frame.shape) < 0.3)
    frame["half"] = frame["half"].astype("float16")
    frame["few"] = frame["few"].astype(pd.SparseDtype(float, 0.0))
    done = drawn(frame, *built(pv.Dataset(frame))).complete(1)
    assert done.dtypes.equals(frame.dtypes)
    assert done.notna().all().all()
    for name in frame:
        seen = frame[name].notna().to_numpy()
        assert np.array_equal(np.asarray(done[name])[seen], np.asarray(frame[name])[seen])


def test_booleans_are_false_and_true_and_a_single_table_has_levels():
    frame = pd.DataFrame({"flag": pd.array([False, None, False] * 20, dtype="boolean")})
    frame["colour"] = pd.Categorical(["red", "blue", None] * 20)
    frame["size"] = [1.5, None, 2.5] * 20
    imputations = drawn(frame, *built(pv.Dataset(frame)))
    chances = imputations.probabilities("flag")
    assert chances.columns.tolist() == [False, True]
    assert (chances.loc[0] == [1, 0]).all()
    assert np.allclose(chances.sum(axis=1), 1)
    single = imputations.single
    assert single.dtypes.equals(frame.dtypes)
    for name, missing in (("flag", 1), ("colour", 2)):
        assert single[name][missing] == imputations.probabilities(name).loc[missing].idxmax()
    assert single["size"][1] == imputations.mean[1, 2]
    assert single["size"][0] == 1.5


def test_no_entry_is_hidden_that_is_marked():
    bed = beds.linear_gaussian(num_data=60)
    mask = np.zeros((60, 5), dtype=bool)
    mask[:, 1] = True
    found = pv.overimpute(bed.model, bed.guide, bed.x, do_not_impute=mask, **QUIET)
    assert found.counts.tolist() == [6, 0, 6, 6, 6]
    assert np.isnan(found.values[mask]).all()
    with pytest.raises(ValueError, match="do_not_impute marks all entries"):
        pv.overimpute(bed.model, bed.guide, bed.x, do_not_impute=np.ones((60, 5), bool), **QUIET)


def test_a_forgotten_covariate_is_told_with_its_remedy():
    frame = table()[["double", "category", "age"]]
    programs = built(pv.Dataset(frame, context=["age"]))
    for given in (frame, frame.drop(columns="age")):
        with pytest.raises(ValueError, match=r"Dataset\(.*context=\["):
            drawn(given, *programs)


def class_of_the_hidden_entry(x):
    """y of (0.6, 0.4), x_1 ~ N(0, 1) whatever y is, x_2 ~ N(-3 or 3, 1)."""
    shares, centres = torch.tensor([0.6, 0.4]), torch.tensor([[0.0, -3.0], [0.0, 3.0]])
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(shares))
        fn, seen = observed_part(dist.Normal(centres[y], 1.0).to_event(1), x)
        pyro.sample("x", fn, obs=seen)


def sure_of_the_class(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("y", dist.Categorical(torch.tensor([1 - 1e-4, 1e-4]).expand(len(x), 2)))


def test_draws_of_one_class_are_not_reliable_where_the_other_is_left_out():
    """The weights of 200 draws of y = 0 are equal. p^2 / q summed over y is 0.36 + 0.16 / 1e-4."""
    x = torch.tensor([[0.5, NAN], [-1.0, NAN]])
    given = {"num_imputations": 5, **QUIET}
    pair = (class_of_the_hidden_entry, sure_of_the_class)
    with pytest.warns(UserWarning, match="2 rows"):
        found = pv.impute(*pair, x, method="importance", num_particles=200, **given)
    assert not found.rows["reliable"].any()
    draws = 1000 / (0.36 / (1 - 1e-4) + 0.16 / 1e-4)
    assert found.served.ess == pytest.approx(draws, rel=1e-3)
    refined = pv.impute(*pair, x, num_particles=1000, **given)
    assert refined.rows["reliable"].all()
    assert np.allclose(refined.mean[:, 1], -0.6, atol=5 * 3.1 / 1000**0.5)
