"""Draws of the latents that the model marks for enumeration, given x and the other latents."""

from typing import Any

from pyro import poutine
from pyro.infer.discrete import infer_discrete
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
    dim = -2 - particles.max_plate_nesting
    nodes: Any = run(infer_discrete(at_latents, first_available_dim=dim), *args).nodes
    drawn = {site["name"]: _of_shape(nodes[site["name"]]["value"], site) for site in marked}
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


def _of_shape(value: Tensor, site: Any) -> Tensor:
    """A value without axes of enumeration, of the site's full shape."""
    shape = site["value"].shape
    return value.reshape(value.shape[max(0, value.dim() - len(shape)) :]).expand(shape)
