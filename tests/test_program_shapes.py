"""What a user's program may look like: log-probabilities of the shape of their plates, factors,
nested plates."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.programs.traces import log_terms

ROWS = 5
ZERO = torch.zeros((), dtype=torch.float64)


def rows():
    return torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def standard_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(ZERO, 1.0))


def pairwise_model(x):
    """A likelihood of every pair of rows: an axis of its own, of as many entries as there are
    rows."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(ZERO, 1.0))
        distances = torch.cdist(x, x)
        pyro.sample("x", dist.Normal(distances, 1.0), obs=torch.zeros_like(distances))


def transposed_model(x):
    """Features to the left of the rows, as no event and in no plate: summed over, or taken for
    particles."""
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(ZERO, 1.0))
        pyro.sample("x", dist.Normal(x.mT, 1.0), obs=torch.zeros_like(x.mT))


def lifted_model(x):
    """An axis between particles and rows."""
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Normal(ZERO, 1.0))
        mean = z.unsqueeze(-2).expand(*z.shape[:-1], 4, len(x))
        pyro.sample("x", dist.Normal(mean, 1.0), obs=torch.zeros(4, len(x)).double())


DOORS = {
    "log_weights": lambda model, k: pv.log_weights(model, standard_guide, rows(), num_particles=k),
    "log_evidence": lambda model, k: pv.log_evidence(
        model, standard_guide, rows(), num_particles=max(k, 30)
    ),
    "loss": lambda model, k: objectives.IWAE(k).loss(model, standard_guide, rows()),
    "SVI": lambda model, k: objectives.IWAE(k).differentiable_loss(model, standard_guide, rows()),
}


@pytest.mark.parametrize("num_particles", [ROWS - 1, ROWS, ROWS + 1])
@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("model", [pairwise_model, lifted_model])
def test_an_axis_of_no_plate_is_refused_whatever_the_number_of_particles(
    model, door, num_particles
):
    with pytest.raises(
        ValueError,
        match=r"belongs to no plate|axis of its own|for values of shape|declare any other",
    ):
        DOORS[door](model, num_particles)


@pytest.mark.parametrize("num_particles", [2, 3, 4])
@pytest.mark.parametrize("door", ["log_weights", "log_evidence"])
def test_features_left_of_the_rows_are_refused_whatever_the_number_of_particles(
    door, num_particles
):
    with pytest.raises(ValueError, match=r"belongs to no plate|axis of its own|declare any other"):
        DOORS[door](transposed_model, num_particles)


def test_fit_refuses_them_before_the_first_step():
    class Program(nn.Module):
        def __init__(self, program):
            super().__init__()
            self.program, self.shift = program, nn.Parameter(torch.zeros(()).double())

        def forward(self, x):
            return self.program(x + 0 * self.shift)

    for model in (pairwise_model, transposed_model, lifted_model):
        for batch_size, k in ((ROWS, ROWS), (3, 3)):
            training = pv.Training(num_epochs=1, batch_size=batch_size, progress=False)
            with pytest.raises(ValueError, match="belongs to no plate"):
                pv.fit(
                    Program(model),
                    Program(standard_guide),
                    rows(),
                    objective=objectives.IWAE(k),
                    training=training,
                )


def test_the_error_names_site_shapes_and_axis():
    message = (
        r"site 'x' has log-probabilities of shape \(4, 5\), and its plates have shape \(5,\): "
        r"axis -2, of size 4, "
        r"belongs to no plate. Keep particles as the leftmost axis"
    )
    with pytest.raises(ValueError, match=message):
        pv.log_weights(lifted_model, standard_guide, rows())


def with_repeats(dim):
    """z ~ N(0, 1) per row, x_m ~ N(z, 1) for each of three repeats, their plate inside "data"."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            with pyro.plate("repeats", 3, dim=dim):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.mT)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.sum(-1) / 4, 0.5))

    return model, guide


@pytest.mark.parametrize("dim", [-2, None])
@pytest.mark.parametrize("num_particles", [1, 3, ROWS])
def test_a_plate_inside_the_data_plate_is_found(dim, num_particles):
    """Exact guide: log w is log p(x). Without a dim Pyro puts the plate to the left of the
    particles at first."""
    model, guide = with_repeats(dim)
    x = rows()
    exact = dist.MultivariateNormal(torch.zeros(3).double(), torch.eye(3).double() + 1).log_prob(x)
    log_w = log_terms(model, guide, x, num_particles=num_particles).log_weights
    torch.testing.assert_close(log_w, exact.expand(num_particles, -1), rtol=0, atol=1e-10)
    for objective in (objectives.IWAE(num_particles), objectives.TraceELBO(num_particles)):
        torch.testing.assert_close(objective.bound(model, guide, x), exact, rtol=0, atol=1e-10)


class Tilted(nn.Module):
    """A guide with a factor, an observed site and a deterministic one, inside the plate and
    outside."""

    def __init__(self, inside=True):
        super().__init__()
        self.inside = inside
        self.loc = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.tilt = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(ZERO, 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample(
                "x", dist.Normal(z.unsqueeze(-1).expand(*z.shape, 3), 1.0).to_event(1), obs=x
            )

    def guide(self, x):
        if not self.inside:
            pyro.factor("tilt", self.tilt.square(), has_rsample=True)
            pyro.sample("seen", dist.Normal(self.tilt, 1.0), obs=torch.ones(()).double())
        pyro.deterministic("anywhere", self.loc.expand(2))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.loc, 0.7))
            pyro.deterministic("twice", 3 * z)
            if self.inside:
                pyro.factor("tilt", self.tilt * z.square(), has_rsample=True)
                pyro.sample("seen", dist.Normal(self.tilt, 1.0), obs=z.detach())

    def log_factors(self, z):
        if not self.inside:
            return self.tilt.square() + dist.Normal(self.tilt, 1.0).log_prob(
                torch.ones(()).double()
            )
        return self.tilt * z.square() + dist.Normal(self.tilt, 1.0).log_prob(z)


@pytest.mark.parametrize("inside", [True, False])
def test_factors_and_observations_of_the_guide_count_as_in_pyro(inside):
    program, x = Tilted(inside), rows()
    found = []
    for objective in (objectives.TraceELBO(), Trace_ELBO(max_plate_nesting=1)):
        with (
            pv.seeded(0),
            pyro.validation_enabled(False),
        ):  # Pyro would warn of sites that the model has not
            loss = objective.differentiable_loss(program.model, program.guide, x)
        found.append((loss.detach(), *torch.autograd.grad(loss, list(program.parameters()))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("kl_weight", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_particles", [1, 4])
def test_factors_of_the_guide_are_not_annealed(kl_weight, num_particles):
    program, x = Tilted(), rows()
    terms = log_terms(program.model, program.guide, x, num_particles=num_particles)
    z = terms.guide_trace.nodes["z"]["value"]
    likelihood = dist.Normal(z.unsqueeze(-1), 1.0).log_prob(x).sum(-1)
    kl = dist.Normal(0.0, 1.0).log_prob(z) - dist.Normal(program.loc, 0.7).log_prob(z)
    found = objectives.IWAE(num_particles).annealed(kl_weight).log_weights(terms)
    torch.testing.assert_close(found, likelihood + kl_weight * kl - program.log_factors(z))


def test_objectives_alone_refuse_a_plate_without_a_size():
    def program(x):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))

    def model(x):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x[:, 0])

    with pytest.raises(
        ValueError,
        match=r'plate "data" has no size|write pyro.plate\("data", len\(x\), dim=-1\)',
    ):
        objectives.IWAE(2).loss(model, program, rows())
