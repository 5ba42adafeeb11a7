"""The kinds of Pyro programs that go through unchanged, each written as its authors would: one
table."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.nn.functional import softplus

from ppl_vae import Dataset

ROWS = 5


@dataclass
class Kind:
    """A program and its rows."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    data: Dataset
    of_rows: bool = True  # whether the guide takes some rows without the others
    scale: float = 1.0  # of each row, by the program's own poutine.scale
    x_is: str | None = None  # the parameter that x is, if not the first

    def arguments(self, rows: slice) -> tuple[tuple[torch.Tensor, ...], dict[str, Any]]:
        """The arguments of the programs for these rows, as its authors would give them."""
        named = {name: each[rows] for name, each in self.data.args.items()} | self.data.constants
        x = self.data.x[rows]
        if self.x_is is None:
            return (x,), named
        return (), named | {self.x_is: x.squeeze(-1) if x.shape[1:] == (1,) else x}


def dataset(x, **options):
    return Dataset(x, dtype=torch.float64, **options)


def counts(shape, rate=2.0):
    return torch.poisson(torch.full(shape, rate))


def normal(*shape):
    return torch.randn(*shape)


def positive(values):
    return softplus(values) + 0.1


class Plain(nn.Module):
    """A VAE whose networks take two dims alone: views, torch.mm, batch normalisation."""

    def __init__(self, num_features=3, latent_dim=2):
        super().__init__()
        self.num_features = num_features
        self.latent_dim = latent_dim
        self.decoder = nn.Sequential(
            nn.Linear(latent_dim, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, num_features)
        )
        self.encoder = nn.Linear(num_features, 2 * latent_dim)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("batch", x.shape[0]):
            zeros = x.new_zeros([x.shape[0], self.latent_dim])
            z = pyro.sample("latent", dist.Normal(zeros, 1.0).to_event(1))
            logits = self.decoder(z.view(-1, self.latent_dim))
            pyro.sample("obs", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("batch", x.shape[0]):
            raw = self.encoder(x.view(-1, self.num_features))
            loc, scale = raw.chunk(2, dim=1)
            pyro.sample("latent", dist.Normal(loc, scale.exp()).to_event(1))


def plain():
    program = Plain()
    x = torch.bernoulli(torch.full((ROWS, 3), 0.5))
    return Kind(program.model, program.guide, dataset(x))


class Conditional(nn.Module):
    """Outputs given inputs, under a plate without a size."""

    def __init__(self):
        super().__init__()
        self.prior = nn.Linear(4, 2)
        self.recognition = nn.Linear(7, 4)
        self.generation = nn.Linear(2, 3)

    def model(self, inputs, outputs=None):
        pyro.module("conditional", self)
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(self.prior(inputs), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(self.generation(z), 0.5).to_event(1), obs=outputs)

    def guide(self, inputs, outputs=None):
        with pyro.plate("data"):
            raw = self.recognition(torch.cat([inputs, outputs], -1))
            pyro.sample("z", dist.Normal(raw[..., :2], positive(raw[..., 2:])).to_event(1))


def conditional():
    program = Conditional()
    args = {"inputs": normal(ROWS, 4)}
    data = dataset(normal(ROWS, 3), args=args)
    return Kind(program.model, program.guide, data, x_is="outputs")


class DeepMarkov(nn.Module):
    """A deep Markov model of sequences of unequal lengths, its guide a recurrent network with a
    flow."""

    def __init__(self):
        super().__init__()
        self.transition = nn.Linear(2, 4)
        self.emission = nn.Linear(2, 3)
        self.rnn = nn.RNN(3, 4, batch_first=True)
        self.combiner = nn.Linear(2 + 4, 4)
        self.flow = affine_autoregressive(2, hidden_dims=[4])
        self.start = nn.Parameter(torch.zeros(2))

    def model(self, sequences, lengths, annealing_factor=1.0):
        pyro.module("dmm", self)
        mask = torch.arange(sequences.shape[1]) < lengths.unsqueeze(-1)
        z = self.start.expand(len(sequences), 2)
        with pyro.plate("sequences", len(sequences)):
            for t in pyro.markov(range(sequences.shape[1])):
                raw = self.transition(z)
                with poutine.scale(scale=annealing_factor):
                    normal = dist.Normal(raw[..., :2], positive(raw[..., 2:]))
                    z = pyro.sample(f"z_{t}", normal.mask(mask[:, t : t + 1]).to_event(1))
                emission = dist.Bernoulli(logits=self.emission(z)).mask(mask[:, t : t + 1])
                pyro.sample(f"x_{t}", emission.to_event(1), obs=sequences[:, t])

    def guide(self, sequences, lengths, annealing_factor=1.0):
        pyro.module("dmm", self)
        mask = torch.arange(sequences.shape[1]) < lengths.unsqueeze(-1)
        packed = nn.utils.rnn.pack_padded_sequence(
            sequences.flip(1), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(
            self.rnn(packed)[0], batch_first=True, total_length=sequences.shape[1]
        )
        z = self.start.expand(len(sequences), 2)
        with pyro.plate("sequences", len(sequences)):
            for t in pyro.markov(range(sequences.shape[1])):
                state = states[:, t].expand(*z.shape[:-1], -1)
                raw = self.combiner(torch.cat([z, state], -1))
                with poutine.scale(scale=annealing_factor):
                    base = dist.Normal(raw[..., :2], positive(raw[..., 2:]))
                    flow = dist.TransformedDistribution(base, [self.flow])
                    z = pyro.sample(f"z_{t}", flow.mask(mask[:, t]))


def deep_markov():
    program = DeepMarkov()
    x = torch.bernoulli(torch.full((ROWS, 3, 3), 0.5))
    args = {"lengths": torch.tensor([3, 1, 2, 3, 2]), "annealing_factor": 1.0}
    return Kind(program.model, program.guide, dataset(x, args=args))


class GammaFamily:
    """A sparse deep exponential family: global weights, two layers of local gammas."""

    def __init__(self, num_features=4):
        self.num_features = num_features
        self.encoder = nn.Linear(num_features, 10)

    def model(self, x):
        one = torch.tensor(1.0, dtype=x.dtype)
        with pyro.plate("top_weights", 2 * 3):
            top = pyro.sample("w_top", dist.Gamma(one, one))
        with pyro.plate("bottom_weights", 3 * self.num_features):
            bottom = pyro.sample("w_bottom", dist.Gamma(one, one))
        with pyro.plate("images", x.shape[0]):
            z_top = pyro.sample("z_top", dist.Gamma(one, one).expand([2]).to_event(1))
            mean = torch.matmul(z_top, top.reshape(-1, 2, 3)) + 0.1
            z_mid = pyro.sample("z_mid", dist.Gamma(2 * one, 2 / mean).to_event(1))
            rate = torch.matmul(z_mid, bottom.reshape(-1, 3, self.num_features)) + 0.1
            pyro.sample("obs", dist.Poisson(rate).to_event(1), obs=x)

    def guide(self, x):
        def weights(name, size):
            shape = pyro.param(f"shape_{name}", lambda: 3 * x.new_ones(size), constraints.positive)
            rate = pyro.param(f"rate_{name}", lambda: 3 * x.new_ones(size), constraints.positive)
            pyro.sample(f"w_{name}", dist.Gamma(shape, rate))

        with pyro.plate("top_weights", 2 * 3):
            weights("top", 2 * 3)
        with pyro.plate("bottom_weights", 3 * self.num_features):
            weights("bottom", 3 * self.num_features)
        raw = positive(self.encoder(x.log1p()))
        with pyro.plate("images", x.shape[0]):
            pyro.sample("z_top", dist.Gamma(raw[..., :2], raw[..., 2:4]).to_event(1))
            pyro.sample("z_mid", dist.Gamma(raw[..., 4:7], raw[..., 7:10]).to_event(1))


def gamma_family():
    program = GammaFamily()
    return Kind(program.model, program.guide, dataset(counts((ROWS, 4))))


class Topics(nn.Module):
    """A topic model by a product of experts, with batch normalisation in both networks."""

    def __init__(self, num_words=4, num_topics=3):
        super().__init__()
        self.num_topics = num_topics
        self.beta = nn.Linear(num_topics, num_words, bias=False)
        self.norm = nn.BatchNorm1d(num_words, affine=False)
        self.encoder = nn.Linear(num_words, 2 * num_topics)

    def model(self, docs):
        pyro.module("topics", self)
        with pyro.plate("documents", docs.shape[0]):
            loc = docs.new_zeros((docs.shape[0], self.num_topics))
            log_theta = pyro.sample("log_theta", dist.Normal(loc, 1.0).to_event(1))
            shares = self.norm(self.beta(log_theta.softmax(-1))).softmax(1)
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, shares), obs=docs)

    def guide(self, docs):
        pyro.module("topics", self)
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = self.encoder(docs.log1p()).chunk(2, -1)
            pyro.sample("log_theta", dist.Normal(loc, positive(scale)).to_event(1))


