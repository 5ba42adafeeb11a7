"""Wrong calls, generated from signatures: each is refused in one line that names the argument."""

import copy
import dataclasses
import inspect
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd
import pytest
import torch

import ppl_vae as pv
from ppl_vae import (
    evidence,
    hmc,
    likelihoods,
    missingness,
    networks,
    objectives,
    posteriors,
    priors,
    refinement,
)
from ppl_vae.errors import PplVaeError, TooLargeError
from ppl_vae.runtime.checks import object_or_options
from ppl_vae.training import schedules

MODULES = {
    "priors": priors,
    "likelihoods": likelihoods,
    "posteriors": posteriors,
    "networks": networks,
    "objectives": objectives,
    "schedules": schedules,
    "evidence": evidence,
    "hmc": hmc,
    "refinement": refinement,
    "missingness": missingness,
}
LONGEST = 400  # characters of a message
LONG = "x" * 10**5
RESULTS = ("Summary", "Evidence", "Interval", "Gaps", "BDMC", "Chains")  # of calls, not their input


def given():
    """A value for each argument without a default, by its name."""
    torch.manual_seed(0)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3)
    return {
        "latent_dim": 2,
        "event_shape": (3,),
        "in_dim": 3,
        "in_shape": (3,),
        "guide": guide,
        "pseudo_inputs": torch.zeros(5, 3),
        "num_categories": 3,
        "num_levels": 3,
        "start": 1e-2,
        "end": 1e-3,
        "value": 1e-3,
        "context_dim": 1,
        "total": 4,
        "base": likelihoods.Gaussian(3),
        "sign": 1,
        "prior": priors.GaussianProcess(2, context_dim=1),
        "low": 0.0,
        "high": 1.0,
    }


GIVEN = given()
IMAGES = {"ConvEncoder", "ConvDecoder"}


def constructors():
    """Every class of these modules that can be made, with arguments that make it."""
    for module in MODULES.values():
        for name in module.__all__:
            kind = getattr(module, name)
            if not inspect.isclass(kind) or inspect.isabstract(kind) or name.endswith(RESULTS):
                continue
            try:
                arguments = arguments_of(kind)
                kind(**arguments)
            except (KeyError, TypeError, ValueError):
                continue  # made from results, or from a mapping of parts
            yield kind, arguments


def arguments_of(kind):
    found = {}
    for parameter in inspect.signature(kind).parameters.values():
        named = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if named and parameter.default is parameter.empty:
            found[parameter.name] = GIVEN[parameter.name]
    if kind.__name__ in IMAGES:
        found |= {name: (8, 8) for name in found if name.endswith("shape")}
    return found


def hints_of(kind):
    owner = next(item for item in kind.__mro__ if "__init__" in vars(item))
    try:
        return get_type_hints(owner.__init__)
    except NameError:  # annotations for type checkers alone
        return {}


def parts_of(hint):
    """The types that an annotation allows, each by its origin."""
    if get_origin(hint) in (Union, types.UnionType):
        return {part for each in get_args(hint) for part in parts_of(each)}
    return {get_origin(hint) or hint}


NAN = float("nan")
WRONG: dict[Any, list] = {
    int: [1.5, NAN, -1, -(10**30), 10**30, "3", True, object()],
    float: [NAN, float("inf"), -float("inf"), 10**400, "0.5", True, object()],
    bool: [2, "yes", NAN, object()],
    str: [5, NAN, "no such word", object()],
}


def wrong_values(name, hint):
    """Values that no argument with this annotation may have."""
    parts = parts_of(hint)
    simple = parts - {type(None)}
    if not simple <= {int, float, bool, str, Literal}:
        return [NAN, 3 + 4j, object()] if parts != {Any} and Any not in parts else []
    found = [*WRONG[int]] if simple == {int} else []
    if simple == {float} or simple == {int, float}:
        found = [*WRONG[float]]
    if simple == {bool}:
        found = [*WRONG[bool]]
    if Literal in simple or simple == {str}:
        numbers = WRONG[float] if float in simple else [10**30, NAN, object()]
        found = ["no such word", *numbers]
    if type(None) not in parts and found:
        found.append(None)
    return [*found, [], (-1,), {}, "x" * 10**5] if found else []


# Arguments that take anything, or whose meaning is another program's.
FREE = {
    ("LowRankNormal", "scale"),
}
CASES = {
    f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}": (kind, arguments)
    for kind, arguments in constructors()
}


def test_most_classes_are_among_the_cases():
    assert len(CASES) > 80, sorted(CASES)


