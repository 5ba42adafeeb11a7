"""InfoVAE: the ELBO with part of its KL exchanged for a distance between aggregate posterior and prior."""

import torch
from torch import Tensor

from ppl_vae.checks import real_number
from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.mean_field import kl_per_datum
from ppl_vae.terms import LogTerms

__all__ = ["InfoVAE"]

ROUNDING = 1e-9  # of 1 - alpha


class InfoVAE(Bound):
    """E_q[log p(x given z)] - (1 - alpha) KL(q(z given x) || p) - (alpha + scale - 1) MMD^2(q(z), p).

    q(z) is the aggregate posterior of the batch: the maximum mean discrepancy compares it, not each q(z given x), with
    the prior, and so does not reward collapse. The MMD is a property of the batch, added to each of its data; it is
    estimated without bias (a U-statistic, which may be slightly negative). A single datum has no aggregate posterior:
    where an epoch's last batch is one row, its MMD is left out, and `fit` refuses batches of one row throughout. No
    bound on log p(x) unless alpha = 0 and scale = 1, the ELBO.

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
        Zhao, Song and Ermon (2019), InfoVAE, arXiv:1706.02262, eq. 6; the kernel is exp(-|z - z'|^2 / D).

    Example:
        >>> InfoVAE(alpha=1.0, scale=10.0)
        InfoVAE(num_particles=1, alpha=1, scale=10)
    """

    of_log_weights = False
    fewest_rows = 2

    def __init__(
        self, alpha: float = 0.0, scale: float = 10.0, num_particles: int = 1, *, max_plate_nesting: int | None = None
    ) -> None:
        self.alpha = real_number(alpha, "InfoVAE(alpha)", at_most=1)
        self.scale = real_number(scale, "InfoVAE(scale)", at_least=1 - self.alpha - ROUNDING)
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)

    def value(self, terms: LogTerms) -> Tensor:
        """The penalised likelihood per datum."""
        kl = kl_per_datum(terms).mean(0)
        penalty = (1 - self.alpha) * kl + (self.alpha + self.scale - 1) * self.discrepancy(terms)
        return terms.log_likelihood.mean(0) - self.kl_weight * penalty

    def discrepancy(self, terms: LogTerms) -> Tensor:
        """MMD^2 between the batch's aggregate posterior and the prior, a scalar; 0 where the batch is one row."""
        if terms.log_likelihood.shape[1] < self.fewest_rows:
            return terms.log_likelihood.new_zeros(())
        draws, prior_draws, num_draws = [], [], terms.log_likelihood.numel()
        for name in terms.posterior_sites:
            site = terms.model_trace.nodes[name]
            again = site["fn"].rsample() if site["fn"].has_rsample else site["fn"].sample()
            draws.append(site["value"].flatten(0, 1).reshape(num_draws, -1))
            prior_draws.append(again.flatten(0, 1).reshape(num_draws, -1))
        return squared_mmd(torch.cat(draws, -1), torch.cat(prior_draws, -1))

    def options(self) -> list[str]:
        """alpha and scale."""
        return [f"alpha={self.alpha:g}", f"scale={self.scale:g}"]


def squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased squared maximum mean discrepancy of two samples (n, D) and (m, D), kernel exp(-|a - b|^2 / D).

    References:
        Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 3.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-(a.unsqueeze(1) - b).square().sum(-1) / a.shape[-1])

    def off_diagonal_mean(k: Tensor) -> Tensor:
        return (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))

    return off_diagonal_mean(kernel(x, x)) + off_diagonal_mean(kernel(y, y)) - 2 * kernel(x, y).mean()
