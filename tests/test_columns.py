"""What a model was trained on is known to it; what would be matched by its position is refused, or
read right."""

import functools
import re

import numpy as np
import pandas
import pyro
import pytest
import scipy.sparse
import scipy.stats
import torch
import xarray
from cases import EVENT, LIKELIHOODS, POSTERIORS, PRIORS, data_for, is_joint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.families.modules import join
from ppl_vae.runtime.checks import shown

NAMES = ["height", "weight", "age"]


def frame(names=NAMES, num_data=40, **options):
    values = np.random.default_rng(0).normal(size=(num_data, len(names)))
    return pandas.DataFrame(values, columns=names, **options)


def vae(features=3, context_dim=0, **options):
    guide = pv.Guide(
        posteriors.MeanFieldNormal(2),
        features,
        nn.Linear(features + context_dim, 8),
        context_dim=context_dim,
    )
    decoder = nn.Linear(2 + context_dim, 8)
    likelihood = likelihoods.Gaussian(features)
    return pv.Model(
        priors.StandardNormal(2), likelihood, decoder, context_dim=context_dim, **options
    ), guide


def trained(data, **options):
    model, guide = vae(**options)
    pv.fit(model, guide, data, training=pv.Training(num_epochs=1, batch_size=20, progress=False))
    return model, guide


# -- columns of training
# ----------------------------------------------------------------------------------------------

USES = {
    "fit": lambda model, guide, x: pv.fit(
        model, guide, x, training=pv.Training(num_epochs=1, progress=False)
    ),
    "log_evidence": lambda model, guide, x: pv.log_evidence(model, guide, x, num_particles=30),
    "to_datatree": lambda model, guide, x: pv.to_datatree(model, guide, x, num_samples=3),
    "bound": lambda model, guide, x: objectives.TraceELBO().bound(model, guide, x),
    "sample_posterior": lambda model, guide, x: pv.sample_posterior(model, guide, x, num_chains=2),
    "refine": lambda model, guide, x: pv.refine(model, guide, x),
    "evidence_interval": lambda model, guide, x: pv.evidence_interval(model, guide, x),
    "inference_gaps": lambda model, guide, x: pv.inference_gaps(model, guide, x),
    "elbo_surgery": lambda model, guide, x: pv.elbo_surgery(model, guide, x),
    "active_units": lambda model, guide, x: pv.active_units(model, guide, x),
    "predictive_check": lambda model, guide, x: pv.predictive_check(model, guide, x),
    "marginal_pit": lambda model, guide, x: pv.marginal_pit(model, x),
}


@pytest.mark.parametrize("use", USES)
def test_named_columns_that_are_not_those_of_training_are_refused_everywhere(use):
    x = frame()
    programs = trained(x)
    for wrong, said in (
        (
            x[["weight", "height", "age"]],
            "column 0 of x is 'weight'; the Model was trained with 'height' there: give",
        ),
        (
            x.rename(columns={"age": "Age"}),
            "x has no column 'age', which the Model was trained with: give x[['height', ",
        ),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            USES[use](*programs, wrong)


@pytest.mark.parametrize(
    "wrap",
    [lambda part: lambda x: part(x), functools.partial, lambda part: pyro.poutine.scale(part, 1.0)],
    ids=["function", "partial", "handler"],
)
def test_a_wrapped_model_knows_its_columns(wrap):
    model, guide = trained(frame())
    with pytest.raises(
        ValueError, match="column 0 of x is 'age'; the Model was trained with 'height' there"
    ):
        pv.log_evidence(wrap(model), wrap(guide), frame()[NAMES[::-1]], num_particles=30)


def test_the_columns_of_training_and_columns_without_names_are_taken():
    x = frame()
    model, guide = trained(x)
    found = [
        pv.log_evidence(model, guide, data, num_particles=30, seed=0).log_evidence
        for data in (
            x,
            x.to_numpy(),
            torch.tensor(x.to_numpy()),
            pv.Dataset(x)[:],
            pv.Dataset(x.to_numpy(), feature_names=NAMES),
        )
    ]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, rtol=1e-5)
    assert model.columns == guide.columns == {"x": tuple(NAMES)}
    model, guide = trained(x.to_numpy())
    assert model.columns == {}
    pv.log_evidence(model, guide, x[NAMES[::-1]], num_particles=30)


