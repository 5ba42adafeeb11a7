"""How much of a gradient estimator is signal: variance and signal-to-noise ratio from replicated
gradients.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

__all__ = ["GradientNoise", "gradient_noise"]

NUM_BLOCKS = 20  # of the jackknife
LEAST = 4  # replicates
LEVEL = 0.025  # one-sided, of the floor and of either end of the interval
CLIPPED = (
    0.3426  # E sqrt(max(0, z^2 - 1)), z ~ N(0, 1): (K_1(1/4) - K_0(1/4)) exp(-1/4) / sqrt(8 pi)
)


@dataclass(frozen=True)
class GradientNoise:
    """Signal and noise of a gradient estimator g in P dimensions, from R independent replicates.

    The aggregated ratio is SNR = |E g| / sqrt(tr Cov g). |E g|^2 is estimated without bias,
    |mean|^2 - variance / R:
    left as it is, the naive |mean| / sd would show 1 / sqrt(R) where there is no signal at all, and
    the naive average over components 0.8 / sqrt(R). Also debiased is the average over components of
    |E g_j| / sd(g_j), but each of them is cut off at 0, so that 0.34 / sqrt(R) remains.

    Args:
        variance: tr Cov g, the total variance.
        variance_se: Its standard error, by a jackknife over blocks of replicates.
        snr: Aggregated signal-to-noise ratio, debiased; 0 where the estimate of its square is
            negative, NaN where nothing varies.
        snr_low: Lower end of its 95 % interval: that of the jackknife on the square, which holds
            where the ratio is large, or of the noncentral chi-squared, which holds where it is
            small, whichever is lower.
        snr_high: Upper end, whichever is higher.
        snr_floor: What an estimator without any signal exceeds in 2.5 % of runs:
            sqrt((chi2_nu(0.975) / nu - 1) / R), nu = (tr Cov)^2 / tr(Cov^2), which is 2 / sqrt(R)
            for one component.
        component_snr: Debiased average over the components that vary.
        component_floor: Its mean without any signal, 0.34 / sqrt(R).
        num_replicates: R.
        num_parameters: P.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3; Srivastava (2005), Some tests concerning the covariance matrix,
        J. Japan Statist. Soc. 35 (tr(Cov^2)).

    Example:
        >>> noise = gradient_noise(1.0 + torch.randn(400, 10, generator=torch.Generator().manual_seed(0)))
        >>> print(noise)
        SNR 1.00 (95 % interval 0.96 to 1.04, floor 0.052), total variance 9.85
    """

    variance: float
    variance_se: float
    snr: float
    snr_low: float
    snr_high: float
    snr_floor: float
    component_snr: float
    component_floor: float
    num_replicates: int
    num_parameters: int

    def __str__(self) -> str:
        interval = (
            f"95 % interval {self.snr_low:.2f} to {self.snr_high:.2f}, floor {self.snr_floor:.2g}"
        )
        return f"SNR {self.snr:.2f} ({interval}), total variance {self.variance:.3g}"


def gradient_noise(gradients: Tensor) -> GradientNoise:
    """Variance and debiased signal-to-noise ratio of replicated gradients.

    Replicates must be independent; a moving baseline makes them slightly dependent.

    Args:
        gradients: Shape (R, P).

    Returns:
        See `GradientNoise`.

    Raises:
        ValueError: fewer than 4 replicates, or another number of dims.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3.

    Example:
        >>> gradient_noise(torch.randn(100, 3, generator=torch.Generator().manual_seed(0))).snr
        0.0
    """
    if gradients.dim() != 2:
        raise ValueError(
            f"gradients have shape {tuple(gradients.shape)}: give (replicates, parameters)"
        )
    moments = Moments()
    for gradient in gradients:
        moments.add(gradient)
    return moments.noise()


class Moments:
    """Sums over replicated gradients in blocks: memory for 20 gradients, whatever their number.

    Sums are of differences from the first gradient, so that a large mean does not drown a small
    variance.
    """

    def __init__(self) -> None:
        self.counts, self.squares = np.zeros(NUM_BLOCKS), np.zeros(NUM_BLOCKS)

    def add(self, gradient: Tensor) -> None:
        """Take in one gradient, (P,)."""
        count = int(self.counts.sum())
        if count == 0:
            self.first = gradient.clone()
            self.sums = gradient.new_zeros(NUM_BLOCKS, len(gradient))
            self.component_squares = torch.zeros_like(gradient, dtype=torch.float64)
        difference, block = gradient - self.first, count % NUM_BLOCKS
        squares = difference.double().square()
        self.sums[block] += difference
        self.component_squares += squares
        self.squares[block] += squares.sum().item()
        self.counts[block] += 1

    def noise(self) -> GradientNoise:
        """What the gradients so far say.

        Raises:
            ValueError: there are fewer than 4.
        """
        count = int(self.counts.sum())
        if count < LEAST:
            raise ValueError(
                f"there are {count} replicates: a signal-to-noise ratio needs at least {LEAST}"
            )
        if not len(self.first):
            return GradientNoise(
                np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, count, 0
            )
        blocks = self.blocks()
        every = np.ones(len(blocks.counts))
        variance, square = (float(found) for found in blocks.estimates(every))
        (variance_se, square_se), reach = (
            blocks.jackknife(),
            special.stdtrit(len(every) - 1, 1 - LEVEL),
        )
        dimensions = blocks.dimensions(len(self.first))
        low, high = _noncentral(square, dimensions, count)
        return GradientNoise(
            variance=variance,
            variance_se=variance_se,
            snr=_root(square),
            snr_low=_root(min(low, square - reach * square_se)),
            snr_high=_root(max(high, square + reach * square_se)),
            snr_floor=_floor(dimensions, count) if variance > 0 else np.nan,
            component_snr=self._component_snr(count),
            component_floor=CLIPPED / count**0.5,
            num_replicates=count,
            num_parameters=len(self.first),
        )

    def blocks(self) -> "Blocks":
        """What the aggregated estimates need."""
        used = self.counts > 0
        sums = self.sums[torch.as_tensor(used, device=self.sums.device)].double()
        return Blocks(
            counts=self.counts[used],
            squares=self.squares[used],
            gram=(sums @ sums.T).cpu().numpy(),
            cross=(sums @ self.first.double()).cpu().numpy(),
            first=self.first.double().square().sum().item(),
        )

    def _component_snr(self, count: int) -> float:
        total = self.sums.double().sum(0)
        mean = self.first.double() + total / count
        variance = (self.component_squares - total.square() / count) / (count - 1)
        varies = variance > 0
        squares = mean[varies].square() / variance[varies] - 1 / count
        return squares.clamp(min=0).sqrt().mean().item()


@dataclass(frozen=True)
class Blocks:
    """What the estimates and their jackknife need of J blocks of gradients, D_j being a block's sum
    less g_1 each.

    Args:
        counts: Gradients in each block, (J,).
        squares: Sum of |g - g_1|^2 in each block, (J,).
        gram: D_i . D_j, (J, J).
        cross: D_j . g_1, (J,).
        first: |g_1|^2.
    """

    counts: np.ndarray
    squares: np.ndarray
    gram: np.ndarray
    cross: np.ndarray
    first: float

    def estimates(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Total variance, and squared signal-to-noise ratio without bias, of the chosen blocks
        (..., J) of 0 and 1.
        """
        count = chosen @ self.counts
        square_of_sum = np.einsum("...i,ij,...j->...", chosen, self.gram, chosen)
        variance = np.maximum(chosen @ self.squares - square_of_sum / count, 0) / (count - 1)
        square_of_mean = self.first + 2 * (chosen @ self.cross) / count + square_of_sum / count**2
        with np.errstate(invalid="ignore", divide="ignore"):
            return variance, np.where(
                variance > 0, (square_of_mean - variance / count) / variance, np.nan
            )

    def jackknife(self) -> tuple[float, ...]:
        """Standard errors of the two, leaving out a block at a time."""
        num = len(self.counts)
        left = self.estimates(1 - np.eye(num))
        return tuple(
            float(np.sqrt((num - 1) * np.mean((found - found.mean()) ** 2))) for found in left
        )

    def dimensions(self, num_parameters: int) -> float:
        """Effective number of dimensions of the noise, (tr Cov)^2 / tr(Cov^2), from 1 to P.

        tr(Cov^2) is estimated without bias from the blocks' means, which are nearly normal.
        """
        gram = self.gram / np.outer(self.counts, self.counts)
        gram = gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()
        free = len(gram) - 1
        trace, squares = np.trace(gram) / free, (gram**2).sum() / free**2
        square_trace = free**2 / ((free - 1) * (free + 2)) * (squares - trace**2 / free)
        return (
            float(np.clip(trace**2 / square_trace, 1, num_parameters))
            if square_trace > 0
            else float(num_parameters)
        )


def _root(square: float) -> float:
    return float(np.sqrt(np.maximum(square, 0)))  # NaN stays NaN


def _noncentral(square: float, dimensions: float, count: int) -> tuple[float, float]:
    """95 % interval of the squared ratio: nu R (square + 1 / R) is nearly noncentral chi-squared,
    with nu R SNR^2.
    """
    statistic = dimensions * (count * square + 1)
    if not np.isfinite(statistic):
        return square, square
    ends = []
    for probability in (1 - LEVEL, LEVEL):
        central = special.chndtr(max(statistic, 0.0), dimensions, 0.0)
        found = (
            0.0 if central <= probability else special.chndtrinc(statistic, dimensions, probability)
        )
        ends.append(float(found) / (dimensions * count))
    return ends[0], ends[1]


def _floor(dimensions: float, count: int) -> float:
    return float(np.sqrt((special.chdtri(dimensions, LEVEL) / dimensions - 1) / count))
