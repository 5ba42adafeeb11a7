"""The evidence lower bound, all Monte Carlo: estimator A of the original paper."""

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.leave_one_out import mean_of_others

__all__ = ["TraceELBO"]


class TraceELBO(Bound):
    """ELBO(x) = E_q[log p(x given z) + w (log p(z) - log q(z given x))], w = 1 unless annealed:
    mean_k log w_k.

    Asks nothing of the families but a density; noisier than `MeanFieldELBO` where the KL has a
    closed form.

    Args:
        num_particles: Number of particles K per datum.
        gradient: Any of `objectives.gradients`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, eq. 6
        (estimator A).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool((TraceELBO().bound(bed.model, bed.guide, bed.x) - bed.log_evidence).abs().max() < 1e-10)
        True
    """

    linear = True

    def reduce(self, log_weights: Tensor) -> Tensor:
        """mean_k log w_k."""
        return log_weights.mean(0)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """Zero: the mean is linear."""
        return torch.zeros_like(log_weights)

    def rewards(self, log_weights: Tensor) -> Tensor:
        """log w_k / K: the other particles' terms do not depend on z_k."""
        return log_weights / len(log_weights)

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """The mean of the others, on the same scale."""
        return self.reduce_others(log_weights) / len(log_weights)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """The mean of the others."""
        return mean_of_others(log_weights, instead)