def test_covariates_and_numbered_columns_are_columns_too():
    x, context = frame([0, 1, 2]), frame(["dose", "site"])
    model, guide = trained(pv.Dataset(x, context=context), context_dim=2)
    assert model.columns == {"x": ("0", "1", "2"), "context": ("dose", "site")}
    for wrong, said in (
        (pv.Dataset(x[[2, 1, 0]], context=context), "column 0 of x is '2'"),
        (pv.Dataset(x, context=context[["site", "dose"]]), "column 0 of context is 'site'"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            pv.log_evidence(model, guide, wrong, num_particles=30)


def test_columns_travel_with_the_weights_and_come_from_the_start(tmp_path):
    x = frame()
    model, guide = trained(x)
    path = pv.save_weights(tmp_path / "weights.pt", model, guide)
    other = vae()
    pv.load_weights(path, *other)
    assert other[0].columns == other[1].columns == {"x": tuple(NAMES)}
    with pytest.raises(
        ValueError, match="column 0 of x is 'age'; the Model was trained with 'height'"
    ):
        pv.fit(*vae(start=x), x[NAMES[::-1]])
    old = torch.load(path, weights_only=True)
    old.pop("columns")
    torch.save(old, path)
    pv.load_weights(path, *other)
    assert other[0].columns == {}


# -- what comes in
# --------------------------------------------------------------------------------------------------

ROWS = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    "several",
    [
        TensorDataset(ROWS, torch.arange(4.0)),
        TensorDataset(ROWS, ROWS),
        DataLoader(TensorDataset(ROWS)),
        (ROWS, ROWS),
        [ROWS, ROWS],
        list(ROWS),
        (ROWS.numpy(), torch.arange(4)),
        [frame(), frame()],
        {"x": ROWS, "y": ROWS},
        xarray.Dataset({"x": ("row", [1.0, 2.0]), "y": ("row", [1.0, 2.0])}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_arrays_that_would_be_matched_by_position_are_refused(several):
    remedy = (
        f"is a {type(several).__name__} of several arrays: give one array with a row for each "
        "observation"
    )
    for use in (pv.Dataset, lambda x: pv.fit(*vae(), x), lambda x: pv.Dataset(ROWS, context=x)):
        with pytest.raises(TypeError, match=remedy):
            use(several)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_sparse_numbers_are_read_as_what_they_stand_for():
    dense = torch.tensor([[0.0, 2.0], [3.0, 0.0], [0.0, 0.0]])
    with torch.sparse.check_sparse_tensor_invariants(enable=True):
        twice = torch.sparse_coo_tensor(
            [[0, 0, 1], [1, 1, 0]], [1.0, 1.0, 3.0], (3, 2)
        )  # entries add up
        tensors = [dense.to_sparse(), twice, dense.to_sparse_csr()]
    matrices = [
        getattr(scipy.sparse, f"{kind}_{what}")(dense.numpy())
        for kind in ("csr", "coo")
        for what in ("matrix", "array")
    ]
    for sparse in (*tensors, *matrices):
        assert torch.equal(pv.Dataset(sparse).x, dense)
    columns = pandas.DataFrame(
        {"a": pandas.arrays.SparseArray([0.0, 3.0, 0.0]), "b": [2.0, 0.0, 0.0]}
    )
    assert torch.equal(pv.Dataset(columns).x, dense)


def test_nullable_columns_are_read_with_what_they_miss():
    values = {
        "Int64": [1, None],
        "boolean": [True, None],
        "Float32": [0.5, None],
        "UInt8": [7, None],
    }
    x = pandas.DataFrame({kind: pandas.array(each, dtype=kind) for kind, each in values.items()})
    assert x["Int64"].iloc[1] is pandas.NA
    data = pv.Dataset(x, context=pandas.Series(pandas.array([1, 2], dtype="Int64"), name="dose"))
    assert data.x[0].tolist() == [1.0, 1.0, 0.5, 7.0]
    assert data.x[1].isnan().all()
    with pytest.raises(
        ValueError, match="context is nan at row 1, covariate dose: it must be complete"
    ):
        pv.Dataset(x, context=pandas.Series(pandas.array([1, None], dtype="Int64"), name="dose"))


def test_names_of_several_levels_are_joined_and_reach_the_tree():
    rows = pandas.MultiIndex.from_product([["a", "b"], range(20)])
    columns = pandas.MultiIndex.from_tuples(
        [("body", "height"), ("body", "weight"), ("time", "age")]
    )
    x = pandas.DataFrame(frame().to_numpy(), index=rows, columns=columns)
    data = pv.Dataset(x)
    assert data.coords["datum"][21] == "b, 1"
    assert data.columns == {"x": ("body, height", "body, weight", "time, age")}
    model, guide = trained(data)
    tree = pv.to_datatree(model, guide, data, num_samples=30)
    assert "b, 1" in [str(name) for name in tree["observed_data"]["datum"].values]
    with pytest.raises(ValueError, match="column 0 of x is 'time, age'"):
        pv.log_evidence(model, guide, x[x.columns[::-1]], num_particles=30)
    with pytest.raises(ValueError, match="row 0 is a, 0 in x and b, 19 in context"):
        pv.Dataset(x, context=x.iloc[::-1])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["a", None, "b"], ["a", "missing", "b"]),
        (["a", float("nan"), "b"], ["a", "missing", "b"]),
        (pandas.Series(["a", pandas.NA, "b"]), ["a", "missing", "b"]),
        (pandas.Categorical(["a", None, "b"]), ["a", "missing", "b"]),
        ([1, None, 2], [1.0, np.nan, 2.0]),
        (pandas.Series(pandas.array([1, None, 2], dtype="Int64")), [1.0, np.nan, 2.0]),
    ],
    ids=str,
)
def test_labels_may_be_missing(labels, expected):
    data = pv.Dataset(torch.zeros(3, 1), labels=labels)
    np.testing.assert_array_equal(data.labels, np.array(expected))
    assert data.describe()["labels"] == 3


# -- where a likelihood starts
# ----------------------------------------------------------------------------------------


def started(likelihood, start, features=(3,)):
    model = pv.Model(priors.StandardNormal(2), likelihood, nn.Linear(2, 8), start=start)
    link = model.likelihood.link
    return model, model.likelihood(torch.zeros(1, *link.feature_shape))


@pytest.mark.parametrize(
    "kind", ["tensor", "numpy", "frame", "list", "Dataset", "split", "float64", "missing", "memmap"]
)
def test_whatever_makes_a_data_set_is_a_start(kind, tmp_path):
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)) * 5 + 100
    np.save(tmp_path / "x.npy", x.numpy())
    makers = {
        "tensor": lambda: x,
        "numpy": x.numpy,
        "frame": lambda: pandas.DataFrame(x.numpy(), columns=NAMES),
        "list": x.tolist,
        "Dataset": lambda: pv.Dataset(x),
        "split": lambda: pv.Dataset(x, splits={"train": range(150), "test": range(150, 200)}),
        "float64": x.double,
        "memmap": lambda: np.load(tmp_path / "x.npy", mmap_mode="r"),
        "missing": lambda: torch.cat([x, torch.full_like(x, torch.nan)]),
    }
    training = slice(150) if kind == "split" else slice(None)
    _, p = started(likelihoods.Gaussian(3, scale="feature"), makers[kind]())
    torch.testing.assert_close(p.mean[0], x[training].mean(0), rtol=1e-4, atol=0)
    torch.testing.assert_close(p.stddev[0], x[training].std(0, correction=0), rtol=1e-3, atol=0)


