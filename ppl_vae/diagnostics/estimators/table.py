"""What `compare_estimators` found, as a table for people, for pandas, and for xarray."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.diagnostics.estimators.advice import advised
from ppl_vae.diagnostics.estimators.noise import LEAST
from ppl_vae.diagnostics.estimators.row import GROUPS, MEASURES, EstimatorRow, Reference, with_error
from ppl_vae.runtime.checks import whole_number

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["EstimatorComparison", "EstimatorRow", "Reference", "Replicates"]

HEADER = (
    *(
        "objective",
        "value (se)",
        "bias (se)",
        "theta var",
        "theta SNR",
        "floor",
        "phi var",
        "phi SNR",
        "floor",
    ),
    *("theta var x s", "phi var x s", "ms", "MB"),
)


@dataclass(frozen=True)
class Replicates:
    """How many gradients `compare_estimators` draws of each objective, and what it holds their
    values against.

    Args:
        num_replicates: Gradient steps R of each objective, at least 4.
        reference_particles: Particles K per datum of the reference for log p(x), where that is not
            known; with few there is no k-hat, and no telling whether it is to be believed.
        seed: Seed; every objective and the reference have a stream of their own from it.

    Raises:
        ValueError: a number is no whole one, or out of range.

    Example:
        >>> Replicates(50).reference_particles
        10000
    """

    num_replicates: int = 200
    reference_particles: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("num_replicates", LEAST), ("reference_particles", 2), ("seed", 0)):
            object.__setattr__(
                self, name, whole_number(getattr(self, name), f"Replicates({name})", least)
            )


@dataclass(frozen=True)
class EstimatorComparison:
    """Objectives side by side, at one state of model and guide, on the same data.

    Columns of `table`: value, value_se, bias, bias_se (nats per datum); for theta and phi the
    fields of `GradientNoise` and <group>_variance_seconds, the variance that a budget of one second
    leaves; seconds (median of a gradient step, the objectives in turn); peak_memory (bytes alive at
    once in a step, beyond those before it); reason. The same seed gives the same table, but for
    what the clock says.

    Args:
        rows: One per objective.
        reference: What values are held against.
        replicates: How they were drawn.
        facts: num_data, num_theta, num_phi, num_shared, device.

    References:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better,
        arXiv:1802.04537, section 3.

    Example:
        >>> import ppl_vae as pv
        >>> bed = pv.beds.rainforth(num_data=8, latent_dim=2)
        >>> chosen = [pv.objectives.TraceELBO(), pv.objectives.IWAE(8)]
        >>> from ppl_vae.diagnostics import compare_estimators
        >>> compared = compare_estimators(bed.model, bed.amortised_guide, bed.x, chosen, num_replicates=20)
        >>> print(compared.to_markdown().splitlines()[0])
        | objective | value (se) | bias (se) | theta var | theta SNR | floor | phi var | phi SNR | floor | ...
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

    def to_markdown(self) -> str:
        """The main columns as a Markdown table, and what they mean."""
        lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)]]
        lines += [
            cells if cells else self._unusable(row)
            for row, cells in zip(self.rows, self._cells(), strict=True)
        ]
        drawn = [f"| {' | '.join(cell.replace('|', '\\|') for cell in line)} |" for line in lines]
        return "\n".join([*drawn, "", *(f"- {note}" for note in self.notes)]) + "\n"

    @property
    def advice(self) -> str:
        """Which objective to take: the one whose gradient of phi reaches a given precision in the
        fewest seconds.

        Signal-to-noise ratios are compared per square root of a second, |E g| / sqrt(tr Cov g x
        seconds), and none is told apart from 0 below its floor.
        """
        return advised(self.rows)

    def __str__(self) -> str:
        cells = self._cells()
        used = [HEADER, *filter(None, cells)]
        names = max(len(row.name) for row in self.rows)
        widths = [
            max(names, len(HEADER[0])),
            *(max(len(line[i]) for line in used) for i in range(1, len(HEADER))),
        ]
        lines = [_aligned(HEADER, widths)]
        for row, line in zip(self.rows, cells, strict=True):
            lines.append(_aligned(line or (row.name, f"not usable: {row.reason}"), widths))
        return "\n".join([*lines, "", *self.notes])

    @property
    def notes(self) -> list[str]:
        """What the numbers mean, a sentence or two each."""
        facts, count = self.facts, self.replicates.num_replicates
        shared = (
            f", of which the model shares {facts['num_shared']:,} (they count for phi alone)"
            if facts["num_shared"]
            else ""
        )
        return [
            self.advice,
            f"{self.reference}. value and bias: nats per datum; bias = value - log p(x).",
            f"{facts['num_data']:,} data, {count:,} replicates: standard errors say what other "
            "draws would change, "
            "parameters and data being the same.",
            f"theta: {facts['num_theta']:,} parameters of the model; phi: {facts['num_phi']:,} of "
            f"the guide{shared}. "
            "var: trace of the covariance of the gradient per datum.",
            "SNR = |mean| / sqrt(var), debiased; noise where it is below its floor: it cannot be "
            "told from 0 (2.5 %).",
            f"ms: median of a gradient step on {facts['device']}; MB: tensors alive at once in it, "
            "at most.",
        ]

    def to_datatree(self) -> "xr.DataTree":
        """Groups value, gradient (dim group: theta, phi), cost and draws (every replicate's value
        and seconds).
        """
        import xarray as xr

        names, table, count = (
            [row.name for row in self.rows],
            self.table,
            self.replicates.num_replicates,
        )
        coords: dict[str, Any] = {"objective": names}
        by_group = {
            name: (("group", "objective"), np.stack([table[f"{group}_{name}"] for group in GROUPS]))
            for name in (*MEASURES, "variance_seconds")
        }
        draws = {
            name: (
                ("objective", "replicate"),
                np.stack([_draws(getattr(row, name), count) for row in self.rows]),
            )
            for name in ("values", "seconds")
        }
        value = {
            name: ("objective", table[name]) for name in ("value", "value_se", "bias", "bias_se")
        }
        cost = {
            name: ("objective", table[name].astype(float)) for name in ("seconds", "peak_memory")
        }
        value["reason"] = ("objective", table["reason"].to_numpy(str))
        return xr.DataTree.from_dict(
            {
                "/": xr.Dataset(attrs=self._attrs()),
                "value": xr.Dataset(
                    value, coords, {"description": "Mean bound per datum, in nats."}
                ),
                "gradient": xr.Dataset(by_group, {**coords, "group": list(GROUPS)}),
                "cost": xr.Dataset(
                    cost, coords, {"description": "Of a gradient step: seconds, bytes."}
                ),
                "draws": xr.Dataset(draws, {**coords, "replicate": np.arange(count)}),
            }
        )

    def _attrs(self) -> dict[str, Any]:
        reference = {f"reference_{name}": value for name, value in vars(self.reference).items()}
        settings = {"seed": self.replicates.seed, "num_replicates": self.replicates.num_replicates}
        library = {"inference_library": "ppl_vae", "inference_library_version": version("ppl-vae")}
        return library | settings | self.facts | reference

    def _cells(self) -> list[Sequence[str]]:
        """What is shown of each row; nothing where the objective could not be used."""
        return [
            () if row.reason else _cells(row.name, row.columns(self.reference)) for row in self.rows
        ]

    def _unusable(self, row: EstimatorRow) -> Sequence[str]:
        return (row.name, f"not usable: {row.reason}", *[""] * (len(HEADER) - 2))


