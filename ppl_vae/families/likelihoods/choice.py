"""Which likelihood suits a column, by its kind and by its values."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ppl_vae.families.likelihoods.bounded import Gamma, LogNormal
from ppl_vae.families.likelihoods.categories import Bernoulli, Categorical
from ppl_vae.families.likelihoods.counts import NegativeBinomial
from ppl_vae.families.likelihoods.likelihood import Likelihood
from ppl_vae.families.likelihoods.ordered import Ordinal
from ppl_vae.families.likelihoods.real import Gaussian, StudentT
from ppl_vae.runtime.seeding import seeded

Choice = Likelihood | Callable[[int], Likelihood]

REAL = partial(StudentT, scale="decoder")
# Candidates for a column of each kind. The first is taken unless another is clearly better.
CANDIDATES: Mapping[str, tuple[Callable[[int], Likelihood], ...]] = {
    "boolean": (Bernoulli,),
    "count": (NegativeBinomial,),
    "positive": (REAL, partial(LogNormal, scale="decoder"), partial(Gamma, scale="decoder")),
    "real": (REAL,),
}
CLEARLY = 0.05  # nats per row
FEWEST = 20  # observed values that a choice is made from
HIGHEST_ITEM = 10  # whole numbers from 1 to at most this may be answers on a scale
AT_TOP = 0.05  # share of answers at the end of a scale; the highest of a few counts is rare


def choose(kind: str, num_levels: int, x: Tensor, high: float) -> tuple[Choice, str]:
    """The likelihood of a column of this kind with training values x (N,), and why.

    Where several suit the kind it is the one with the highest mean log p(x) when its parameters are
    those that it starts from, the same for all rows; the first one unless another is better by 0.05
    nats per row. Student's t counts as a normal where that is better: its degrees of freedom grow
    in training. Whole numbers from 1 to at most 10, `high` in all rows, may be answers on a scale,
    if at least 5 % are `high`: they are `Ordinal` where that is better by as much, and by a nat for
    each further parameter.
    """
    if kind in ("category", "ordered"):
        family = Ordinal if kind == "ordered" and num_levels > 1 else Categorical
        reason = f"{kind}, {num_levels} level{'s' * (num_levels != 1)}"
        return partial(family, num_categories=max(1, num_levels)), reason
    first, *others = CANDIDATES[kind]
    observed = x[~x.isnan()]
    if kind == "count" and len(observed) >= FEWEST and _may_be_answers(observed, high):
        item = partial(Ordinal, num_categories=int(high) + 1)
        gain = _marginal_log_p(item, observed) - _marginal_log_p(first, observed)
        gain -= high / len(observed)
        if gain > CLEARLY:
            return item, f"answers 1 to {high:.0f}, {gain:.2f} nats per row over NegativeBinomial"
    if not others or len(observed) < FEWEST or bool((observed == observed[0]).all()):
        return first, kind  # densities of one value have no maximum to compare
    at_first = max(_marginal_log_p(family, observed) for family in (first, Gaussian))
    gains = {family: _marginal_log_p(family, observed) - at_first for family in others}
    best = max(others, key=lambda family: gains[family])
    if not gains[best] > CLEARLY:
        return first, kind
    return best, f"{kind}, {gains[best]:.2f} nats per row over {type(first(1)).__name__}"


def _may_be_answers(x: Tensor, high: float) -> bool:
    """Whether whole numbers lie between 1 and a small number that is not rare among them."""
    is_scale = x.min() == 1 and 1 < high <= HIGHEST_ITEM
    return bool(is_scale and (x == high).float().mean() >= AT_TOP)


def _marginal_log_p(family: Callable[[int], Likelihood], x: Tensor) -> float:
    """Mean log p(x) of a column under the parameters that the likelihood starts from."""
    likelihood = family(1)
    with seeded(0):  # leaves the caller's random stream as it is
        likelihood.build((1,))
    likelihood.start_at(x[:, None])
    with torch.no_grad():
        p = likelihood(torch.zeros(1, 1))
        return float(p.log_prob(x[:, None].float()).mean())