@pytest.mark.parametrize("unit", [1e-2, 1.0, 1e4])
@pytest.mark.parametrize("scale", ["global", "feature", "decoder"])
@pytest.mark.parametrize("family", [likelihoods.Gaussian, likelihoods.StudentT])
def test_scales_start_at_the_maximum_of_the_likelihood(family, scale, unit):
    """Against SciPy; in any unit, for the floor is small beside it."""
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(400, 3, generator=generator, dtype=torch.float64) + torch.arange(3)
    ) * torch.tensor([1.0, 2.0, 3.0])
    x[::20] *= 10
    x = x * unit
    likelihood = family(3, scale=scale, floor=1e-6)
    model = pv.Model(priors.StandardNormal(2), likelihood, nn.Linear(2, 8), start=x).double()
    model.likelihood.start_at(x)
    p = model.likelihood(torch.zeros(1, 8, dtype=torch.float64)).base_dist
    df = float(2 + torch.nn.functional.softplus(torch.tensor(3.0, dtype=torch.float64)))
    for column in range(3):
        if family is likelihoods.Gaussian:
            location, spread = x[:, column].mean().item(), x[:, column].std(correction=0).item()
        else:
            _, location, spread = scipy.stats.t.fit(x[:, column].numpy(), fdf=df)
        if scale != "global":
            assert p.scale.expand(1, 3)[0, column].item() == pytest.approx(spread, rel=2e-3)
            assert p.loc[0, column].item() == pytest.approx(location, abs=2e-3 * spread)
    if scale == "global" and family is likelihoods.Gaussian:
        assert p.scale.unique().item() == pytest.approx(
            (x - x.mean(0)).square().mean().sqrt().item(), rel=1e-6
        )
    value = p.log_prob(x).sum()
    for factor in (0.9, 1.1):
        other = torch.distributions.StudentT(df, p.loc, p.scale * factor)
        other = (
            other
            if family is likelihoods.StudentT
            else torch.distributions.Normal(p.loc, p.scale * factor)
        )
        assert other.log_prob(x).sum() < value


