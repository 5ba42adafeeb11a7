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


def choose(kind: str, num_levels: int, x: Tensor) -> tuple[Choice, str]:
    """The likelihood of a column of this kind with values x (N,), and why.

    Where several suit the kind it is the one with the highest mean log p(x) when its parameters are
    those that it starts from, the same for all rows; the first one unless another is better by 0.05
    nats per row. Student's t counts as a normal where that is better: its degrees of freedom grow
    in training.
    """
    if kind in ("category", "ordered"):
        family = Ordinal if kind == "ordered" else Categorical
        reason = f"{kind}, {num_levels} level{'s' * (num_levels != 1)}"
        return partial(family, num_categories=max(2, num_levels)), reason
    first, *others = CANDIDATES[kind]
    observed = x[~x.isnan()]
    if not others or len(observed) < FEWEST:
        return first, kind
    at_first = max(_marginal_log_p(family, observed) for family in (first, Gaussian))
    gains = {family: _marginal_log_p(family, observed) - at_first for family in others}
    best = max(others, key=lambda family: gains[family])
    if not gains[best] > CLEARLY:
        return first, kind
    return best, f"{kind}, {gains[best]:.2f} nats per row over {type(first(1)).__name__}"


def _marginal_log_p(family: Callable[[int], Likelihood], x: Tensor) -> float:
    """Mean log p(x) of a column under the parameters that the likelihood starts from."""
    likelihood = family(1)
    with seeded(0):  # leaves the caller's random stream as it is
        likelihood.build((1,))
    likelihood.start_at(x[:, None])
    with torch.no_grad():
        p = likelihood(torch.zeros(1, 1))
        return float(p.log_prob(x[:, None].float()).mean())
