"""Variance and signal-to-noise ratio of a gradient estimator, from replicated gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import special
from torch import Tensor

from ppl_vae.runtime.display import Shown

__all__ = ["GradientNoise", "gradient_noise"]

NUM_BLOCKS = 20  # of the jackknife
LEAST = 4  # replicates
LEVEL = 0.025  # one-sided, of the floor and of either end of the interval
# E sqrt(max(0, z^2 - 1)), z ~ N(0, 1): (K_1(1/4) - K_0(1/4)) exp(-1/4) / sqrt(8 pi)
CLIPPED = 0.3426


@dataclass(frozen=True)
class GradientNoise(Shown):
    """Signal and noise of a gradient estimator g in P dimensions, from R independent replicates.

    The aggregated ratio is SNR = |E g| / sqrt(tr Cov g). |E g|^2 is estimated without bias as
    |mean|^2 - variance / R. Without any signal, the naive |mean| / sd is 1 / sqrt(R), and its
    average over components is 0.8 / sqrt(R). The average over components of |E g_j| / sd(g_j) is
    also debiased, but each term is clipped at 0, so 0.34 / sqrt(R) remains.

    Args:
        variance: tr Cov g, the total variance.
        variance_se: Its standard error, by a jackknife over blocks of replicates.
        snr: Aggregated signal-to-noise ratio, debiased; 0 if the estimate of its square is
            negative, NaN if the gradient does not vary.
        snr_low: Lower end of its 95 % interval: the lower of two, by the jackknife on the square,
            valid if the ratio is large, and by the noncentral chi-squared distribution, valid if it
            is small.
        snr_high: Upper end, the higher of the two.
        snr_floor: Value that an estimator without any signal exceeds in 2.5 % of runs:
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
        >>> generator = torch.Generator().manual_seed(0)
        >>> print(gradient_noise(1.0 + torch.randn(400, 10, generator=generator)))
        SNR 1.00 (95 % interval 0.96 to 1.04, floor 0.052), total variance 9.85
    """

    variance: float = np.nan
    variance_se: float = np.nan
    snr: float = np.nan
    snr_low: float = np.nan
    snr_high: float = np.nan
    snr_floor: float = np.nan
    component_snr: float = np.nan
    component_floor: float = np.nan
    num_replicates: int = 0
    num_parameters: int = 0

    def __str__(self) -> str:
        interval = f"95 % interval {self.snr_low:.2f} to {self.snr_high:.2f}"
        floor = f"floor {self.snr_floor:.2g}"
        return f"SNR {self.snr:.2f} ({interval}, {floor}), total variance {self.variance:.3g}"


def gradient_noise(gradients: Tensor) -> GradientNoise:
    """Variance and debiased signal-to-noise ratio of replicated gradients.

    Replicates must be independent; a moving baseline makes them slightly dependent.

    Args:
        gradients: Shape (R, P).

    Returns:
        See `GradientNoise`.

    Raises:
        ValueError: There are fewer than 4 replicates, or the gradients are not a matrix.

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
    """Sums over replicated gradients in 20 blocks, whose memory does not grow with the replicates.

    The sums are over differences from the first gradient, so that a small variance is not lost
    beside a large mean.
    """

    def __init__(self) -> None:
        self.counts, self.squares = np.zeros(NUM_BLOCKS), np.zeros(NUM_BLOCKS)

    def add(self, gradient: Tensor) -> None:
        """Add one gradient, (P,)."""
        count = int(self.counts.sum())
        if count == 0:
            self.first = gradient.clone()
            self.sums = gradient.new_zeros(NUM_BLOCKS, len(gradient))
            self.component_squares = torch.zeros_like(gradient, dtype=torch.float64)
        block = count % NUM_BLOCKS
        difference = gradient - self.first
        squares = difference.double().square()
        self.sums[block] += difference
        self.component_squares += squares
        self.squares[block] += squares.sum().item()
        self.counts[block] += 1

    def noise(self) -> GradientNoise:
        """The summary of the gradients so far; ValueError if there are fewer than 4."""
        count = int(self.counts.sum())
        if count < LEAST:
            raise ValueError(
                f"there are {count} replicates: a signal-to-noise ratio needs at least {LEAST}"
            )
        num_parameters = len(self.first)
        if not num_parameters:
            return GradientNoise(num_replicates=count)
        num_blocks = min(count, NUM_BLOCKS)
        variance, square = self.estimates(np.ones(num_blocks))
        leaving_one_out = self.estimates(1 - np.eye(num_blocks))
        variance_se, square_se = np.sqrt((num_blocks - 1) * np.var(leaving_one_out, axis=1))
        reach = special.stdtrit(num_blocks - 1, 1 - LEVEL) * square_se
        dimensions = self._dimensions()
        low, high = _noncentral(square, dimensions, count)
        ratios = np.array([square, min(low, square - reach), max(high, square + reach)])
        snr, snr_low, snr_high = np.sqrt(np.maximum(ratios, 0)).tolist()
        floor = np.sqrt((special.chdtri(dimensions, LEVEL) / dimensions - 1) / count)
        return GradientNoise(
            variance=float(variance),
            variance_se=float(variance_se),
            snr=snr,
            snr_low=snr_low,
            snr_high=snr_high,
            snr_floor=float(floor) if variance > 0 else np.nan,
            component_snr=self._component_snr(count),
            component_floor=CLIPPED / count**0.5,
            num_replicates=count,
            num_parameters=num_parameters,
        )

    def estimates(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Total variance and unbiased squared SNR of some blocks; `chosen` is (..., J), 0 or 1.

        With D_j a block's sum of g - g_1, |mean|^2 = |g_1|^2 + 2 g_1 . D / R + |D|^2 / R^2.
        """
        num_blocks = chosen.shape[-1]
        sums = self.sums[:num_blocks].double()
        cross = (sums @ self.first.double()).cpu().numpy()
        count = chosen @ self.counts[:num_blocks]
        square_of_sum = np.einsum("...i,ij,...j->...", chosen, self._gram(), chosen)
        squares = chosen @ self.squares[:num_blocks]
        variance = np.maximum(squares - square_of_sum / count, 0) / (count - 1)
        first = self.first.double().square().sum().item()
        square_of_mean = first + 2 * (chosen @ cross) / count + square_of_sum / count**2
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = (square_of_mean - variance / count) / variance
        return variance, np.where(variance > 0, ratio, np.nan)

    def _gram(self) -> np.ndarray:
        """D_i . D_j of the blocks that hold gradients, (J, J)."""
        sums = self.sums[: np.count_nonzero(self.counts)].double()
        return (sums @ sums.T).cpu().numpy()

    def _dimensions(self) -> float:
        """Effective number of dimensions of the noise, (tr Cov)^2 / tr(Cov^2), from 1 to P.

        tr(Cov^2) is estimated without bias from the blocks' means, which are nearly normal.
        """
        counts = self.counts[self.counts > 0]
        gram = self._gram() / np.outer(counts, counts)
        gram = gram - gram.mean(0) - gram.mean(1, keepdims=True) + gram.mean()
        free = len(gram) - 1
        trace, squares = np.trace(gram) / free, (gram**2).sum() / free**2
        square_trace = free**2 / ((free - 1) * (free + 2)) * (squares - trace**2 / free)
        if square_trace <= 0:
            return float(len(self.first))
        return float(np.clip(trace**2 / square_trace, 1, len(self.first)))

    def _component_snr(self, count: int) -> float:
        total = self.sums.double().sum(0)
        mean = self.first.double() + total / count
        variance = (self.component_squares - total.square() / count) / (count - 1)
        varies = variance > 0
        squares = mean[varies].square() / variance[varies] - 1 / count
        return squares.clamp(min=0).sqrt().mean().item()


def _noncentral(square: Any, dimensions: float, count: int) -> tuple[float, float]:
    """95 % interval of the squared ratio, nu R (square + 1 / R) being noncentral chi-squared."""
    statistic = dimensions * (count * square + 1)
    if not np.isfinite(statistic):
        return square, square
    ends = []
    for probability in (1 - LEVEL, LEVEL):
        found = special.chndtrinc(statistic, dimensions, probability)
        if special.chndtr(max(statistic, 0.0), dimensions, 0.0) <= probability:
            found = 0.0
        ends.append(float(found) / (dimensions * count))
    return ends[0], ends[1]
