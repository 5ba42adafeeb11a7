"""Flows of the package zuko as posteriors."""

from collections.abc import Sequence
from typing import Any, Literal, override

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import transforms as T
from torch import Tensor, nn

from ppl_vae.families.densities import StandardisedNormal
from ppl_vae.families.networks.dense import MOST_LAYERS
from ppl_vae.families.posteriors.flows import ConditionedFlow
from ppl_vae.runtime.checks import one_of, whole_number, whole_numbers
from ppl_vae.runtime.memory import require_memory

__all__ = ["ZukoFlow"]

KINDS = {"nsf": "NSF", "maf": "MAF", "realnvp": "RealNVP"}


class ZukoFlow(ConditionedFlow):
    """A flow of the package zuko that also sees x, scaled to N(loc(x), diag scale(x)^2) at first.

    "nsf" are autoregressive rational-quadratic splines, "maf" affine autoregressive layers: both
    score any point in one pass and take D passes for a draw. "realnvp" are affine couplings, with
    one pass for either, for D >= 2. KL is Monte Carlo.

    Args:
        latent_dim: Number of latent dimensions D.
        kind: "nsf", "maf" or "realnvp".
        num_transforms: Number of layers.
        hidden_dims: Hidden layers of each layer's network.

    Shape:
        features (*batch, *features) -> batch_shape (*batch), event_shape (D,)

    Raises:
        ImportError: zuko is not installed.
        ValueError: an unknown kind; "realnvp" with one dimension.

    References:
        Rozet et al. (2022), Zuko: normalizing flows in PyTorch, doi:10.5281/zenodo.7625672; Durkan
        et al. (2019), Neural spline flows, arXiv:1906.04032; Papamakarios, Pavlakou and Murray
        (2017), Masked autoregressive flow for density estimation, arXiv:1705.07057.

    Example:
        >>> posterior = ZukoFlow(2, "maf")
        >>> posterior.build((10,))
        >>> posterior(torch.zeros(5, 10)).rsample().shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        latent_dim: int,
        kind: Literal["nsf", "maf", "realnvp"] = "nsf",
        num_transforms: int = 2,
        *,
        hidden_dims: Sequence[int] = (64,),
    ) -> None:
        super().__init__(latent_dim)
        self.kind = one_of(kind, "ZukoFlow(kind)", tuple(KINDS))
        if kind == "realnvp" and self.latent_dim == 1:
            raise ValueError('ZukoFlow(1, "realnvp") has nothing to couple: use kind="nsf"')
        # zuko's masks of which dimension sees which, a byte each
        require_memory(f"latent_dim={latent_dim}", self.latent_dim, self.latent_dim, num_bytes=1)
        self.flow: nn.Module = getattr(zuko_flows(), KINDS[kind])(
            self.latent_dim,
            self.conditioner_dim,
            transforms=whole_number(num_transforms, "num_transforms", at_most=MOST_LAYERS),
            hidden_features=list(whole_numbers(hidden_dims, "hidden_dims")),
        )
        start_near_identity(self.flow)

    @override
    def distribution(self, raw: Tensor) -> dist.TransformedDistribution:
        loc, scale, conditioner = self.parts(raw)
        noise = StandardisedNormal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        to_z = T.AffineTransform(loc, scale, event_dim=1)
        return dist.TransformedDistribution(noise, [self.flow(conditioner).transform.inv, to_z])

    @override
    def extra_repr(self) -> str:
        return f"{self.latent_dim}, kind={self.kind!r}"


def zuko_flows() -> Any:
    """The module of flows; zuko turns off torch's checks of arguments, which are turned on again.

    Raises:
        ImportError: zuko is not installed.
    """
    with pyro.validation_enabled(torch.distributions.Distribution._validate_args):
        try:
            from zuko import flows
        except ImportError:
            raise ImportError('ZukoFlow needs zuko: pip install "ppl-vae[zuko]"') from None
    return flows


def start_near_identity(flow: nn.Module) -> None:
    """Make the last layer of each of zuko's networks small."""
    networks: list[Any] = [layer.hyper for layer in flow.modules() if hasattr(layer, "hyper")]
    with torch.no_grad():
        for network in networks:
            for parameter in network[-1].parameters():
                parameter.mul_(0.01)
