"""Latents on a grid of cells, under normal distributions."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import norm
from torch import Tensor
from torch.distributions import MixtureSameFamily

from ppl_vae.families.entries import entries_of

__all__ = ["Components", "Grid", "components_of", "normal_of", "windows"]

CELLS_PER_SD = (
    8  # of the narrowest posterior; the bits that a coarser grid costs go with its square
)
MOST_CELLS = 2**14  # on either side of the middle
NUM_SDS = 8  # on either side of a mean in which z is drawn, at least; twice as many at most


def normal_of(distribution: Any, name: str) -> tuple[Tensor, Tensor]:
    """Mean and sd of independent normal latents, (B, D).

    Args:
        distribution: p(z) or q(z given x).
        name: What it is, in the message.

    Raises:
        ValueError: It is another distribution.

    Example:
        >>> import pyro.distributions as dist
        >>> normal_of(dist.Normal(torch.zeros(2), 1.0).to_event(1), "the prior")
        (tensor([0., 0.]), tensor([1., 1.]))
    """
    base, _ = entries_of(distribution)
    if not isinstance(base, torch.distributions.Normal):
        raise ValueError(
            f"compression takes independent normal latents, and {name} is {type(base).__name__}: "
            "use StandardNormal, LearnedNormal or GaussianMixture, and MeanFieldNormal"
        )
    return base.mean, base.stddev


def components_of(distribution: Any, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """log weights of the components of a mixture, (C,), and their means and sds, (..., C, D).

    Args:
        distribution: p(z), independent normals or a mixture of such.
        name: What it is, in the message.

    Raises:
        ValueError: It is another distribution.

    Example:
        >>> import pyro.distributions as dist
        >>> normals = dist.Normal(torch.zeros(4, 2), 1.0).to_event(1)
        >>> mixture = dist.MixtureSameFamily(dist.Categorical(torch.ones(4)), normals)
        >>> [tuple(each.shape) for each in components_of(mixture, "the prior")]
        [(4,), (4, 2), (4, 2)]
    """
    if isinstance(distribution, MixtureSameFamily):
        log_shares = distribution.mixture_distribution.logits
        return log_shares, *normal_of(distribution.component_distribution, name)
    mean, sd = normal_of(distribution, name)
    return mean.new_zeros(1), mean.unsqueeze(-2), sd.unsqueeze(-2)


@dataclass(frozen=True)
class Components:
    """p(z) of some rows as a mixture of C components of independent normals, in cells of a grid.

    Args:
        log_shares: log weights of the components, (C,).
        places: Means, (B, C, D).
        sds: Standard deviations, (B, C, D).

    Example:
        >>> places = np.array([[[-30.0], [30.0]]])
        >>> components = Components(np.log([0.9, 0.1]), places, np.full_like(places, 10.0))
        >>> components.given(np.array([29])).round(2).tolist()
        [[0.0, 1.0]]
    """

    log_shares: np.ndarray
    places: np.ndarray
    sds: np.ndarray

    @property
    def are_several(self) -> bool:
        """Whether there is more than one."""
        return len(self.log_shares) > 1

    @property
    def shares(self) -> np.ndarray:
        """Weights of the components, for each row, (B, C)."""
        return np.tile(softmax(self.log_shares), (len(self.places), 1))

    def given(self, cells: np.ndarray) -> np.ndarray:
        """p(component given z), (B, C)."""
        z = cells.reshape(len(self.places), 1, -1)
        log_p = norm.logpdf(z, self.places, self.sds).sum(-1)
        return softmax(self.log_shares + log_p, axis=-1)

    def at(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds of the component of each row, flattened."""
        rows = np.arange(len(which))
        return self.places[rows, which].ravel(), self.sds[rows, which].ravel()


@dataclass(frozen=True)
class Grid:
    """Cells of equal width, from -`half` to `half` in each latent dimension.

    Args:
        centres: Middle of the cell 0, (D,).
        steps: Width of a cell, (D,).
        half: Cells on either side of cell 0.

    Example:
        >>> grid = Grid.covering(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(5, 2),
        ...     torch.full((5, 2), 0.5))
        >>> grid.steps.tolist(), grid.half
        ([0.0625, 0.0625], 257)
    """

    centres: Tensor
    steps: Tensor
    half: int

    @classmethod
    def covering(cls, mean: Tensor, sd: Tensor, means: Tensor, sds: Tensor) -> "Grid":
        """A grid that holds the prior's mass, and that of all posteriors in fine cells."""
        all_means = torch.cat([mean, means])
        reaches = 2 * NUM_SDS * torch.cat([sd, sds])
        low = (all_means - reaches).amin(0)
        high = (all_means + reaches).amax(0)
        reach = (high - low) / 2
        steps = torch.maximum(sds.amin(0) / CELLS_PER_SD, reach / MOST_CELLS)
        return cls((low + high) / 2, steps, int((reach / steps).ceil().max()) + 1)

    def values(self, cells: np.ndarray) -> Tensor:
        """z in the middle of these cells, (B, D)."""
        return self.centres + self.steps * torch.from_numpy(cells).reshape(-1, len(self.steps))

    def in_cells(self, mean: Tensor, sd: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds in units of cells, (..., D)."""
        places = ((mean - self.centres) / self.steps).numpy()
        return places, (sd / self.steps).expand_as(mean).numpy()


def windows(places: np.ndarray, sds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middle cells and half widths of the windows in which z is drawn from q(z given x).

    An entropy coder gives each cell a probability of at least 2^-24: on the whole grid, one draw in
    some thousands would be far from the posterior, at a cost of thousands of bits. Half widths are
    powers of two, so that few of them differ.

    Args:
        places: Means, in cells.
        sds: Standard deviations, in cells.

    Example:
        >>> middles, halves = windows(np.array([0.4, 7.8]), np.array([8.0, 20.0]))
        >>> middles.tolist(), halves.tolist()
        ([0, 8], [64, 256])
    """
    halves = 2 ** np.ceil(np.log2(np.maximum(NUM_SDS * sds, 1)))
    return np.rint(places).astype(np.int32), halves.astype(np.int32)