@pytest.mark.parametrize("case", CASES)
def test_wrong_arguments_are_refused_in_one_line(case):
    kind, arguments = CASES[case]
    hints = hints_of(kind)
    silent, raw = [], []
    for name in inspect.signature(kind).parameters:
        hint = hints.get(name, Any)
        for value in wrong_values(name, hint):
            try:
                kind(**arguments | {name: value})
            except (ValueError, TypeError) as error:
                said = str(error)
                if "\n" in said or len(said) > LONGEST or not is_told(error, name):
                    raw.append(f"{name}={value!r:.40}: {type(error).__name__}: {said[:80]}")
            except Exception as error:
                raw.append(f"{name}={value!r:.40}: {type(error).__name__}: {str(error)[:80]}")
            else:
                silent.append(f"{name}={value!r:.40}")
    assert (silent, raw) == ([], [])


def is_told(error, name):
    """Whether the error is the library's own, or names the argument."""
    return isinstance(error, PplVaeError) or name in str(error)


# -- data
# ------------------------------------------------------------------------------------------

X = np.random.default_rng(0).random((6, 4))
DATA = {
    "scale": [NAN, float("inf"), 0, -1, "x", None, [], True, 10**400],
    "dtype": ["float32", None, float, np.float32, torch.int32, 5],
    "seed": [NAN, -1, 1.5, True, "x", None, [], 2**70],
    "image_shape": [(-2, -2), (2.0, 2), (0,), 4, "ab", (), (2, 2, 1, 1), (2, True), [], NAN],
    "feature_names": [["a"], 5, "abcd", ["a", "b", "c", "a"]],
    "datum_names": [["a"], 5, "abcdef"],
    "name": [5, None, ["a"], b"x"],
    "levels": ["x", 5, [], {"a": [1]}],
    "binarize": ["x", True, 1, []],
    "labels": ["x", 5, X[:3], [[]]],
    "weights": [5, X[:3, 0], np.zeros(6), np.full(6, NAN)],
    "context": [5, X[:3], np.full(6, NAN), [[]]],
    "splits": [
        {"train": [True, False]},
        {"train": np.ones(5, bool)},
        {"train": [0, 1.7]},
        {"train": [0.0, 1.0]},
        {"tain": [0]},
        {1: [0]},
        {"train": ["a"]},
        {"train": [NAN]},
        {"train": 3},
        {"train": None},
        {"train": [[0, 1]]},
        {"train": [-1]},
        {"train": [6]},
        {"train": [0, 0]},
        {"train": [0], "test": [0]},
        [1, 2],
        [],
        "x",
    ],
}


@pytest.mark.parametrize("name", DATA)
def test_wrong_arguments_of_a_dataset_are_refused_in_one_line(name):
    for value in DATA[name]:
        with pytest.raises((ValueError, TypeError)) as caught:
            pv.Dataset(X, **{name: value})
        said = str(caught.value)
        assert "\n" not in said, said
        assert any(word in said for word in (name, name.rstrip("s"), "column")), (value, said)
        if name == "splits":
            with pytest.raises((ValueError, TypeError), match="split|row"):
                pv.Dataset(X).with_splits(value)


@pytest.mark.parametrize(
    "index",
    [1.7, NAN, np.ones(5, bool), [True] * 5, [0, 1.7], "x", None, 6, -7, 10**30, [[0, 1]], (0, 1)]
    + [torch.tensor(1.7), torch.ones(7, dtype=torch.bool), slice(0.5, 2), np.array([0.0, 1.0])],
    ids=str,
)
def test_a_wrong_index_is_refused_in_one_line(index):
    with pytest.raises(IndexError, match=r"^the index .* does not fit the 6 rows of 'data': give"):
        pv.Dataset(X)[index]


@pytest.mark.parametrize(
    "hidden",
    [[True, False], True, np.ones((6, 4)), np.ones((6, 3), bool), np.ones((6, 4), int), "x", None],
    ids=str,
)
def test_what_hides_entries_is_a_boolean_for_each(hidden):
    with pytest.raises(ValueError, match=r"give booleans of the shape of x, \(6, 4\)"):
        pv.Dataset(X).hiding(hidden)


SHARES = [NAN, -1, 1.5, "x", None, [], True, 6, 0.99, 10**30]


@pytest.mark.parametrize("share", SHARES, ids=str)
def test_a_wrong_share_or_seed_is_refused_in_one_line(share):
    data = pv.Dataset(X)
    calls = [
        lambda: data.split(valid=share),
        lambda: data.split(test=share),
        lambda: data.folds(2, valid=share),
        lambda: data.split(seed=share) if share not in (6, None) else data.folds(7),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="valid|test|seed|num_folds") as caught:
            call()
        assert "\n" not in str(caught.value)


# -- calls
# ------------------------------------------------------------------------------------------


