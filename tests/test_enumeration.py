"""Discrete latents summed out: exact log p(x), Pyro's draws and gradients, labels that are partly
known, gradients that mix paths and scores."""

import contextlib
import functools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, TraceGraph_ELBO, config_enumerate
from torch import nn

import ppl_vae as pv
from ppl_vae import objectives
from ppl_vae.diagnostics import rate_distortion
from ppl_vae.evidence import AIS, Defensive, ImportanceSampling
from ppl_vae.hmc import HMC
from ppl_vae.hmc.target import LogJoint
from ppl_vae.programs.discrete import cases
from ppl_vae.programs.traces import log_terms
from ppl_vae.refinement import GradientRefinement
from ppl_vae.tasks.anomaly import LikelihoodRegret, LogEvidence

SHARES = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
NOISE = 0.7
X = torch.linspace(-4, 4, 7, dtype=torch.float64)[:, None]
LABELS = torch.tensor([0, math.nan, 2, math.nan, math.nan, 1, math.nan], dtype=torch.float64)
LABELLED = torch.cat([X, LABELS[:, None]], dim=1)


def log_joint_of(x):
    """log p(x, y) of z ~ N(m_y, 1), x ~ N(1.3 z', ...) with z integrated out, (3, B)."""
    sd = math.sqrt(1 + NOISE**2)
    return torch.stack(
        [SHARES[c].log() + dist.Normal(1.3 * MEANS[c], sd).log_prob(x[:, 0]) for c in range(3)]
    )


def parts_of(x):
    """x, which rows have a label, and the labels (0 where there is none)."""
    labels = x[:, 1] if x.shape[1] > 1 else torch.full_like(x[:, 0], math.nan)
    return x[:, 0], ~labels.isnan(), labels.nan_to_num().long()


class Classes(nn.Module):
    """y ~ Cat, z ~ N(m_y, 1), x ~ N(z + 0.3 m_y, 0.7^2), the label in the second column of x."""

    def __init__(self):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x):
        has_labels = x.shape[1] > 1
        x, known, labels = parts_of(x)
        with pyro.plate("data", len(x), dim=-1):
            fn = dist.Categorical(SHARES)
            if has_labels:
                y = pyro.sample("y", fn, obs=labels, obs_mask=known)
            else:
                y = pyro.sample("y_unobserved", fn)
            z = pyro.sample("z", dist.Normal(MEANS[y], 1.0))
            pyro.sample("x", dist.Normal(z + self.shift * MEANS[y], NOISE), obs=x)