def _cells(name: str, found: dict[str, Any]) -> Sequence[str]:
    noise = [
        text
        for group in GROUPS
        for text in (
            _number(found[f"{group}_variance"], ".2e"),
            _ratio(found[f"{group}_snr"], found[f"{group}_snr_floor"]),
            _number(found[f"{group}_snr_floor"], ".3f"),
        )
    ]
    values = [with_error(found[key], found[f"{key}_se"]) for key in ("value", "bias")]
    cost = [_number(found[f"{group}_variance_seconds"], ".1e") for group in GROUPS]
    return (
        name,
        *values,
        *noise,
        *cost,
        f"{1e3 * found['seconds']:.2f}",
        f"{found['peak_memory'] / 1e6:.2f}",
    )


def _ratio(snr: float, floor: float) -> str:
    """A ratio below its floor is noise."""
    return f"noise ({snr:.3f})" if snr < floor else _number(snr, ".3f")


def _number(value: float, style: str) -> str:
    return "-" if np.isnan(value) else format(value, style)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    if len(cells) < len(widths):
        return f"{cells[0]:{widths[0]}}  {cells[1]}"
    rest = (f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([f"{cells[0]:{widths[0]}}", *rest])


def _draws(values: np.ndarray | None, count: int) -> np.ndarray:
    return np.full(count, np.nan) if values is None else values
