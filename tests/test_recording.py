"""A recorded training step is the one that Pyro's handlers take, draw by draw; where it cannot be,
the log says why."""

import logging
import random
import re
import sys
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    EVENT,
    LIKELIHOODS,
    OBJECTIVES,
    POSTERIORS,
    data_for,
    objective_for,
    pairs,
    vae,
)
from pyro.nn import PyroModule
from torch._dynamo.utils import counters

import ppl_vae as pv
from ppl_vae import Guide, Model, likelihoods, objectives, posteriors, priors
from ppl_vae.families.missing import observed_part
from ppl_vae.programs.modules import missing_values
from ppl_vae.runtime.recording import (
    RecordedFunction,
    RecordingError,
    compiled,
    cuda,
    recorded,
)
from ppl_vae.training import loop, step
from ppl_vae.training.step import training_mode

ROWS = 64  # in batches of 32


@pytest.fixture
def records_at_once(monkeypatch, caplog):
    monkeypatch.setattr(step, "FEWEST_STEPS_TO_RECORD", 1)
    caplog.set_level(logging.DEBUG, logger="ppl_vae")


def bounds(make, x, *, compile, objective=None, context=None, **settings):
    """Training bounds of two epochs, annealed, from the same start."""
    torch.manual_seed(0)
    model, guide = make()
    training = pv.Training(
        num_epochs=2, batch_size=32, kl_warmup_epochs=2, progress=False, compile=compile, **settings
    )
    data = pv.Dataset(x, context=context)
    history = pv.fit(model, guide, data, objective=objective, training=training).history
    return torch.tensor([history["train"], history["rate"]])


def assert_same(
    make, x, caplog, *, how="training step recorded", make_objective=lambda: None, **settings
):
    eager = bounds(make, x, compile=False, objective=make_objective(), **settings)
    found = bounds(make, x, compile="auto", objective=make_objective(), **settings)
    assert how in caplog.text
    assert torch.allclose(found, eager, rtol=1e-5)


@pytest.mark.parametrize("name", ["MeanFieldELBO", "IWAE", "InfoVAE", "ReweightedWakeSleep"])
def test_an_objective_of_each_kind(name, records_at_once, caplog):
    """In a whole training; every objective and gradient estimator, step by step, is in
    test_fresh_machine.py."""
    assert_same(vae, data_for("Bernoulli", ROWS), caplog, make_objective=OBJECTIVES[name])


@pytest.mark.parametrize("name", ["MeanFieldELBO", "IWAE"])
def test_bfloat16_is_recorded_and_close(name, records_at_once, caplog):
    """Products of three digits: the bounds of two epochs, by the same draws, are float32's within
    half a per cent."""
    x = data_for("Bernoulli", ROWS)
    assert_same(vae, x, caplog, make_objective=OBJECTIVES[name], dtype="bfloat16")
    half, full = (
        bounds(vae, x, compile=False, objective=OBJECTIVES[name](), dtype=d)
        for d in ("bfloat16", None)
    )
    assert not torch.equal(half, full)
    assert torch.allclose(half, full, rtol=5e-3)


@pytest.mark.parametrize("posterior", POSTERIORS)
def test_draws_and_parameters_stay_float32_in_bfloat16(posterior):
    model, guide = vae(posterior=posterior)
    result = pv.fit(
        model,
        guide,
        data_for("Bernoulli"),
        objective=objective_for(posterior),
        training=pv.Training(2, dtype="bfloat16", progress=False),
    )
    assert np.isfinite(result.history["train"]).all()
    assert {p.dtype for p in [*model.parameters(), *guide.parameters()]} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        assert guide(data_for("Bernoulli")).dtype == torch.float32


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_every_likelihood_with_missing_values(name):
    """The graph of density and gradient serves for another batch, in which other rows have holes;
    whole trainings are above."""
    likelihood = vae(likelihood=name)[0].likelihood
    own = list(likelihood.parameters())

    def density(x, features):
        features = features.detach().requires_grad_()
        observed, values = observed_part(likelihood(features), x, may_miss=True)
        log_prob = observed.log_prob(values)
        return log_prob, *torch.autograd.grad(log_prob.sum(), [features, *own])

    x, features = data_for(name, 16, missing=True), torch.randn(16, 8)
    with pyro.validation_enabled(False):
        graph = recorded(density, x, features)
        torch.testing.assert_close(graph(x.flip(0), features), density(x.flip(0), features))


