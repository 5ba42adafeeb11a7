"""Draws of the latents that the model marks for enumeration, given x and the other latents."""

from typing import Any

from pyro import poutine
from pyro.distributions import Categorical
from pyro.infer.discrete import infer_discrete
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.programs.discrete.contraction import marked_sites
from ppl_vae.programs.particles import Program, run
from ppl_vae.programs.sites import sample_sites
from ppl_vae.programs.traces import LogTerms, drawing, particles_of

__all__ = ["at_all_latents", "trace_at_all_latents"]


def at_all_latents(terms: LogTerms, model: Program, *args: Any) -> Program:
    """The model at the latents of a run; those that it sums out are drawn from p(y given x, z).

    Args:
        terms: One run of model and guide.
        model: The model.
        args: Its arguments.

    Returns:
        The model under the particles of the run.

    References:
        Obermeyer et al. (2019), Tensor variable elimination for plated factor graphs,
        arXiv:1902.03210.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.programs.traces import log_terms
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x, num_particles=4)
        >>> at_all_latents(terms, bed.model, bed.x)(bed.x).shape
        torch.Size([3, 5])
    """
    particles = particles_of(terms.model_trace)
    at_latents = particles(poutine.replay(model, trace=terms.guide_trace))
    marked = marked_sites(sample_sites(terms.model_trace), terms.guide_trace.nodes)
    if not marked:
        return at_latents
    at_values = particles(poutine.condition(model, data=_drawn_by(terms.guide_trace)))
    indexed = _Indexed({site["name"] for site in marked})
    dim = -2 - particles.max_plate_nesting
    nodes: Any = run(infer_discrete(indexed(at_values), first_available_dim=dim), *args).nodes
    drawn = {}
    for site in marked:
        name = site["name"]
        drawn[name] = _of_shape(indexed.values(name, nodes[name]["value"]), site)
    return drawing(at_latents, drawn)


def trace_at_all_latents(terms: LogTerms, model: Program, *args: Any) -> poutine.Trace:
    """The trace of the model at all latents of a run, also at those that it sums out.

    The model's own trace has the latter from p(y given z), whatever x is.

    Args:
        terms: One run of model and guide.
        model: The model.
        args: Its arguments.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.programs.traces import log_terms
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> terms = log_terms(bed.model, bed.guide, bed.x)
        >>> trace_at_all_latents(terms, bed.model, bed.x) is terms.model_trace
        True
    """
    if not terms.summed:
        return terms.model_trace
    return run(at_all_latents(terms, model, *args), *args)


def _drawn_by(guide_trace: poutine.Trace) -> dict[str, Tensor]:
    """The guide's latents, to condition on: Pyro gathers no vectors by enumerated values."""
    latents = (site for site in sample_sites(guide_trace) if not site["is_observed"])
    return {site["name"]: site["value"] for site in latents}


class _Indexed(Messenger):
    """Shows marked vectors, such as one-hot ones, as the number of their value."""

    def __init__(self, marked: set[str]) -> None:
        super().__init__()
        self.marked = marked
        self.support: dict[str, Tensor] = {}

    def values(self, name: str, index: Tensor) -> Tensor:
        """The values of a site that have these numbers, or the values themselves."""
        support = self.support.get(name)
        return index if support is None else support[index]

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["name"] not in self.marked or not fn.event_dim:
            return
        support = fn.enumerate_support(expand=False)
        self.support[msg["name"]] = support.reshape(len(support), *fn.event_shape)
        msg["fn"] = Categorical(logits=fn.log_prob(support).movedim(0, -1))

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.support:
            msg["value"] = self.values(msg["name"], msg["value"])


def _of_shape(value: Tensor, site: Any) -> Tensor:
    """A value without axes of enumeration, of the site's full shape."""
    shape = site["value"].shape
    return value.reshape(value.shape[max(0, value.dim() - len(shape)) :]).expand(shape)
