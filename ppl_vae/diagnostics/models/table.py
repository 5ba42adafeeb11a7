"""The result of `compare_models`, as a table for people, for pandas, and for ArviZ."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ppl_vae.diagnostics.groups import tree_of
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import counted, table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["HEADER", "ModelComparison"]

ERRORS = ("se", "95 % interval", "se: data", "trainings", "particles")
HEADER = ("model", "log p(x)", "difference", *ERRORS, "weight", "bounds")
RELATIONS = {  # of a difference, by whether its model and the reference are bounded from below
    (False, False): "",
    (True, False): ">= ",
    (False, True): "<= ",
    (True, True): "? ",
}


@dataclass(frozen=True)
class ModelComparison(Shown):
    """Models from best to worst by mean log p(x), each compared with one of them.

    Columns of `table`, with ArviZ's names if it has them: mlpd (mean log p(x)), se (over the
    rows), mlpd_diff, dse (all errors of the difference), dse_data, dse_training and dse_mc (its
    parts; dse_mc is part of dse_data), low and high (95 % interval of the difference), weight,
    share_bad_k, share_bound, num_trainings.

    Args:
        names: Names, best first.
        reference: Name of the model with which the others are compared.
        trainings: Mean log p(x) of each trained model, (R,) for each name.
        log_evidence: Mean log p(x) over trainings and rows, nats per row.
        data_se: Its standard error over the rows.
        difference: log p(x) minus that of the reference, mean over trainings and rows.
        difference_se: Its standard error over the rows, which are paired, sd(d_i) / sqrt(N). With
            latents outside the data plate it includes the error of their draws, which all rows
            share.
        difference_training_se: Its standard error over trainings; NaN if one of the two was trained
            once.
        difference_mc_se: The part of `difference_se` that is Monte Carlo error, of both models.
        interval: Simultaneous 95 % intervals of the differences, (M, 2). An end is infinite if no
            bound proves it, and NaN if one of the two was trained once and the other several times.
        weight: Stacking weight: the share of the model's trainings in the mixture that predicts
            these rows best.
        share_bad_k: Share of the rows with k-hat > 0.7.
        share_bound: Share of the rows whose log p(x) is a bound, not an estimate.
        num_data: Number of rows N.
        notes: Notes on its validity, a sentence each.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation, arXiv:1507.04544,
        section 5; Yao et al. (2018), Using stacking to average Bayesian predictive distributions,
        arXiv:1704.02030.

    Example:
        >>> from ppl_vae.diagnostics import compare_models
        >>> from ppl_vae.evidence import reduce_log_weights
        >>> log_w = np.random.default_rng(0).normal(size=(50, 400))
        >>> a, b = reduce_log_weights(log_w), reduce_log_weights(log_w - 1.0)
        >>> comparison = compare_models({"a": a, "b": b})
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
        """The table as a tree with the group "models"."""
        values = {name: column.to_numpy() for name, column in self.table.items()}
        notes = " ".join(self.notes)
        facts = {"reference": self.reference, "num_data": self.num_data, "notes": notes}
        return tree_of("models", values, {"model": self.names}, **facts)

    def to_markdown(self) -> str:
        """The main columns as a Markdown table, and the notes."""
        notes = [f"- {note}" for note in self._all_notes()]
        return "\n".join([table([HEADER, *self.cells], markdown=True), "", *notes, ""])

    def __str__(self) -> str:
        return "\n".join([table([HEADER, *self.cells]), "", *self._all_notes()])

    @property
    def cells(self) -> list[Sequence[str]]:
        """The text of each model's row, under `HEADER`."""
        is_bound = self.share_bound > 0
        reference = self.names.index(self.reference)
        cells: list[Sequence[str]] = []
        for i, (name, row) in enumerate(zip(self.names, self.table.itertuples(), strict=True)):
            relation = ""
            errors = ["-"] * len(ERRORS)
            if i != reference:
                relation = RELATIONS[is_bound[i], is_bound[reference]]
                parts = (row.dse_data, row.dse_training, row.dse_mc)
                interval = _interval(row.low, row.high)
                errors = [f"{row.dse:.3f}", interval, *map(_number, parts)]
            difference = f"{relation}{row.mlpd_diff:.3f}"
            value = f"{RELATIONS[is_bound[i], False]}{row.mlpd:.3f}"
            last = (f"{row.weight:.2f}", f"{row.share_bound:.1%}")
            cells.append((name, value, difference, *errors, *last))
        return cells

    def _all_notes(self) -> list[str]:
        about = f"{counted(self.num_data, 'row')}, nats per row; differences from {self.reference}"
        together = " The intervals are simultaneous." * (len(self.names) > 2)
        return [f"{about}, paired by row.{together}", *self.notes]


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    """An interval in words; an infinite end is not proved."""
    ends = [f"{end:.3f}" for end in (low, high) if np.isfinite(end)]
    if np.isnan(low):
        return "-"
    if len(ends) == 2:
        return " to ".join(ends)
    if not ends:
        return "nothing proved"
    return f"{ends[0]} or more" if np.isfinite(low) else f"{ends[0]} or less"
