"""Missing values: nothing in log p(x given z), nothing in its gradient, whatever the likelihood's
support is."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import LIKELIHOODS, data_for, entry_of, vae
from pyro.distributions import constraints

import ppl_vae as pv
from ppl_vae import likelihoods, posteriors, priors
from ppl_vae.families.likelihoods import Likelihood
from ppl_vae.families.missing import observed_part, stand_in
from ppl_vae.runtime.recording import recorded

# From three parameters a, one for each element: a distribution of independent elements.
ELEMENTWISE = {
    "real": lambda a: dist.Normal(a, 1.0),
    "real, heavy": lambda a: dist.Cauchy(a, a.exp()),
    "positive": lambda a: dist.LogNormal(a, 1.0),
    "nonnegative": lambda a: dist.Gamma(a.exp(), 2.0),
    "nonnegative, half normal": lambda a: dist.HalfNormal(a.exp()),
    "positive, inverse gamma": lambda a: dist.InverseGamma(a.exp(), 1.0),
    "unit interval": lambda a: dist.Beta(a.exp(), a.exp() + 1),
    "interval": lambda a: dist.TransformedDistribution(
        dist.Beta(a.exp(), 2.0), dist.transforms.AffineTransform(-5.0, 2.0)
    ),
    "interval that moves": lambda a: dist.Uniform(a, a.exp() + 5),
    "greater than": lambda a: dist.Pareto(a.exp(), 2.0),
    "boolean": lambda a: dist.Bernoulli(logits=a),
    "counts": lambda a: dist.Poisson(a.exp()),
    "counts from zero to n": lambda a: dist.Binomial(7, logits=a),
    "categories": lambda a: dist.Categorical(logits=torch.stack([a, 2 * a, a * a], -1)),
    "a mixture of positives": lambda a: dist.MixtureSameFamily(
        dist.Categorical(logits=torch.zeros(2, dtype=a.dtype).expand(3, 2)),
        dist.LogNormal(torch.stack([a, a + 1], -1), 1.0),
    ),
}
# From three parameters: one distribution of three elements, or of a matrix of them.
JOINT = {
    "vector": lambda a: dist.MultivariateNormal(a, torch.eye(3, dtype=a.dtype)),
    "simplex": lambda a: dist.Dirichlet(a.exp()),
    "one hot": lambda a: dist.OneHotCategorical(logits=a),
    "multinomial": lambda a: dist.Multinomial(5, logits=a),
    "positive definite": lambda a: dist.Wishart(a.exp().sum() + 3, torch.diag_embed(a.exp())),
    "triangular": lambda a: dist.LKJCholesky(3, a.exp().sum()),
    "sphere": lambda a: dist.ProjectedNormal(a),
    "independent bits": lambda a: dist.Bernoulli(logits=a).to_event(1),
}
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@every_dtype
@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_missing_elements_have_no_density_and_no_gradient(kind, dtype):
    """Over every support; the observed element's are those without a mask."""
    a = torch.tensor([0.3, -1.0, 2.0], dtype=dtype, requires_grad=True)
    distribution = ELEMENTWISE[kind](a)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = distribution.sample().to(dtype)
    alone = distribution.log_prob(x)[0]
    expected = torch.autograd.grad(alone, a, retain_graph=True)[0]
    x[1:] = torch.nan
    part, values = observed_part(distribution.to_event(1), x)
    assert distribution.support.check(values).all()
    assert values.dtype == dtype
    log_prob = part.log_prob(values)
    torch.testing.assert_close(log_prob, alone)
    torch.testing.assert_close(torch.autograd.grad(log_prob, a)[0], expected)
    assert (expected[1:] == 0).all()


@every_dtype
@pytest.mark.parametrize("kind", JOINT)
def test_a_joint_value_is_missing_as_a_whole(kind, dtype):
    a = torch.tensor([0.3, -1.0, 2.0], dtype=dtype, requires_grad=True)
    distribution = JOINT[kind](a)
    x = torch.full(distribution.event_shape, torch.nan, dtype=dtype)
    part, values = observed_part(distribution, x)
    assert distribution.support.check(values.expand(distribution.event_shape)).all()
    log_prob = part.log_prob(values)
    assert log_prob.item() == 0.0
    log_prob.backward()
    assert (a.grad == 0).all()


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_what_stands_in_can_be_recorded(kind):
    """A graph of one batch serves for another, in which other entries are missing."""

    def log_prob(x, a):
        part, values = observed_part(ELEMENTWISE[kind](a).to_event(1), x, may_miss=True)
        return part.log_prob(values)

    a = torch.tensor([0.3, -1.0, 2.0])
    with torch.random.fork_rng():
        torch.manual_seed(1)
        x = ELEMENTWISE[kind](a).sample()
    one, other = (torch.where(torch.arange(3) == i, torch.nan, x) for i in (0, 2))
    with pyro.validation_enabled(False):
        graph = recorded(log_prob, one, a)
        torch.testing.assert_close(graph(other, a), log_prob(other, a))


def test_zero_stands_in_where_it_did():
    x = torch.zeros(2)
    for support in (constraints.real, constraints.boolean, constraints.nonnegative_integer):
        assert stand_in(support, x).item() == 0.0
    assert stand_in(constraints.integer_interval(3, 7), x).item() == 3.0
    assert stand_in(constraints.less_than(-2.0), x).item() < -2.0


