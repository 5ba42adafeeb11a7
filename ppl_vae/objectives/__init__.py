"""What a statistician compares: bounds per datum, subclasses of `pyro.infer.ELBO`."""

from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.objectives.mean_field import MeanFieldELBO

__all__ = ["Bound", "MeanFieldELBO", "TraceELBO"]