def wrong_calls():
    torch.manual_seed(0)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 4)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(4))
    normal, gaussian = priors.StandardNormal(2), likelihoods.Gaussian(4)
    posterior = posteriors.MeanFieldNormal(2)
    x = torch.zeros(3, 4)
    few = {"num_particles": 40}
    training = pv.Training(num_epochs=1, progress=False)
    return {
        "log_weights(numpy)": lambda: pv.log_weights(model, guide, X),
        "log_weights(None)": lambda: pv.log_weights(model, guide, None),
        "log_weights(particles)": lambda: pv.log_weights(model, guide, x, num_particles=10**12),
        "log_weights(seed)": lambda: pv.log_weights(model, guide, x, seed="x"),
        "Guide(prior)": lambda: pv.Guide(normal, 4),
        "Guide(encoder)": lambda: pv.Guide(posterior, 4, encoder="MLP"),
        "Guide(missing)": lambda: pv.Guide(posterior, 4, missing="x"),
        "Guide(shape)": lambda: pv.Guide(posterior, (-1,)),
        "Model(decoder)": lambda: pv.Model(normal, gaussian, decoder="MLP"),
        "Model(posterior)": lambda: pv.Model(normal, posterior),
        "Model(class)": lambda: pv.Model(priors.StandardNormal, gaussian),
        "Model(prior)": lambda: pv.Model(gaussian, normal),
        "VampPrior(None)": lambda: priors.VampPrior(None, X),
        "VampPrior(no rows)": lambda: priors.VampPrior(guide, x[:0]),
        "VampPrior(None inputs)": lambda: priors.VampPrior(guide, None),
        "sample(-1)": lambda: model.sample(-1),
        "sample(0)": lambda: model.sample(0),
        "sample(1.5)": lambda: model.sample(1.5),
        "fit(training)": lambda: pv.fit(model, guide, X, training={"num_epochs": 2}),
        "fit(objective)": lambda: pv.fit(model, guide, X, objective="IWAE", training=training),
        "fit(data)": lambda: pv.fit(model, guide, None, training=training),
        "fit(meta)": lambda: pv.fit(
            model, guide, X, training=dataclasses.replace(training, device="meta")
        ),
        "fit(long training)": lambda: pv.fit(model, guide, X, training=LONG),
        "fit(long optimizer)": lambda: pv.fit(
            model, guide, X, training=dataclasses.replace(training, optimizer=lambda _: LONG)
        ),
        "exact(long measure)": lambda: pv.Evidence.exact(X[:, 0], X, measure=LONG),
        "compare_estimators(long)": lambda: pv.diagnostics.compare_estimators(
            model, guide, X, LONG
        ),
        "Columns(long)": lambda: likelihoods.Columns(LONG),
        "Training(checkpoint)": lambda: pv.Training(checkpoint=""),
        "log_evidence(half)": lambda: pv.log_evidence(
            copy.deepcopy(model).bfloat16(), copy.deepcopy(guide).bfloat16(), X, **few
        ),
        "log_evidence(mixed)": lambda: pv.log_evidence(copy.deepcopy(model).double(), guide, X),
        "fit(mixed)": lambda: pv.fit(model, copy.deepcopy(guide).double(), X, training=training),
        "log_evidence(particles)": lambda: pv.log_evidence(
            model, guide, X, num_particles=10**7, bootstrap=10**6, progress=False
        ),
        "log_evidence(method)": lambda: pv.log_evidence(model, guide, X, method=0),
        "log_evidence([])": lambda: pv.log_evidence(model, guide, X, method=[]),
        "log_evidence(seed)": lambda: pv.log_evidence(model, guide, X, **few, seed=1.5),
        "log_evidence(path)": lambda: pv.log_evidence(model, guide, X, **few, checkpoint=3),
        "log_evidence(NUL)": lambda: pv.log_evidence(model, guide, X, **few, checkpoint="a\0b"),
        "log_evidence(progress)": lambda: pv.log_evidence(model, guide, X, **few, progress=3),
        "read(3)": lambda: pv.read(3),
        "load(3)": lambda: pv.load(3),
        "load(NaN)": lambda: pv.load("digits", valid=NAN),
        "to(device)": lambda: pv.Dataset(X).to("float32"),
        "to(dtype)": lambda: pv.Dataset(X).to(dtype="float32"),
    }


CALLS = wrong_calls()