def test_dispersions_start_at_those_of_the_counts():
    x = torch.tensor(
        np.random.default_rng(0).negative_binomial([0.5, 2.0, 8.0], 0.2, size=(4000, 3))
    ).float()
    model, p = started(likelihoods.NegativeBinomial(3), x)
    torch.testing.assert_close(p.mean[0], x.mean(0), rtol=1e-2, atol=0)
    torch.testing.assert_close(p.variance[0], x.var(0), rtol=2e-2, atol=0)
    poisson = torch.poisson(torch.full((1000, 1), 3.0), generator=torch.Generator().manual_seed(0))
    model, p = started(likelihoods.NegativeBinomial(1), poisson)
    assert p.variance.item() < 1.2 * p.mean.item()


@pytest.mark.parametrize("family", [name for name in LIKELIHOODS if not is_joint(name)])
def test_what_is_never_observed_is_left_alone(family):
    x = data_for(family, num_data=30)
    x[:, 1] = torch.nan
    found = []
    for start in (None, x):
        torch.manual_seed(0)
        likelihood = LIKELIHOODS[family][0]((EVENT,))
        model = pv.Model(priors.StandardNormal(2), likelihood, nn.Linear(2, 8), start=start)
        raw = torch.stack(model.likelihood.parameters_of(torch.zeros(1, 8)))[:, 0]
        assert raw.isfinite().all()
        own = [
            value
            for name, value in likelihood.named_parameters()
            if not name.startswith("link") and value.dim()
        ]
        assert all(value.isfinite().all() for value in likelihood.parameters())
        found.append([raw, *own])
    for before, after in zip(*found, strict=True):
        assert torch.equal(before[..., 1], after[..., 1])
    assert not torch.equal(found[0][0][:, 0], found[1][0][:, 0])


# -- networks
# --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", [(5,), (4, 5), (2, 4, 5), (2, 3, 4, 5), (2, 3, 4, 5, 6)])
@pytest.mark.parametrize("particles", [(), (7,)])
def test_indicator_and_covariates_are_channels(event, particles):
    """Every entry of the channel axis is x, then what was observed, then one covariate."""
    x, indicator, context = (
        torch.randn(*particles, 6, *event),
        torch.rand(6, *event) > 0.5,
        torch.randn(6, 3),
    )
    together = join(x, len(event), indicator, context)
    axis = -max(len(event), 3) if len(event) > 1 else -1
    channels = together.movedim(axis, 0)
    own = 1 if len(event) == 2 else event[0]
    assert together.shape[axis] == 2 * own + 3
    as_channels = x.unsqueeze(axis) if len(event) == 2 else x
    assert torch.equal(channels[:own], as_channels.movedim(axis, 0))
    flags = indicator.unsqueeze(axis) if len(event) == 2 else indicator
    assert torch.equal(
        channels[own : 2 * own],
        flags.float().movedim(axis, 0).unsqueeze(1).expand_as(channels[:own])
        if particles
        else flags.float().movedim(axis, 0),
    )
    for place in range(3):
        plane = channels[2 * own + place]
        values = context[:, place].reshape(6, *(1 for _ in plane.shape[len(particles) + 1 :]))
        assert torch.equal(plane, values.expand_as(plane))