@pytest.mark.parametrize(("prior", "posterior"), list(pairs(without=["FlowPrior"])))
def test_every_prior_and_posterior(prior, posterior, records_at_once, caplog):
    x = data_for("Bernoulli", ROWS)
    make_objective = partial(objective_for, posterior)
    assert_same(lambda: vae(prior, posterior=posterior), x, caplog, make_objective=make_objective)


def test_a_spline_looks_up_the_bin_of_each_value(records_at_once, caplog):
    how = "not recorded: the shape of an intermediate result"
    assert_same(lambda: vae("FlowPrior"), data_for("Bernoulli", ROWS), caplog, how=how)


def test_a_smaller_last_batch(records_at_once, caplog):
    assert_same(vae, data_for("Bernoulli", ROWS + 3), caplog)
    assert caplog.text.count("training step recorded") == 2


def with_encoder(*layers, context_dim=0):
    guide = Guide(
        posteriors.MeanFieldNormal(2), EVENT, torch.nn.Sequential(*layers), context_dim=context_dim
    )
    return Model(
        priors.StandardNormal(2), likelihoods.Bernoulli(EVENT), context_dim=context_dim
    ), guide


def test_covariates_and_dropout(records_at_once, caplog):
    def make():
        return with_encoder(torch.nn.Linear(EVENT + 1, 8), torch.nn.Dropout(0.3), context_dim=1)

    assert_same(make, data_for("Bernoulli", ROWS), caplog, context=torch.rand(ROWS, 1))


def test_frozen_parameters(records_at_once, caplog):
    def make():
        model, guide = vae()
        guide.encoder.requires_grad_(False)
        return model, guide

    assert_same(make, data_for("Bernoulli", ROWS), caplog)