@pytest.mark.parametrize("name", CALLS)
def test_wrong_calls_are_refused_in_one_line(name):
    with pytest.raises((ValueError, TypeError)) as caught:
        CALLS[name]()
    said = str(caught.value)
    assert "\n" not in said, said
    assert len(said) < LONGEST, said
    assert not any(word in said for word in ("NoneType' object", "unsupported", "has no attribute"))


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, pd.DataFrame])
@pytest.mark.parametrize("options", [{}, {"num_samples": 5, "num_particles": 5}])
@pytest.mark.parametrize(
    "function", [pv.log_evidence, pv.to_datatree, pv.calibration, pv.compare_estimators, pv.refine]
)
def test_covariates_in_the_place_of_settings_are_told_where_they_belong(function, options, kind):
    model = pv.Model(priors.LearnedNormal(2, 2), likelihoods.Gaussian(4), context_dim=2)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 4, context_dim=2)
    context = kind(np.linspace(0.0, 1.0, 1000).reshape(500, 2))
    args = [model, guide, torch.zeros(500, 4)]
    if function is pv.compare_estimators:
        args.append([objectives.TraceELBO()])
    options = {} if function is pv.refine else options
    with pytest.raises(ValueError, match=r"the data, as in Dataset\(x, context=...\)$") as caught:
        function(*args, context, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 80 + 80


def test_settings_given_twice_are_refused_in_one_short_line():
    for given in ("a" * 10_000, [1.0] * 10_000, "two\nlines", evidence.AIS(20, 50)):
        with pytest.raises(ValueError, match=r"^seed, draws was given beside method=.*: set it in"):
            object_or_options(given, ["seed", "draws"], "method")
        with pytest.raises(ValueError, match=r"^.{50,140}$"):
            object_or_options(given, ["num_particles"], "method")
    object_or_options(None, ["num_particles"], "method")
    object_or_options(evidence.AIS(20, 50), [], "method")


# -- sizes
# ------------------------------------------------------------------------------------------

HUGE = 10**12
SIZES = {
    "latent_dim": lambda: priors.StandardNormal(HUGE),
    "posterior": lambda: posteriors.MeanFieldNormal(HUGE),
    "full rank": lambda: pv.Guide(posteriors.FullRankNormal(10**6), 4),
    "components": lambda: priors.GaussianMixture(2, 10**12),
    "dims of a flow": lambda: priors.FlowPrior(10**7),
    "dims of a flow as posterior": lambda: posteriors.FlowPosterior(10**7),
    "many components": lambda: priors.GaussianMixture(10**6, 10**6),
    "event": lambda: likelihoods.Bernoulli((10**5, 10**5, 10**5)),
    "categories": lambda: likelihoods.Categorical(10**5, num_categories=10**9),
    "rank": lambda: likelihoods.LowRankNormal(10**5, rank=10**9),
    "widths": lambda: networks.MLP(10**6, [10**7]),
    "layers": lambda: networks.ResNet(8, num_blocks=10**9),
    "recurrent": lambda: networks.GRU((5, 3), width=10**7),
    "recurrent layers": lambda: networks.GRU((5, 3), width=10**6, num_layers=100),
    "recurrent decoder": lambda: networks.GRUDecoder(2, (5, 3), width=10**7),
    "autoregressive": lambda: posteriors.InverseAutoregressive(10**7),
    "zuko": lambda: posteriors.ZukoFlow(10**7),
    "particles": lambda: pv.evidence.ImportanceSampling(10**15),
    "particles of a row": lambda: CALLS["log_evidence(particles)"](),
    "bound": lambda: objectives.IWAE(10**15),
    "chains": lambda: evidence.AIS(10**12, 10**12),
    "temperatures": lambda: evidence.AIS(8, 10**12),
    "samples": lambda: hmc.HMC(num_samples=10**12),
    "array": lambda: pv.Dataset(np.broadcast_to(np.zeros(1), (10**6, 10**6))),
    "rows": lambda: pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(4)).sample(10**10),
}


class Huge(torch.nn.Module):
    """A decoder with an array of 4 million TB, which no allocator grants."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)

    def forward(self, z):
        return self.linear(z) + (torch.zeros(2**60) if z[..., 0].numel() > 2 else 0.0)


def test_memory_that_is_not_granted_is_refused_in_one_line():
    """Sizes that multiply, as of particles, rows and components, are known to the allocator."""
    torch.manual_seed(0)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 4)
    model = pv.Model(priors.StandardNormal(2), likelihoods.Gaussian(4), Huge())
    training = pv.Training(num_epochs=1, progress=False)
    calls = [
        lambda: pv.fit(model, guide, X, training=training),
        lambda: pv.log_evidence(model, guide, X, num_particles=40, progress=False),
        lambda: pv.log_weights(model, guide, torch.zeros(3, 4), num_particles=2),
    ]
    for call in calls:
        with pytest.raises(TooLargeError, match=r"there is no memory for \d+ bytes more: lower"):
            call()


@pytest.mark.parametrize("name", SIZES)
def test_what_cannot_fit_is_refused_before_memory_is_taken(name):
    """The message gives the size; nothing is allocated (the process would otherwise be killed)."""
    with pytest.raises(TooLargeError, match=r"\d.*(needs [\d,]+ GB|must be at most [\d,]+)"):
        SIZES[name]()
