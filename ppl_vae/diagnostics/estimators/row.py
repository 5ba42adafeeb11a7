"""One objective in `compare_estimators`: its values, its times, the noise of its gradient."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from ppl_vae.diagnostics.estimators.noise import GradientNoise
from ppl_vae.evidence.pareto import GOOD_K, share_of_bad

__all__ = ["GROUPS", "MEASURES", "EstimatorRow", "Reference", "with_error"]

GROUPS = ("theta", "phi")
MEASURES = tuple(field.name for field in fields(GradientNoise) if not field.name.startswith("num_"))


@dataclass(frozen=True)
class Reference:
    """What values are held against, nats per datum: log p(x), known or by importance sampling with
    K particles.

    Args:
        log_evidence: Mean over the data; NaN where it cannot be had.
        se: Its Monte Carlo standard error; 0 where it is known.
        elbo: The ELBO of the same weights; NaN where log p(x) is known.
        elbo_se: Its Monte Carlo standard error.
        num_particles: K; 0 where log p(x) is known.
        share_bad_k: Share of the data with k-hat > 0.7, where the reference is but a lower bound;
            NaN if unknown.
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

    @classmethod
    def of(cls, found: dict[str, np.ndarray], num_particles: int) -> "Reference":
        """From log_evidence, mc_se, elbo, elbo_se and pareto_k of each datum, (N,)."""
        errors = [
            float(np.square(found[name]).sum() ** 0.5 / len(found[name]))
            for name in ("mc_se", "elbo_se")
        ]
        log_evidence, elbo = (float(found[name].mean()) for name in ("log_evidence", "elbo"))
        bad = share_of_bad(found["pareto_k"])
        return cls(log_evidence, errors[0], elbo, errors[1], num_particles, bad)

    def __str__(self) -> str:
        if self.note:
            return f"no reference for log p(x): {self.note}"
        if not self.num_particles:
            return f"log p(x) = {self.log_evidence:.4f}, exact"
        said = (
            f"log p(x) = {with_error(self.log_evidence, self.se)}, ELBO = "
            f"{with_error(self.elbo, self.elbo_se)}, by "
            f"importance sampling with K = {self.num_particles:,} particles per datum"
        )
        if np.isnan(self.share_bad_k):
            return f"{said}; too few to tell whether it is to be believed (no k-hat)"
        bad = (
            f"; k-hat > {GOOD_K} for {self.share_bad_k:.0%} of the data: log p(x) is a lower bound"
        )
        return said + (bad if self.share_bad_k > 0 else "")


@dataclass(frozen=True)
class EstimatorRow:
    """One objective.

    Args:
        name: Its name.
        values: Mean bound per datum at each replicate, (R,).
        seconds: Of each gradient step, (R,).
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
    theta: GradientNoise | None = None
    phi: GradientNoise | None = None
    reason: str = ""

    @property
    def value(self) -> float:
        """Mean over replicates."""
        return np.nan if self.values is None else float(self.values.mean())

    @property
    def value_se(self) -> float:
        """Its standard error over replicates: draws vary, parameters and data do not."""
        return (
            np.nan
            if self.values is None
            else float(self.values.std(ddof=1)) / len(self.values) ** 0.5
        )

    def columns(self, reference: Reference) -> dict[str, Any]:
        """The row of the table."""
        found: dict[str, Any] = {"value": self.value, "value_se": self.value_se}
        found |= {
            "bias": self.value - reference.log_evidence,
            "bias_se": np.hypot(self.value_se, reference.se),
        }
        median = np.nan if self.seconds is None else float(np.median(self.seconds))
        for group in GROUPS:
            noise = getattr(self, group)
            found |= {
                f"{group}_{name}": np.nan if noise is None else getattr(noise, name)
                for name in MEASURES
            }
            found[f"{group}_variance_seconds"] = found[f"{group}_variance"] * median
        memory = np.nan if self.reason else self.peak_memory
        return found | {"seconds": median, "peak_memory": memory, "reason": self.reason}


def with_error(value: float, error: float) -> str:
    """A number to two digits of its standard error.

    Example:
        >>> with_error(-3.1415, 0.0213)
        '-3.142 (0.021)'
    """
    if np.isnan(value):
        return "-"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 0, 6)) if error > 0 else 6
    return f"{value:.{digits}f} ({error:.{digits}f})"
