"""Which entries of its arguments a model observes, and at which sites."""

import logging
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.particles import Program, Site, run
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import is_local, observed_shape, observes, sample_sites

__all__ = ["Observed", "observed_entries"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Observed:
    """The entries of one argument that a site observes.

    Args:
        argument: Number of the argument.
        places: The entries of a row, flattened, in the order of the site's values.

    Example:
        >>> import pyro
        >>> with pyro.poutine.trace() as capture, pyro.plate("data", 2, dim=-1):
        ...     _ = pyro.sample("x", pyro.distributions.Normal(0.0, 1.0), obs=torch.ones(2))
        >>> Observed(0, torch.tensor([1])).put(torch.zeros(2, 3), capture.trace.nodes["x"])
        tensor([[0., 1., 0.],
                [0., 1., 0.]])
    """

    argument: int
    places: Tensor

    def put(self, values: Tensor, site: Site, num_lead: int = 0) -> Tensor:
        """The argument, (*lead, B, *event), with the values of a site in its entries.

        Masked entries of the site stay as they are.

        Args:
            values: The argument, of full size.
            site: The site, its values drawn.
            num_lead: Number of dims to the left of the rows.
        """
        lead = values.shape[: num_lead + 1]
        drawn, counted = (
            rows_first(each, site, num_lead).reshape(*lead, -1)
            for each in (site["value"], mask_of(site))
        )
        flat = values.reshape(*lead, -1).clone()
        before = flat[..., self.places]
        flat[..., self.places] = torch.where(counted, drawn.to(flat), before)
        return flat.reshape(values.shape)


def observed_entries(model: Program, args: tuple[Tensor, ...]) -> dict[str, Observed]:
    """The entries of the arguments that each observed site holds, as far as it holds some.

    They are found by giving the model numbers 1, 2, ... for one argument at a time: a site observes
    the entries whose numbers it has. A site of another function of its arguments is left out.

    Args:
        model: A model in the library's form, in evaluation mode.
        args: Its arguments.

    Example:
        >>> import pyro, torch
        >>> def model(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("second", pyro.distributions.Normal(0.0, 1.0), obs=x[:, 1])
        >>> observed_entries(model, (torch.zeros(3, 2),))["second"].places.tolist()
        [1]
    """
    found: dict[str, Observed] = {}
    for number, argument in enumerate(args):
        size = argument[0].numel()
        marks = torch.arange(1, size + 1, device=argument.device).to(argument.dtype)
        marked = marks.reshape(argument.shape[1:]).expand(argument.shape)
        try:
            once, again = (
                _values(run(model, *args[:number], each, *args[number + 1 :]))
                for each in (marked.clone(), marked + size)
            )
        except Exception as error:  # an argument that is not observed may have to be what it was
            logger.debug("argument %d cannot be marked: %s", number, error)
            continue
        for name, values in once.items():
            if name not in found and _are_marks(values, again[name], size):
                found[name] = Observed(number, values[0].round().long() - 1)
    return found


def _values(trace: Any) -> dict[str, Tensor]:
    """What each site observes, (B, values)."""
    sites = [site for site in sample_sites(trace) if is_local(site)]
    observed = [site for site in sites if observes(site) and site["value"].numel()]
    found = {}
    for site in observed:
        value = site["value"].expand(observed_shape(site["value"], site["fn"]))
        values = rows_first(value, site, num_lead=0)
        found[site["name"]] = values.reshape(len(values), -1)
    return found


def _are_marks(values: Tensor, shifted: Tensor, size: int) -> bool:
    """Whether values are marks from 1 to `size`, the same in every row, that shift with them."""
    whole = torch.equal(values.round(), values) and torch.equal(values + size, shifted)
    return whole and bool((values == values[:1]).all())