def two_layers():
    """A program of one's own: z2 above z1, in a subsampled plate, with a parameter under a
    constraint in a module."""

    class TwoLayers(PyroModule):
        def __init__(self, is_guide):
            super().__init__()
            self.map = torch.nn.Linear(EVENT if is_guide else 2, 2 if is_guide else EVENT)
            self.is_guide = is_guide

        def forward(self, x):
            with pyro.plate("data", len(x), dim=-1):
                if self.is_guide:
                    z2 = pyro.sample("z2", dist.Normal(self.map(x), 1.0).to_event(1))
                    return pyro.sample("z1", dist.Normal(z2, 0.5).to_event(1))
                z2 = pyro.sample("z2", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                z1 = pyro.sample("z1", dist.Normal(z2, 1.0).to_event(1))
                return pyro.sample("x", dist.Bernoulli(logits=self.map(z1)).to_event(1), obs=x)

    return TwoLayers(False), TwoLayers(True)


@pytest.mark.parametrize("objective", [objectives.MeanFieldELBO, objectives.IWAE])
def test_a_program_of_ones_own(objective, records_at_once, caplog):
    assert_same(two_layers, data_for("Bernoulli", ROWS), caplog, make_objective=objective)


class Offsets(torch.nn.Module):
    """Two parameters whose gradients are one tensor, and one whose gradient is another's view."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(EVENT))
        self.second = torch.nn.Parameter(torch.zeros(EVENT))
        self.column = torch.nn.Parameter(torch.zeros(EVENT, 1))

    def forward(self, x):
        return x + (self.first + self.second + self.column.reshape(EVENT))


@pytest.mark.parametrize("compile", ["auto", True])
def test_parameters_with_one_gradient_are_clipped_once(compile, records_at_once, compiler):
    """Clipping scales gradients in place."""

    def make():
        return with_encoder(Offsets(), torch.nn.Linear(EVENT, 8))

    x = data_for("Bernoulli", ROWS)
    eager = bounds(make, x, compile=False, clip_norm=1e-3, learning_rate=0.1)
    found = bounds(make, x, compile=compile, clip_norm=1e-3, learning_rate=0.1)
    assert torch.allclose(found, eager, rtol=1e-5)
    made = []
    for how in (False, compile):
        torch.manual_seed(0)
        model, guide = make()
        training = pv.Training(
            num_epochs=1,
            batch_size=32,
            clip_norm=1e-3,
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0),
            compile=how,
            progress=False,
        )
        pv.fit(model, guide, x, training=training)
        made.append([p.detach().clone() for p in guide.parameters()])
    for one, other in zip(*made, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-8)
    first, second, column, *_ = guide.encoder.parameters()
    assert torch.allclose(first, second)
    assert torch.allclose(first, column.flatten())
    assert first.abs().max() > 1e-6


@pytest.mark.parametrize("compile", [False, "auto"])
def test_sparse_gradients_train_as_dense_ones(compile, records_at_once):
    x = data_for("Bernoulli", ROWS)
    found = []
    for is_sparse in (False, True):

        def make(is_sparse=is_sparse):
            table = torch.nn.Embedding(2, 4, sparse=is_sparse)
            return with_encoder(Codes(), table, torch.nn.Flatten(-2))

        sgd = {"optimizer": lambda parameters: torch.optim.SGD(parameters, lr=0.1)}
        found.append(bounds(make, x, compile=compile, **sgd))
    assert torch.allclose(*found, rtol=1e-5)


class Codes(torch.nn.Module):
    """Bits as whole numbers."""

    def forward(self, x):
        return (x > 0).long()


def test_draws_are_fresh_at_each_step(records_at_once):
    torch.manual_seed(0)
    model, guide = vae()
    training = pv.Training(num_epochs=1, batch_size=2, progress=False, learning_rate=1e-12)
    run = loop.Run(
        model, guide, pv.Dataset(data_for("Bernoulli", 4)), objectives.TraceELBO(), training
    )
    x = data_for("Bernoulli", 2)
    with training_mode(model, guide), missing_values(False, model, guide):
        assert len({run.step((x,)) for _ in range(5)}) == 5
    assert [graph is not None for graph in run.step.graphs.values()] == [True]


class Stateful(torch.nn.Module):
    """Louder at each call."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = torch.nn.Linear(EVENT, 8), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * self.calls


class LooksAtValues(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x) if x.mean() > 0 else super().forward(-x)


class Counts(torch.nn.Linear):
    """Another map from the 600th call on."""

    def __init__(self):
        super().__init__(EVENT, 8)
        self.num_calls = 0

    def forward(self, x):
        self.num_calls += 1
        return super().forward(x) * (1.0 if self.num_calls < 600 else -1.0)


class Moves(torch.nn.Linear):
    """Centred by a moving mean, a buffer that is made anew at each call."""

    def __init__(self):
        super().__init__(EVENT, 8)
        self.register_buffer("mean", torch.zeros(EVENT))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x - self.mean)


class Reads(torch.nn.Linear):
    """A map that depends on a number which it takes out of torch, here of its own draw."""

    def __init__(self, read):
        super().__init__(EVENT, 8)
        self.read = read

    def forward(self, x):
        return super().forward(x) * (1.0 if self.read(torch.randn(1)) > 0 else -1.0)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: Stateful(), "a call changes Stateful.calls"),
        (lambda: Counts(), "a call changes Counts.num_calls"),
        (lambda: Moves(), "a call changes Moves.mean"),
        (lambda: Reads(lambda u: u.numpy()[0]), "reads the values of a tensor, by numpy"),
        (lambda: Reads(lambda u: u.tolist()[0]), "reads the values of a tensor, by tolist"),
        (lambda: Reads(lambda u: np.asarray(u)[0]), "reads the values of a tensor, by __array__"),
        (
            lambda: Reads(lambda u: np.from_dlpack(u)[0]),
            "reads the values of a tensor, by __dlpack__",
        ),
        (lambda: Reads(lambda u: u.item()), "control flow depends on the data"),
        (lambda: Reads(lambda u: random.random() - 0.5), "draws from Python's random stream"),
        (lambda: Reads(lambda u: np.random.rand() - 0.5), "draws from NumPy's random stream"),  # noqa: NPY002
        (lambda: LooksAtValues(EVENT, 8), "control flow depends on the data"),
        (lambda: torch.nn.Sequential(torch.nn.Linear(EVENT, 8), torch.nn.BatchNorm1d(8)), "buffer"),
    ],
)
def test_what_a_graph_would_get_wrong_stays_with_the_handlers(
    layer, reason, records_at_once, caplog
):
    x = data_for("Bernoulli", ROWS)
    found = bounds(lambda: with_encoder(layer()), x, compile="auto")
    assert torch.isfinite(found).all()
    assert re.search(f"training step not recorded: .*({reason})", caplog.text)


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_what_is_declined_trains_as_if_it_had_not_been_tried(draw, records_at_once):
    """The streams of Python and NumPy, and a counter, are where they were."""
    found = []
    for compile in ("auto", False):
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        make = lambda: with_encoder(Reads(lambda u: draw() - 0.5))  # noqa: E731
        found.append(bounds(make, data_for("Bernoulli", ROWS), compile=compile))
    assert torch.equal(*found)


