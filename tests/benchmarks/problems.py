"""What is timed: one VAE in four hands, ours, hand-written, Pyro's example, and the data."""

import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, objectives, posteriors, priors
from ppl_vae.programs.modules import missing_values
from ppl_vae.runtime.recording.products import matmul, onednn_is_faster, pays
from ppl_vae.training.loop import Run
from ppl_vae.training.step import training_mode

PIXELS, HIDDEN, LATENT = 784, 400, 20
LEARNING_RATE = 1e-3
COMPILED, GRAPH, EAGER = (
    True,
    "auto",
    False,
)  # Training(compile=...); "auto" records below 10,000 steps, see `trainer`
HAND, PYRO = "hand-written PyTorch", "Pyro's example"
FLOOR = "its matrix products, rows and Adam alone"


def bits(num_data: int, num_pixels: int = PIXELS) -> torch.Tensor:
    return (
        torch.rand(num_data, num_pixels, generator=torch.Generator().manual_seed(0)) < 0.2
    ).float()


def mnist(num_data: int) -> tuple[torch.Tensor, str]:
    """Grey images in [0, 1], (N, 784), and what they are."""
    try:
        return pv.load("mnist", flatten=True, valid=0).x[:num_data], "MNIST"
    except FileNotFoundError:
        grey = torch.rand(num_data, PIXELS, generator=torch.Generator().manual_seed(0))
        return grey.pow(4), "synthetic images (MNIST could not be had)"


def perceptron(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear maps with an activation after each but the last."""
    layers = [
        [nn.Linear(one, other), activation()]
        for one, other in zip(widths, widths[1:], strict=False)
    ]
    return nn.Sequential(*[layer for pair in layers for layer in pair][:-1])


# --- ours -----------------------------------------------------------------------------------------


def ours(
    features: int = PIXELS,
    hidden: Sequence[int] = (HIDDEN,),
    latent: int = LATENT,
    activation: type[nn.Module] = nn.ReLU,
    likelihood: type[nn.Module] = likelihoods.Bernoulli,
) -> tuple[pv.Model, pv.Guide]:
    """Mirrored networks: features - hidden - latent - hidden - features; the last map belongs to
    the likelihood."""
    encoder = nn.Sequential(perceptron(features, *hidden, activation=activation), activation())
    decoder = nn.Sequential(perceptron(latent, *hidden[::-1], activation=activation), activation())
    guide = pv.Guide(posteriors.MeanFieldNormal(latent), (features,), encoder=encoder)
    return pv.Model(priors.StandardNormal(latent), likelihood((features,)), decoder=decoder), guide


class Trainer:
    """`fit`, in pieces that can be timed in turn with others: some steps, or an epoch."""

    def __init__(
        self,
        programs: tuple,
        data: pv.Dataset,
        objective: objectives.Bound,
        batch: int,
        how: str | bool,
        device: torch.device | str | None = None,
    ):
        steps_an_epoch = math.ceil(len(data.train) / batch)
        epochs = max(
            1, 5_000 // steps_an_epoch
        )  # "auto" records from 1,000 steps on, and compiles from 10,000
        training = pv.Training(
            num_epochs=epochs,
            batch_size=batch,
            learning_rate=LEARNING_RATE,
            compile=how,
            device=device,
        )
        self.programs, self.run, self.done = programs, Run(*programs, data, objective, training), 0

    @contextmanager
    def training(self):
        with training_mode(*self.programs), missing_values(False, *self.programs):
            yield

    def steps(self, batches: Sequence[torch.Tensor]) -> None:
        with self.training():
            for rows in batches:
                self.run._step(self.run.train.x, rows, done=0.0)

    def epoch(self) -> None:
        with self.training():
            self.done += 1
            self.run._record(self.run._epoch(self.done))


# --- hand-written ---------------------------------------------------------------------------------


class HandWritten(nn.Module):
    """The textbook VAE in plain PyTorch: analytic KL, fused Adam, one linear map for mean and
    log-variance."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = (
            perceptron(PIXELS, HIDDEN, 2 * LATENT),
            perceptron(LATENT, HIDDEN, PIXELS),
        )
        self.optimizer = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, fused=True)

    def elbo(self, x: torch.Tensor) -> torch.Tensor:
        loc, log_var = self.encoder(x).chunk(2, dim=-1)
        z = loc + (0.5 * log_var).exp() * torch.randn_like(loc)
        distortion = F.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        kl = 0.5 * (loc.square() + log_var.exp() - 1 - log_var).sum()
        return -(distortion + kl) / len(x)

    def iwae(self, x: torch.Tensor, num_particles: int) -> torch.Tensor:
        loc, log_var = self.encoder(x).chunk(2, dim=-1)
        noise = torch.randn(num_particles, *loc.shape, device=loc.device)
        z = loc + (0.5 * log_var).exp() * noise
        logits = self.decoder(z)
        log_x = -F.binary_cross_entropy_with_logits(
            logits, x.expand_as(logits), reduction="none"
        ).sum(-1)
        log_weights = log_x + 0.5 * (noise.square() - z.square() + log_var).sum(-1)
        return (log_weights.logsumexp(0) - math.log(num_particles)).mean()

    def step(self, bound: torch.Tensor) -> float:
        self.optimizer.zero_grad()
        (-bound).backward()
        self.optimizer.step()
        return bound.item()

    def steps(self, x: torch.Tensor, batches: Sequence[torch.Tensor], bound: Callable) -> None:
        for rows in batches:
            self.step(bound(x[rows]))

    def epoch(self, grey: torch.Tensor, batch: int) -> None:
        """Fresh bits, rows in a random order, taken by index."""
        self.steps(torch.bernoulli(grey), torch.randperm(len(grey)).split(batch), self.elbo)


