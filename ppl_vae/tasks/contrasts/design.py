"""The design of a contrast: groups, strata and subjects of the rows."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ppl_vae.data.tables.frames import as_pandas
from ppl_vae.data.tables.levels import refuse_alike
from ppl_vae.errors import ArgumentError
from ppl_vae.runtime.checks import suggestion, warn_caller
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import counted, echoed

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Design"]

LISTED = 5  # groups in an error


@dataclass(frozen=True, repr=False)
class Design(Shown):
    """Two groups of units within strata; a unit is a row, or all rows of a subject.

    Args:
        names: Names of the two groups; differences are second minus first.
        unit: Number of the unit of each row, (N,).
        second: Whether a unit belongs to the second group, (U,).
        stratum: Number of the stratum of each unit, (U,).

    Example:
        >>> design = Design.of(4, ["a", "b", "b", "b"])
        >>> round(float(design.difference(np.array([[1.0], [2.0], [3.0], [7.0]]))[0]), 6)
        3.0
    """

    names: tuple[str, str]
    unit: np.ndarray
    second: np.ndarray
    stratum: np.ndarray

    @classmethod
    def of(
        cls,
        num_rows: int,
        groups: Any,
        strata: Any = None,
        subjects: Any = None,
        reference: Any = None,
    ) -> "Design":
        """The design of rows with these labels, each given for each row.

        Args:
            num_rows: Number of rows N.
            groups: The two groups, (N,).
            strata: The strata, (N,), or several columns that define them, (N, columns).
            subjects: The subjects, (N,).
            reference: Name of the first group; None takes the first in sorted order.

        Raises:
            ArgumentError: A label is missing, two are one text (1 and "1"), there are other than
                two groups, a subject has rows in both groups or in several strata, or no stratum
                has both groups.
        """
        second, names = _two_groups(groups, num_rows, reference)
        stratum = np.zeros(num_rows, dtype=int)
        if strata is not None:
            stratum = _codes(_table(strata, "strata", num_rows))
        unit = np.arange(num_rows)
        if subjects is not None:
            labels = _table(subjects, "subjects", num_rows)
            unit = _codes(labels)
            _refuse_divided(
                unit, second, labels, "both groups: give strata= instead, which pairs them"
            )
            _refuse_divided(unit, stratum, labels, "several strata: give each subject one")
        _, first = np.unique(unit, return_index=True)
        design = cls(names, unit, second[first], stratum[first])
        design._check_strata()
        return design

    @property
    def counts(self) -> tuple[int, int]:
        """Number of units in each group."""
        return int((~self.second).sum()), int(self.second.sum())

    @property
    def strata(self) -> list[np.ndarray]:
        """The units of each stratum."""
        return [np.flatnonzero(self.stratum == i) for i in range(self.stratum.max() + 1)]

    @property
    def unit_weights(self) -> np.ndarray:
        """Weights of the units, (U,), whose weighted sum is the difference.

        (g_u - share of the second group in its stratum) / sum over strata of n_1 n_2 / (n_1 + n_2).
        """
        shares = np.array([self.second[units].mean() for units in self.strata])
        centred = self.second - shares[self.stratum]
        return centred / np.square(centred).sum()

    @property
    def row_weights(self) -> np.ndarray:
        """The same for the rows, (N,): a unit is the mean of its rows."""
        return (self.unit_weights / np.bincount(self.unit))[self.unit]

    def difference(self, values: np.ndarray) -> np.ndarray:
        """Second group minus first, (*S, N, M) -> (*S, M)."""
        return self.row_weights @ values

    def centred(self, values: np.ndarray) -> np.ndarray:
        """Means of the units minus those of their strata, (N, M) -> (U, M)."""
        by_unit = _means(values, self.unit)
        return by_unit - _means(by_unit, self.stratum)[self.stratum]

    def __str__(self) -> str:
        pairs = zip(self.names, self.counts, strict=True)
        what = "rows" if len(self.second) == len(self.unit) else "subjects"
        first, second = (f"{name} ({count} {what})" for name, count in pairs)
        num_strata = self.stratum.max() + 1
        within = f" within {num_strata} strata" * bool(num_strata > 1)
        return f"{second} minus {first}{within}"

    def __repr__(self) -> str:
        return f"Design({self})"

    def _check_strata(self) -> None:
        """Strata of one group hold no comparison: say so, and refuse a design of these alone."""
        alone = [len(set(self.second[units])) == 1 for units in self.strata]
        if all(alone):
            raise ArgumentError("no stratum has rows of both groups: give coarser strata, or none")
        if any(alone):
            warn_caller(
                f"{sum(alone)} of {len(alone)} strata have rows of one group alone and do not "
                "count: give coarser strata to use them"
            )


def _two_groups(groups: Any, num_rows: int, reference: Any) -> tuple[np.ndarray, tuple[str, str]]:
    """Whether each row is in the second group, and the names of both."""
    labels = _table(groups, "groups", num_rows)
    if labels.shape[1] != 1:
        raise ArgumentError(f"groups has {labels.shape[1]} columns: give one label for each row")
    codes = _codes(labels)
    values = labels[0].to_numpy()
    names = [str(values[(codes == i).argmax()]) for i in range(codes.max() + 1)]
    if len(names) != 2:
        listed = ", ".join(names[:LISTED]) + ", ..." * (len(names) > LISTED)
        raise ArgumentError(
            f"groups has {counted(len(names), 'value')} ({listed}), and a contrast compares two: "
            "keep the rows of two groups, or tell one group from all others (labels == 1)"
        )
    if reference is not None and str(reference) not in names:
        raise ArgumentError(
            f"reference is {echoed(reference)}: {suggestion(str(reference), names)}"
        )
    if reference is not None and str(reference) == names[1]:
        return codes == 0, (names[1], names[0])
    return codes == 1, (names[0], names[1])


def _table(values: Any, name: str, num_rows: int) -> "pd.DataFrame":
    """Labels as a frame with a row for each row, none missing."""
    import pandas as pd

    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    values = as_pandas(values, name)
    try:
        frame = pd.DataFrame(values)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"{name} is {echoed(values)}: give one label for each row") from error
    if len(frame) != num_rows:
        raise ArgumentError(
            f"{name} has {len(frame)} labels for {num_rows} rows: give one for each row"
        )
    missing = frame.isna().any(axis=1).to_numpy()
    if missing.any():
        raise ArgumentError(
            f"{name} is missing at {counted(int(missing.sum()), 'row')}, the first is row "
            f"{missing.argmax()}: leave these rows out"
        )
    frame = frame.set_axis(range(frame.shape[1]), axis=1).reset_index(drop=True)
    for place in frame:
        refuse_alike(frame[place].unique(), name)
    return frame


def _codes(labels: "pd.DataFrame") -> np.ndarray:
    """Numbers of the different rows of a frame, in sorted order, (N,)."""
    return labels.groupby(list(labels), observed=True).ngroup().to_numpy()


def _refuse_divided(
    unit: np.ndarray, codes: np.ndarray, labels: "pd.DataFrame", remedy: str
) -> None:
    """Refuse subjects whose rows have different codes."""
    _, first = np.unique(unit, return_index=True)
    differs = codes != codes[first][unit]
    if differs.any():
        name = labels.iloc[int(differs.argmax()), 0]
        raise ArgumentError(f"subject {str(name)!r} has rows in {remedy}")


def _means(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Means of the rows with the same code, (N, M) -> (codes, M)."""
    sums = np.zeros((codes.max() + 1, values.shape[1]))
    np.add.at(sums, codes, values)
    return sums / np.bincount(codes)[:, None]