def test_a_counter_is_where_it_was(records_at_once):
    """A call at the first of four steps is not counted twice."""
    layers = [Counts(), Counts()]
    for layer, compile in zip(layers, ("auto", False), strict=True):
        bounds(
            lambda layer=layer: with_encoder(layer), data_for("Bernoulli", ROWS), compile=compile
        )
    assert layers[0].num_calls == layers[1].num_calls


def test_batch_normalisation_and_branches_train_as_without_a_graph(records_at_once, caplog):
    for layer in (lambda: LooksAtValues(EVENT, 8), lambda: torch.nn.BatchNorm1d(EVENT)):
        how = "training step not recorded"
        assert_same(
            lambda layer=layer: with_encoder(layer()), data_for("Bernoulli", ROWS), caplog, how=how
        )


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (pyro.infer.Trace_ELBO(), "Trace_ELBO is not one of ppl_vae's objectives"),
        (OBJECTIVES["MCEM"](), "keeps a state or decides by values"),
        (objectives.IWAE(4, gradient=objectives.ScoreFunction("moving-average")), "keeps a state"),
    ],
)
def test_what_cannot_be_recorded_is_a_warning_where_a_graph_was_asked_for(
    objective, reason, caplog
):
    model, guide = vae()
    training = pv.Training(num_epochs=1, compile=True, progress=False)
    pv.fit(
        model, guide, pv.Dataset(data_for("Bernoulli", 8)), objective=objective, training=training
    )
    said = [record for record in caplog.records if record.name != "ppl_vae.training.warnings"]
    assert [record.levelname for record in said] == ["WARNING"]
    assert reason in caplog.text


def test_what_fails_for_smaller_batches_only_is_said(records_at_once, caplog):
    class Branches(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x) if len(x) == 32 or x.mean() > 0 else super().forward(-x)

    caplog.set_level(logging.INFO, logger="ppl_vae")
    bounds(lambda: with_encoder(Branches(EVENT, 8)), data_for("Bernoulli", 80), compile="auto")
    assert [
        "step recorded (" in caplog.text,
        caplog.text.count("step not recorded: its control flow"),
    ] == [True, 1]


def test_short_trainings_are_not_recorded(caplog):
    caplog.set_level(logging.DEBUG, logger="ppl_vae")
    bounds(vae, data_for("Bernoulli", 64), compile="auto")
    assert caplog.text == ""


def test_without_a_compiler_the_plain_graph_serves(monkeypatch, caplog):
    def fails(*_):
        raise RecordingError("no C++ compiler")

    monkeypatch.setattr("ppl_vae.training.step.compiled", fails)
    assert torch.isfinite(bounds(vae, data_for("Bernoulli", 64), compile=True)).all()
    assert "training step recorded, not compiled: no C++ compiler" in caplog.text


class Replays:
    """A stand-in for a CUDA graph: what was run last is run again, on what lies there now, over its
    result."""

    def __init__(self, function):
        self.function, self.num_calls = function, 0

    def __call__(self, *inputs):
        self.num_calls += 1
        self.inputs, self.found = inputs, self.function(*inputs)
        return self.found

    def replay(self):
        for old, new in zip(self.found, self.function(*self.inputs), strict=True):
            old.copy_(new)


