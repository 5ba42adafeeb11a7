"""A guide with variational parameters for each row."""

from typing import Any, override

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.families.posteriors import Posterior
from ppl_vae.programs.forms.keys import RowKeys
from ppl_vae.programs.modules import arguments, module_of
from ppl_vae.programs.plates import plate_of_rows
from ppl_vae.programs.sites import is_local
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.discrete import DiscreteLatents
from ppl_vae.refinement.latents import Latents, Masks, Values

__all__ = ["RefinedGuide"]


class RefinedGuide(nn.Module):
    """A Pyro guide with variational parameters for each row, as `refine` returns it.

    q(z given x) = family(parameters of x's row); rows are looked up by their values, context
    included, so that equal rows have the same parameters. For several latent sites, or constrained
    ones, the family is a normal in unconstrained space, split into conditionals. Discrete latents y
    have a table, q(y given x), and z has parameters for each y. Latents that rows share are drawn
    as in the guide that was refined.

    Args:
        posterior: The family.
        latents: The latent sites.
        raw: The family's parameters, (N, P), or (N, C, P) for C values of discrete latents.
        data: The rows to which they belong.
        masks: Which entries of a latent count, by site, (N, *event) or (N, C, *event); all entries
            of a site that is not named count.
        discrete: The discrete latents, and log q(y given x) up to a constant, (N, C).
        shared: The guide that draws the latents outside the plate "data", if there are any.

    Shape:
        x (B, *event), further arguments (B, ...) -> the sites' values, batch shape (B,)

    Raises:
        ValueError: a row of x is not among the data; the row is named.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.refinement import GradientRefinement, refine
        >>> bed = beds.linear_gaussian(num_data=4)
        >>> refined = refine(bed.model, bed.guide, bed.x, GradientRefinement(num_steps=1))
        >>> refined(bed.x[[3, 0]]).shape
        torch.Size([2, 2])
    """

    raw: nn.Parameter
    rows: Tensor  # a digest of them, in their order

    def __init__(
        self,
        posterior: Posterior | None,
        latents: Latents,
        raw: Tensor,
        data: Dataset,
        masks: Masks | None = None,
        *,
        discrete: tuple[DiscreteLatents, Tensor] | None = None,
        shared: Program | None = None,
    ) -> None:
        super().__init__()
        self.posterior: Any = posterior
        self.latents = latents
        self.masks = masks or {}
        self.raw = nn.Parameter(raw, requires_grad=False)
        self.keys = RowKeys(*(each.to(raw) for each in arguments(data)))
        self.register_buffer("rows", self.keys.digest)
        self.discrete: DiscreteLatents | None = None
        if discrete is not None:
            self.discrete = discrete[0]
            self.logits = nn.Parameter(discrete[1], requires_grad=False)
        self.shared: Any = shared
        self.parts = None if shared is None else module_of(shared)

    def forward(self, x: Tensor, *others: Tensor) -> Any:
        """The Pyro guide."""
        rows = self._found(x, *others)
        if self.shared is not None:
            with poutine.block(hide_fn=_is_of_rows):
                self.shared(x, *others)
        with plate_of_rows(len(x)):
            values = self._draw(rows)
        return next(iter(values.values())) if len(values) == 1 else values

    def _draw(self, rows: Tensor) -> Values:
        """All latents of these rows."""
        raw = self.raw[rows]
        masks = {name: mask.to(rows.device)[rows] for name, mask in self.masks.items()}
        values: Values = {}
        if self.discrete is not None:
            # Whether a discrete latent counts depends on x alone, and is the same in each case.
            own = {site.name for site in self.discrete.sites}
            first = {name: mask[:, 0] for name, mask in masks.items() if name in own}
            values, case = self.discrete.sample(self.logits[rows], first)
            of_rows = torch.arange(len(rows), device=rows.device)
            raw = raw[of_rows, case]
            masks = {name: mask[of_rows, case] for name, mask in masks.items() if name not in own}
        if self.latents.sites:
            values |= self.latents.sample(self.posterior.distribution(raw), masks)
        return values

    def encode(self, x: Tensor, *others: Tensor) -> dist.TorchDistribution:
        """q of all latents side by side, in unconstrained space."""
        return self.posterior.distribution(self.parameters_of(x, *others))

    def parameters_of(self, x: Tensor, *others: Tensor) -> Tensor:
        """The family's parameters for these rows, (B, P)."""
        return self.raw[self._found(x, *others)]

    @override
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Parameters of other rows, or of these in another order, are refused."""
        saved = state_dict.get(prefix + "rows", self.rows)  # earlier versions had none
        if not torch.equal(saved.cpu(), self.rows.cpu()):
            raise ValueError(
                "the saved guide was refined for other rows, or for these in another order: refine "
                "it for the same rows before its parameters are loaded"
            )
        state_dict[prefix + "rows"] = self.rows
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _found(self, *args: Tensor) -> Tensor:
        """Positions of these rows among the guide's."""
        found = self.keys.first(*(each.to(self.raw) for each in args), on=self.raw.device)
        if (found < 0).any():
            row = int((found < 0).nonzero()[0])
            raise ValueError(
                f"row {row} of x (with its context) is not among the {len(self.raw)} rows that "
                "this guide was refined for: call refine(model, guide, x) for these rows"
            )
        return found


def _is_of_rows(msg: Any) -> bool:
    """Whether a message is anything but a draw of a latent that rows share."""
    return msg["type"] != "sample" or site_is_subsample(msg) or is_local(msg)
