"""Gradient estimators that follow log q alone, for latents without a path derivative."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import override

import torch
from torch import Tensor

from ppl_vae.objectives.gradients.pathwise import Coefficients, Gradient
from ppl_vae.objectives.target import Target, mean_of_others
from ppl_vae.runtime.checks import one_of, real_number

__all__ = ["VIMCO", "ScoreFunction"]


class Score(Gradient):
    """A signal for each particle multiplies its d log q / d phi; a subclass implements `signal`."""

    path_derivative = False

    @abstractmethod
    def signal(self, bound: Target, log_weights: Tensor) -> Tensor:
        """The factor of d log q(z_k) / d phi, (K, B)."""

    @override
    def coefficients(self, bound: Target, log_weights: Tensor) -> Coefficients:
        log_q = self.signal(bound, log_weights) - bound.kl_weight * bound.slopes(log_weights)
        return Coefficients(bound.model_slopes(log_weights), None, log_q)


@dataclass
class ScoreFunction(Score):
    """REINFORCE: (f(log w) - baseline) d log q / d phi, for discrete latents and the like.

    Its variance is high. The baseline "leave-one-out" compares each particle with the others and
    needs K >= 2; "moving-average" keeps a running mean of the bound; None is the plain estimator,
    for comparison.

    Args:
        baseline: "leave-one-out", "moving-average" or None.
        decay: Decay of the moving average, at least 0 and below 1.

    Raises:
        ValueError: the baseline is unknown; it is leave-one-out with one particle; the decay is
            outside [0, 1).

    References:
        Williams (1992), Simple statistical gradient-following algorithms, doi:10.1007/BF00992696;
        Kool, van Hoof and Welling (2019), Buy 4 REINFORCE samples, get a baseline for free.

    Example:
        >>> ScoreFunction("moving-average").baseline
        'moving-average'
    """

    baseline: str | None = "leave-one-out"
    decay: float = 0.9
    _average: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        one_of(self.baseline, "ScoreFunction(baseline)", ("leave-one-out", "moving-average", None))
        real_number(self.decay, "ScoreFunction(decay)", at_least=0, below=1)
        self.needs_others = self.baseline == "leave-one-out"
        self.has_state = self.baseline == "moving-average"

    @override
    def check(self, bound: Target) -> None:
        super().check(bound)
        if self.needs_others:
            bound.rewards_without(torch.zeros(bound.num_particles, 1))

    @override
    def state(self) -> dict[str, Tensor]:
        return {} if self._average is None else {"average": self._average}

    @override
    def restore(self, state: dict[str, Tensor]) -> None:
        self._average = state.get("average")

    @override
    def signal(self, bound: Target, log_weights: Tensor) -> Tensor:
        rewards = bound.rewards(log_weights)
        if self.baseline == "leave-one-out":
            return rewards - bound.rewards_without(log_weights)
        if self.baseline is None:
            return rewards
        mean = rewards.mean()
        average = mean if self._average is None else self._average
        self._average = self.decay * average + (1 - self.decay) * mean
        return rewards - average


@dataclass(frozen=True)
class VIMCO(Score):
    """Each particle's signal is its share of the bound: f(log w) - f(log w, log w_k replaced).

    log w_k is replaced by the mean of the others. For discrete or otherwise non-reparameterised
    latents, with many-particle bounds; needs K >= 2.

    Raises:
        ValueError: there is only one particle.

    References:
        Mnih and Rezende (2016), Variational inference for Monte Carlo objectives, arXiv:1602.06725,
        eq. 9.

    Example:
        >>> VIMCO()
        VIMCO()
    """

    needs_others = True

    @override
    def signal(self, bound: Target, log_weights: Tensor) -> Tensor:
        replaced = bound.reduce_others(log_weights, mean_of_others(log_weights))
        return bound.reduce(log_weights) - replaced