@pytest.fixture
def cuda_graphs(monkeypatch):
    """Capturing on a machine without CUDA: the last function that was recorded is what the CUDA
    graph holds."""
    captured = []

    def replaying(run, *inputs):
        captured.append(Replays(run))
        return cuda.replayed(captured[-1], *inputs)

    nothing = lambda *_: SimpleNamespace(wait_stream=lambda _: None)  # noqa: E731
    monkeypatch.setattr("ppl_vae.training.step.replayed", replaying)
    monkeypatch.setattr(cuda, "on_cuda", lambda *_: True)
    monkeypatch.setattr(
        torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: captured[-1].replay())
    )
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, nothing)
    for name in ("graph", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    return captured


def test_a_replayed_step_reads_batch_weights_and_annealing_where_they_lie(
    compiler, cuda_graphs, caplog
):
    """Over two annealed epochs in batches of which the last is smaller, with gradients clipped
    where they lie."""
    caplog.set_level(logging.INFO, logger="ppl_vae")
    x = data_for("Bernoulli", 80)
    eager = bounds(vae, x, compile=False, clip_norm=1.0)
    found = bounds(vae, x, compile="cudagraphs", clip_norm=1.0)
    assert "training step replayed as a CUDA graph" in caplog.text
    assert torch.allclose(found, eager, rtol=1e-5)
    assert [graph.num_calls for graph in cuda_graphs] == [4]  # three to warm up, one to capture


def test_without_cuda_the_compiled_step_serves(compiler, caplog):
    """As it does with compile=True; its gradients are in test_fresh_machine.py."""
    caplog.set_level(logging.WARNING, logger="ppl_vae")
    x = data_for("Bernoulli", ROWS)
    found = bounds(vae, x, compile="cudagraphs")
    assert (
        "training step compiled, not replayed as a CUDA graph: the data are on cpu" in caplog.text
    )
    assert torch.allclose(found, bounds(vae, x, compile=False), rtol=1e-5)


def test_a_cuda_graph_takes_no_batch_in_parts():
    with pytest.raises(
        ValueError, match="writes the gradient of each part over that of the one before"
    ):
        pv.Training(compile="cudagraphs", num_parts=2)


def test_a_graph_draws_what_the_function_would_and_leaves_the_stream_alone():
    def function(x):
        return x + torch.randn_like(x)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    graph = recorded(function, torch.zeros(3))
    assert torch.equal(torch.get_rng_state(), state)
    drawn = graph(torch.ones(3))
    torch.set_rng_state(state)
    assert torch.equal(drawn, function(torch.ones(3)))


def test_bounds_of_held_out_rows_come_from_graphs_too(records_at_once):
    """A last batch of another size, and the same numbers from each epoch's weights."""
    found = []
    for is_recorded in (True, False):
        torch.manual_seed(0)
        model, guide = vae(likelihood="Gaussian")
        data = pv.Dataset(torch.randn(120, EVENT)).split(valid=40, seed=0)
        training = pv.Training(num_epochs=4, batch_size=32, compile=is_recorded)
        found.append(pv.fit(model, guide, data, training=training).history)
    for name in ("valid", "rate"):
        torch.testing.assert_close(*(torch.tensor(each[name]) for each in found))
    assert len(set(found[0]["valid"])) == 4


def test_a_recorded_function_reads_its_weights_at_each_call():
    layer = torch.nn.Linear(3, 3)
    square = RecordedFunction(lambda x: layer(x).view(-1, 1, 3).square().sum(-1), [layer], "square")
    for i in range(4):
        x = torch.randn(3, 5).T if i == 2 else torch.randn(5, 3)
        torch.testing.assert_close(square(x), layer(x).square().sum(-1, keepdim=True))
        assert not square(x).requires_grad
        layer.load_state_dict({k: v + 1 for k, v in layer.state_dict().items()})
    assert None not in square.graphs.values()


@pytest.mark.parametrize("change_at", [1, 2])
def test_a_function_that_a_graph_would_get_wrong_is_called_itself(change_at):
    """One that depends on rows' values, and one whose state changes after the first call."""
    factor = {"of": 1.0}

    def scaled(x):
        if change_at == 1 and x.sum() > 0:
            return x
        return factor["of"] * x

    function = RecordedFunction(scaled, [], "product")
    x = torch.arange(3.0)
    assert function(x).tolist() == [0, 1, 2]
    factor["of"] = 2.0
    assert function(-x).tolist() == [0, -2, -4]
    assert function(-x).tolist() == [0, -2, -4]
    assert list(function.graphs.values()) == [None]


def test_a_failing_function_says_so_in_one_line():
    with pytest.raises(RecordingError, match="shapes cannot be multiplied") as caught:
        recorded(torch.matmul, torch.ones(2, 3), torch.ones(2, 3))
    assert "\n" not in str(caught.value)


def evidence_of(model, guide, x, **settings):
    method = pv.ImportanceSampling(200, chunk_size=2_000, **settings)
    return torch.from_numpy(pv.log_evidence(model, guide, x, method, progress=False).log_evidence)


def test_compiled_log_weights(compiler, caplog):
    caplog.set_level(logging.INFO, logger="ppl_vae")
    (model, guide), x = vae(), data_for("Bernoulli", 33)
    x[::4, 0] = float("nan")
    eager, found = (evidence_of(model, guide, x, compile=mode) for mode in (False, True))
    assert "log-weights compiled" in caplog.text
    assert torch.allclose(found, eager, rtol=1e-5)


def test_log_weights_that_cannot_be_compiled_come_from_the_handlers(caplog):
    model, guide = with_encoder(LooksAtValues(EVENT, 8))
    x = data_for("Bernoulli", 33)
    assert torch.equal(
        evidence_of(model, guide, x, compile=True), evidence_of(model, guide, x, compile=False)
    )
    assert "log-weights not compiled: its control flow depends on the data" in caplog.text


# -- another torch
# ------------------------------------------------------------------------------------------


def test_a_compiled_graph_that_is_kept_serves_other_frozen_tensors(compiler):
    """torch keeps what it compiled, by its operations: a second graph of the same ones is found,
    and computes with its own tensors, also after they change."""
    x = torch.ones(3)
    found = counters["inductor"]["fxgraph_cache_hit"]
    for scale in (1.0, 3.0):
        weight = torch.full((3,), scale)
        run = compiled(recorded(lambda x, weight=weight: (x * weight).sin(), x), x)
        torch.testing.assert_close(run(x), (x * weight).sin())
        weight.fill_(7.0)
        torch.testing.assert_close(run(x), (x * weight).sin())
    assert counters["inductor"]["fxgraph_cache_hit"] > found


TRACED_BY = ("torch._guards", "torch._subclasses", "torch.fx.experimental.proxy_tensor")
COMPILED_BY = (*TRACED_BY, "torch._inductor", "torch.fx.experimental.symbolic_shapes")


def without(monkeypatch, name):
    """A torch that lacks one of its private modules."""
    monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", TRACED_BY)
def test_without_what_recording_takes_from_torch_the_handlers_train(
    name, records_at_once, monkeypatch, caplog
):
    """To the bit, and the log says it once, at INFO."""
    x = data_for("Bernoulli", ROWS)
    eager = bounds(vae, x, compile=False)
    without(monkeypatch, name)
    assert torch.equal(bounds(vae, x, compile="auto"), eager)
    said = [each for each in caplog.records if "training step not recorded" in each.message]
    assert [record.levelname for record in said] == ["INFO"]
    assert f"torch {torch.__version__} has no {name}" in said[0].message


@pytest.mark.parametrize("name", COMPILED_BY)
def test_without_what_compiling_takes_from_torch_log_p_is_the_same(name, monkeypatch, caplog):
    model, guide = vae()
    x = data_for("Bernoulli", 8)
    sizes = {"num_particles": 40, "progress": False}
    eager = pv.log_evidence(model, guide, x, compile=False, **sizes)
    without(monkeypatch, name)
    found = pv.log_evidence(model, guide, x, compile=True, **sizes)
    np.testing.assert_array_equal(found.log_evidence, eager.log_evidence)
    assert caplog.text.count("not compiled: ") == 1
    assert name in caplog.text


def test_a_private_function_of_torch_with_other_arguments_is_not_used(
    records_at_once, monkeypatch, caplog
):
    from torch.fx.experimental import proxy_tensor

    x = data_for("Bernoulli", ROWS)
    eager = bounds(vae, x, compile=False)
    monkeypatch.setattr(proxy_tensor, "make_fx", lambda: None)
    assert torch.equal(bounds(vae, x, compile="auto"), eager)
    assert "not recorded" in caplog.text
