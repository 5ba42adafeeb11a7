"""One objective in `compare_estimators`: its values, its times, the noise of its gradient."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.gradient_noise import GradientNoise

if TYPE_CHECKING:
    from ppl_vae.diagnostics.estimator_table import Reference

__all__ = ["GROUPS", "MEASURES", "EstimatorRow"]

GROUPS = ("theta", "phi")
MEASURES = tuple(field.name for field in fields(GradientNoise) if not field.name.startswith("num_"))


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

    References:
        No paper: a container.

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
        return np.nan if self.values is None else float(self.values.std(ddof=1)) / len(self.values) ** 0.5

    def columns(self, reference: "Reference") -> dict[str, Any]:
        """The row of the table."""
        found: dict[str, Any] = {"value": self.value, "value_se": self.value_se}
        found |= {"bias": self.value - reference.log_evidence, "bias_se": np.hypot(self.value_se, reference.se)}
        median = np.nan if self.seconds is None else float(np.median(self.seconds))
        for group in GROUPS:
            noise = getattr(self, group)
            found |= {f"{group}_{name}": np.nan if noise is None else getattr(noise, name) for name in MEASURES}
            found[f"{group}_variance_seconds"] = found[f"{group}_variance"] * median
        memory = np.nan if self.reason else self.peak_memory
        return found | {"seconds": median, "peak_memory": memory, "reason": self.reason}
