"""What `compare_models` found, as a table for people, for pandas, and for ArviZ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.datatree.rows import tree_of

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["HEADER", "ModelComparison"]

HEADER = (
    *(
        "model",
        "log p(x)",
        "difference",
        "se",
        "95 % interval",
        "se: data",
        "trainings",
        "particles",
    ),
    *("weight", "bounds"),
)


@dataclass(frozen=True)
class ModelComparison:
    """Models from best to worst by mean log p(x), each against one of them.

    Columns of `table`, in ArviZ's words where it has one: mlpd (mean log p(x)), se (over the data),
    mlpd_diff, dse (all errors of the difference), dse_data, dse_training and dse_mc (its parts; the
    last is part of the first), low and high (95 % interval of the difference), weight, share_bad_k,
    share_bound, num_trainings.

    Args:
        names: Names, best first.
        reference: Name of the model that the others are held against.
        trainings: Mean log p(x) of each trained model, (R,) for each name.
        log_evidence: Mean log p(x) over trainings and data, nats per datum.
        data_se: Its standard error over the data.
        difference: log p(x) less that of the reference, mean over trainings and data.
        difference_se: Its standard error over the rows, which are paired, sd(d_i) / sqrt(N); with
            latents outside the data plate also that of their draws, which all rows share.
        difference_training_se: Its standard error over trainings; NaN where one of the two was
            trained once.
        difference_mc_se: The part of `difference_se` that is Monte Carlo, from both models'
            particles.
        interval: 95 % intervals of the differences, which hold together, (M, 2): infinite where a
            bound is missing that would prove the end, NaN where one of the two was trained once and
            the other several times.
        weight: Stacking weight: the share of the model's trainings in the mixture that predicts
            these data best.
        share_bad_k: Share of the rows with k-hat > 0.7.
        share_bound: Share of the rows whose log p(x) is a bound, not an estimate.
        num_data: Number of data N.
        notes: What to bear in mind, a sentence each.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544,
        section 5; Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030.

    Example:
        >>> from ppl_vae.diagnostics import compare_models
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(50, 400))
        >>> comparison = compare_models({"a": reduce_log_weights(log_w), "b": reduce_log_weights(log_w - 1.0)})
        >>> comparison.names, comparison.difference.round(6).tolist()
        (('a', 'b'), [0.0, -1.0])
    """

    names: tuple[str, ...]
    reference: str
    trainings: tuple[np.ndarray, ...]
    log_evidence: np.ndarray
    data_se: np.ndarray
    difference: np.ndarray
    difference_se: np.ndarray
    difference_training_se: np.ndarray
    difference_mc_se: np.ndarray
    interval: np.ndarray
    weight: np.ndarray
    share_bad_k: np.ndarray
    share_bound: np.ndarray
    num_data: int
    notes: tuple[str, ...] = ()

    @property
    def table(self) -> "pd.DataFrame":
        """All numbers, one row per model; `arviz_plots.plot_compare` draws it."""
        import pandas as pd

        columns = {
            "mlpd": self.log_evidence,
            "se": self.data_se,
            "mlpd_diff": self.difference,
            "dse": np.hypot(self.difference_se, np.nan_to_num(self.difference_training_se)),
            "dse_data": self.difference_se,
            "dse_training": self.difference_training_se,
            "dse_mc": self.difference_mc_se,
            "low": self.interval[:, 0],
            "high": self.interval[:, 1],
            "weight": self.weight,
            "share_bad_k": self.share_bad_k,
            "share_bound": self.share_bound,
            "num_trainings": [len(each) for each in self.trainings],
        }
        return pd.DataFrame(columns, index=pd.Index(self.names, name="model"))

    def to_datatree(self) -> "xr.DataTree":
        """A tree with the group "models", the table: `tree["models"] =
        comparison.to_datatree()["models"]`.
        """
        values = {name: column.to_numpy() for name, column in self.table.items()}
        facts = {
            "reference": self.reference,
            "num_data": self.num_data,
            "notes": " ".join(self.notes),
        }
        return tree_of("models", values, {"model": self.names}, **facts)

    def to_markdown(self) -> str:
        """The same as a Markdown table, and what to bear in mind."""
        lines = [HEADER, ["---", *["---:"] * (len(HEADER) - 1)], *self.cells]
        drawn = [f"| {' | '.join(cell.replace('|', '\\|') for cell in line)} |" for line in lines]
        return "\n".join([*drawn, "", *(f"- {note}" for note in self._all_notes())]) + "\n"

    def __str__(self) -> str:
        lines = [HEADER, *self.cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
        drawn = [f"{line[0]:{widths[0]}}  {_right(line[1:], widths[1:])}" for line in lines]
        return "\n".join([*drawn, "", *self._all_notes()])

    @property
    def cells(self) -> list[Sequence[str]]:
        """What `print` shows of each model, under `HEADER`."""
        bounded = self.share_bound[self.names.index(self.reference)] > 0
        cells: list[Sequence[str]] = []
        for name, row in zip(self.names, self.table.itertuples(), strict=True):
            own = row.share_bound > 0
            relation = {(True, False): ">= ", (False, True): "<= ", (True, True): "? "}.get(
                (own, bounded), ""
            )
            is_reference = name == self.reference
            cells.append(
                (
                    name,
                    f"{'>= ' if own else ''}{row.mlpd:.3f}",
                    f"{'' if is_reference else relation}{row.mlpd_diff:.3f}",
                    *(("-",) * 5 if is_reference else _errors(row)),
                    f"{row.weight:.2f}",
                    f"{row.share_bound:.1%}",
                )
            )
        return cells

    def _all_notes(self) -> list[str]:
        together = " Intervals hold together." if len(self.names) > 2 else ""
        about = f"{self.num_data:,} rows, nats per row; differences from {self.reference}, paired by row.{together}"
        return [about, *self.notes]


def _errors(row: "pd.Series") -> Sequence[str]:
    parts = (row.dse_data, row.dse_training, row.dse_mc)
    return (
        f"{row.dse:.3f}",
        _interval(row.low, row.high),
        *("-" if np.isnan(p) else f"{p:.3f}" for p in parts),
    )


def _interval(low: float, high: float) -> str:
    """Its ends in words."""
    if np.isnan(low):
        return "-"
    ends = [f"{end:.3f}" for end in (low, high) if np.isfinite(end)]
    if len(ends) == 2:
        return " to ".join(ends)
    return f"{ends[0]} or {'more' if np.isfinite(low) else 'less'}" if ends else "nothing proved"


def _right(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
