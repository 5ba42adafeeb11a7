"""Values that are known for some rows, by Pyro's `obs_mask`: a class, say."""

from typing import Any

from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import run
from ppl_vae.programs.sites import is_deterministic, is_observation, sample_sites
from ppl_vae.programs.traces import Program, Site
from ppl_vae.runtime.seeding import seeded

__all__ = ["KNOWN", "UNKNOWN", "known_parts", "with_known"]

KNOWN, UNKNOWN = "_observed", "_unobserved"  # Pyro's names for the parts of a site with obs_mask


class Following(Messenger):
    """Lets what is observed carry its site's name into all that depends on it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] and msg["name"].endswith(KNOWN):
            names = get_provenance(msg["value"]) | {msg["name"]}
            msg["value"] = track_provenance(msg["value"], names)


def known_parts(model: Program, args: tuple[Tensor, ...]) -> frozenset[str]:
    """The known parts of sites with `obs_mask` that other observations depend on.

    z given x goes with the class of its row: x drawn with another class would fit neither.

    Args:
        model: A model in the library's form.
        args: Its arguments, of a few rows.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> known_parts(bed.model, (bed.x,))
        frozenset()
    """
    with evaluating(model), seeded(0):
        sites = sample_sites(run(model, *args))
        names = {site["name"] for site in sites}
        pairs = {f"{_stem(name)}{KNOWN}" for name in names if name.endswith(UNKNOWN)} & names
        if not pairs:
            return frozenset()
        with Following():
            sites = sample_sites(run(model, *args))
    found: set[str] = set()
    for site in filter(is_observation, sites):
        log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        found |= get_provenance(log_p) - {site["name"]}
    return frozenset(found & pairs)


def with_known(site: Site, trace: Any) -> Tensor:
    """A latent's value; where it is known for some rows, their known values in its place.

    Args:
        site: A latent site.
        trace: The model's trace that it is from.

    Example:
        >>> import torch
        >>> with_known({"name": "z", "value": torch.ones(2)}, None)
        tensor([1., 1.])
    """
    name = site["name"]
    if not name.endswith(UNKNOWN):
        return site["value"]
    both = trace.nodes.get(_stem(name))
    if both is None or f"{_stem(name)}{KNOWN}" not in trace.nodes or not is_deterministic(both):
        return site["value"]
    return both["value"].expand(site["value"].shape)


def _stem(name: str) -> str:
    return name.removesuffix(UNKNOWN)