class Floor:
    """What no step of these networks can do without: rows, the products of both passes, Adam. No
    densities."""

    def __init__(self, x: torch.Tensor, batch: int) -> None:
        self.x, self.optimizer = x, HandWritten().optimizer
        parameters = self.optimizer.param_groups[0]["params"]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        weights = [p.detach() for p in parameters if p.ndim == 2]
        factors = [pair for weight in weights for pair in self._factors(weight, batch)][
            1:
        ]  # pixels need no gradient
        self.products = [partial(fastest(*pair), *pair) for pair in factors]

    @staticmethod
    def _factors(weight: torch.Tensor, batch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Of a layer: what gives the gradient of its input, its output, the gradient of its
        weights."""
        output, came = (torch.randn(batch, width) for width in weight.shape)
        return [(output, weight), (came, weight.T), (output.T, came)]

    def steps(self, batches: Sequence[torch.Tensor]) -> None:
        for rows in batches:
            self.x.index_select(0, rows)
            for product in self.products:
                product()
            self.optimizer.step()


def fastest(one: torch.Tensor, other: torch.Tensor) -> Callable:
    """Which product of two matrices recorded graphs take."""
    return matmul if onednn_is_faster() and pays(one, other) else torch.mm


# --- Pyro -----------------------------------------------------------------------------------------


class Example(nn.Module):
    """Model and guide as in Pyro's own VAE example, for any networks; Bernoulli by its logits,
    which costs less."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder, self.latent = encoder, decoder, latent
        optimizer = pyro.optim.Adam({"lr": LEARNING_RATE})
        self.svi = pyro.infer.SVI(self.model, self.guide, optimizer, loss=pyro.infer.Trace_ELBO())

    def model(self, x: torch.Tensor) -> None:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            loc, scale = x.new_zeros(len(x), self.latent), x.new_ones(len(x), self.latent)
            z = pyro.sample("z", dist.Normal(loc, scale).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    def steps(self, x: torch.Tensor, batches: Sequence[torch.Tensor]) -> None:
        for rows in batches:
            self.svi.step(x[rows])

    def epoch(self, grey: torch.Tensor, batch: int) -> None:
        """A shuffling DataLoader over images in memory, as in the example; the bits are drawn batch
        by batch."""
        loader = torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(grey), batch_size=batch, shuffle=True
        )
        for (x,) in loader:
            self.svi.step(torch.bernoulli(x))


def example() -> Example:
    pyro.clear_param_store()
    return Example(
        perceptron(PIXELS, HIDDEN, 2 * LATENT), perceptron(LATENT, HIDDEN, PIXELS), LATENT
    )
