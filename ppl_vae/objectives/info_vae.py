"""InfoVAE: part of the KL is replaced by a distance between aggregate posterior and prior."""

from dataclasses import dataclass
from typing import Any, override

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.mean_field import kl_per_row
from ppl_vae.programs.particles import (
    Particles,
    Program,
    Site,
    require_outermost,
    run,
    with_any_nesting,
)
from ppl_vae.programs.sites import redrawn
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import real_number

__all__ = ["InfoVAE"]

ROUNDING = 1e-9  # of 1 - alpha


class InfoVAE(Bound):
    """E_q[log p(x given z)] - (1 - alpha) KL(q(z given x) || p) - (alpha + scale - 1) MMD^2.

    MMD is the maximum mean discrepancy between the prior and the aggregate posterior q(z) = E_x q(z
    given x), over the population that the rows come from. It does not compare each q(z given x)
    with the prior, and so does not reward collapse. Its square is estimated without bias from pairs
    of different rows of a batch (a U-statistic, which may be slightly negative), and subtracted
    from each row. A single row has no aggregate posterior: if the last batch of an epoch is one row
    the term is left out, and `fit` refuses a batch size of one. A prior without path derivative (a
    mixture) learns from the KL and the likelihood alone. The objective is a bound on log p(x) only
    for alpha = 0 and scale = 1, when it is the ELBO.

    Args:
        alpha: Share of the KL that is removed, at most 1.
        scale: Weight lambda of the paper, at least 1 - alpha.
        num_particles: Number of particles K per observation.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: alpha is above 1, or scale below 1 - alpha: a weight would be negative.

    References:
        Zhao, Song and Ermon (2019), InfoVAE, arXiv:1706.02262, eq. 6, with the kernel
        exp(-|z - z'|^2 / D).

    Example:
        >>> InfoVAE(alpha=1.0, scale=10.0)
        InfoVAE(num_particles=1, alpha=1, scale=10)
    """

    of_log_weights = False
    fewest_rows = 2
    shown = ("alpha", "scale")

    def __init__(
        self,
        alpha: float = 0.0,
        scale: float = 10.0,
        num_particles: int = 1,
        *,
        max_plate_nesting: int | None = None,
    ) -> None:
        self.alpha = real_number(alpha, "InfoVAE(alpha)", at_most=1)
        self.scale = real_number(scale, "InfoVAE(scale)", at_least=1 - self.alpha - ROUNDING)
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)

    @override
    def value(self, terms: LogTerms) -> Tensor:
        kl = kl_per_row(terms).mean(0)
        penalty = (1 - self.alpha) * kl + (self.alpha + self.scale - 1) * self.discrepancy(terms)
        return terms.log_likelihood.mean(0) - self.kl_weight * penalty

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogTerms:
        """As for any bound; if z has several sites, with joint draws of them from the prior."""
        terms = super().terms(model, guide, *args, **kwargs)
        if len(terms.prior_sites) < 2:
            return terms
        shared = {site["name"]: site["value"] for site in terms.global_latents}

        def dream_at(depth: int) -> Any:
            free = redrawn(Particles(self.num_particles, depth)(model))
            dream = run(poutine.condition(free, data=shared), *args, **kwargs)
            require_outermost(dream, depth)
            return dream

        return WithDream(**vars(terms), dream=with_any_nesting(dream_at, self.max_plate_nesting))

    def discrepancy(self, terms: LogTerms) -> Tensor:
        """MMD^2 of the aggregate posterior and the prior, a scalar; 0 in a batch of one row."""
        if terms.log_likelihood.shape[1] < self.fewest_rows or not terms.prior_sites:
            return terms.log_likelihood.new_zeros(())
        sites = [terms.model_trace.nodes[name] for name in terms.prior_sites]
        draws = [_by_row(site["value"], site) for site in sites]
        prior_draws = [_by_row(_from_prior(terms, site), site) for site in sites]
        return squared_mmd(torch.cat(draws, -1), torch.cat(prior_draws, -1))


@dataclass(frozen=True)
class WithDream(LogTerms):
    """Also holds a run of the model that follows neither the guide nor the observations."""

    dream: Any = None


def _from_prior(terms: LogTerms, site: Site) -> Tensor:
    """Draws of a site from the prior, joint with those of the other sites if there are any."""
    if isinstance(terms, WithDream):
        return terms.dream.nodes[site["name"]]["value"]
    return site["fn"].rsample() if site["fn"].has_rsample else site["fn"].sample()


def _by_row(values: Tensor, site: Site) -> Tensor:
    """(K, *plates, B, *event) -> (K, B, D)."""
    by_row = values.movedim(-1 - site["fn"].event_dim, 1)
    return by_row.reshape(*by_row.shape[:2], -1)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two distributions, from draws (K, B, D).

    The kernel is exp(-|a - b|^2 / D). Rows are independent; draws within one row share its q(z
    given x) or its p(z given c). Only pairs of different rows are independent draws of the
    aggregates, so only these are averaged.

    References:
        Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 3.
    """
    num_rows, dim = x.shape[1:]

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = (a.flatten(0, 1).unsqueeze(1) - b.flatten(0, 1)).square().sum(-1)
        kernel = torch.exp(-distances / dim)
        rows = kernel.unflatten(1, (-1, num_rows)).unflatten(0, (-1, num_rows)).mean((0, 2))
        return (rows.sum() - rows.diagonal().sum()) / (num_rows * (num_rows - 1))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
