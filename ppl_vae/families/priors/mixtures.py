"""Mixtures as priors."""

from typing import Any, override

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from ppl_vae.errors import ArgumentError
from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.densities.latents import BroadcastMixture
from ppl_vae.families.priors.prior import Prior
from ppl_vae.runtime.checks import echoed, whole_number
from ppl_vae.runtime.memory import require_memory

__all__ = ["GaussianMixture", "VampPrior"]


class GaussianMixture(Prior):
    """p(z) = sum_c w_c N(m_c, diag s_c^2), all learned.

    Components start spread over N(0, I), so that they do not move as one. No closed-form KL.

    Args:
        latent_dim: Number of latent dimensions D.
        num_components: Number of components C.
        seed: Seed of the starting means.

    Shape:
        batch_shape (), event_shape (D,)

    References:
        Dilokthanakul et al. (2016), Deep unsupervised clustering with Gaussian mixture VAEs,
        arXiv:1611.02648.

    Example:
        >>> GaussianMixture(2, num_components=4)().log_prob(torch.zeros(5, 2)).shape
        torch.Size([5])
    """

    def __init__(self, latent_dim: int, num_components: int = 10, *, seed: int = 0) -> None:
        super().__init__(latent_dim)
        shape = whole_number(num_components, "num_components"), self.latent_dim
        require_memory(f"num_components={num_components} of latent_dim={latent_dim}", *shape)
        generator = torch.Generator().manual_seed(whole_number(seed, "seed", at_least=0))
        self.logits = nn.Parameter(torch.zeros(num_components))
        self.loc = nn.Parameter(torch.randn(shape, generator=generator))
        self.raw_scale = nn.Parameter(torch.full(shape, 0.5413))  # softplus(0.5413) = 1

    @override
    def forward(self, context: Tensor | None = None) -> BroadcastMixture:
        components = StandardisedNormal(self.loc, 1e-3 + softplus(self.raw_scale)).to_event(1)
        return BroadcastMixture(dist.Categorical(logits=self.logits), components)

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, num_components={len(self.logits)}"


class VampPrior(Prior):
    """p(z) = 1/C sum_c q(z given u_c): the encoder's own posterior at C learned pseudo-inputs u_c.

    Approaches the aggregate posterior, the prior that is best for the ELBO; shares the encoder's
    weights, so both receive gradients through it. Costs C posteriors per density: choose C in the
    tens to hundreds. No closed-form KL.

    Args:
        guide: The `Guide` that gives q (anything with `encode(x, context)`).
        pseudo_inputs: Starting values of u, (C, *event), without NaN; rows of the training data are
            a good choice.
        pseudo_context: Covariates of the pseudo-inputs, (C, context), if the guide takes any.

    Shape:
        batch_shape (), event_shape (D,)

    Raises:
        ValueError: pseudo-inputs are missing, contain NaN or have another shape than the guide's
            data.

    References:
        Tomczak and Welling (2018), VAE with a VampPrior, arXiv:1705.07120, eq. 9.

    Example:
        >>> from ppl_vae.families.posteriors import MeanFieldNormal
        >>> from ppl_vae.guide import Guide
        >>> guide = Guide(MeanFieldNormal(2), (5,))
        >>> VampPrior(guide, pseudo_inputs=torch.randn(10, 5))().event_shape
        torch.Size([2])
    """

    guide: Any  # a Guide, a class that families do not import

    def __init__(
        self, guide: Any, pseudo_inputs: Tensor, *, pseudo_context: Tensor | None = None
    ) -> None:
        if not hasattr(guide, "encode"):
            raise ArgumentError(
                f"VampPrior(guide) is {echoed(guide)}; it must be a Guide, whose posterior it is "
                "made of: VampPrior(guide, pseudo_inputs=data.train.x[:50])"
            )
        pseudo_inputs = _like(guide, pseudo_inputs, "pseudo_inputs")
        if pseudo_context is not None:
            pseudo_context = _like(guide, pseudo_context, "pseudo_context")
        if pseudo_inputs.shape[1:] != tuple(guide.event_shape) or not len(pseudo_inputs):
            raise ValueError(
                f"pseudo_inputs have shape {tuple(pseudo_inputs.shape)}; "
                f"the guide's data need (C, {', '.join(map(str, guide.event_shape))})"
            )
        if pseudo_inputs.isnan().any():
            row = int(pseudo_inputs.flatten(1).isnan().any(1).nonzero()[0])
            raise ValueError(f"pseudo_inputs has NaN in row {row}: fill missing values first")
        if pseudo_context is not None and len(pseudo_context) != len(pseudo_inputs):
            raise ArgumentError(
                f"pseudo_context has shape {tuple(pseudo_context.shape)}: give a row for each of "
                f"the {len(pseudo_inputs)} pseudo-inputs"
            )
        with torch.no_grad():
            q = guide.encode(pseudo_inputs, pseudo_context)
        super().__init__(q.event_shape[0])
        self.support = getattr(getattr(guide, "posterior", self), "support", self.support)
        self.guide = guide
        self.pseudo_inputs = nn.Parameter(pseudo_inputs)
        self.register_buffer("pseudo_context", pseudo_context)

    @override
    def forward(self, context: Tensor | None = None) -> BroadcastMixture:
        weights = dist.Categorical(logits=self.pseudo_inputs.new_zeros(len(self.pseudo_inputs)))
        # A `Guide` in the mode of this step, not at rest.
        posterior_at = getattr(self.guide, "posterior_at", self.guide.encode)
        return BroadcastMixture(weights, posterior_at(self.pseudo_inputs, self.pseudo_context))

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, pseudo_inputs={len(self.pseudo_inputs)}"


def _like(guide: Any, values: Tensor, name: str) -> Tensor:
    """A copy of these values on the device and in the float type of the guide's parameters."""
    if hasattr(values, "to_numpy"):  # a DataFrame
        values = values.to_numpy()
    try:
        copied = torch.as_tensor(values).detach().clone()
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(f"{name} is {echoed(values)}; it must be an array of rows") from None
    if copied.dim() == 0:
        raise ArgumentError(f"{name} is {echoed(values)}; it must be an array of rows")
    parameters = guide.parameters() if isinstance(guide, nn.Module) else ()
    return copied.to(next((p for p in parameters if p.is_floating_point()), copied))
