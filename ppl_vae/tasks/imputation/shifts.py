"""Imputed values of one column, shifted: what would be missing if it were not missing at random."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy import special

from ppl_vae.runtime.checks import one_of
from ppl_vae.runtime.seeding import derived_seed

if TYPE_CHECKING:
    from ppl_vae.tasks.imputation.imputations import Imputations

__all__ = ["Shift"]

STREAM = 1971  # a random stream that no draw of the imputations has
Scale = Literal["auto", "shift", "ratio", "odds"]
SCALE_OF = {
    "real": "shift",
    "positive": "ratio",
    "count": "ratio",
    "boolean": "odds",
    "ordered": "odds",
    "category": "odds",
}


@dataclass(frozen=True, eq=False)
class Shift:
    """How the imputed values of a column move with delta, on a scale that keeps their support.

    "shift": x + delta. "ratio": x times delta; counts, whole numbers, are rounded up or down at
    random so that the mean is multiplied. "odds": delta is added to the log-odds of the predictive
    distribution, of P(x >= k) for each k where levels have an order (Booleans have two), else of
    one level; the values move from level to level with the smallest probabilities that give the
    new ones. Values between 0 and 1 move on the logit scale. The random numbers are the same for
    all deltas, so that values are monotone in delta, and no value moves where delta is neutral.

    Args:
        imputations: The imputed data sets.
        column: Name of the column.
        level: The level whose odds change, of a category without order.
        scale: "shift", "ratio" or "odds".
        seed: Seed of the random numbers.

    Raises:
        ValueError: There is no such column or level, nothing was imputed in it, or its values leave
            the support on this scale.

    Example:
        >>> Shift.__dataclass_fields__["scale"].default
        'auto'
    """

    imputations: "Imputations"
    column: str
    level: str | None = None
    scale: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self.scale, "scale", ("auto", "shift", "ratio", "odds"))
        if not len(self._entries):
            raise ValueError(f"no value of {self.column!r} was imputed: there is none to shift")
        if self.scale == "auto":
            object.__setattr__(self, "scale", SCALE_OF[self.kind])
        if self.has_levels and self.scale != "odds":
            raise ValueError(f"{self.column!r} has levels, which move on the scale 'odds'")
        names = self.imputations.data.levels.get(self.column, ())
        if self.kind == "category" and self.level not in names:
            raise ValueError(
                f"{self.column!r} has no order: give column=({self.column!r}, level), the level "
                f"whose odds change, one of {', '.join(names)}"
            )
        if self.scale == "odds" and not self.has_levels and not self._are_shares():
            raise ValueError(
                f"{self.column!r} is not between 0 and 1 throughout: use scale='shift' or 'ratio'"
            )

    @property
    def kind(self) -> str:
        """Kind of the column, as `Dataset.kinds` has it."""
        return self.imputations.data.kinds[self._place]

    @property
    def has_levels(self) -> bool:
        """Whether the values are levels, in codes."""
        return self.kind in ("boolean", "ordered", "category")

    @property
    def neutral(self) -> float:
        """The delta that moves nothing."""
        return 1.0 if self.scale == "ratio" else 0.0

    @property
    def label(self) -> str:
        """What delta does, in words."""
        what = self.column if self.level is None else f"{self.column} = {self.level}"
        return {
            "shift": f"added to imputed values of {what} (in its units)",
            "ratio": f"factor on imputed values of {what}",
            "odds": f"added to the log-odds of imputed {what}",
        }[self.scale]

    def default_deltas(self) -> np.ndarray:
        """Nine deltas around the neutral one: up to an sd of the column, a factor of 2, or 2."""
        steps = np.linspace(-1, 1, 9)
        if self.scale == "ratio":
            return 2.0**steps
        if self.scale == "odds":
            return 2 * steps
        return steps * np.nanstd(self.imputations.data.exact[:, self._place])

    def moved(self, delta: float) -> "Imputations":
        """The imputed data sets with the values of this column moved by delta."""
        predictive = self.imputations.predictive
        values = predictive.values.copy()
        values[:, self._entries] = self._moved(values[:, self._entries], delta)
        return replace(self.imputations, predictive=replace(predictive, values=values))

    @property
    def _place(self) -> int:
        return self.imputations.data.places_of([self.column])[0]

    @property
    def _entries(self) -> np.ndarray:
        """The numbers of the imputed entries of this column among all."""
        return np.flatnonzero(self.imputations.asked.nonzero()[1] == self._place)

    def _are_shares(self) -> bool:
        """Whether all values lie between 0 and 1."""
        imputed = self.imputations.predictive.values[:, self._entries]
        observed = self.imputations.data.exact[:, self._place]
        found = np.concatenate([imputed.ravel(), observed[~np.isnan(observed)]])
        return bool((found > 0).all() and (found < 1).all())

    def _moved(self, values: np.ndarray, delta: float) -> np.ndarray:
        """Values (m, n) moved by delta."""
        if delta == self.neutral:
            return values
        u = np.random.default_rng(derived_seed(self.seed, STREAM)).random(values.shape)
        if self.scale == "shift":
            return values + delta
        if self.scale == "ratio":
            return np.floor(values * delta + u) if self.kind == "count" else values * delta
        if not self.has_levels:
            return special.expit(special.logit(values) + delta)
        chances = self._chances()
        if self.kind != "category":
            return _along_the_order(values.astype(int), chances, delta, u)
        names: Any = self.imputations.data.levels[self.column]
        return _to_a_level(values.astype(int), chances, names.index(self.level), (delta, u))

    def _chances(self) -> np.ndarray:
        """Probabilities of the levels of each imputed entry, (n, levels)."""
        predictive = self.imputations.predictive
        rows = np.searchsorted(predictive.discrete, self._entries)
        levels = len(self.imputations.data.levels.get(self.column, (0, 1)))
        found = predictive.probabilities[rows, :levels].astype(np.float64)
        return found / found.sum(1, keepdims=True)


def _along_the_order(
    codes: np.ndarray, chances: np.ndarray, delta: float, u: np.ndarray
) -> np.ndarray:
    """Codes (m, n) of ordered levels when delta is added to the log-odds of P(x >= k) for all k.

    Each code is the level of a uniform number between its cumulative probabilities; the new code is
    that of the same number under the new probabilities.
    """
    ends = np.pad(chances.cumsum(1), ((0, 0), (1, 0))).clip(0, 1)
    ends[:, -1] = 1.0
    entry = np.arange(len(chances))
    low = ends[entry, codes]
    place = low + u * (ends[entry, codes + 1] - low)
    with np.errstate(divide="ignore"):
        new_ends = special.expit(special.logit(ends[:, 1:-1]) - delta)
    return (place[..., None] > new_ends).sum(-1).astype(np.float64)


def _to_a_level(
    codes: np.ndarray, chances: np.ndarray, level: int, move: tuple[float, np.ndarray]
) -> np.ndarray:
    """Codes (m, n) when delta is added to the log-odds of one level; the others keep theirs."""
    delta, u = move
    own = chances[:, level]
    with np.errstate(divide="ignore"):
        new = special.expit(special.logit(own) + delta)
    if delta > 0:
        joins = u < np.divide(new - own, 1 - own, out=np.zeros_like(own), where=own < 1)
        return np.where(joins, level, codes).astype(np.float64)
    stays = np.divide(new, own, out=np.ones_like(own), where=own > 0)
    others = chances.copy()
    others[:, level] = 0.0
    total = others.sum(1, keepdims=True)
    ends = np.divide(others, total, out=np.zeros_like(others), where=total > 0).cumsum(1)
    # u above `stays` is uniform between it and 1.
    left = np.divide(u - stays, 1 - stays, out=np.zeros_like(u), where=stays < 1)
    other = (left[..., None] > ends).sum(-1).clip(max=chances.shape[1] - 1)
    leaves = (codes == level) & (u >= stays) & (total[:, 0] > 0)
    return np.where(leaves, other, codes).astype(np.float64)
