"""The evidence lower bound by Monte Carlo alone: estimator A of the original paper."""

from typing import override

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.target import mean_of_others

__all__ = ["TraceELBO"]


class TraceELBO(Bound):
    """ELBO(x) = E_q[log p(x given z) + w (log p(z) - log q(z given x))], by mean_k log w_k.

    w = 1 unless annealed. It needs only the densities of the families; it is noisier than
    `MeanFieldELBO` if the KL has a closed form.

    Args:
        num_particles: Number of particles K per observation.
        gradient: Any of `objectives.gradients`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, eq. 6
        (estimator A).

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> error = TraceELBO().bound(bed.model, bed.guide, bed.x) - bed.log_evidence
        >>> bool(error.abs().max() < 1e-10)
        True
    """

    linear = True

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        return log_weights.mean(0)

    @override
    def curvatures(self, log_weights: Tensor) -> Tensor:
        return torch.zeros_like(log_weights)

    def rewards(self, log_weights: Tensor) -> Tensor:
        """log w_k / K: the other particles' terms do not depend on z_k."""
        return log_weights / len(log_weights)

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """The mean of the others, on the same scale."""
        return self.reduce_others(log_weights) / len(log_weights)

    @override
    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        return mean_of_others(log_weights, instead)
