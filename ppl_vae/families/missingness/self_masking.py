"""Self-masking: whether an entry is missing depends on its own value."""

from collections.abc import Mapping, Sequence
from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.families.densities.ordered import OrderedCategorical
from ppl_vae.families.entries import blocks_of
from ppl_vae.families.missingness.mechanism import Missingness
from ppl_vae.families.units import Encoding
from ppl_vae.runtime.text import echoed

__all__ = ["SelfMasking"]

Sign = int | None

MEANINGS: Mapping[Sign, str] = {
    1: "high values go missing",
    -1: "low values go missing",
    0: "missing at a constant rate",
    None: "free: not identified by what is observed",
}


class SelfMasking(Missingness):
    """An entry is missing, or not, by its own value: logit p(m_j = 1 given x_j) = b_j (y_j - t_j).

    y_j is x_j in standard deviations about the mean of what is observed, and b_j is
    sign_j softplus(w_j). Without a known sign the curve is a_j + b_j y_j, and for a category
    without an order b_j y_j is one number for each level. Curves start at the rate of missing
    entries.

    The observed values alone do not identify such a model: what is not seen is inferred from the
    form of p(x) and of this curve. A known sign is an assumption, to be varied; with a free one
    (None) estimates depend on the starting point, and are for sensitivity analyses. A sign of 0
    gives missing entries no information, and is the model at random with which another is compared.

    Args:
        sign: 1 where high values go missing, -1 where low values do, 0 for a constant rate, None
            where it is not known: one for every column that is ever missing in the training rows,
            or one for each column by name or place. In the second case the missing entries of
            other columns are missing at random, and their mask has no density.

    Shape:
        x (*batch, J), complete -> batch_shape (*batch), event_shape (J,)

    Raises:
        ValueError: a sign is none of these; a column is not there, is a category without an order
            and has a sign, or can be neither summed over nor drawn with a path derivative (counts
            without an upper end).

    References:
        Ipsen, Mattei and Frellsen (2021), not-MIWAE: deep generative modelling with missing not at
        random data, arXiv:2006.12871, section 3.2; Mohan, Thoemmes and Pearl (2018), Estimation
        with incomplete data: the linear case (self-masking).

    Example:
        >>> from ppl_vae import Model
        >>> from ppl_vae.families import likelihoods, priors
        >>> families = {"age": likelihoods.StudentT, "income": likelihoods.LogNormal}
        >>> mechanism = SelfMasking({"income": 1})
        >>> model = Model(
        ...     priors.StandardNormal(1), likelihoods.Columns(families), missingness=mechanism
        ... )
        >>> model.missingness
        SelfMasking(
          income  high values go missing
        )
    """

    owner: Tensor  # the column of each input
    first: Tensor  # the first input of each column
    sign: Tensor
    is_free: Tensor

    def __init__(self, sign: Mapping[str | int, Sign] | Sign) -> None:
        super().__init__()
        signs = list(sign.values()) if isinstance(sign, Mapping) else [sign]
        for each in signs:
            if each not in MEANINGS:
                raise ValueError(
                    f"SelfMasking(sign) is {echoed(each)}; it must be 1 where high values go "
                    "missing, -1 where low values do, 0 for a constant rate, or None"
                )
        self.given = dict(sign) if isinstance(sign, Mapping) else sign

    @override
    def build(self, p: Any, names: Sequence[str] = ()) -> None:
        super().build(p, names)
        self.by_place = self._signs()
        self.too_many = {
            place: type(block).__name__
            for block, places in blocks_of(p)
            for place in places
            if not (block.has_enumerate_support or block.has_rsample)
        }
        levels = _levels(p)
        self.encoding = Encoding(len(self.names), levels)
        owners = [*self.encoding.numbers, *(i for i, size in levels.items() for _ in range(size))]
        signs = [self.by_place.get(place) for place in owners]
        self.register_buffer("owner", torch.tensor(owners))
        firsts = [owners.index(place) for place in range(len(self.names))]
        self.register_buffer("first", torch.tensor(firsts))
        self.register_buffer("sign", torch.tensor([float(each or 0) for each in signs]))
        self.register_buffer("is_free", torch.tensor([each is None for each in signs]))
        self.offset = nn.Parameter(torch.zeros(len(self.names)))
        # A slope of one in either direction where the sign is known, of zero where it is not.
        start = torch.ones(len(owners)).expm1().log()
        self.weight = nn.Parameter(torch.where(self.is_free, 0.0, start))
        self.takes_part.copy_(torch.tensor([i in self.by_place for i in range(len(self.names))]))
        if isinstance(self.given, Mapping):
            self._refuse(list(self.by_place))

    @override
    def start_at(self, x: Tensor) -> None:
        missing = x.isnan()
        if not isinstance(self.given, Mapping):
            self._refuse(missing.any(0).nonzero().flatten().tolist())
            self.takes_part.copy_(missing.any(0))
        complete = [self.names[i] for i in self.by_place if not missing[:, i].any()]
        if isinstance(self.given, Mapping) and complete:
            raise ValueError(
                f"SelfMasking: column {complete[0]!r} has no missing value in the training rows: "
                "leave it out"
            )
        self.encoding.fit_to(x)
        rate = (missing.sum(0) + 0.5) / (len(x) + 1)
        with torch.no_grad():
            self.offset.copy_(rate.logit())

    @override
    def logits(self, x: Tensor) -> Tensor:
        steepness = softplus(self.weight)
        effects = torch.where(self.is_free, self.weight, self.sign * steepness) * self.encoding(x)
        # In units of the steepness the offset is a threshold, which stays where it is as the curve
        # becomes steeper.
        units = torch.where(self.sign == 0, 1.0, steepness)[self.first]
        if self.encoding.categories:
            effects = torch.zeros_like(x).index_add(-1, self.owner, effects)
        return effects + units * self.offset

    def _signs(self) -> dict[int, Sign]:
        """The sign of each column that may take part."""
        if not isinstance(self.given, Mapping):
            return dict.fromkeys(range(len(self.names)), self.given)
        known = {name: place for place, name in enumerate(self.names)}
        # A whole number is a name where columns have such names, and a place elsewhere.
        numbered = {int(name): place for name, place in known.items() if name.isdecimal()}
        places = known | (numbered or {place: place for place in known.values()})
        for column in self.given:
            if column not in places:
                raise ValueError(
                    f"SelfMasking: there is no column {echoed(column)}; the columns are "
                    f"{', '.join(self.names)}"
                )
        return {places[column]: sign for column, sign in self.given.items()}

    def _refuse(self, places: Sequence[int]) -> None:
        """Raise ValueError where a column cannot take part."""
        for place in places:
            name = self.names[place]
            if place in self.too_many:
                raise ValueError(
                    f"SelfMasking: column {name!r} is {self.too_many[place]}, whose missing values "
                    "are too many to sum over and have no path derivative: leave it out, or use "
                    "Ordinal or Binomial"
                )
            if place in self.encoding.categories and self.by_place[place]:
                raise ValueError(
                    f"SelfMasking: column {name!r} is a category without an order: give it the "
                    "sign None (free) or 0, or use Ordinal"
                )

    @override
    def extra_repr(self) -> str:
        return str(self.given)

    @override
    def __repr__(self) -> str:
        if not self.names:
            return f"SelfMasking({self.extra_repr()})"
        width = max(map(len, self.columns), default=0)
        by_name = {self.names[place]: sign for place, sign in self.by_place.items()}
        rows = [f"  {name:{width}}  {MEANINGS[by_name[name]]}" for name in self.columns]
        return "\n".join(["SelfMasking(", *rows, ")"])


def _levels(p: Any) -> dict[int, int]:
    """Number of levels by place, for categories without an order."""
    return {
        place: block.probs.shape[-1]
        for block, places in blocks_of(p)
        for place in places
        if isinstance(block, dist.Categorical) and not isinstance(block, OrderedCategorical)
    }
