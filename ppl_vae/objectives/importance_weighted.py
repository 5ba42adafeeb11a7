"""Bounds from importance weights: the log of a mean, and its relatives."""

import math
from typing import Any

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.leave_one_out import log_mean_exp_of_others, mean_of_others
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["CIWAE", "IWAE", "MIWAE", "PIWAE"]


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log mean_k w_k over the first dim; K is what the tensor has."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def squared_defect(weights: Tensor) -> Tensor:
    """v - v^2, the diagonal second derivative of a log-sum-exp with softmax v."""
    return weights - weights.square()


class IWAE(Bound):
    """The importance-weighted bound, log mean_k w_k: below log p(x) in expectation, tighter as K
    grows.

    With the default gradient the guide's signal-to-noise ratio falls as 1 / sqrt(K) (Rainforth et
    al. 2018); `gradient=DoublyReparameterized()` has a signal that grows.

    Args:
        num_particles: Number of particles K per datum.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`, which is biased here.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool((IWAE(5).bound(bed.model, bed.guide, bed.x) - bed.log_evidence).abs().max() < 1e-10)
        True
    """

    def __init__(self, num_particles: int = 5, **options: Any) -> None:
        super().__init__(num_particles, **options)

    def reduce(self, log_weights: Tensor) -> Tensor:
        """log mean_k w_k."""
        return log_mean_exp(log_weights)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """log mean w of the others."""
        return log_mean_exp_of_others(log_weights, instead)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """v - v^2, v the normalised weights."""
        return squared_defect(log_weights.softmax(0))


class CIWAE(Bound):
    """Between the two: beta ELBO + (1 - beta) IWAE_K.

    beta weighs the guide's signal against the tightness of the bound.

    Args:
        beta: Weight of the ELBO, from 0 (IWAE) to 1 (ELBO).
        num_particles: Number of particles K per datum.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    Raises:
        ValueError: beta outside [0, 1].

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 14.

    Example:
        >>> CIWAE(0.5, num_particles=8)
        CIWAE(num_particles=8, beta=0.5)
    """

    def __init__(self, beta: float = 0.5, num_particles: int = 5, **options: Any) -> None:
        self.beta = real_number(beta, "CIWAE(beta)", at_least=0, at_most=1)
        super().__init__(num_particles, **options)

    def reduce(self, log_weights: Tensor) -> Tensor:
        """The convex combination."""
        return self.beta * log_weights.mean(0) + (1 - self.beta) * log_mean_exp(log_weights)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """The convex combination of the others' means."""
        elbo = mean_of_others(log_weights, instead)
        return self.beta * elbo + (1 - self.beta) * log_mean_exp_of_others(log_weights, instead)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """Those of IWAE, times 1 - beta."""
        return (1 - self.beta) * squared_defect(log_weights.softmax(0))

    def options(self) -> list[str]:
        """beta."""
        return [f"beta={self.beta:g}"]


class MIWAE(Bound):
    """The mean of M independent IWAE_K bounds: M K particles in all.

    As tight as IWAE_K, with the noise of M of them averaged: the guide's signal grows with M. The
    attribute `num_particles` is M K, what is drawn; `repr` shows the K that was given. (Not the
    missing-data MIWAE of Mattei and Frellsen, which is `IWAE` on data with NaN.)

    Args:
        num_bounds: Number of bounds M.
        num_particles: Number of particles K in each.
        gradient: Any of `objectives.gradients` but `StickingTheLanding` and
            `ScoreFunction("leave-one-out")`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 13.

    Example:
        >>> MIWAE(4, 5).num_particles
        20
    """

    def __init__(self, num_bounds: int = 5, num_particles: int = 5, **options: Any) -> None:
        self.num_bounds = whole_number(num_bounds, f"{type(self).__name__}(num_bounds)")
        super().__init__(
            self.num_bounds * whole_number(num_particles, f"{type(self).__name__}(num_particles)"),
            **options,
        )

    def reduce(self, log_weights: Tensor) -> Tensor:
        """mean_m log mean_k w_mk."""
        return log_mean_exp(self._groups(log_weights)).mean(0)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """The mean of the other bounds and of what becomes of each particle's own."""
        groups = self._groups(log_weights)
        own = log_mean_exp_of_others(groups, None if instead is None else self._groups(instead))
        return mean_of_others(log_mean_exp(groups), own).flatten(0, 1)

    def curvatures(self, log_weights: Tensor) -> Tensor:
        """(v - v^2) / M within each bound."""
        return (squared_defect(self._groups(log_weights).softmax(0)) / self.num_bounds).flatten(
            0, 1
        )

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """Each particle's own bound has fewer than K without it: not the same bound."""
        raise ValueError(
            f'ScoreFunction("leave-one-out") is not defined for {type(self).__name__}: use VIMCO()'
        )

    def _groups(self, log_weights: Tensor) -> Tensor:
        """(K M, ...) -> (K, M, ...)."""
        return log_weights.unflatten(0, (-1, self.num_bounds))

    def options(self) -> list[str]:
        """M."""
        return [f"num_bounds={self.num_bounds}"]

    def __repr__(self) -> str:
        return (
            super()
            .__repr__()
            .replace(
                f"num_particles={self.num_particles}",
                f"num_particles={self.num_particles // self.num_bounds}",
            )
        )


class PIWAE(MIWAE):
    """Model and guide follow different bounds of the same M K particles: the model IWAE_MK, the
    guide MIWAE_M,K.

    The tight bound for the model, the better signal for the guide. The value is that of IWAE_MK.

    Args:
        num_bounds: Number of bounds M that the guide's target averages.
        num_particles: Number of particles K in each.
        gradient: `Reparameterized` or `DoublyReparameterized` (of the guide's target), or those
            that `MIWAE` takes.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per datum, (B,), in nats

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 16.

    Example:
        >>> PIWAE(4, 5)
        PIWAE(num_particles=5, num_bounds=4)
    """

    splits = True

    def value(self, terms: Any) -> Tensor:
        """log mean over all M K particles."""
        return log_mean_exp(self.log_weights(terms))

    def model_slopes(self, log_weights: Tensor) -> Tensor:
        """The normalised weights of all particles."""
        return log_weights.softmax(0)
