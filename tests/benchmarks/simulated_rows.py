"""Rows whose log p(x) is known, for the library from end to end: posteriors of ten dimensions, a
trained VAE."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import optimize

import ppl_vae as pv
from ppl_vae import beds

GRID = torch.linspace(-10, 10, 4001, dtype=torch.float64)
NUM_POINTS = 321  # a side, of the grid over the latent plane


class Columns:
    """z_d ~ N(0, 1), x_d given z_d of one kind, independent: log p(x) by quadrature, the guide the
    KL optimum."""

    def __init__(self, kind: str, dim: int) -> None:
        self.kind = kind
        self.x = torch.tensor([1.0, 0.0, 3.0, 2.0, 0.0, 1.0, 5.0, 0.0, 2.0, 1.0])[:dim].double()
        fitted = [self._fit(j) for j in range(dim)]
        self.loc, self.scale = (
            torch.tensor(values).double() for values in zip(*fitted, strict=True)
        )

    def _likelihood(self, z: torch.Tensor) -> dist.Distribution:
        return dist.Poisson(z.exp()) if self.kind == "skewed" else dist.Normal(z.abs(), 1.0)

    def _log_joint(self, z: torch.Tensor, j: int) -> torch.Tensor:
        return dist.Normal(0.0, 1.0).log_prob(z) + self._likelihood(z).log_prob(self.x[j])

    def _fit(self, j: int) -> tuple[float, float]:
        nodes, weights = map(torch.tensor, np.polynomial.hermite_e.hermegauss(80))

        def loss(theta: np.ndarray) -> float:
            terms = self._log_joint(theta[0] + np.exp(theta[1]) * nodes, j)
            return -float((weights * terms).sum() / weights.sum() + theta[1])

        found = optimize.minimize(loss, [0.2, -0.3], method="Nelder-Mead").x
        return found[0], float(np.exp(found[1]))

    @property
    def log_evidence(self) -> float:
        step = (GRID[1] - GRID[0]).log()
        return sum(float(self._log_joint(GRID, j).logsumexp(0) + step) for j in range(len(self.x)))

    def model(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", self._likelihood(z).to_event(1), obs=x)

    def guide(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample(
                "z", dist.Normal(self.loc.expand_as(x), self.scale.expand_as(x)).to_event(1)
            )


def posed(
    kind: str, num_rows: int, seed: int
) -> tuple[Callable, Callable, torch.Tensor, np.ndarray]:
    """Model, the optimal mean-field guide, rows of ten dimensions, and their log p(x)."""
    if kind == "correlated":
        bed = beds.linear_gaussian(num_rows, latent_dim=10, data_dim=13, seed=seed)
        return bed.model, bed.mean_field_guide, bed.x, bed.log_evidence.numpy()
    columns = Columns(kind, 10)
    return (
        columns.model,
        columns.guide,
        columns.x.expand(num_rows, -1),
        np.full(num_rows, columns.log_evidence),
    )


@cache
def trained(num_epochs: int) -> tuple[pv.Model, pv.Guide, torch.Tensor, np.ndarray]:
    """A VAE of two latents on binarised digits, its test rows, and their log p(x) by quadrature."""
    data = pv.load("digits", binarize="dynamic")
    with pv.seeded(0):
        guide = pv.Guide(pv.posteriors.MeanFieldNormal(2), data.event_shape)
        model = pv.Model(
            pv.priors.StandardNormal(2),
            pv.likelihoods.Bernoulli(data.event_shape),
            start=data.train.x,
        )
    pv.fit(model, guide, data, training=pv.Training(num_epochs=num_epochs, seed=0))
    model, guide = model.double().eval(), guide.double().eval()
    x = data.test.x.double()
    return model, guide, x, plane(model, x)


def plane(model: pv.Model, x: torch.Tensor) -> np.ndarray:
    """log p(x) of two latents by the trapezoid rule between -8 and 8, (N,)."""
    side = torch.linspace(-8, 8, NUM_POINTS, dtype=torch.float64)
    z = torch.cartesian_prod(side, side)
    log_area = 2 * (side[1] - side[0]).log()
    parts = []
    with torch.no_grad():
        for some in z.split(20_000):
            logits = model.decode(some).base_dist.logits.flatten(1)
            log_likelihood = logits @ x.flatten(1).T - torch.nn.functional.softplus(logits).sum(
                1, keepdim=True
            )
            log_prior = -0.5 * some.square().sum(1, keepdim=True) - np.log(2 * np.pi)
            parts.append((log_prior + log_likelihood).logsumexp(0))
    return (torch.stack(parts).logsumexp(0) + log_area).numpy()
