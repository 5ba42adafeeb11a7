"""Likelihoods of counts whose zeros have a probability of their own."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal, override

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_vae.families import densities
from ppl_vae.families.likelihoods.counts import CountMoments, Counts, DispersedCounts
from ppl_vae.runtime.checks import one_of

__all__ = [
    "HurdleNegativeBinomial",
    "HurdlePoisson",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
]

Gate = Literal["feature", "decoder"]
NUM_SWEEPS = 50  # of the EM algorithm that finds where a likelihood starts


class Gated(Counts):
    """Counts with a probability pi_i of zeros: learned per feature, or from the features of z."""

    density: type[densities.ZeroInflated]

    def __init__(self, event_shape: int | Sequence[int], gate: Gate) -> None:
        super().__init__(event_shape)
        self.gate = one_of(gate, "gate", ("feature", "decoder"))
        self.num_parameters = 1 + (gate == "decoder")
        if gate == "feature":
            self.gate_logits = nn.Parameter(torch.zeros(self.event_shape))

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        # A copy, so that a distribution without gradients does not hold the parameter.
        gate_logits = raw[1] if self.gate == "decoder" else self.gate_logits.clone()
        return self.density(self.law(raw[0]), gate_logits=gate_logits)

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        """Start from the marginal law of each x_i, by the EM algorithm.

        What is missing is which zeros the law of counts owns, or has lost.

        References:
            Lambert (1992), Zero-inflated Poisson regression, Technometrics 34.
        """
        self._check_shape(x)
        moments = CountMoments(x, exposure)
        num_zeros = 0.5 * moments.zeros
        for _ in range(NUM_SWEEPS):
            rate = moments.rate(num_zeros)
            self.start_dispersion(moments, rate, num_zeros)
            gate = self.share_of_zeros(moments, num_zeros)
            with torch.no_grad():
                hazard = self.law((rate * moments.exposure).log()).hazard
            num_zeros = self.zeros_of_law(moments, hazard, gate)
        raw = (rate.log(), gate.logit())
        self.start_link(x, *raw[: self.num_parameters])
        if self.gate == "feature":
            with torch.no_grad():
                known = moments.num_rows > 0
                self.gate_logits.copy_(torch.where(known, raw[1], self.gate_logits.double()))

    @abstractmethod
    def share_of_zeros(self, moments: CountMoments, num_zeros: Tensor) -> Tensor:
        """pi_i, given how many zeros the law of counts has at each exposure."""

    @abstractmethod
    def zeros_of_law(self, moments: CountMoments, hazard: Tensor, gate: Tensor) -> Tensor:
        """How many zeros the law of counts has at each exposure, given -log f(0) there and pi_i."""

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, gate={self.gate!r}"


class Inflated(Gated):
    """Zeros of two kinds: those of the gate and those of the law."""

    density = densities.ZeroInflated

    def __init__(self, event_shape: int | Sequence[int], gate: Gate = "feature") -> None:
        super().__init__(event_shape, gate)

    @override
    def share_of_zeros(self, moments: CountMoments, num_zeros: Tensor) -> Tensor:
        of_gate = (moments.zeros - num_zeros).sum(0)
        return (of_gate + 0.5) / (moments.num_rows + 1)

    @override
    def zeros_of_law(self, moments: CountMoments, hazard: Tensor, gate: Tensor) -> Tensor:
        counted = (1 - gate) * torch.exp(-hazard)
        return moments.zeros * counted / (gate + counted)


class Truncated(Gated):
    """All zeros are the gate's; the law has lost its own."""

    density = densities.Hurdle

    def __init__(self, event_shape: int | Sequence[int], gate: Gate = "decoder") -> None:
        super().__init__(event_shape, gate)

    @override
    def share_of_zeros(self, moments: CountMoments, num_zeros: Tensor) -> Tensor:
        return (moments.zeros.sum(0) + 0.5) / (moments.num_rows + 1)

    @override
    def zeros_of_law(self, moments: CountMoments, hazard: Tensor, gate: Tensor) -> Tensor:
        return moments.above / torch.expm1(hazard)


class ZeroInflatedPoisson(Inflated):
    """Zero with probability pi_i, else Poisson(exp(eta_i)): some rows could have no count at all.

    P(x_i = 0 given z) = pi_i + (1 - pi_i) exp(-mu_i). Where means are small, pi is poorly
    determined: compare `NegativeBinomial`, whose zeros are often as many.

    Args:
        event_shape: Shape of one observation.
        gate: "feature" (pi_i is learned, one per feature; the default, since the zeros of the law
            depend on z as it is) or "decoder" (pi_i from z).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `gate` is not one of the two words.

    References:
        Lambert (1992), Zero-inflated Poisson regression, with an application to defects in
        manufacturing, Technometrics 34.

    Example:
        >>> likelihood = ZeroInflatedPoisson(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """


class ZeroInflatedNegativeBinomial(Inflated, DispersedCounts):
    """Zero with probability pi_i, else negative binomial: mean exp(eta_i), dispersion r_i learned.

    A small r makes many zeros too, so that pi and r are determined together only by many rows.

    Args:
        event_shape: Shape of one observation.
        gate: "feature" (pi_i is learned, one per feature; the default) or "decoder" (pi_i from z).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `gate` is not one of the two words.

    References:
        Greene (1994), Accounting for excess zeros and sample selection in Poisson and negative
        binomial regression models, NYU working paper EC-94-10; Lopez et al. (2018), Deep generative
        modeling for single-cell transcriptomics, doi:10.1038/s41592-018-0229-2.

    Example:
        >>> likelihood = ZeroInflatedNegativeBinomial(3, gate="decoder")
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).mean.shape
        torch.Size([5, 3])
    """


class HurdlePoisson(Truncated):
    """Zero with probability pi_i, else Poisson(exp(eta_i)) given that it is above zero.

    Whether there is a count, and how many if so, are separate questions: pi_i may also be below the
    law's own share of zeros. The mean is (1 - pi_i) mu_i / (1 - exp(-mu_i)).

    Args:
        event_shape: Shape of one observation.
        gate: "decoder" (pi_i from z; the default, since otherwise z has no part in the zeros) or
            "feature" (pi_i is learned, one per feature).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `gate` is not one of the two words.

    References:
        Mullahy (1986), Specification and testing of some modified count data models, Journal of
        Econometrics 33.

    Example:
        >>> likelihood = HurdlePoisson(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """


class HurdleNegativeBinomial(Truncated, DispersedCounts):
    """Zero with probability pi_i, else negative binomial given that it is above zero, r_i learned.

    The law of counts above zero has the mean exp(eta_i) before its zeros are taken away.

    Args:
        event_shape: Shape of one observation.
        gate: "decoder" (pi_i from z; the default) or "feature" (pi_i is learned, one per feature).

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape `event_shape`

    Raises:
        ValueError: `gate` is not one of the two words.

    References:
        Mullahy (1986), Specification and testing of some modified count data models, Journal of
        Econometrics 33.

    Example:
        >>> likelihood = HurdleNegativeBinomial(3)
        >>> likelihood.build((2,))
        >>> likelihood(torch.zeros(5, 2)).event_shape
        torch.Size([3])
    """
