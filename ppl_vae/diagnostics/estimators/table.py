"""The result of `compare_estimators`, as a table for people, for pandas, and for xarray."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.estimators.advice import advised
from ppl_vae.diagnostics.estimators.noise import LEAST
from ppl_vae.diagnostics.estimators.row import GROUPS, MEASURES, EstimatorRow, Reference, with_error
from ppl_vae.diagnostics.groups import group
from ppl_vae.runtime.checks import whole_fields
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["EstimatorComparison", "EstimatorRow", "Reference", "Replicates"]

HEADER = (
    *("objective", "value (se)", "bias (se)"),
    *("theta var", "theta SNR", "floor", "phi var", "phi SNR", "floor"),
    *("theta var x s", "phi var x s", "ms", "MB"),
)


@dataclass(frozen=True)
class Replicates:
    """Number of gradients that `compare_estimators` draws, and the particles of its reference.

    Args:
        num_replicates: Gradient steps R of each objective, at least 4.
        reference_particles: Particles K per observation of the reference for log p(x), if that is
            not known; fewer than 30 give no k-hat, and the reliability of the reference is then
            unknown.
        seed: Seed; every objective and the reference have their own stream derived from it.

    Raises:
        ValueError: A number is not whole or is out of range.

    Example:
        >>> Replicates(50).reference_particles
        10000
    """

    num_replicates: int = 200
    reference_particles: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        whole_fields(self, num_replicates=LEAST, reference_particles=2, seed=0)


@dataclass(frozen=True)
class EstimatorComparison(Shown):
    """Objectives side by side, at one state of model and guide, on the same rows.

    Columns of `table`: value, value_se, bias, bias_se (nats per row); for theta and phi the fields
    of `GradientNoise` and <group>_variance_seconds, the variance that remains after one second of
    steps; seconds (median of a gradient step, with the objectives timed in turn); peak_memory
    (bytes alive at once in a step, beyond those before it); reason. Equal seeds give equal tables,
    except for the times.

    Args:
        rows: One per objective.
        reference: log p(x), with which values are compared.
        replicates: How the gradients were drawn.
        facts: num_data, num_theta, num_phi, num_shared, device.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3.

    Example:
        >>> import ppl_vae as pv
        >>> from ppl_vae.diagnostics import compare_estimators
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> programs = (bed.model, bed.amortised_guide)
        >>> chosen = [pv.objectives.TraceELBO(), pv.objectives.IWAE(8)]
        >>> compared = compare_estimators(*programs, bed.x, chosen, num_replicates=20)
        >>> print(compared.to_markdown().splitlines()[0])
        | objective | value (se) | bias (se) | theta var | theta SNR | floor | phi var | ...
    """

    rows: tuple[EstimatorRow, ...]
    reference: Reference
    replicates: Replicates
    facts: dict[str, Any]

    @property
    def table(self) -> "pd.DataFrame":
        """All numbers, one row per objective."""
        import pandas as pd

        index = pd.Index([row.name for row in self.rows], name="objective")
        return pd.DataFrame([row.columns(self.reference) for row in self.rows], index=index)

    @property
    def advice(self) -> str:
        """The objective whose gradient of phi reaches a given precision in the fewest seconds.

        Signal-to-noise ratios are compared per square root of a second, |E g| / sqrt(tr Cov g x
        seconds). A ratio below its floor cannot be distinguished from 0.
        """
        return advised(self.rows)

    def to_markdown(self) -> str:
        """The main columns as a Markdown table, and the notes."""
        notes = [f"- {note}" for note in self.notes]
        return "\n".join([table(self._shown(), markdown=True), "", *notes, ""])

    def __str__(self) -> str:
        return "\n".join([table(self._shown()), "", *self.notes])

    @property
    def notes(self) -> list[str]:
        """Explanations of the numbers, a sentence or two each."""
        facts = self.facts
        shared = ""
        if facts["num_shared"]:
            shared = f", including {facts['num_shared']:,} shared with the model"
        return [
            self.advice,
            f"{self.reference}. value and bias: nats per row; bias = value - log p(x).",
            f"{facts['num_data']:,} observations, {self.replicates.num_replicates:,} replicates: "
            "standard errors reflect other draws, for fixed parameters and observations.",
            f"theta: {facts['num_theta']:,} parameters of the model; phi: {facts['num_phi']:,} of "
            f"the guide{shared}. var: trace of the covariance of the gradient per observation.",
            "SNR = |mean| / sqrt(var), debiased; below its floor it is noise, and cannot be "
            "distinguished from 0 (2.5 %).",
            f"ms: median of a gradient step on {facts['device']}; MB: most tensors alive at once "
            "in a step.",
        ]

    def to_datatree(self) -> "xr.DataTree":
        """Groups value, gradient (dim group: theta, phi), cost, and draws (all replicates)."""
        import xarray as xr

        found = self.table
        values = ("value", "value_se", "bias", "bias_se")
        value = {name: (("objective",), found[name].to_numpy()) for name in values}
        value["reason"] = (("objective",), found["reason"].to_numpy(str))
        costs = ("seconds", "peak_memory")
        cost = {name: (("objective",), found[name].to_numpy(float)) for name in costs}
        gradient = {
            name: (("group", "objective"), np.stack([found[f"{each}_{name}"] for each in GROUPS]))
            for name in (*MEASURES, "variance_seconds")
        }
        draws = {
            name: (("objective", "replicate"), self._draws(name)) for name in ("values", "seconds")
        }
        coords = {"objective": found.index, "group": GROUPS}
        bound = "Mean bound per observation, in nats."
        step = "Of a gradient step: seconds, bytes."
        return xr.DataTree.from_dict(
            {
                "/": xr.Dataset(attrs=self._attrs()),
                "value": group(value, coords, description=bound),
                "gradient": group(gradient, coords),
                "cost": group(cost, coords, description=step),
                "draws": group(draws, coords),
            }
        )

    def _draws(self, name: str) -> np.ndarray:
        """Values or seconds of every replicate; NaN for an objective that could not be used."""
        unknown = np.full(self.replicates.num_replicates, np.nan)
        return np.stack([unknown if row.reason else getattr(row, name) for row in self.rows])

    def _attrs(self) -> dict[str, Any]:
        reference = {f"reference_{name}": value for name, value in vars(self.reference).items()}
        settings = {"seed": self.replicates.seed, "num_replicates": self.replicates.num_replicates}
        library = {"inference_library": "ppl_vae", "inference_library_version": version("ppl-vae")}
        return library | settings | self.facts | reference

    def _shown(self) -> list[Sequence[str]]:
        """The header, and the text of each objective's row."""
        return [HEADER, *(_cells(row.name, row.columns(self.reference)) for row in self.rows)]


def _cells(name: str, found: dict[str, Any]) -> Sequence[str]:
    if found["reason"]:
        return name, f"not usable: {found['reason']}"
    cells = [name, *(with_error(found[key], found[f"{key}_se"]) for key in ("value", "bias"))]
    for part in GROUPS:
        snr = found[f"{part}_snr"]
        floor = found[f"{part}_snr_floor"]
        ratio = _number(snr, ".3f")
        cells.append(_number(found[f"{part}_variance"], ".2e"))
        cells.append(f"noise ({ratio})" if snr < floor else ratio)
        cells.append(_number(floor, ".3f"))
    cells += [_number(found[f"{part}_variance_seconds"], ".1e") for part in GROUPS]
    return *cells, f"{1e3 * found['seconds']:.2f}", f"{found['peak_memory'] / 1e6:.2f}"


def _number(value: float, style: str) -> str:
    return "-" if np.isnan(value) else format(value, style)
