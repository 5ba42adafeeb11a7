"""Programs that exist already: their parameters, their plates, their arguments, said in the log."""

import gc
import logging

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib import gp
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.nn import PyroModule

import ppl_vae as pv
from ppl_vae.programs.forms.once import _said

X = torch.tensor([[1.0], [2.0], [4.5]])


def model(x):
    loc = pyro.param("loc", torch.tensor(0.0))
    with pyro.plate("documents", len(x)):
        z = pyro.sample("z", dist.Normal(loc, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]), obs=x.squeeze(-1))


def guide(x):
    with pyro.plate("documents", len(x)):
        loc = pyro.param("loc", torch.tensor(0.0))
        pyro.sample("z", dist.Normal((x.squeeze(-1) + loc) / 2, 0.5**0.5))


def test_parameters_of_svi_are_evaluated_and_outlive_the_store():
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
    for _ in range(100):
        svi.step(X)
    loc = pyro.param("loc").item()
    programs = pv.from_pyro(model, guide, X)
    pyro.clear_param_store()
    found = pv.log_evidence(*programs, X, num_particles=30, progress=False).log_evidence
    expected = dist.Normal(loc, 2**0.5).log_prob(X[:, 0])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(pyro.get_param_store()) == 0
    names = dict(programs[0].named_parameters())
    assert [value.item() for value in names.values()] == pytest.approx([loc])


def test_private_parameters_are_trained():
    programs = pv.from_pyro(model, guide, X)
    training = pv.Training(num_epochs=300, learning_rate=0.05, progress=False)
    pv.fit(*programs, X, objective=pv.objectives.TraceELBO(200), training=training)
    (loc,) = programs[0].parameters()
    assert loc.item() == pytest.approx(2.5, abs=0.1)  # the mean of x
    assert len(pyro.get_param_store()) == 0


def square(x):
    """Two plates of three entries: rows and columns of a square."""
    rows = pyro.plate("rows", 3, dim=-2)
    columns = pyro.plate("columns", 3, dim=-1)
    with rows, columns:
        pyro.sample("x", dist.Normal(torch.tensor([0.0, 1.0, 2.0]), 1.0), obs=x)


def test_ambiguous_plates_are_named_and_can_be_overruled():
    x = torch.zeros(3, 3)
    with pytest.raises(ValueError, match="the plates .*'rows'.* may each be the one over the rows"):
        pv.log_weights(square, lambda x: None, x)
    programs = pv.from_pyro(square, lambda x: None, x, data_plate="rows")
    expected = dist.Normal(torch.tensor([0.0, 1.0, 2.0]), 1.0).log_prob(torch.zeros(3)).sum()
    torch.testing.assert_close(pv.log_weights(*programs, x), expected.expand(1, 3))
    with pytest.raises(ValueError, match="data_plate='pages' is no plate of the model"):
        pv.from_pyro(square, lambda x: None, x, data_plate="pages")


def test_arguments_that_no_program_takes_are_named():
    args = {"lengths": torch.tensor([1, 2, 3]), "mask": torch.ones(3)}
    data = pv.Dataset(X, args=args)
    with pytest.raises(ValueError, match="args has 'lengths', which neither model nor guide takes"):
        pv.log_evidence(model, guide, data)


def test_rows_of_arguments_follow_those_of_x():
    args = {"lengths": np.array([3, 1, 2]), "scale": 0.5}
    data = pv.Dataset(X, args=args, splits={"train": [2, 0], "test": [1]})
    assert data.train.args["lengths"].tolist() == [2, 3]
    assert data.to(dtype=torch.float64).args["lengths"].dtype == torch.int64
    assert data.test.constants == {"scale": 0.5}


