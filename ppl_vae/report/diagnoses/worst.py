"""The rows with the least reliable log p(x), and those that the model finds least likely."""

from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.report_plots import as_images
from ppl_vae.report.attempts import attempt
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, number, shown_value, thumbnail

MOST_VALUES = 4
COLUMNS = {
    "log p(x)": "log_evidence",
    "k-hat": "pareto_k",
    "ESS": "ess",
    "se": "mc_se",
    "ELBO": "elbo",
}


def _worst(found: Findings) -> Panel:
    """Two tables of rows."""
    subject, evidence = found.subject, found.subject.evidence
    ordered = "standard error" if np.isnan(evidence.pareto_k).any() else "k-hat"
    says = [
        f"A large {ordered} means that log p(x) of a row is not reliable; a small log p(x) means "
        "that the model finds the row unlikely."
    ]
    if subject.evaluated.image_shape is None:
        says.append("Values are listed from the rarest in its column to the most ordinary.")
    tables = [
        _table(found, subject.worst, f"largest {ordered}"),
        _table(found, subject.least_likely, "smallest log p(x)"),
    ]
    return Panel(says, tables=tables)


def _table(found: Findings, which: np.ndarray, name: str) -> Table:
    """Those rows, each with a picture or its values and with its numbers."""
    subject, evidence = found.subject, found.subject.evidence
    rows = subject.evaluated[which]
    cells: dict[str, list[Any]] = {"row": [str(label) for label in rows.row_labels]}
    cells["x"] = _shown(subject.evaluated, which, name)
    if rows.labels is not None:
        cells[rows.label_name] = [str(label) for label in rows.labels]
    for heading, column in COLUMNS.items():
        cells[heading] = [number(value, 2) for value in getattr(evidence, column)[which]]
    weights = attempt(found.__getitem__, "weights")
    if not isinstance(weights, Exception):
        shares = weights.largest[np.searchsorted(weights.rows, which)]
        cells["largest weight"] = [f"{share:.2f}" for share in shares]
    few = f"The {len(which)} of {len(evidence):,} rows with the {name}"
    caption = few if len(which) < len(evidence) else f"All {len(which)} rows, by the {name}"
    return Table(list(cells), list(zip(*cells.values(), strict=True)), caption, kind="sortable")


def _shown(data: Dataset, which: np.ndarray, name: str) -> list[Any]:
    """A picture of each row, or its values."""
    if data.image_shape is None:
        return described(data, which)
    rows = data[which]
    kind = "-".join(name.replace("(", " ").replace(")", " ").split())
    return [
        thumbnail(pixels, f"picture of row {label}", f"worst-{kind}-{i}")
        for i, (label, pixels) in enumerate(
            zip(rows.row_labels, as_images(rows), strict=True), start=1
        )
    ]


def described(data: Dataset, which: np.ndarray) -> list[str]:
    """The values of some rows of a table in words, those rarest in their column first.

    The rarity of a number is the share of the rows at least as far out on its side, twice; that of
    a level is its share.

    Example:
        >>> described(Dataset([[1.0, 5.0], [1.0, 9.0], [2.0, 5.0]]), np.array([1]))
        ['9; 1']
    """
    if len(data.dims) != 2:
        flat = data.x.flatten(1).cpu().numpy()[which]
        return [_sentence([f"{value:.4g}" for value in row]) for row in flat]
    frame = data.to_frame()
    is_level = {
        name: kind in ("boolean", "category", "ordered")
        for name, kind in zip(frame.columns, data.kinds, strict=True)
    }
    named = list(frame.columns) != list(range(len(frame.columns)))
    rarity = np.stack([_rarity(frame[name], is_level=is_level[name]) for name in frame], axis=1)
    found = []
    for row in which:
        order = np.argsort(rarity[row], kind="stable")
        values = [shown_value(frame.iloc[row, place]) for place in order]
        names = [f"{frame.columns[place]} = " if named else "" for place in order]
        found.append(_sentence([f"{n}{v}" for n, v in zip(names, values, strict=True)]))
    return found


def _rarity(column: Any, *, is_level: bool) -> np.ndarray:
    """How rare each value of a column is; 1 for a missing one."""
    if is_level:
        shares = column.astype(object).map(column.astype(object).value_counts(normalize=True))
        return shares.astype(float).fillna(1.0).to_numpy()
    below = column.astype(float).rank(pct=True, method="max")
    above = column.astype(float).rank(pct=True, method="max", ascending=False)
    return np.minimum(2 * np.minimum(below, above), 1.0).fillna(1.0).to_numpy()


def _sentence(values: list[str]) -> str:
    more = [f"and {len(values) - MOST_VALUES} more"] * (len(values) > MOST_VALUES)
    return "; ".join([*values[:MOST_VALUES], *more])


WORST = Diagnosis("worst", "Worst rows", "log p(x)", panel=_worst, page="concepts.md#pareto-k-hat")
