"""What a machine lacks costs a line in the log and some speed, not a number: no compiler, disk or
oneDNN."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import EVENT, GRADIENTS, LIKELIHOODS, OBJECTIVES, data_for, vae
from pyro.nn import PyroModule
from torch.fx.graph import CodeGen

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.programs.modules import missing_values
from ppl_vae.runtime.recording import compiled, products, recorded
from ppl_vae.training import loop
from ppl_vae.training.step import WAYS, RecordedStep, Step, training_mode

NO_ROOM = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # no file may have a byte
"""
SCRIPT = """
import logging, sys
import torch
import ppl_vae as pv
from cases import data_for, vae

logging.basicConfig(level=logging.WARNING, format="%(name)s %(message)s", stream=sys.stdout)
x = data_for("Bernoulli", 64)
found = []
for compile in (False, True):
    torch.manual_seed(0)
    model, guide = vae()
    training = pv.Training(num_epochs=2, batch_size=32, compile=compile, progress=False)
    found.append(torch.tensor(pv.fit(model, guide, x, training=training).history["train"]))
evidence = []
for compile in (False, True):
    method = pv.ImportanceSampling(200, chunk_size=2_000, compile=compile)
    values = pv.log_evidence(model, guide, x, method, progress=False).log_evidence
    evidence.append(torch.from_numpy(values))
assert all(torch.allclose(other, found[0], rtol=1e-5) for other in found)
assert torch.allclose(*evidence, rtol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.parametrize("lacking", ["compiler", "disk"])
def test_what_is_lacking_is_a_line_in_the_log(lacking, tmp_path):
    """A process of its own, since torch remembers which compiler it found."""
    variables = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    if lacking == "compiler":
        variables["CXX"] = "/nonexistent"
    script = SCRIPT if lacking == "compiler" else NO_ROOM + SCRIPT
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent)])
    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **variables, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [
        line for line in ran.stdout.splitlines() if not line.startswith("ppl_vae.training.warnings")
    ]
    assert [line.split(": ")[0] for line in lines] == [
        "ppl_vae.training.step training step recorded, not compiled",
        "ppl_vae.importance log-weights not compiled",
    ]


ENDINGS = [
    OSError(28, "No space left on device"),
    TypeError("forward() missing 7 required positional arguments"),
    MemoryError(),
    PermissionError("read-only file system"),
    KeyError("getpwuid(): uid not found: 1000"),
    KeyboardInterrupt(),
    SystemExit(1),
]


def state(model, guide):
    modules = torch.nn.ModuleList([model, guide])
    tensors = [*modules.parameters(), *modules.buffers()]
    parameters = [(p.requires_grad, p.grad) for p in modules.parameters()]
    return (
        [t.detach().clone() for t in tensors],
        parameters,
        [m.training for m in modules.modules()],
    )


def made(compile, x, model, guide):
    """A step of IWAE as `fit` makes it."""
    data = pv.Dataset(x)
    training = pv.Training(num_epochs=1, batch_size=32, compile=compile, progress=False)
    return loop.Run(model, guide, data, objectives.IWAE(4), training).step


@pytest.mark.parametrize("ending", ENDINGS, ids=lambda error: type(error).__name__)
def test_a_compilation_that_ends_early_leaves_all_as_it_was(ending, monkeypatch, caplog):
    """The compiler changes its graph, as torch's does, and dies; the plain graph serves, at a later
    attempt too."""
    x, (model, guide) = data_for("Bernoulli", 32), vae()
    given = []

    def dies(graph, *_, **__):
        given.append(graph)
        graph.graph.set_codegen(CodeGen())
        for node in reversed(graph.graph.nodes):
            graph.graph.erase_node(node)
        graph.recompile()
        raise ending

    monkeypatch.setattr(torch._inductor, "compile", dies)
    model.eval()
    guide.eval()  # as `fit` leaves them
    before, stream = state(model, guide), torch.get_rng_state()
    step = made(True, x, model, guide)
    with training_mode(model, guide), missing_values(False, model, guide):
        if not isinstance(ending, Exception):
            with pytest.raises(type(ending)):
                step((x,))
            assert not step.graphs
            monkeypatch.setattr(torch._inductor, "compile", lambda graph, *_, **__: graph)
        assert torch.equal(torch.get_rng_state(), stream)
        with pv.seeded(3):
            found = step((x,))
        gradients = [p.grad.clone() for p in step.parameters]
        with pv.seeded(3):
            expected = Step.__call__(step, (x,))
        assert next(iter(step.graphs.values())) is not None
        assert found == pytest.approx(expected, rel=1e-5)
        for gradient, parameter in zip(gradients, step.parameters, strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    for parameter in step.parameters:
        parameter.grad = None
    after = state(model, guide)
    assert all(torch.equal(one, other) for one, other in zip(before[0], after[0], strict=True))
    assert before[1:] == after[1:]
    assert len(given) == 1
    if isinstance(ending, Exception):
        said = [
            record.getMessage()
            for record in caplog.records
            if record.name == "ppl_vae.training.step"
        ]
        assert len(said) == 1
        assert said[0].startswith("training step recorded, not compiled: ")
        assert "\n" not in said[0]


def test_an_interrupt_leaves_no_gradient_behind(monkeypatch):
    """While the graph is held against the handlers."""
    x, (model, guide) = data_for("Bernoulli", 32), vae()
    step = made(True, x, model, guide)
    step.ways = WAYS[:1]

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("ppl_vae.training.step.check_agreement", interrupted)
    with (
        training_mode(model, guide),
        missing_values(False, model, guide),
        pytest.raises(KeyboardInterrupt),
    ):
        step((x,))
    assert all(p.grad is None for p in step.parameters)


def test_a_compiler_is_given_a_copy_that_shares_the_tensors(compiler):
    weight = torch.ones(3)
    graph = recorded(lambda x: x * weight, torch.zeros(3))
    run = compiled(graph, torch.zeros(3))
    weight.fill_(2.0)
    assert [f(torch.ones(3)).tolist() for f in (graph, run)] == [[2.0, 2.0, 2.0]] * 2


@pytest.mark.parametrize(
    "error", [RuntimeError("could not create a primitive"), AttributeError("_linear_pointwise")]
)
def test_a_onednn_that_cannot_multiply_is_left_alone(error, monkeypatch, caplog):
    def fails(_):
        raise error

    measured = products.onednn_is_faster
    caplog.set_level(logging.INFO, logger="ppl_vae")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(products, "_seconds", fails)
    measured.cache_clear()
    assert products.replacements() == {}
    measured.cache_clear()
    assert f"products of matrices stay with torch: {error}" in caplog.text


# --- recorded steps are the plain ones, draw by draw ----------------------------------------------

RECORDED = {name: make for name, make in OBJECTIVES.items() if name != "MCEM"}
BOUNDS = {
    "TraceELBO": (3,),
    "IWAE": (3,),
    "CIWAE": (0.5, 3),
    "MIWAE": (2, 2),
    "PIWAE": (2, 2),
    "Renyi": (0.5, 3),
}
PAIRS = {
    **{name: make for name, make in RECORDED.items()},
    **{
        f"{name}, {gradient}": lambda name=name, gradient=gradient: getattr(objectives, name)(
            *BOUNDS[name], gradient=GRADIENTS[gradient]()
        )
        for name in BOUNDS
        for gradient in GRADIENTS
        if gradient != "StickingTheLanding" or name == "TraceELBO"
        if gradient != "ScoreFunction" or name not in ("MIWAE", "PIWAE")
        if gradient != "Reparameterized"  # as above
        if gradient == "VIMCO"
        or name in ("TraceELBO", "IWAE")  # an estimator does not ask which bound it is of
    },
}


def rows(dtype):
    """Two batches with covariates; only the second has missing values."""
    x = data_for("Gaussian", 16).to(dtype)
    other = x.flip(0).clone()
    other[::3, 1] = float("nan")
    context = torch.linspace(-1, 1, 16, dtype=dtype).unsqueeze(1)
    return (x, context), (other, -context)


def with_context(dtype):
    torch.manual_seed(0)
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, torch.nn.LazyLinear(6), context_dim=1)
    likelihood = pv.likelihoods.Gaussian((EVENT,), scale="feature")
    model = pv.Model(pv.priors.LearnedNormal(2), likelihood, torch.nn.LazyLinear(6), context_dim=1)
    return model.to(dtype), guide.to(dtype)


SINGLE = [
    (name, torch.float32)
    for name in ("MeanFieldELBO", "IWAE, VIMCO", "IWAE, DoublyReparameterized")
]


@pytest.mark.parametrize(("name", "dtype"), [*((name, torch.float64) for name in PAIRS), *SINGLE])
def test_a_recorded_step_is_the_plain_one(name, dtype):
    """Of every objective and gradient estimator."""
    assert_plain(PAIRS[name](), *with_context(dtype), rows(dtype), WAYS[:1])


def assert_plain(objective, model, guide, batches, ways):
    """Loss and gradient, at KL weights 0, 0.3 and 1, with missing values in a batch that was not
    recorded."""
    model(*batches[0]), guide(*batches[0])
    parameters = list({*model.parameters(), *guide.parameters()})
    parts = (objective, model, guide, parameters, len(batches[0][0]), False)
    recorded_step, plain = RecordedStep(*parts, ways=ways, level=logging.WARNING), Step(*parts)
    dtype = parameters[0].dtype
    close = (
        {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-10}
    )
    with training_mode(model, guide), missing_values(True, model, guide):
        for args in batches:
            for kl_weight in (1.0, 0.3, 0.0):
                found = []
                for step in (recorded_step, plain):
                    with pv.seeded(5):
                        loss = step(args, kl_weight)
                    gradients = [
                        torch.zeros_like(p) if p.grad is None else p.grad.clone()
                        for p in parameters
                    ]
                    found.append([torch.tensor(loss, dtype=dtype), *gradients])
                for one, other in zip(*found, strict=True):
                    torch.testing.assert_close(one, other, **close)
    assert [graph is not None for graph in recorded_step.graphs.values()] == [True]


# the least alike, since each takes a while: gradients along paths and by scores, of a density and
# of a probability
COMPILED = {
    "Gaussian": lambda: objectives.IWAE(4, gradient=objectives.DoublyReparameterized()),
    "Poisson": lambda: objectives.TraceELBO(3, gradient=objectives.ScoreFunction()),
}


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", COMPILED)
def test_a_compiled_step_is_the_plain_one(likelihood, compiler, caplog):
    """Without networks, which would only make more to compile."""
    caplog.set_level(logging.INFO, logger="ppl_vae")
    x = data_for(likelihood, 16).double()
    other = x.flip(0).clone()
    other[::3, 1] = float("nan")
    guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, torch.nn.Identity()).double()
    model = pv.Model(
        pv.priors.StandardNormal(2), LIKELIHOODS[likelihood][0]((EVENT,)), torch.nn.Identity()
    ).double()
    assert_plain(COMPILED[likelihood](), model, guide, [(x,), (other,)], WAYS[:2])
    assert "training step compiled" in caplog.text


class Layer(torch.nn.Linear):
    """A map that a subclass makes depend on what no graph holds."""

    def __init__(self):
        super().__init__(EVENT, 8)


class OwnStream(Layer):
    def __init__(self):
        super().__init__()
        self.stream = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x) + torch.randn(8, generator=self.stream)


class MovesInPlace(Layer):
    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(EVENT)  # not a buffer

    def forward(self, x):
        self.mean.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x - self.mean)


class CountsInAList(Layer):
    def __init__(self):
        super().__init__()
        self.calls = [0]

    def forward(self, x):
        self.calls[0] += 1
        return super().forward(x)


class CountsInADict(Layer):
    def __init__(self):
        super().__init__()
        self.seen = {}

    def forward(self, x):
        self.seen[len(self.seen)] = len(x)
        return super().forward(x)


@pytest.mark.parametrize("layer", [OwnStream, MovesInPlace, CountsInAList, CountsInADict])
def test_what_changes_in_its_place_is_refused_and_put_back(layer, caplog):
    """The training is the one without a graph, to the last bit."""
    found = []
    for compile in (True, False):
        torch.manual_seed(0)
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, layer())
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(EVENT))
        training = pv.Training(num_epochs=2, batch_size=32, progress=False, compile=compile)
        found.append(
            pv.fit(model, guide, data_for("Bernoulli", 64), training=training).history["train"]
        )
    assert "training step not recorded: " in caplog.text
    assert found[0] == found[1]


def test_parameters_in_pyros_store_are_refused(caplog):
    class Program(PyroModule):
        def __init__(self, is_guide):
            super().__init__()
            self.shift = torch.nn.Parameter(torch.zeros(()))
            self.is_guide = is_guide

        def forward(self, x):
            slope = pyro.param("slope", torch.tensor(0.3)) if self.is_guide else torch.tensor(1.0)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(slope * x[:, 0] + self.shift, 1.0))
                if not self.is_guide:
                    pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    x, found = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)), []
    for compile in (True, False):
        pyro.clear_param_store()
        training = pv.Training(
            num_epochs=2, batch_size=32, progress=False, compile=compile, learning_rate=0.1
        )
        model, guide = Program(False), Program(True)
        try:
            found.append(pv.fit(model, guide, x, training=training).history["train"])
        finally:
            pyro.clear_param_store()
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: torch.nn.Sequential(torch.nn.Linear(EVENT, 8), torch.nn.Dropout(0.5)),
        lambda: torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(EVENT, 8), torch.nn.LayerNorm(8)
        ),
        lambda: Looks(),
        lambda: Tied(),
    ],
)
def test_second_fits_of_other_shapes_and_half_frozen_weights(layer, caplog):
    """Each fit records anew: what is frozen between two of them, and another number of rows, are
    its own."""
    found = []
    for compile in (True, False):
        torch.manual_seed(0)
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), EVENT, layer())
        model = pv.Model(pv.priors.StandardNormal(2), pv.likelihoods.Bernoulli(EVENT))
        for num_rows, batch_size in ((64, 32), (30, 12)):
            training = pv.Training(num_epochs=2, batch_size=batch_size, progress=False)
            run = loop.Run(
                model,
                guide,
                pv.Dataset(data_for("Bernoulli", num_rows)),
                objectives.IWAE(3),
                training,
            )
            if compile:
                parts = (run.objective, model, guide, run.parameters, run.batch_size, False)
                run.step = RecordedStep(*parts, ways=WAYS[:1], level=logging.WARNING)
            found.append(run.go().history["train"])
            next(guide.encoder.parameters()).requires_grad_(False)
    assert found[:2] == [pytest.approx(bounds, rel=1e-5) for bounds in found[2:]]
    assert "not recorded" not in caplog.text


class Looks(torch.nn.Module):
    """An embedding of how many ones there are."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(EVENT + 1, 8)

    def forward(self, x):
        return self.table(x.sum(-1).long())


class Tied(torch.nn.Module):
    """One weight under two names."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(EVENT, EVENT)
        self.second = torch.nn.Linear(EVENT, EVENT)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))