class LogNormal(Likelihood):
    """A likelihood of one's own: positive values."""

    num_parameters = 2
    measure = "lebesgue"
    support = constraints.positive
    remedy = "values must be positive"

    def elementwise(self, *raw):
        return dist.LogNormal(raw[0], raw[1].exp())


class Shares(Likelihood):
    """A likelihood of one's own whose elements have one joint density."""

    measure = "lebesgue"
    support = constraints.simplex
    remedy = "shares add up to one, and are missing together"

    def elementwise(self, *raw):
        return dist.Dirichlet(raw[0].exp())


def fitted(likelihood, x, dtype=torch.float32):
    model = pv.Model(priors.StandardNormal(2), likelihood, torch.nn.Linear(2, 8)).to(dtype)
    guide = pv.Guide(posteriors.MeanFieldNormal(2), 3, torch.nn.Linear(3, 8)).to(dtype)
    training = pv.Training(num_epochs=5, batch_size=20, learning_rate=1e-2, progress=False)
    result = pv.fit(model, guide, pv.Dataset(x, dtype=dtype), training=training)
    return model, guide, result


@every_dtype
def test_a_likelihood_of_ones_own_trains_with_missing_values(dtype):
    x = torch.randn(100, 3, dtype=dtype).exp()
    x[::3, 1] = torch.nan
    model, guide, result = fitted(LogNormal(3), x, dtype)
    history = result.history["train"]
    assert history[-1] > history[0]
    found = pv.log_evidence(model, guide, x, num_particles=50, progress=False).log_evidence
    assert (found > -30).all()


def test_shares_train_with_missing_rows_and_refuse_half_of_one():
    x = dist.Dirichlet(torch.ones(3)).sample((100,))
    x[::3] = torch.nan
    _, _, result = fitted(Shares(3), x)
    assert result.history["train"][-1] > result.history["train"][0]
    x[4, 1] = torch.nan
    with pytest.raises(
        ValueError, match="row 4, feature 0; shares add up to one, and are missing together"
    ):
        fitted(Shares(3), x)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_log_p_of_observed_entries_does_not_depend_on_what_stands_in(name):
    model, _ = vae(likelihood=name)
    x = data_for(name, num_data=6)
    p = model.decode(torch.randn(6, 2))
    entry = entry_of(p)
    whole = entry.log_prob(x)
    x[::2, ... if entry.event_dim else 1] = torch.nan
    missing = x.isnan().any(-1) if entry.event_dim else x.isnan()
    part, values = observed_part(p, x)
    assert p.support.check(values.expand_as(x)).all()
    expected = whole.masked_fill(missing, 0.0)
    torch.testing.assert_close(part.log_prob(values), expected.reshape(6, -1).sum(-1))
    assert {*LIKELIHOODS, "Columns"} == set(likelihoods.__all__)


def test_half_of_a_joint_value_is_refused():
    distribution = dist.MultivariateNormal(torch.zeros(3), torch.eye(3))
    with pytest.raises(
        ValueError, match="entries of MultivariateNormal have one joint density: make all"
    ):
        observed_part(distribution, torch.tensor([[0.0, torch.nan, 1.0]]))


def test_a_pyro_program_of_ones_own_masks_by_the_same_function():
    """The recipe of the how-to page: log-normal values with NaN."""
    scale = torch.nn.Parameter(torch.zeros(()))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            likelihood, values = observed_part(
                dist.LogNormal(z.expand(*z.shape[:-1], 3), scale.exp()).to_event(1), x
            )
            pyro.sample("x", likelihood, obs=values)

    x = torch.tensor([[1.0, torch.nan, 2.0]])
    trace = pyro.poutine.trace(pyro.condition(model, data={"z": torch.zeros(1, 1)})).get_trace(x)
    log_p = trace.nodes["x"]["fn"].log_prob(trace.nodes["x"]["value"]).sum()
    assert log_p.item() == pytest.approx(
        dist.LogNormal(0.0, 1.0).log_prob(torch.tensor([1.0, 2.0])).sum().item()
    )
    log_p.backward()
    assert scale.grad.item() == pytest.approx(-2 + 0.6931**2, rel=1e-3)


@pytest.mark.parametrize("missing", [False, True])
def test_a_custom_module_is_told_once_whether_values_are_missing(missing):
    told = []

    class Custom(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3))
            self.may_miss = None

        def forward(self, x):
            told.append(self.may_miss)
            with pyro.plate("data", len(x), dim=-1):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                loc = z.sum(-1, keepdim=True) * self.scale
                likelihood, values = observed_part(
                    dist.Normal(loc, 1.0).to_event(1), x, self.may_miss
                )
                pyro.sample("x", likelihood, obs=values)

    x = torch.randn(20, 3)
    if missing:
        x[0, 1] = torch.nan
    model, guide = Custom(), pv.Guide(posteriors.MeanFieldNormal(2), 3)
    training = pv.Training(num_epochs=1, batch_size=10, progress=False)
    pv.fit(model, guide, x, training=training)
    assert told[-1] is missing
    assert model.may_miss is None
    pv.log_evidence(model, guide, x, num_particles=50, progress=False)
    assert told[-1] is missing
    assert model.may_miss is None
