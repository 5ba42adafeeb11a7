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

ROWS_MOVED = 100
MOST_MOVED = 1000  # entries, each of which takes a run

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
    the entries whose numbers it has. A site of another function of its arguments is left out. Where
    the model takes no such numbers, as those that choose a row of a table, the entries are moved
    from row to row instead.

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
            moved = _moved_entries(model, args, number)
            found |= {name: each for name, each in moved.items() if name not in found}
            continue
        for name, values in once.items():
            if name not in found and _are_marks(values, again[name], size):
                found[name] = Observed(number, values[0].round().long() - 1)
    return found


def _moved_entries(model: Program, args: tuple[Tensor, ...], number: int) -> dict[str, Observed]:
    """The entries of one argument by site: values that move from row to row with an entry."""
    few = [each[:ROWS_MOVED] for each in args]
    given = few[number].flatten(1)
    before = _values(run(model, *few))
    holders: dict[str, dict[int, int]] = {name: {} for name in before}
    for place in range(given.shape[1] if given.shape[1] <= MOST_MOVED else 0):
        other = given.clone()
        known = ~given[:, place].isnan()
        other[known, place] = given[known, place].roll(1)
        few[number] = other.reshape(args[number][:ROWS_MOVED].shape)
        if not (other > given).any():  # it is constant, or missing
            continue
        try:
            after = _values(run(model, *few))
        except Exception as error:
            logger.debug("entry %d of argument %d cannot be moved: %s", place, number, error)
            continue
        for name, values in after.items():
            follows = _equal(before[name], given[:, [place]]) & _equal(values, other[:, [place]])
            holders[name] |= dict.fromkeys(follows.nonzero().flatten().tolist(), place)
    return {
        name: Observed(number, torch.tensor([places[i] for i in range(len(places))]))
        for name, places in holders.items()
        if len(places) == before[name].shape[1]
    }


def _equal(values: Tensor, entry: Tensor) -> Tensor:
    """Which columns of values are an entry, in each row that has it, (values,)."""
    return ((values == entry) | entry.isnan()).all(0)


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
