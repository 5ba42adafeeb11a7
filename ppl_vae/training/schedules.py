"""Learning rates and weights as functions of the fraction of training done, without state."""

import math
from dataclasses import dataclass

from ppl_vae.runtime.checks import real_fields, whole_fields, whole_number

__all__ = ["Constant", "Cosine", "Cyclic", "Exponential", "Linear", "Stages"]

MOST_STAGES = 40  # the last of which has 4 10^18 passes


@dataclass(frozen=True)
class Constant:
    """The same rate throughout.

    Args:
        value: Learning rate.

    Example:
        >>> Constant(1e-3)(0.7)
        0.001
    """

    value: float

    def __post_init__(self) -> None:
        real_fields(self, "value", at_least=0)

    def __call__(self, fraction: float) -> float:
        """Rate after this fraction of training."""
        return self.value


@dataclass(frozen=True)
class Exponential:
    """From start to end by a constant factor per step: start (end / start)^fraction.

    Args:
        start: Learning rate at the beginning.
        end: Learning rate at the end.

    Example:
        >>> round(Exponential(1e-2, 1e-4)(0.5), 6)
        0.001
    """

    start: float
    end: float

    def __post_init__(self) -> None:
        real_fields(self, "start", "end", above=0)

    def __call__(self, fraction: float) -> float:
        """Rate after this fraction of training."""
        return self.start * (self.end / self.start) ** fraction


@dataclass(frozen=True)
class Cosine:
    """From start to end along half a cosine.

    References:
        Loshchilov and Hutter (2017), SGDR, arXiv:1608.03983, eq. 5 (one cycle).

    Args:
        start: Learning rate at the beginning.
        end: Learning rate at the end.

    Example:
        >>> Cosine(1e-3, 0.0)(1.0)
        0.0
    """

    start: float
    end: float = 0.0

    def __post_init__(self) -> None:
        real_fields(self, "start", "end", at_least=0)

    def __call__(self, fraction: float) -> float:
        """Rate after this fraction of training."""
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * fraction)) / 2


@dataclass(frozen=True)
class Linear:
    """From start to end in a straight line, then constant: for a KL warm-up.

    References:
        Bowman et al. (2016), Generating sentences from a continuous space, arXiv:1511.06349,
        section 3.1.

    Args:
        start: Value at the beginning.
        end: Value from `until` on.
        until: Fraction of training at which the end is reached.

    Example:
        >>> Linear(0.0, 1.0, until=0.5)(0.25)
        0.5
    """

    start: float = 0.0
    end: float = 1.0
    until: float = 1.0

    def __post_init__(self) -> None:
        real_fields(self, "start", "end", at_least=0)
        real_fields(self, "until", above=0, at_most=1)

    def __call__(self, fraction: float) -> float:
        """Value after this fraction of training."""
        return self.start + (self.end - self.start) * min(1.0, fraction / self.until)


@dataclass(frozen=True)
class Cyclic:
    """Several cycles, in each of which a weight grows from 0 to 1 and then stays at 1.

    References:
        Fu et al. (2019), Cyclical annealing schedule: a simple approach to mitigating KL vanishing,
        arXiv:1903.10145.

    Args:
        num_cycles: Number of cycles in the whole of training.
        ramp: Share of each cycle in which the weight grows.

    Example:
        >>> [Cyclic(num_cycles=2)(fraction) for fraction in (0.0, 0.125, 0.25, 0.5, 1.0)]
        [0.0, 0.5, 1.0, 0.0, 1.0]
    """

    num_cycles: int = 4
    ramp: float = 0.5

    def __post_init__(self) -> None:
        whole_fields(self, num_cycles=1)
        real_fields(self, "ramp", above=0, at_most=1)

    def __call__(self, fraction: float) -> float:
        """Weight after this fraction of training."""
        within = 1.0 if fraction >= 1.0 else fraction * self.num_cycles % 1.0
        return min(1.0, within / self.ramp)


@dataclass(frozen=True)
class Stages:
    """Burda's stages: stage i of n runs 3^i passes at rate start * 10^(-i / (n - 1)).

    References:
        Burda, Grosse and Salakhutdinov (2016), Importance weighted autoencoders, arXiv:1509.00519,
        section 5.

    Args:
        start: Learning rate of the first stage.
        num_stages: Number of stages n (8 in the paper: 3,280 passes).

    Example:
        >>> Stages(1e-3)(0.0), round(Stages(1e-3)(1.0), 6)
        (0.001, 0.0001)
    """

    start: float = 1e-3
    num_stages: int = 8

    def __post_init__(self) -> None:
        real_fields(self, "start", above=0)
        whole_number(self.num_stages, "Stages(num_stages)", at_most=MOST_STAGES)

    def __call__(self, fraction: float) -> float:
        """Rate after this fraction of training."""
        passes = [3**i for i in range(self.num_stages)]
        ends = [sum(passes[: i + 1]) / sum(passes) for i in range(self.num_stages)]
        stage = next((i for i, end in enumerate(ends) if fraction < end), self.num_stages - 1)
        return self.start * 10 ** (-stage / max(1, self.num_stages - 1))