def test_volumes_go_through_three_dimensional_convolutions():
    encoder = nn.Sequential(nn.Conv3d(2 + 2 + 1, 4, 3, padding=1), nn.Flatten())
    guide = pv.Guide(
        posteriors.MeanFieldNormal(2), (2, 3, 4, 5), encoder, context_dim=1, missing=True
    )
    assert guide(torch.zeros(6, 2, 3, 4, 5), torch.zeros(6, 1)).shape == (6, 2)


def test_channels_last_images_are_named():
    for make in (lambda s: networks.ConvEncoder(s), lambda s: networks.ConvDecoder(2, s)):
        with pytest.raises(
            ValueError,
            match=re.escape("(28, 32, 3) has its channels last: give x.movedim(-1, 1), of"),
        ):
            make((28, 32, 3))
        make((3, 28, 32))
        make((1, 8, 4))


def test_a_network_that_returns_several_is_refused():
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    with pytest.raises(
        TypeError, match="the encoder returns a tuple: give a module that returns one tensor"
    ):
        pv.Guide(posteriors.MeanFieldNormal(2), 3, Pair())
    with pytest.raises(TypeError, match="the decoder returns a tuple"):
        pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(3), Pair())


def test_numpys_integers_are_sizes():
    two, three, eight = np.int64(2), np.int32(3), np.uint8(8)
    for name in set(POSTERIORS) - {"GaussianProcess"}:
        guide = pv.Guide(getattr(posteriors, name)(two), three, context_dim=np.int64(1))
        assert guide(torch.zeros(4, 3), torch.zeros(4, 1)).shape == (4, 2)
    for name in PRIORS:
        if name not in ("VampPrior", "ConditionalNormal", "GaussianProcess"):
            assert getattr(priors, name)(two)().event_shape == (2,)
    for prior in (priors.ConditionalNormal(two, three), priors.GaussianProcess(two, three)):
        assert prior(torch.zeros(4, 3)).batch_shape == (4,)
    for family, _, _ in LIKELIHOODS.values():
        prior = priors.StandardNormal(two)
        for size in (three, (two, three), np.array([2, 3])):
            model = pv.Model(prior, family(size), nn.Linear(2, 8))
            assert model.decode(torch.zeros(5, 2)).batch_shape == (5,)
    assert networks.MLP(three, (eight, eight))(torch.zeros(1, 3)).shape == (1, 8)
    assert networks.MLP(np.array([3, 2]), [eight])(torch.zeros(1, 3, 2)).shape == (1, 8)
    assert networks.ResNet(three, eight, num_blocks=two)(torch.zeros(1, 3)).shape == (1, 8)
    assert networks.ConvEncoder((eight, eight), [two])(torch.zeros(1, 8, 8)).shape[0] == 1
    assert networks.ConvDecoder(two, (eight, eight), [two])(torch.zeros(1, 2)).shape == (1, 2, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
def test_pseudo_inputs_take_the_type_of_the_guide(dtype):
    x = torch.tensor([[0, 1, 1], [1, 0, 0]])
    for own in (torch.float32, torch.float64):
        guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, nn.Linear(3, 8)).to(own)
        prior = priors.VampPrior(guide, pseudo_inputs=x.to(dtype))
        assert prior.pseudo_inputs.dtype == own
        assert prior().log_prob(torch.zeros(2, dtype=own)).dtype == own


# -- numbers in messages
# ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("allowed", [1.0, -2.0, 0.0, 255.0])
def test_a_number_is_shown_so_that_it_is_not_taken_for_its_neighbour(dtype, allowed):
    value = torch.tensor(allowed, dtype=dtype)
    neighbour = torch.nextafter(value, torch.tensor(float("inf"), dtype=dtype))
    assert shown(value) == f"{allowed:g}"
    assert torch.tensor(float(shown(neighbour)), dtype=dtype) == neighbour
    assert shown(value) != shown(neighbour)


def test_values_beside_allowed_ones_are_told_in_full():
    one = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0)).item()
    x = torch.tensor([[one, 0.0, 1.0]])
    for family in (likelihoods.Bernoulli, likelihoods.ContinuousBernoulli):
        model = pv.Model(priors.StandardNormal(2), family(3), nn.Linear(2, 8))
        with pytest.raises(ValueError, match=re.escape("x is 1.0000001 at row 0, feature 0")):
            model(x)
    with pytest.raises(ValueError, match=re.escape("x is 1.0000001 at row 0")):
        pv.Dataset(x, binarize="static")
