"""The ELBO with its KL weighted, with a lower limit, or steered to a capacity."""

from typing import override

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.mean_field import kl_per_dimension, kl_per_row
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import real_number

__all__ = ["BetaELBO"]


class BetaELBO(Bound):
    """E_q[log p(x given z)] - beta penalty(KL): beta-VAE, free bits, capacity.

    penalty is KL, or |KL - capacity|, or sum_d max(free_bits, mean over the batch of KL_d), which
    gives no gradient to a dimension that carries less than `free_bits` nats. The objective is a
    bound on log p(x) only for beta >= 1 and the plain penalty. The KL is in closed form if known,
    else Monte Carlo. For a warm-up use `Training(kl_schedule=...)`.

    Args:
        beta: Weight of the penalty.
        num_particles: Number of particles K per observation.
        capacity: Target of the KL, nats per row; None is the plain KL.
        free_bits: Least penalty of each latent dimension, nats; needs factorised normals.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: beta, capacity or free_bits is negative or not finite; free_bits and capacity
            are both given.

    References:
        Higgins et al. (2017), beta-VAE, ICLR; Burgess et al. (2018), arXiv:1804.03599, eq. 8
        (capacity); Kingma et al. (2016), Improved variational inference with inverse autoregressive
        flow, arXiv:1606.04934, eq. 15.

    Example:
        >>> BetaELBO(4.0, capacity=10.0)
        BetaELBO(num_particles=1, beta=4, capacity=10)
    """

    of_log_weights = False

    def __init__(
        self,
        beta: float = 1.0,
        num_particles: int = 1,
        *,
        capacity: float | None = None,
        free_bits: float = 0.0,
        max_plate_nesting: int | None = None,
    ) -> None:
        self.beta = real_number(beta, "BetaELBO(beta)", at_least=0)
        if capacity is not None:
            capacity = real_number(capacity, "BetaELBO(capacity)", at_least=0)
        self.capacity = capacity
        self.free_bits = real_number(free_bits, "BetaELBO(free_bits)", at_least=0)
        if capacity is not None and self.free_bits:
            raise ValueError("capacity and free_bits are two different penalties: give one of them")
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)

    @override
    def value(self, terms: LogTerms) -> Tensor:
        return terms.log_likelihood.mean(0) - self.kl_weight * self.beta * self.penalty(terms)

    @override
    def global_value(self, terms: LogTerms) -> Tensor:
        return self.beta * super().global_value(terms)

    def penalty(self, terms: LogTerms) -> Tensor:
        """The penalty that replaces the KL, (B,)."""
        if self.free_bits:
            kl = kl_per_dimension(terms).mean(0)
            scale = torch.as_tensor(terms.scale).to(kl).expand(len(kl))
            is_free = scale @ kl / scale.sum() < self.free_bits
            return torch.where(is_free, self.free_bits, kl).sum(-1)
        kl = kl_per_row(terms).mean(0)
        return kl if self.capacity is None else (kl - self.capacity).abs()

    @override
    def options(self) -> list[str]:
        given = {"beta": self.beta, "capacity": self.capacity, "free_bits": self.free_bits or None}
        return [f"{name}={value:g}" for name, value in given.items() if value is not None]