def test_copies_of_the_rows_are_told(caplog):
    weights = torch.ones(1, 1)

    def product(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(torch.mm(z, weights), 1.0).to_event(1), obs=x)

    def by_row(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    with caplog.at_level(logging.INFO):
        found = pv.log_weights(product, by_row, X, num_particles=4)
    assert "the model takes no axis of particles: it runs on K copies of the rows" in caplog.text
    expected = dist.Normal(0.0, 2**0.5).log_prob(X[:, 0])
    torch.testing.assert_close(found, expected.expand(4, 3))


class Shifted(PyroModule):
    """A module that makes its parameters by `pyro.param`."""

    def forward(self, x):
        with pyro.plate("documents", len(x)):
            scale = pyro.param("q_scale", torch.tensor(1.0), dist.constraints.positive)
            pyro.sample("z", dist.Normal(x.squeeze(-1) / 2, scale))


class Centred(PyroModule):
    def forward(self, x):
        with pyro.plate("documents", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]), obs=x.squeeze(-1))


def test_modules_keep_their_parameters_of_pyro_param():
    pyro.clear_param_store()
    programs = Centred(), Shifted()
    training = pv.Training(num_epochs=300, learning_rate=0.02, progress=False)
    pv.fit(*programs, X, objective=pv.objectives.TraceELBO(200), training=training)
    assert pyro.param("q_scale").item() == pytest.approx(0.5**0.5, abs=0.02)
    found = pv.log_evidence(*programs, X, num_particles=500, progress=False)
    expected = dist.Normal(0.0, 2**0.5).log_prob(X[:, 0])
    np.testing.assert_allclose(found.elbo, expected, atol=0.02)
    assert list(pyro.get_param_store().keys()) == ["q_scale"]
    pyro.clear_param_store()


def test_a_joint_guide_of_all_rows_has_a_bound_and_no_evidence_of_a_row():
    joint = AutoMultivariateNormal(Centred())
    training = pv.Training(num_epochs=1, progress=False)
    assert pv.fit(Centred(), joint, X, training=training).num_epochs == 1
    for function in (pv.log_evidence, pv.log_weights, pv.refine, pv.evidence_interval):
        with pytest.raises(ValueError, match="draws 'z' of all rows together, at site '_Auto"):
            function(Centred(), joint, X)


def test_rows_of_a_gaussian_process_have_a_bound_and_no_evidence():
    torch.manual_seed(0)
    y = torch.randn(8, 1).mul(2) + 0.1 * torch.randn(8, 3)
    base = gp.models.SparseGPRegression(torch.zeros(8, 1), y.T, gp.kernels.RBF(1), y[:4, :1])
    latent = gp.models.GPLVM(base)
    programs = pv.from_pyro(latent.model, latent.guide, y, arguments=lambda x: ())

    def bound():
        torch.manual_seed(1)
        return -Trace_ELBO(100, vectorize_particles=False).loss(latent.model, latent.guide)

    before = bound()
    training = pv.Training(num_epochs=100, batch_size=8, learning_rate=0.05, progress=False)
    pv.fit(*programs, y, objective=Trace_ELBO(), training=training)
    assert bound() > before + 10
    for function in (pv.log_evidence, pv.log_weights, pv.refine):
        with pytest.raises(ValueError, match="have no log p\\(x\\) of a row, but a bound"):
            function(*programs, y)


def test_how_particles_are_run_is_said_once_for_each_model(caplog):
    """Also of methods and adapted programs; what was said is forgotten with the model."""

    class Program:
        def model(self, x):
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(len(x)), 1.0))
                loc = torch.mm(z.reshape(len(x), 1), x.new_ones(1, 1)).squeeze(-1)
                pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

        def guide(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 1.0))

    line = "takes no axis of particles"
    x = pv.Dataset(torch.randn(6))
    programs = [Program(), Program()]
    with caplog.at_level("INFO"):
        for _ in range(3):
            for each in programs:
                pv.log_weights(each.model, each.guide, x)
    said = [record.getMessage() for record in caplog.records]
    assert sum(line in each for each in said) == 2
    assert len(said) == 2 * len(set(said))
    before = len(_said)
    del programs, each
    gc.collect()
    assert len(_said) <= before - 2
