"""A table of mixed columns: each has a likelihood of its own."""

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Self, override

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor, nn

from ppl_vae.families.densities import Columnwise
from ppl_vae.families.densities.columnwise import ColumnwiseSupport
from ppl_vae.families.likelihoods.choice import Choice, choose
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.runtime.text import echoed

__all__ = ["Columns"]


class Columns(Likelihood):
    """A mixed table: p(x given z) = prod_i p_i(x_i given z), one family for each column.

    Columns of the same family are computed as one block; a scale or a dispersion belongs to its
    column. log p(x) multiplies probabilities of discrete columns with densities of continuous ones;
    `measure` names which is which, and only equal ones are compared. `families` holds the family of
    each column: `Columns(other.families)` makes the same likelihood again, where these are classes
    or functions.

    An exposure (`Model(exposure=)`) is that of the counts among the columns.

    Args:
        families: A likelihood for each column, by name and in the order of x: a class or function
            that makes one from a number of columns, or an instance for one column, as
            `Categorical(1, 5)`.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (P,)

    Raises:
        TypeError: a family is something else.
        ValueError: an instance is for more than one element, or its elements are dependent.

    References:
        Nazábal, Olmos, Ghahramani and Valera (2020), Handling incomplete heterogeneous data using
        VAEs, Pattern Recognition 107, arXiv:1807.03653.

    Example:
        >>> import torch
        >>> from ppl_vae.families.likelihoods import Bernoulli, Poisson, StudentT
        >>> likelihood = Columns({"age": StudentT, "smokes": Bernoulli, "visits": Poisson})
        >>> likelihood.build((8,))
        >>> likelihood(torch.zeros(5, 8)).event_shape
        torch.Size([3])
    """

    def __init__(self, families: Mapping[str, Choice]) -> None:
        if not isinstance(families, Mapping):
            raise TypeError(
                f"families is {echoed(families)}: give a likelihood for each column by name, as in "
                "{'age': likelihoods.StudentT}"
            )
        super().__init__(len(families))
        self.names = tuple(map(str, families))
        self.families = dict(zip(self.names, families.values(), strict=True))
        self.reasons: dict[str, str] = {}
        groups: dict[Hashable, list[int]] = {}
        for place, (name, family) in enumerate(self.families.items()):
            _require_element(family, name)
            groups.setdefault(_what_it_makes(family), []).append(place)
        self.places = list(groups.values())
        chosen = list(self.families.values())
        self.parts: Sequence[Likelihood] = nn.ModuleList(  # type: ignore[assignment]
            _block(chosen[places[0]], len(places)) for places in self.places
        )
        for part, places in zip(self.parts, self.places, strict=True):
            part.names = [self.names[place] for place in places]
            if not part.independent:
                raise ValueError(
                    f"column {part.names[0]!r} is given a {type(part).__name__}, one joint density "
                    "of several columns: give a likelihood of independent elements"
                )
        self.support: constraints.Constraint = ColumnwiseSupport(
            [part.support for part in self.parts], self.places
        )
        self.measure = self._measure()
        self.takes_exposure = any(part.takes_exposure for part in self.parts)

    @classmethod
    def of(cls, data: Any, families: Mapping[str, Choice] | None = None) -> Self:
        """A likelihood for each column of a data set by its kind; `families` overrules by name.

        Booleans are `Bernoulli`, categories `Categorical`, or `Ordinal` where they are ordered,
        counts `NegativeBinomial`, or `Ordinal` where they look like answers from 1 to 5, say, other
        numbers `StudentT` with a scale that depends on z. Printing shows each choice and its
        reason.

        Args:
            data: A `Dataset` of a table.
            families: A likelihood for some columns, as in `Columns`.

        Raises:
            ValueError: `families` names a column that is not there.

        Example:
            >>> import pandas as pd
            >>> from ppl_vae.data import Dataset
            >>> frame = pd.DataFrame({"sex": ["f", "m", "f"], "weight": [60.1, 83.5, 71.0]})
            >>> Columns.of(Dataset(frame))
            Columns(
              sex     Categorical  category, 2 levels
              weight  StudentT     positive
            )
        """
        given = {str(name): each for name, each in (families or {}).items()}
        names = data.feature_names
        data.places_of(list(given))  # refuses others
        train = data.train.x
        chosen: dict[str, Choice] = {}
        reasons: dict[str, str] = {}
        for place, (name, kind) in enumerate(zip(names, data.kinds, strict=True)):
            num_levels = len(data.levels.get(name, ()))
            high = data.x[:, place].nan_to_num(-torch.inf).max().item()
            choice, reason = choose(kind, num_levels, train[:, place], high)
            family = given.get(name, choice)
            # What a configuration repeats of an earlier choice keeps the reason of the choice.
            is_choice = _what_it_makes(family) == _what_it_makes(choice)
            chosen[name], reasons[name] = family, reason if is_choice else "given"
        columns = cls(chosen)
        columns.reasons = reasons
        columns.levels = {name: data.levels[name] for name in names if name in data.levels}
        return columns

    @override
    def build(self, feature_shape: Sequence[int]) -> None:
        for part in self.parts:
            part.build(feature_shape)

    @override
    def start_at(self, x: Tensor, exposure: Tensor | None = None) -> None:
        self._check_shape(x)
        for part, place in zip(self.parts, self.places, strict=True):
            given = [] if exposure is None or not part.takes_exposure else [exposure]
            part.start_at(x[:, place], *given)

    @override
    def elementwise(self, *raw: Tensor) -> dist.TorchDistribution:
        raise NotImplementedError("each column has parameters of its own")

    @override
    def forward(self, features: Tensor, exposure: Tensor | None = None) -> dist.Independent:
        parts = [part.entries(features, exposure) for part in self.parts]
        return Columnwise(parts, self.places).to_event(1)

    @override
    def check(self, x: Tensor) -> None:
        self._check_shape(x)
        for part, place in zip(self.parts, self.places, strict=True):
            part.check(x[:, place])

    @override
    def concerns(self, features: Tensor) -> list[str]:
        return [concern for part in self.parts for concern in part.concerns(features)]

    @override
    def at_floor(self, features: Tensor) -> Tensor:
        found = super().at_floor(features)
        for part, place in zip(self.parts, self.places, strict=True):
            found[place] = part.at_floor(features).reshape(len(place))
        return found

    def _measure(self) -> str:
        """The measure of each column, or of all where it is the same."""
        by_name = [part.measure for part in self.by_column()]
        if len(set(by_name)) == 1:
            return by_name[0]
        pairs = zip(self.names, by_name, strict=True)
        return ", ".join(f"{name}: {measure}" for name, measure in pairs)

    def by_column(self) -> list[Likelihood]:
        """The likelihood of each column."""
        pairs = zip(self.parts, self.places, strict=True)
        found = {column: part for part, place in pairs for column in place}
        return [found[column] for column in range(len(self.names))]

    @override
    def extra_repr(self) -> str:
        parts = zip(self.names, self.by_column(), strict=True)
        return ", ".join(f"{name}={type(part).__name__}" for name, part in parts)

    @override
    def __repr__(self) -> str:
        kinds = [type(part).__name__ for part in self.by_column()]
        width = max(map(len, self.names))
        widest = max(map(len, kinds))
        rows = [
            f"  {name:{width}}  {kind:{widest}}  {self.reasons.get(name, 'given')}"
            for name, kind in zip(self.names, kinds, strict=True)
        ]
        return "\n".join([f"{type(self).__name__}(", *rows, ")"])


def _what_it_makes(family: Choice) -> Hashable:
    """Equal for families that are computed as one block: equal classes with equal keywords."""
    if isinstance(family, partial):
        return family.func, family.args, tuple(sorted(family.keywords.items()))
    return family


def _block(family: Choice, num_columns: int) -> Likelihood:
    """The likelihood of all columns of one family."""
    return family if isinstance(family, Likelihood) else family(num_columns)


def _require_element(family: Any, name: str) -> None:
    """Raise unless this is the likelihood of one column, or makes one."""
    if not isinstance(family, Likelihood):
        is_likelihood = not isinstance(family, type) or issubclass(family, Likelihood)
        if callable(family) and is_likelihood:
            return
        raise TypeError(
            f"column {name!r} is given {family!r}: give a likelihood, as in "
            "likelihoods.StudentT, or one made for one column, as in likelihoods.Categorical(1, 5)"
        )
    if family.event_shape.numel() != 1:
        raise ValueError(
            f"column {name!r} is given a {type(family).__name__} of shape "
            f"{tuple(family.event_shape)}: one column needs {type(family).__name__}(1, ...)"
        )
