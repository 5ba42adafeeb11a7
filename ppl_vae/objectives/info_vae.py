"""InfoVAE: the ELBO with part of its KL exchanged for a distance between aggregate posterior and
prior.
"""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.mean_field import kl_per_datum
from ppl_vae.programs.particles import (
    Particles,
    Program,
    Site,
    require_outermost,
    run,
    with_any_nesting,
)
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import real_number

__all__ = ["InfoVAE"]

ROUNDING = 1e-9  # of 1 - alpha


class InfoVAE(Bound):
    """E_q[log p(x given z)] - (1 - alpha) KL(q(z given x) || p) - (alpha + scale - 1) MMD^2(q(z),
    p).

    q(z) = E_x q(z given x) is the aggregate posterior, over the population that the rows come from:
    the maximum mean discrepancy compares it, not each q(z given x), with the prior, and so does not
    reward collapse. It is estimated from each batch without bias, from pairs of different rows (a
    U-statistic, which may be slightly negative), and added to each row. A single row has no
    aggregate posterior: where an epoch's last batch is one row, its MMD is left out, and `fit`
    refuses batches of one row throughout. A prior without path derivative (a mixture) learns from
    the KL and the likelihood alone. No bound on log p(x) unless alpha = 0 and scale = 1, the ELBO.

    Args:
        alpha: Share of the KL that is taken away, at most 1.
        scale: Weight lambda of the paper, at least 1 - alpha.
        num_particles: Number of particles K per datum.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    Raises:
        ValueError: alpha above 1, scale below 1 - alpha: a weight would be negative.

    References:
        Zhao, Song and Ermon (2019), InfoVAE, arXiv:1706.02262, eq. 6; the kernel is exp(-|z - z'|^2
        / D).

    Example:
        >>> InfoVAE(alpha=1.0, scale=10.0)
        InfoVAE(num_particles=1, alpha=1, scale=10)
    """

    of_log_weights = False
    fewest_rows = 2

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

    def value(self, terms: LogTerms) -> Tensor:
        """The penalised likelihood per datum."""
        kl = kl_per_datum(terms).mean(0)
        penalty = (1 - self.alpha) * kl + (self.alpha + self.scale - 1) * self.discrepancy(terms)
        return terms.log_likelihood.mean(0) - self.kl_weight * penalty

    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> LogTerms:
        """As for any bound; where several sites make up z, with draws of them all from the
        prior.
        """
        terms = super().terms(model, guide, *args, **kwargs)
        if len(terms.prior_sites) < 2:
            return terms
        shared = {site["name"]: site["value"] for site in terms.global_latents}

        def dream_at(depth: int) -> Any:
            dreaming = poutine.condition(
                poutine.uncondition(Particles(self.num_particles, depth)(model)), data=shared
            )
            dream = run(dreaming, *args, **kwargs)
            require_outermost(dream, depth)
            return dream

        return WithDream(**vars(terms), dream=with_any_nesting(dream_at, self.max_plate_nesting))

    def discrepancy(self, terms: LogTerms) -> Tensor:
        """MMD^2 between the aggregate posterior and the prior, a scalar; 0 where the batch is one
        row.
        """
        if terms.log_likelihood.shape[1] < self.fewest_rows or not terms.prior_sites:
            return terms.log_likelihood.new_zeros(())
        draws, prior_draws = [], []
        for name in terms.prior_sites:
            site = terms.model_trace.nodes[name]
            draws.append(_per_row(site["value"], site))
            prior_draws.append(_per_row(_from_prior(terms, site), site))
        return squared_mmd(torch.cat(draws, -1), torch.cat(prior_draws, -1))

    def options(self) -> list[str]:
        """alpha and scale."""
        return [f"alpha={self.alpha:g}", f"scale={self.scale:g}"]


@dataclass(frozen=True)
class WithDream(LogTerms):
    """Beside the log-probabilities, a run of the model that neither the guide nor the data
    direct.
    """

    dream: Any = None


def _from_prior(terms: LogTerms, site: Site) -> Tensor:
    """Draws of a site from the prior; where it may depend on other latents, together with those."""
    if isinstance(terms, WithDream):
        return terms.dream.nodes[site["name"]]["value"]
    return site["fn"].rsample() if site["fn"].has_rsample else site["fn"].sample()


def _per_row(values: Tensor, site: Site) -> Tensor:
    """(K, *plates, B, *event) -> (K, B, D)."""
    by_row = values.movedim(-1 - site["fn"].event_dim, 1)
    return by_row.reshape(*by_row.shape[:2], -1)


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of two distributions from K draws in each of B rows, (K, B,
    D), without bias.

    The kernel is exp(-|a - b|^2 / D). Rows are independent; draws within one row share its q(z
    given x) or its p(z given c). Only pairs of different rows are independent draws of the
    aggregates, and only they are averaged.

    References:
        Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 3.
    """
    num_rows, dim = x.shape[1:]

    def mean_kernel(a: Tensor, b: Tensor) -> Tensor:
        distances = (a.flatten(0, 1).unsqueeze(1) - b.flatten(0, 1)).square().sum(-1)
        kernel = (
            torch.exp(-distances / dim).unflatten(1, (-1, num_rows)).unflatten(0, (-1, num_rows))
        )
        rows = kernel.mean((0, 2))
        return (rows.sum() - rows.diagonal().sum()) / (num_rows * (num_rows - 1))

    return mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y)
