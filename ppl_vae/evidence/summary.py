"""Means of evidence over its rows, with both kinds of error, in one line."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ppl_vae.data.rounding import REMEDY
from ppl_vae.evidence.pareto import GOOD_K, RESOLUTION
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import counted, percent

__all__ = ["EvidenceSummary"]

ROUNDING = 1e-9
SHOWN = 5e-4  # by three digits
NOTABLE_BIAS = 0.3  # of the standard error: with more, a 95 % interval covers less than 94 %


def k_hat_of(share_bad: float) -> str:
    """The share of rows with a bad k-hat, in words."""
    if np.isnan(share_bad):
        return "k-hat unknown for some"
    return f"k-hat > {GOOD_K} for {percent(share_bad)}"


@dataclass(frozen=True)
class EvidenceSummary(Shown):
    """Means over the rows, in nats per row, with both kinds of error.

    Rows with weights have weighted means, sum_i w_i l_i / sum_i w_i. Their `data_se` is robust: w
    are sampling weights, as of a survey, and a row of weight 2 is one observation.

    Args:
        log_evidence: Mean of log p(x).
        mc_se: Its Monte Carlo standard error, over draws of the particles.
        data_se: Its standard error over draws of the rows, (sum_i s_i^2 (l_i - mean)^2 / (1 - 2 s_i
            + sum_j s_j^2))^(1/2) with s_i = w_i / sum_j w_j, which is sd / sqrt(N) without weights.
        mc_bias: Leading term of its bias, - mean(mc_se^2) / 2, since the log of a mean is low;
            reliable if k-hat is good. It has the opposite sign for an upper bound from reverse
            annealing, and is NaN for the chi bound.
        elbo: Mean ELBO of the same draws.
        mean_ess: Mean effective sample size.
        share_bad_k: Share of rows with k-hat > 0.7, NaN if unknown; of their weight, if they have
            weights.
        num_data: Number of rows N.
        num_particles: Number of particles K.
        bound: Kind of bound, as in `Evidence.bound`.
        share_estimate: Share of rows (or of their weight) with a reliable log p(x) and standard
            error (`Evidence.is_estimate`); below 1 the mean is a lower bound, and `mc_se`, being
            unreliable, is not printed.
        num_unresolved: Number of rows whose log-weights are too large for their float type, so that
            errors are unknown.
        rounding_of_x: Share of a column's standard deviation that the float type of x rounds away;
            0 if it is not visible.
        weighted: Whether the rows have weights.
        quantity: What it is the log-probability of: "log p(x_obs, m)" with a missingness model.

    References:
        Särndal, Swensson and Wretman (1992), Model assisted survey sampling, section 5.7; MacKinnon
        and White (1985), Some heteroskedasticity-consistent covariance matrix estimators, Journal
        of Econometrics 29 (HC2).

    Example:
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> summary = reduce_log_weights(np.zeros((100, 5))).summary()
        >>> summary.log_evidence, summary.mc_se, summary.share_bad_k
        (0.0, 0.0, 0.0)
    """

    log_evidence: float
    mc_se: float
    data_se: float
    mc_bias: float
    elbo: float
    mean_ess: float
    share_bad_k: float
    num_data: int
    num_particles: int
    bound: str = "lower"
    num_unresolved: int = 0
    share_estimate: float = 1.0
    rounding_of_x: float = 0.0
    weighted: bool = False
    quantity: str = "log p(x)"

    def __str__(self) -> str:
        row = "weighted " * self.weighted + "row"
        unit = f"{self._relation} {self.log_evidence:.3f} nats per {row} ({self._errors()})"
        others = f"; ELBO {self.elbo:.3f}" if self.bound == "lower" else f", {self.bound}"
        k_hat = f"{k_hat_of(self.share_bad_k)} of {self.num_data} rows at K={self.num_particles}"
        return f"{self._share()}{self.quantity} {unit}{others}; {k_hat}{''.join(self._remedies())}"

    def brief(self) -> str:
        """The mean, both errors by name, and their reliability."""
        kind = "weighted " * self.weighted
        mean = f"{kind}mean {self.quantity} {self._relation} {self.log_evidence:.3f}"
        parts = [f"{self._share()}{mean} ({self._errors()})", k_hat_of(self.share_bad_k)]
        if self._share_skewed:
            parts.append(f"weights too skewed for {percent(self._share_skewed)}")
        if self.rounding_of_x:
            parts.append(f"x rounded by {self.rounding_of_x:.0%} of a column's sd")
        return ", ".join(parts)

    @property
    def _holds(self) -> bool:
        """Whether the Monte Carlo standard error is reliable, as far as the draws show."""
        return self.bound != "lower" or self.share_estimate == 1

    @property
    def _relation(self) -> str:
        if self.bound != "lower":
            return "<="
        return "=" if self._holds else ">="

    @property
    def _share_skewed(self) -> float:
        """The share of rows without an estimate that k-hat does not explain."""
        if self._holds or np.isnan(self.share_bad_k):
            return 0.0
        share = 1 - self.share_estimate - self.share_bad_k
        return share if share > ROUNDING else 0.0

    def _share(self) -> str:
        """The share of rows with an estimate, unless it is 100 %."""
        if self._holds:
            return ""
        of = "of the weight" if self.weighted else "of the rows"
        return f"an estimate for {percent(self.share_estimate)} {of}: "

    def _errors(self) -> str:
        monte_carlo = f"{self.mc_se:.3f}" if self._holds else "unknown"
        if self._holds and abs(self.mc_bias) > max(NOTABLE_BIAS * self.mc_se, SHOWN):
            monte_carlo += f" and bias {self.mc_bias:.3f}"  # which more rows do not average out
        return f"Monte Carlo se {monte_carlo}, data se {self.data_se:.3f}"

    def _remedies(self) -> Iterator[str]:
        """Remedies for a poor guide, for log-weights that are too large, and for rounded x."""
        if self._share_skewed:
            yield (
                f"; the weights of {percent(self._share_skewed)} are too skewed for an interval at "
                "this K: draw more particles"
            )
        if not (self._holds or np.isnan(self.share_bad_k)):
            yield "; refine the guide's posteriors (refine)"
            yield ", or bracket log p(x) (evidence_interval)"
        if self.num_unresolved:
            yield (
                f"; the float type rounds the log-weights of {counted(self.num_unresolved, 'row')} "
                f"by more than {RESOLUTION} nats, since x is too far from zero, or the draws of a "
                "narrow guide to a few numbers: standardise x, or use float64 "
                "(model.double(), guide.double(), Dataset(x, dtype=torch.float64))"
            )
        if np.isnan(self.log_evidence):
            yield (
                "; log p(x) is not defined for some rows (Evidence.is_undefined), where a "
                "log-density is NaN or +inf: look at the model and the guide there"
            )
        if self.rounding_of_x:
            share = f"{self.rounding_of_x:.0%} of the standard deviation of a column"
            yield f"; log p(x) is that of rounded x, off by {share}: {REMEDY}"
