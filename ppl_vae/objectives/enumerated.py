"""The ELBO with the expectation over discrete latents exact, and a loss for known labels."""

from dataclasses import dataclass
from typing import Any, override

from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.programs.discrete.cases import Cases, cases_of
from ppl_vae.programs.masks import unmasked
from ppl_vae.programs.observed.known import KNOWN, UNKNOWN
from ppl_vae.programs.sites import of_plates, per_datum
from ppl_vae.programs.traces import LogTerms, Program
from ppl_vae.runtime.checks import real_number

__all__ = ["EnumeratedELBO"]


@dataclass(frozen=True)
class EnumeratedTerms(LogTerms):
    """The terms without the discrete latents, and those at each of their values."""

    cases: Cases = Cases((), (), 1)


class EnumeratedELBO(Bound):
    """E_q(y|x) E_q(z|x,y)[log p(x, y, z) - log q(z given x, y) - log q(y given x)], E_q(y|x) exact.

    The discrete latents y of the guide take each of their values, weighed by q(y given x); only the
    other latents are drawn. So q(y given x) has an exact gradient, without the noise of a score
    function, at the cost of K particles for each value (1,000 values at most). Where y is
    known for some rows, `pyro.sample("y", ..., obs=y, obs_mask=is_known)` in the model and a latent
    "y_unobserved" in the guide, masked alike, those rows have the ELBO of log p(x, y), in which
    q(y given x) does not occur; `label_weight` times log q(y given x) of the known labels is then
    added, and the objective is no longer a bound.

    Args:
        num_particles: Number of particles K per observation and value of y.
        label_weight: Weight of log q(y given x) for each known label.
        max_plate_nesting: Depth of the plates, "data" included; None finds it.

    Shape:
        per observation, (B,), in nats

    Raises:
        ValueError: the guide draws no discrete latent, or they have more than 1,000 values.

    References:
        Kingma et al. (2014), Semi-supervised learning with deep generative models,
        arXiv:1406.5298, eq. 7 and 9.

    Example:
        >>> EnumeratedELBO(label_weight=50.0)
        EnumeratedELBO(num_particles=1, label_weight=50)
    """

    of_log_weights = False

    def __init__(
        self,
        num_particles: int = 1,
        *,
        label_weight: float = 0.0,
        max_plate_nesting: int | None = None,
    ) -> None:
        super().__init__(num_particles, max_plate_nesting=max_plate_nesting)
        self.label_weight = real_number(label_weight, "EnumeratedELBO(label_weight)", at_least=0)
        self.shown = ("label_weight",) if label_weight else ()

    @override
    def terms(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> EnumeratedTerms:
        terms = super().terms(model, guide, *args, **kwargs)
        cases = cases_of(terms, model, guide, *args)
        if cases is None:
            raise ValueError(
                "the guide draws no discrete latent, or they have more than 1,000 values together: "
                "use TraceELBO, with gradient=objectives.PathAndScore() for discrete latents"
            )
        parts = dict(vars(terms))
        for name in ("prior_sites", "posterior_sites"):
            parts[name] = {key: v for key, v in parts[name].items() if key not in cases.names}
        return EnumeratedTerms(**parts, cases=cases)

    @override
    def value(self, terms: LogTerms) -> Tensor:
        assert isinstance(terms, EnumeratedTerms)
        share = terms.cases.log_q_discrete.exp()
        log_weights = terms.cases.by_value(self.log_weights(each) for each in terms.cases.terms)
        found = (share * log_weights).sum(0).mean(0)
        if self.label_weight:
            found = found + self.label_weight * log_q_of_labels(terms)
        return found


def log_q_of_labels(terms: EnumeratedTerms) -> Tensor:
    """log q(y given x) of the known labels, (B,): zero where there are none."""
    total = terms.log_likelihood.new_zeros(terms.log_likelihood.shape)
    for name in terms.cases.names:
        known = terms.model_trace.nodes.get(name.removesuffix(UNKNOWN) + KNOWN)
        if known is not None:
            site = terms.guide_trace.nodes[name]
            log_q = of_plates(unmasked(site["fn"]).log_prob(known["value"]), site)
            log_q = scale_and_mask(log_q, mask=known["mask"])
            total = total + per_datum(log_q, {**site, "mask": None})
    return total.mean(0)
