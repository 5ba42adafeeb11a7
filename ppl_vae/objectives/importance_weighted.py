"""Bounds from importance weights: the log of a mean, and combinations of it."""

import math
from typing import Unpack, override

import torch
from torch import Tensor

from ppl_vae.objectives.bound import Bound, Options
from ppl_vae.objectives.target import log_mean_exp_of_others, mean_of_others
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import real_number, whole_number

__all__ = ["CIWAE", "IWAE", "MIWAE", "PIWAE"]


def log_mean_exp(log_weights: Tensor) -> Tensor:
    """log mean_k w_k over the first dim, whose length is K."""
    return torch.logsumexp(log_weights, dim=0) - math.log(len(log_weights))


def squared_defect(weights: Tensor) -> Tensor:
    """v - v^2, the diagonal second derivative of a log-sum-exp with softmax v."""
    return weights - weights.square()


class IWAE(Bound):
    """log mean_k w_k, the importance-weighted bound: in expectation below log p(x), tighter with K.

    With the default gradient the guide's signal-to-noise ratio falls as 1 / sqrt(K) (Rainforth et
    al. 2018); `gradient=DoublyReparameterized()` has a signal that grows.

    Args:
        num_particles: Number of particles K per observation.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`, which is biased here.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        eq. 8.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> error = IWAE(5).bound(bed.model, bed.guide, bed.x) - bed.log_evidence
        >>> bool(error.abs().max() < 1e-10)
        True
    """

    def __init__(self, num_particles: int = 5, **options: Unpack[Options]) -> None:
        super().__init__(num_particles, **options)

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(log_weights)

    @override
    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        return log_mean_exp_of_others(log_weights, instead)

    @override
    def curvatures(self, log_weights: Tensor) -> Tensor:
        return squared_defect(log_weights.softmax(0))


class CIWAE(Bound):
    """Between ELBO and IWAE: beta ELBO + (1 - beta) IWAE_K.

    A larger beta improves the guide's gradient signal and loosens the bound.

    Args:
        beta: Weight of the ELBO, from 0 (IWAE) to 1 (ELBO).
        num_particles: Number of particles K per observation.
        gradient: Any of `objectives.gradients` but `StickingTheLanding`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: beta is outside [0, 1].

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 14.

    Example:
        >>> CIWAE(0.5, num_particles=8)
        CIWAE(num_particles=8, beta=0.5)
    """

    shown = ("beta",)

    def __init__(
        self, beta: float = 0.5, num_particles: int = 5, **options: Unpack[Options]
    ) -> None:
        self.beta = real_number(beta, "CIWAE(beta)", at_least=0, at_most=1)
        super().__init__(num_particles, **options)

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        return self.beta * log_weights.mean(0) + (1 - self.beta) * log_mean_exp(log_weights)

    @override
    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        elbo = mean_of_others(log_weights, instead)
        return self.beta * elbo + (1 - self.beta) * log_mean_exp_of_others(log_weights, instead)

    @override
    def curvatures(self, log_weights: Tensor) -> Tensor:
        return (1 - self.beta) * squared_defect(log_weights.softmax(0))


class MIWAE(Bound):
    """The mean of M independent IWAE_K bounds, with M K particles in all.

    As tight as IWAE_K, with the noise of M bounds averaged: the guide's signal grows with M. The
    attribute `num_particles` is M K, the number drawn; `repr` shows the K that was given. (The
    missing-data MIWAE of Mattei and Frellsen is `IWAE` on observations with NaN.)

    Args:
        num_bounds: Number of bounds M.
        num_particles: Number of particles K in each.
        gradient: Any of `objectives.gradients` but `StickingTheLanding` and
            `ScoreFunction("leave-one-out")`.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 13.

    Example:
        >>> MIWAE(4, 5).num_particles
        20
    """

    shown = ("num_bounds",)

    def __init__(
        self, num_bounds: int = 5, num_particles: int = 5, **options: Unpack[Options]
    ) -> None:
        name = type(self).__name__
        self.num_bounds = whole_number(num_bounds, f"{name}(num_bounds)")
        num_particles = whole_number(num_particles, f"{name}(num_particles)")
        super().__init__(self.num_bounds * num_particles, **options)

    @override
    def reduce(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(self._groups(log_weights)).mean(0)

    def reduce_others(self, log_weights: Tensor, instead: Tensor | None = None) -> Tensor:
        """The mean of the other bounds and of the particle's own bound, which changes."""
        groups = self._groups(log_weights)
        own = log_mean_exp_of_others(groups, None if instead is None else self._groups(instead))
        return mean_of_others(log_mean_exp(groups), own).flatten(0, 1)

    @override
    def curvatures(self, log_weights: Tensor) -> Tensor:
        defect = squared_defect(self._groups(log_weights).softmax(0))
        return (defect / self.num_bounds).flatten(0, 1)

    def rewards_without(self, log_weights: Tensor) -> Tensor:
        """Not defined: without a particle, its bound has K - 1 and is a different bound."""
        raise ValueError(
            f'ScoreFunction("leave-one-out") is not defined for {type(self).__name__}: use VIMCO()'
        )

    def _groups(self, log_weights: Tensor) -> Tensor:
        """(K M, ...) -> (K, M, ...)."""
        return log_weights.unflatten(0, (-1, self.num_bounds))


class PIWAE(MIWAE):
    """The model follows IWAE_MK and the guide MIWAE_M,K, on the same M K particles.

    The model follows the tighter bound, the guide the better signal. The value is that of IWAE_MK.

    Args:
        num_bounds: Number of bounds M that the guide's target averages.
        num_particles: Number of particles K in each.
        gradient: `Reparameterized` or `DoublyReparameterized` (of the guide's target), or those
            that `MIWAE` takes.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, eq. 16.

    Example:
        >>> PIWAE(4, 5)
        PIWAE(num_particles=5, num_bounds=4)
    """

    splits = True

    @override
    def value(self, terms: LogTerms) -> Tensor:
        return log_mean_exp(self.log_weights(terms))

    @override
    def model_slopes(self, log_weights: Tensor) -> Tensor:
        return log_weights.softmax(0)
