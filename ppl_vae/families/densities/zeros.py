"""Counts with more zeros, or fewer, than their law has."""

from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

__all__ = ["Hurdle", "ZeroInflated"]


class ZeroInflated(dist.ZeroInflatedDistribution):
    """Zero with probability pi = sigmoid(gate_logits), else a draw of `base_dist`.

    Pyro's version adds and subtracts the logit, which rounds log p(x) at the size of the logit, and
    subtracts squared means from each other in the variance.

    Args:
        base_dist: The law of the counts.
        gate_logits: log(pi / (1 - pi)).

    Example:
        >>> from ppl_vae.families.densities import LogRatePoisson
        >>> law = LogRatePoisson(torch.tensor(0.0))
        >>> ZeroInflated(law, gate_logits=torch.tensor(1e4)).log_prob(torch.tensor([0.0, 1.0]))
        tensor([     0., -10001.])
    """

    @property
    def log_shares(self) -> tuple[Tensor, Tensor]:
        """log pi and log(1 - pi)."""
        return logsigmoid(self.gate_logits), logsigmoid(-self.gate_logits)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_gate, log_rest = self.log_shares
        counted = log_rest + self.base_dist.log_prob(value)
        return torch.where(value == 0, torch.logaddexp(log_gate, counted), counted)

    @property
    def mean(self) -> Tensor:
        """(1 - pi) mu."""
        return torch.sigmoid(-self.gate_logits) * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """(1 - pi) (sigma^2 + pi mu^2)."""
        within = self.base_dist.variance + self.gate * self.base_dist.mean.square()
        return torch.sigmoid(-self.gate_logits) * within


class Hurdle(ZeroInflated):
    """Zero with probability pi = sigmoid(gate_logits), else a draw of `base_dist` above zero.

    With f the law of the counts, log p(x) = log(1 - pi) + log f(x) - log(1 - f(0)) for x > 0. A
    draw above zero is the number of events of a process with at least one: the first comes when the
    hazard -log f(0) has been used up to an exponential variable that is truncated at all of it, and
    `after_first` is the law of the others. It rejects no draw, however rare counts above zero are.

    Args:
        base_dist: The law f of the counts, with `hazard` and `after_first`.
        gate_logits: log(pi / (1 - pi)).

    Example:
        >>> from ppl_vae.families.densities import LogRatePoisson
        >>> law = LogRatePoisson(torch.tensor(-40.0))
        >>> Hurdle(law, gate_logits=torch.tensor(-40.0)).sample()
        tensor(1.)
    """

    base_dist: Any

    @property
    def hazard(self) -> Tensor:
        """-log f(0), which is at least the smallest normal number."""
        hazard = self.base_dist.hazard
        return hazard.clamp(min=torch.finfo(hazard.dtype).tiny)

    @override
    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        log_gate, log_rest = self.log_shares
        log_above = (-torch.expm1(-self.hazard)).log()
        counted = log_rest + self.base_dist.log_prob(value) - log_above
        return torch.where(value == 0, log_gate, counted)

    @property
    def _factor(self) -> Tensor:
        """(1 - pi) / (1 - f(0)), by which the mean is that of the law."""
        return torch.sigmoid(-self.gate_logits) / -torch.expm1(-self.hazard)

    @property
    def mean(self) -> Tensor:
        """mu (1 - pi) / (1 - f(0))."""
        return self._factor * self.base_dist.mean

    @property
    def variance(self) -> Tensor:
        """q (sigma^2 + (1 - q) mu^2), q = (1 - pi) / (1 - f(0))."""
        lacking = (self.gate - torch.exp(-self.hazard)) / -torch.expm1(-self.hazard)  # 1 - q
        return self._factor * (self.base_dist.variance + lacking * self.base_dist.mean.square())

    @override
    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            hazard = self.hazard.expand(shape)
            used = -torch.log1p(torch.rand_like(hazard) * torch.expm1(-hazard))
            left = (hazard - used).clamp(min=torch.finfo(hazard.dtype).tiny)
            counts = 1 + self.base_dist.after_first(left).sample()
            return torch.where(torch.bernoulli(self.gate.expand(shape)) > 0, 0.0, counts)