class ClassesGuide(nn.Module):
    """q(y given x) and q(z given x, y)."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))
        self.scale = nn.Parameter(torch.tensor(0.9, dtype=torch.float64))

    def forward(self, x):
        x, known, labels = parts_of(x)
        with pyro.plate("data", len(x), dim=-1):
            logits = self.slope * torch.stack([-x, 0 * x, x], -1)
            with poutine.mask(mask=~known) if known.any() else contextlib.nullcontext():
                y = pyro.sample("y_unobserved", dist.Categorical(logits=logits))
            y = torch.where(known, labels, y)
            pyro.sample("z", dist.Normal(0.5 * x + 0.3 * MEANS[y], self.scale))


def plain_model(x, kind=dist.Categorical, mark=None):
    means = MEANS[:, None] if kind is dist.Categorical else None
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", kind(SHARES), infer=mark or {})
        mean = means[y, 0] if means is not None else y @ MEANS
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        pyro.sample("x", dist.Normal(z + 0.3 * mean, NOISE), obs=x[:, 0])


def plain_guide(x, kind=dist.Categorical, mark=None):
    with pyro.plate("data", len(x), dim=-1):
        logits = 0.3 * torch.stack([-x[:, 0], 0 * x[:, 0], x[:, 0]], -1)
        y = pyro.sample("y", kind(logits=logits), infer=mark or {})
        mean = MEANS[y] if kind is dist.Categorical else y @ MEANS
        pyro.sample("z", dist.Normal(0.5 * x[:, 0] + 0.3 * mean, 0.9))


def z_guide(x):
    with pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.7 * x[:, 0], 1.4))


MARK = {"enumerate": "parallel"}
PAIRS = {
    "in the guide": (plain_model, plain_guide),
    "one-hot": tuple(
        functools.partial(f, kind=dist.OneHotCategorical) for f in (plain_model, plain_guide)
    ),
    "marked in both": tuple(functools.partial(f, mark=MARK) for f in (plain_model, plain_guide)),
    "marked in the model": (functools.partial(plain_model, mark=MARK), z_guide),
}


def log_p(x):
    """Exact log p(x), or log p(x, y) where the label is given."""
    _, known, labels = parts_of(x)
    joint = log_joint_of(x)
    return torch.where(known, joint[labels, torch.arange(len(x))], joint.logsumexp(0))


def agrees(evidence, x, level=4.5):
    exact = log_p(x).numpy()
    return (np.abs(evidence.log_evidence - exact) < level * evidence.mc_se + 1e-9).all()


METHODS = {
    "guide": ImportanceSampling(3000),
    "prior": ImportanceSampling(3000, "prior"),
    "defensive": ImportanceSampling(3000, Defensive()),
}
ANNEALED = {"ais": AIS(30, 4), "ais from the prior": AIS(30, 4, start="prior")}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_log_p_sums_discrete_latents_out(pair, method):
    assert agrees(pv.log_evidence(*pair, X, method, progress=False), X)


@pytest.mark.parametrize("method", ANNEALED.values(), ids=ANNEALED)
@pytest.mark.parametrize("name", ["in the guide", "marked in the model"])
def test_annealing_sums_discrete_latents_out(name, method):
    evidence = pv.log_evidence(*PAIRS[name], X[::3], method, progress=False)
    assert agrees(evidence, X[::3])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_labels_are_used_where_they_are_given(method):
    evidence = pv.log_evidence(Classes(), ClassesGuide(), LABELLED, method, progress=False)
    assert agrees(evidence, LABELLED)


def overconfident(x):
    """q(z given x, y) exact, and q(y given x) = (1e-6, 1e-6, 1 - 2e-6) everywhere."""
    variance = 1 / (1 + NOISE**-2)
    shares = torch.tensor([1e-6, 1e-6, 1 - 2e-6], dtype=torch.float64)
    with pyro.plate("data", len(x), dim=-1):
        y = pyro.sample("y", dist.Categorical(shares.expand(len(x), 3)))
        mean = variance * (MEANS[y] + (x[:, 0] - 0.3 * MEANS[y]) / NOISE**2)
        pyro.sample("z", dist.Normal(mean, variance**0.5))


def test_anomaly_scores_sum_discrete_latents_out():
    """With q(z given x, y) exact, weights that sum y out are p(x), without noise; there is no
    regret but for three steps of refinement (one that had q(y given x) would have 13 nats)."""
    data = pv.Dataset(X)
    pair = (plain_model, overconfident)
    score = LogEvidence(num_particles=3, refinement=None)
    assert np.allclose(score.oddness(*pair, data, progress=False), -log_p(X), atol=1e-6)
    regret = LikelihoodRegret(3, GradientRefinement(num_steps=3))
    assert np.allclose(regret.oddness(*pair, data[:2], progress=False), 0, atol=0.05)


def test_rate_and_distortion_weigh_discrete_latents_by_q():
    """sum_y q(y) (log p(x, y) - log q(y)), without noise; the evidence has log p(x) itself."""
    pair = (plain_model, overconfident)
    q = torch.tensor([1e-6, 1e-6, 1 - 2e-6], dtype=torch.float64)[:, None]
    exact = (q * (log_joint_of(X) - q.log())).sum(0)
    found = rate_distortion(*pair, X, num_particles=5, progress=False)
    assert np.allclose(found.elbo, exact, atol=1e-6)
    assert np.allclose(found.rate + found.distortion, -found.elbo)
    assert (found.elbo_se < 1e-6).all()
    evidence = pv.log_evidence(*pair, X, num_particles=30, progress=False)
    assert np.allclose(evidence.elbo, log_p(X), atol=1e-6)
    assert (evidence.elbo - found.elbo > -1e-6).all()
    assert cases.draws_discrete(plain_guide, X)
    assert not cases.draws_discrete(z_guide, X)


def test_sums_have_less_noise_than_draws():
    """Enumerated weights of an exact q(z given x, y) are constant."""
    variance = 1 / (1 + 1 / NOISE**2)

    def exact_guide(x):
        with pyro.plate("data", len(x), dim=-1):
            y = pyro.sample("y", dist.Categorical(torch.ones(3).double()))
            mean = variance * (MEANS[y] + (x[:, 0] - 0.3 * MEANS[y]) / NOISE**2)
            pyro.sample("z", dist.Normal(mean, variance**0.5))

    log_w = pv.log_weights(plain_model, exact_guide, X, num_particles=5, seed=0)
    assert torch.allclose(log_w, log_p(X).expand(5, -1), atol=1e-10)


@pytest.mark.parametrize("name", ["in the guide", "marked in the model"])
def test_hmc_follows_the_marginal_density(name):
    """log p(x, z) = log sum_y p(x, y, z), and log p(z) alike."""
    model, guide = PAIRS[name]
    terms = log_terms(model, guide, X, num_particles=2)
    log_joint = LogJoint(terms, model, X)
    z = torch.randn(2, 7, 1, generator=torch.Generator().manual_seed(0)).double()
    prior = torch.stack(
        [SHARES[c].log() + dist.Normal(MEANS[c], 1.0).log_prob(z) for c in range(3)]
    )
    means = z + 0.3 * MEANS[:, None, None, None]
    expected = (prior + dist.Normal(means, NOISE).log_prob(X)).logsumexp(0)[..., 0]
    assert torch.allclose(log_joint(z), expected, atol=1e-10)
    assert torch.allclose(log_joint.parts(z).log_prior, prior.logsumexp(0)[..., 0], atol=1e-10)


def test_chains_draw_from_the_posterior_of_z():
    sampler = HMC(num_samples=60, num_warmup=40, num_leapfrog=3)
    x = X[2:3]
    chains = pv.sample_posterior(plain_model, plain_guide, x, num_chains=40, sampler=sampler)
    variance = 1 / (1 + 1 / NOISE**2)
    means = variance * (MEANS[:, None] + (x[:, 0] - 0.3 * MEANS[:, None]) / NOISE**2)
    exact = (log_joint_of(x).softmax(0) * means).sum(0)
    by_chain = chains["z"].mean(0)[:, 0]
    assert (by_chain.mean() - exact).abs() < 4 * by_chain.std() / 40**0.5


def test_words_in_an_inner_plate_are_summed_one_by_one():
    topics = torch.randn(3, 6, generator=torch.Generator().manual_seed(0)).double().softmax(-1)
    words = torch.randint(0, 6, (4, 5), generator=torch.Generator().manual_seed(1))

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3).double()))
            with pyro.plate("words", x.shape[1], dim=-2):
                topic = pyro.sample("topic", dist.Categorical(shares), infer=MARK)
                pyro.sample("word", dist.Categorical(topics[topic]), obs=x.mT)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("shares", dist.Dirichlet(2 * torch.ones(3).double()))

    terms = log_terms(model, guide, words, num_particles=3)
    shares = terms.guide_trace.nodes["shares"]["value"].reshape(3, 4, 1, 3)
    by_word = (shares @ topics).expand(3, 4, 5, 6).gather(-1, words[..., None].expand(3, 4, 5, 1))
    assert torch.allclose(terms.log_likelihood, by_word.log().sum((-1, -2)), atol=1e-12)
    assert terms.prior_sites.keys() == {"shares"}


def test_a_hidden_markov_chain_equals_the_forward_algorithm():
    start = torch.tensor([0.6, 0.4]).double()
    moves = torch.tensor([[0.8, 0.2], [0.3, 0.7]]).double()
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).double()

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            state = None
            for t in pyro.markov(range(x.shape[1])):
                shares = start if state is None else moves[state]
                state = pyro.sample(f"state_{t}", dist.Categorical(shares), infer=MARK)
                pyro.sample(f"x_{t}", dist.Normal(2.0 * state, 1.0), obs=x[:, t])

    def guide(x):
        pass

    log_w = pv.log_weights(model, guide, x, num_particles=1)
    emission = dist.Normal(torch.tensor([0.0, 2.0]).double(), 1.0).log_prob(x.unsqueeze(-1))
    forward = start.log() + emission[:, 0]
    for t in range(1, 5):
        forward = (forward.unsqueeze(-1) + moves.log()).logsumexp(1) + emission[:, t]
    assert torch.allclose(log_w[0], forward.logsumexp(-1), atol=1e-10)


# --- training -------------------------------------------------------------------------------------


def gradients(objective, model, guide, x, seed=0):
    """The loss and its gradient for each parameter."""
    parameters = [*model.parameters(), *guide.parameters()]
    with pv.seeded(seed):
        loss = objective.differentiable_loss(model, guide, x)
    return loss.detach(), torch.stack(torch.autograd.grad(loss, parameters))


def test_marked_models_equal_pyro_draw_by_draw():
    model, guide = PAIRS["marked in the model"]
    with pv.seeded(0):
        ours = objectives.TraceELBO(4).loss(model, guide, X)
    with pv.seeded(0):
        elbo = TraceEnum_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
        theirs = elbo.loss(model, guide, X)
    assert abs(ours - theirs) < 1e-9


def test_the_enumerated_elbo_agrees_with_pyro_and_has_the_gradient_of_its_exact_value():
    """Losses and gradients of both average to the closed form, within 4.5 standard errors."""
    model, guide = Classes(), ClassesGuide()
    pyros = TraceEnum_ELBO(num_particles=1, max_plate_nesting=1)
    marked = config_enumerate(guide)
    runs = {"ours": (objectives.EnumeratedELBO(), guide), "Pyro's": (pyros, marked)}
    rows = X.repeat(30, 1)
    exact = exact_elbo(model, guide, rows)
    parameters = [*model.parameters(), *guide.parameters()]
    exact_gradient = torch.stack(torch.autograd.grad(exact, parameters))
    for name, (objective, program) in runs.items():
        found = []
        for seed in range(40):
            with pv.seeded(seed):
                loss = objective.differentiable_loss(model, program, rows)
            found.append(torch.stack([loss.detach(), *torch.autograd.grad(loss, parameters)]))
        found = torch.stack(found)
        target = -torch.cat([exact.detach()[None], exact_gradient])
        error = (found.mean(0) - target).abs()
        assert (error < 4.5 * found.std(0) / 40**0.5 + 1e-9).all(), name


def exact_elbo(model, guide, x):
    """The ELBO of unlabelled rows in closed form: normal expectations."""
    x = x[:, 0]
    log_q = (guide.slope * torch.stack([-x, 0 * x, x], -1)).log_softmax(-1)
    total = 0.0
    for c in range(3):
        loc = 0.5 * x + 0.3 * MEANS[c]
        variance = guide.scale**2
        prior = dist.Normal(MEANS[c], 1.0).log_prob(loc) - variance / 2
        likelihood = dist.Normal(loc + model.shift * MEANS[c], NOISE).log_prob(x)
        likelihood = likelihood - variance / (2 * NOISE**2)
        entropy = guide.scale.log() + 0.5 * math.log(2 * math.pi * math.e)
        inner = SHARES[c].log() + prior + likelihood + entropy - log_q[:, c]
        total = total + (log_q[:, c].exp() * inner).sum()
    return total


def test_known_labels_have_their_own_elbo_and_a_loss():
    """Rows with labels are as with y observed; the loss is the weight times log q(y given x)."""
    model, guide = Classes(), ClassesGuide()
    plain, weighted = (objectives.EnumeratedELBO(3, label_weight=w) for w in (0.0, 2.0))
    with torch.no_grad():
        bounds = []
        for objective in (plain, weighted):
            with pv.seeded(0):
                bounds.append(objective.bound(model, guide, LABELLED))
    x, known, labels = parts_of(LABELLED)
    log_q = (guide.slope * torch.stack([-x, 0 * x, x], -1)).log_softmax(-1)
    expected = torch.where(known, 2 * log_q[torch.arange(7), labels], 0.0)
    assert torch.allclose(bounds[1] - bounds[0], expected, atol=1e-10)
    many = objectives.EnumeratedELBO(4000)
    with pv.seeded(1):
        found = many.bound(model, guide, LABELLED)
    exact = torch.stack([exact_elbo(model, guide, row[None]) for row in X]).detach()
    assert (found - exact)[~known].abs().max() < 0.1
    assert (found < log_p(LABELLED) + 0.05).all()


def test_the_enumerated_elbo_needs_a_discrete_latent():
    from ppl_vae import beds

    bed = beds.linear_gaussian(num_data=3)
    with pytest.raises(ValueError, match="the guide draws no discrete latent"):
        objectives.EnumeratedELBO().loss(bed.model, bed.guide, bed.x)


def test_paths_and_scores_together_are_unbiased():
    """Means of 40 gradients of 3,500 rows agree with the exact one within 4.5 standard errors, and
    these are within 3 % of the gradient of q(y given x)."""
    model, guide = Classes(), ClassesGuide()
    parameters = [*model.parameters(), *guide.parameters()]
    rows = X.repeat(500, 1)
    exact = torch.stack(torch.autograd.grad(-exact_elbo(model, guide, rows), parameters))
    for gradient in (
        objectives.PathAndScore(),
        objectives.PathAndScore("moving-average"),
        objectives.PathAndScore(None),
    ):
        objective = objectives.TraceELBO(2, gradient=gradient)
        found = torch.stack([gradients(objective, model, guide, rows, s)[1] for s in range(40)])
        error = (found.mean(0) - exact).abs()
        se = found.std(0) / 40**0.5
        assert (error < 4.5 * se + 1e-9).all(), gradient
        assert se[1] < 0.03 * exact[1].abs(), gradient


class Twins(nn.Module):
    """Two bits of each row, each with an observation of its own; the second one is far off."""

    def __init__(self, options=None):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2, dtype=torch.float64))
        self.network = nn.Linear(2, 1).double()
        self.options = options or {}

    def model(self, x):
        with pyro.plate("data", len(x), dim=-1):
            a = pyro.sample("a", dist.Bernoulli(torch.tensor(0.5).double()))
            b = pyro.sample("b", dist.Bernoulli(torch.tensor(0.5).double()))
            pyro.sample("xa", dist.Normal(a, 1.0), obs=x[:, 0])
            pyro.sample("xb", dist.Normal(100 * b, 1.0), obs=x[:, 1])

    def guide(self, x):
        with pyro.plate("data", len(x), dim=-1):
            for name, logit in zip("ab", self.logits, strict=True):
                infer = {}
                if self.options:
                    infer = {"baseline": {"nn_baseline": self.network, "nn_baseline_input": x}}
                pyro.sample(name, dist.Bernoulli(logits=logit.expand(len(x))), infer=infer)


def noise_of(objective, program, x, repeats=30):
    found = []
    for seed in range(repeats):
        with pv.seeded(seed):
            loss = objective.differentiable_loss(program.model, program.guide, x)
        found.append(torch.autograd.grad(loss, program.logits)[0])
    return torch.stack(found)


def test_a_score_has_only_the_terms_that_depend_on_its_latent():
    """Without Rao-Blackwellisation the second bit's likelihood, thousands of nats, would be in the
    first one's gradient. The noise is that of Pyro's TraceGraph_ELBO."""
    x = torch.zeros(4, 2, dtype=torch.float64)
    program = Twins()
    ours = noise_of(objectives.TraceELBO(1, gradient=objectives.PathAndScore(None)), program, x)
    pyros = []
    for seed in range(30):
        program.zero_grad()
        with pv.seeded(seed):
            TraceGraph_ELBO().loss_and_grads(program.model, program.guide, x)
        pyros.append(program.logits.grad.clone())
    pyros = torch.stack(pyros)
    assert torch.allclose(ours, pyros, atol=1e-9)
    whole = noise_of(objectives.TraceELBO(1, gradient=objectives.ScoreFunction(None)), program, x)
    assert ours.var(0)[0] < whole.var(0)[0] / 1e4


def test_a_network_learns_the_baseline_of_its_site():
    """The loss is minus the bound, and its gradient for the network that of the squared error."""
    x = torch.tensor([[0.0, 90.0], [1.0, 20.0]], dtype=torch.float64)
    program = Twins(options=True)
    objective = objectives.TraceELBO(1, gradient=objectives.PathAndScore(None))
    with pv.seeded(3):
        loss = objective.differentiable_loss(program.model, program.guide, x)
    loss.backward()
    with pv.seeded(3), torch.no_grad():
        terms = log_terms(program.model, program.guide, x)
        assert abs(loss.item() + terms.log_weights.sum()) < 1e-6
        slope = 0.0
        for name, scale in (("a", 1.0), ("b", 100.0)):
            value = terms.guide_trace.nodes[name]["value"][0]
            log_p = dist.Normal(scale * value, 1.0).log_prob(x[:, "ab".index(name)])
            cost = log_p + terms.prior_sites[name][0] - terms.posterior_sites[name][0]
            slope = slope - 2 * (cost - program.network(x)[:, 0]).sum()
    assert torch.allclose(program.network.bias.grad[0], slope)


def test_mixed_gradients_refuse_what_they_are_not_defined_for():
    with pytest.raises(ValueError, match=r"TraceELBO num_particles >= 2, or use PathAndScore"):
        objectives.TraceELBO(1, gradient=objectives.PathAndScore())
    with pytest.raises(ValueError, match="use TraceELBO or IWAE"):
        objectives.MeanFieldELBO(gradient=objectives.PathAndScore(None))


def test_fit_trains_a_model_with_known_and_unknown_labels():
    """From a wrong q(y given x), the bound comes within 0.1 nats of log p(x)."""
    model, guide = Classes(), ClassesGuide()
    with torch.no_grad():
        guide.slope.fill_(-0.5)
    model.shift.requires_grad_(False)
    rows = LABELLED.repeat(10, 1)
    training = pv.Training(num_epochs=60, batch_size=70, learning_rate=0.05, progress=False, seed=0)
    objective = objectives.EnumeratedELBO(5, label_weight=0.1)
    pv.fit(model, guide, rows, objective=objective, training=training)
    evidence = pv.log_evidence(model, guide, LABELLED, num_particles=2000)
    assert agrees(evidence, LABELLED)
    assert guide.slope > 0.5


# --- values as blocks of particles ----------------------------------------------------------------


def with_two_classes(x, observed):
    """A global g, u before two classes, one of them in a plate of its own; nothing after them."""
    g = pyro.sample("g", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), dim=-1):
        u = pyro.sample("u", dist.Normal(g, 1.0))
        y = pyro.sample("y", dist.Bernoulli(logits=u))
        with pyro.plate("twice", 2, dim=-2):
            t = pyro.sample("t", dist.Bernoulli(logits=u - y))
        if observed:
            mean = u + y + 2 * t[..., :1, :] - t[..., 1:, :]
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x[:, 0])


def test_values_in_one_run_are_those_of_one_run_each(monkeypatch):
    """Nothing is drawn after the classes, so that the terms are equal whatever shares a run."""
    programs = tuple(functools.partial(with_two_classes, observed=o) for o in (True, False))
    x = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    with pv.seeded(0):
        terms = log_terms(*programs, x, num_particles=3)
    found = []
    for pairs in (1, 2 * 15, 10_000):
        monkeypatch.setattr(cases, "PAIRS", pairs)
        found.append(cases.cases_of(terms, *programs, x))
    assert [len(each.terms) for each in found] == [8, 4, 1]
    for each in found:
        assert each.log_weights.shape == (8, 3, 5)
        torch.testing.assert_close(each.log_weights, found[0].log_weights)
        torch.testing.assert_close(each.log_q_discrete, found[0].log_q_discrete)
    torch.testing.assert_close(
        found[0].log_q_discrete.logsumexp(0), torch.zeros(3, 5), rtol=0, atol=1e-5
    )
