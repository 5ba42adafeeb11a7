"""The evidence lower bound, all Monte Carlo: estimator A of the original paper."""

from torch import Tensor

from ppl_vae.objectives.bound import Bound
from ppl_vae.terms import LogTerms

__all__ = ["TraceELBO"]


class TraceELBO(Bound):
    """ELBO(x) = E_q[log p(x given z) + w (log p(z) - log q(z given x))], w = 1 unless annealed: mean_k log w_k.

    Asks nothing of the families but a density; noisier than `MeanFieldELBO` where the KL has a closed form.

    Args:
        num_particles: Number of particles K per datum.
        max_plate_nesting: Depth of the plates; 1 unless the model has plates besides "data".

    Shape:
        per datum, (B,), in nats

    References:
        Kingma and Welling (2014), Auto-encoding variational Bayes, arXiv:1312.6114, eq. 6 (estimator A).

    Example:
        >>> from ppl_vae.data import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool((TraceELBO().bound(bed.model, bed.guide, bed.x) - bed.log_evidence).abs().max() < 1e-10)
        True
    """

    def value(self, terms: LogTerms) -> Tensor:
        """The ELBO per datum."""
        return (terms.log_likelihood + self.kl_weight * (terms.log_prior - terms.log_q)).mean(0)