def topics():
    program = Topics()
    return Kind(program.model, program.guide, dataset(counts((ROWS, 4))))


class Labelled(nn.Module):
    """Counts with labels: the guide has a factor, the loss of its classifier."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.Linear(2 + 3, 4)
        self.encoder = nn.Linear(4 + 3, 4)
        self.classifier = nn.Linear(4, 3)

    def model(self, x, y):
        theta = pyro.param("dispersion", x.new_ones(4), constraint=constraints.positive)
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.5):
            z = pyro.sample("z", dist.Normal(0, x.new_ones(2)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)), obs=y)
            size = pyro.sample("size", dist.LogNormal(0.0, x.new_ones(1)).to_event(1))
            shape = torch.broadcast_shapes(z.shape[:-1], y.shape[:-1])
            both = torch.cat([z.expand(*shape, -1), y.expand(*shape, -1)], -1)
            mu = self.decoder(both).softmax(-1)
            logits = (size * mu + 1e-6).log() - theta.log()
            negative = dist.NegativeBinomial(theta, logits=logits)
            pyro.sample("x", negative.to_event(1), obs=x)

    def guide(self, x, y):
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.5):
            loss = dist.OneHotCategorical(logits=self.classifier(x.log1p())).log_prob(y)
            pyro.factor("classification", -0.1 * loss, has_rsample=False)
            loc, scale = self.encoder(torch.cat([x.log1p(), y], -1)).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, positive(scale)).to_event(1))
            pyro.sample("size", dist.LogNormal(x.new_zeros(1), 0.5).to_event(1))


def labelled():
    program = Labelled()
    y = torch.eye(3)[torch.arange(ROWS) % 3]
    data = dataset(counts((ROWS, 4)), args={"y": y})
    return Kind(program.model, program.guide, data, scale=0.5)


class Causal(nn.Module):
    """Covariates, a treatment and an outcome; the guide observes treatment and outcome too."""

    def __init__(self):
        super().__init__()
        self.x_nn = nn.Linear(2, 3)
        self.t_nn = nn.Linear(2, 1)
        self.y_nn = nn.Linear(2 + 1, 1)
        self.t_guide = nn.Linear(3, 1)
        self.y_guide = nn.Linear(4, 1)
        self.z_guide = nn.Linear(5, 4)

    def model(self, x, t=None, y=None):
        pyro.module("causal", self)
        with pyro.plate("data", x.size(0), subsample=x):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.x_nn(z), 1.0).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=self.t_nn(z).squeeze(-1)), obs=t)
            t = t.unsqueeze(-1).expand(*z.shape[:-1], 1)
            mean = self.y_nn(torch.cat([z, t], -1)).squeeze(-1)
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)

    def guide(self, x, t=None, y=None):
        with pyro.plate("data", x.size(0), subsample=x):
            auxiliary = {"is_auxiliary": True}
            logits = self.t_guide(x).squeeze(-1)
            t = pyro.sample("t", dist.Bernoulli(logits=logits), obs=t, infer=auxiliary)
            mean = self.y_guide(torch.cat([x, t.unsqueeze(-1)], -1)).squeeze(-1)
            y = pyro.sample("y", dist.Normal(mean, 1.0), obs=y, infer=auxiliary)
            given = torch.cat([x, t.unsqueeze(-1), y.unsqueeze(-1)], -1)
            loc, scale = self.z_guide(given).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, positive(scale)).to_event(1))


def causal():
    program = Causal()
    args = {"t": torch.tensor([0.0, 1, 1, 0, 1]), "y": normal(ROWS)}
    data = dataset(normal(ROWS, 3), args=args)
    return Kind(program.model, program.guide, data)


class Sequences(nn.Module):
    """A factor model of sequences: the logits of a hidden Markov model are linear in z."""

    def __init__(self, length=4, states=2, duration=4):
        super().__init__()
        self.length = length
        self.encoder = nn.Linear(length, 4)
        self.states = states
        self.duration = duration

    def model(self, x, local_scale=1.0):
        shape = (2, self.states * 3)
        loc = x.new_zeros(shape)
        weights = pyro.sample("W", dist.Normal(loc, 1.0).to_event(2))
        with pyro.plate("batch", x.shape[0]), poutine.scale(scale=local_scale):
            z = pyro.sample("z", dist.Normal(x.new_zeros(x.shape[0], 2), 1.0).to_event(1))
            logits = torch.mm(z, weights).reshape(-1, self.states, 3)
            emission = dist.Categorical(logits=logits.unsqueeze(-3))
            start = x.new_zeros(self.states)
            step = x.new_zeros(self.states, self.states)
            hmm = dist.DiscreteHMM(start, step, emission, duration=self.duration)
            pyro.sample("x", hmm, obs=x)

    def guide(self, x, local_scale=1.0):
        loc = pyro.param("W_loc", lambda: 0.1 * x.new_ones(2, self.states * 3))
        scale = pyro.param("W_scale", lambda: 0.5 * x.new_ones(loc.shape), constraints.positive)
        pyro.sample("W", dist.Normal(loc, scale).to_event(2))
        with pyro.plate("batch", x.shape[0]), poutine.scale(scale=local_scale):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, positive(scale)).to_event(1))


def sequences():
    program = Sequences()
    x = torch.randint(3, (ROWS, 4))
    data = dataset(x, args={"local_scale": 1.0})
    return Kind(program.model, program.guide, data)


class Objects(nn.Module):
    """Attend, infer, repeat: the latents of absent objects are masked; presence is discrete."""

    def __init__(self):
        super().__init__()
        self.decode = nn.Linear(2, 4)
        self.rnn = nn.LSTMCell(4 + 3, 4)
        self.predict = nn.Linear(4, 5)
        self.baseline = nn.Linear(4, 1)

    def model(self, data, batch_size=None):
        pyro.module("decode", self.decode)
        with pyro.plate("data", data.size(0)) as ix:
            batch = data[ix]
            n = batch.size(0)
            image = batch.new_zeros(n, 4)
            present = batch.new_ones(n, 1)
            for t in range(2):
                presence = dist.Bernoulli(0.5 * present).to_event(1)
                present = pyro.sample(f"present_{t}", presence)
                with poutine.mask(mask=present.squeeze(-1).bool()):
                    where = batch.new_zeros(n, 2)
                    what = pyro.sample(f"what_{t}", dist.Normal(where, 1.0).to_event(1))
                image = image + self.decode(what) * present.view(-1, 1)
            pyro.sample("obs", dist.Normal(image, 0.3).to_event(1), obs=batch.view(n, -1))

    def guide(self, data, batch_size=None):
        pyro.module("rnn", self.rnn)
        pyro.module("predict", self.predict)
        with pyro.plate("data", data.size(0), subsample_size=batch_size) as ix:
            batch = data[ix]
            n = batch.size(0)
            state = batch.new_zeros(n, 4), batch.new_zeros(n, 4)
            what, present = batch.new_zeros(n, 2), batch.new_ones(n, 1)
            for t in range(2):
                state = self.rnn(torch.cat((batch, what, present), 1), state)
                raw = self.predict(state[0])
                p = raw[:, :1].sigmoid() * present
                baseline = {"baseline_value": self.baseline(batch).squeeze(-1)}
                fn = dist.Bernoulli(p).to_event(1)
                present = pyro.sample(f"present_{t}", fn, infer={"baseline": baseline})
                with poutine.mask(mask=present.squeeze(-1).bool()):
                    normal = dist.Normal(raw[:, 1:3], positive(raw[:, 3:]))
                    what = pyro.sample(f"what_{t}", normal.to_event(1))


def objects():
    program = Objects()
    data = dataset(normal(ROWS, 4), args={"batch_size": None})
    return Kind(program.model, program.guide, data)


def words():
    """Words in documents: the plate over the rows is not the innermost."""
    loadings = normal(2)
    encoder = nn.Linear(3, 2)

    def model(x):
        with pyro.plate("documents", x.shape[0], dim=-2):
            z = pyro.sample("z", dist.Normal(x.new_zeros(1, 1, 2), 1.0).to_event(1))
            with pyro.plate("words", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal((z * loadings).sum(-1), 1.0), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        raw = encoder(x).unsqueeze(-2)
        with pyro.plate("documents", x.shape[0], dim=-2):
            pyro.sample("z", dist.Normal(raw, 0.5).to_event(1))

    data = dataset(normal(ROWS, 3))
    return Kind(model, guide, data)


def partially_pooled(at_bats, hits):
    """Batting averages of players who share a mean and a spread."""
    mean = pyro.sample("mean", dist.Uniform(0.0, 1.0))
    spread = pyro.sample("spread", dist.Pareto(1.0, 1.5))
    with pyro.plate("players", len(at_bats)):
        p = pyro.sample("p", dist.Beta(mean * spread, (1 - mean) * spread))
        pyro.sample("hits", dist.Binomial(at_bats, p), obs=hits)


def partially_pooled_guide(at_bats, hits):
    loc = pyro.param("loc", torch.tensor(0.4), constraints.unit_interval)
    size = pyro.param("size", torch.tensor(9.0), constraints.positive)
    rate = pyro.param("rate", torch.tensor(0.3), constraints.positive)
    mean = pyro.sample("mean", dist.Beta(size * loc, size * (1 - loc)))
    above = dist.transforms.AffineTransform(1.0, 1.0)
    above_one = dist.TransformedDistribution(dist.Exponential(rate), [above])
    spread = pyro.sample("spread", above_one)
    with pyro.plate("players", len(at_bats)):
        others = at_bats - hits
        pyro.sample("p", dist.Beta(mean * spread + hits, (1 - mean) * spread + others))


def fully_pooled(at_bats, hits):
    """Batting averages of players who are alike."""
    p = pyro.sample("p", dist.Uniform(0.0, 1.0))
    with pyro.plate("players", len(at_bats)):
        pyro.sample("hits", dist.Binomial(at_bats, p), obs=hits)


def not_pooled(at_bats, hits):
    """Batting averages of players, each by himself."""
    with pyro.plate("players", len(at_bats)):
        p = pyro.sample("p", dist.Uniform(0.0, 1.0))
        pyro.sample("hits", dist.Binomial(at_bats, p), obs=hits)


def players():
    args = {"at_bats": torch.tensor([45.0, 45, 40, 30, 45])}
    return dataset([18.0, 14, 7, 9, 11], args=args)


def baseball():
    return Kind(partially_pooled, partially_pooled_guide, players(), x_is="hits")


def pooled():
    return Kind(fully_pooled, AutoNormal(fully_pooled), players(), x_is="hits")


def unpooled():
    return Kind(not_pooled, AutoNormal(not_pooled), players(), of_rows=False, x_is="hits")


KINDS = {
    each.__name__: each
    for each in (
        plain,
        conditional,
        deep_markov,
        gamma_family,
        topics,
        labelled,
        causal,
        sequences,
        objects,
        words,
        baseball,
        pooled,
        unpooled,
    )
}
