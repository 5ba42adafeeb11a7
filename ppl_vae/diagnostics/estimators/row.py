"""One objective in `compare_estimators`, and the reference for log p(x)."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ppl_vae.diagnostics.estimators.noise import GradientNoise
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import percent

__all__ = ["GROUPS", "MEASURES", "EstimatorRow", "Reference", "with_error"]

GROUPS = ("theta", "phi")
MEASURES = tuple(field.name for field in fields(GradientNoise) if not field.name.startswith("num_"))


@dataclass(frozen=True)
class Reference(Shown):
    """The log p(x) with which values are compared, in nats per row: exact or estimated.

    Args:
        log_evidence: Mean over the rows; NaN if it is unavailable.
        se: Its Monte Carlo standard error; 0 if it is exact.
        elbo: The ELBO of the same weights; NaN if log p(x) is exact.
        elbo_se: Its Monte Carlo standard error.
        num_particles: Particles K of importance sampling; 0 if log p(x) is exact.
        share_bad_k: Share of the rows with k-hat > 0.7, for which the reference is only a lower
            bound; NaN if unknown.
        note: Why there is no reference.

    Example:
        >>> print(Reference(-3.25, 0.0))
        log p(x) = -3.2500, exact
    """

    log_evidence: float = np.nan
    se: float = np.nan
    elbo: float = np.nan
    elbo_se: float = np.nan
    num_particles: int = 0
    share_bad_k: float = np.nan
    note: str = ""

    def __str__(self) -> str:
        if self.note:
            return f"no reference for log p(x): {self.note}"
        if not self.num_particles:
            return f"log p(x) = {self.log_evidence:.4f}, exact"
        said = (
            f"log p(x) = {with_error(self.log_evidence, self.se)}, ELBO = "
            f"{with_error(self.elbo, self.elbo_se)}, by importance sampling with "
            f"K = {self.num_particles:,} particles per observation"
        )
        if np.isnan(self.share_bad_k):
            return f"{said}; too few for a k-hat, so the reliability of log p(x) is unknown"
        if self.share_bad_k > 0:
            rows = f"{percent(self.share_bad_k)} of the rows"
            return f"{said}; k-hat > {GOOD_K} for {rows}: log p(x) is a lower bound"
        return said


@dataclass(frozen=True)
class EstimatorRow(Shown):
    """One objective.

    Args:
        name: Its name.
        values: Mean bound per observation at each replicate, (R,).
        seconds: Duration of each gradient step, (R,).
        peak_memory: Bytes alive at once during a step, beyond those before it.
        theta: Noise of the gradient for the model's parameters.
        phi: Noise of the gradient for the guide's parameters.
        reason: Why it could not be used; empty if it was.

    Example:
        >>> EstimatorRow("IWAE", np.array([-3.0, -3.2, -2.8, -3.0])).value_se
        0.0816...
    """

    name: str
    values: np.ndarray | None = None
    seconds: np.ndarray | None = None
    peak_memory: int = 0
    theta: GradientNoise = GradientNoise()
    phi: GradientNoise = GradientNoise()
    reason: str = ""

    def noise(self, group: str) -> GradientNoise:
        """Noise of the gradient for "theta" or "phi"."""
        return {"theta": self.theta, "phi": self.phi}[group]

    @property
    def value(self) -> float:
        """Mean over replicates."""
        return np.nan if self.values is None else float(self.values.mean())

    @property
    def value_se(self) -> float:
        """Its standard error over replicates, for fixed parameters and observations."""
        if self.values is None:
            return np.nan
        return float(self.values.std(ddof=1)) / len(self.values) ** 0.5

    @property
    def step_seconds(self) -> float:
        """Median duration of a gradient step."""
        return np.nan if self.seconds is None else float(np.median(self.seconds))

    def columns(self, reference: Reference) -> dict[str, Any]:
        """The row of the table."""
        found: dict[str, Any] = {
            "value": self.value,
            "value_se": self.value_se,
            "bias": self.value - reference.log_evidence,
            "bias_se": np.hypot(self.value_se, reference.se),
        }
        for group in GROUPS:
            noise = self.noise(group)
            found |= {f"{group}_{name}": getattr(noise, name) for name in MEASURES}
            found[f"{group}_variance_seconds"] = noise.variance * self.step_seconds
        memory = np.nan if self.reason else self.peak_memory
        return found | {
            "seconds": self.step_seconds,
            "peak_memory": memory,
            "reason": self.reason,
        }


def with_error(value: float, error: float) -> str:
    """A number to two digits of its standard error.

    Args:
        value: The number.
        error: Its standard error.

    Example:
        >>> with_error(-3.1415, 0.0213)
        '-3.142 (0.021)'
    """
    if np.isnan(value):
        return "-"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 6)) if error > 0 else 6
    return f"{value:.{digits}f} ({error:.{digits}f})"
