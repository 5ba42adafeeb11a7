"""Data simulated from a model, with the latents that generated them."""

from typing import Any

import pyro.distributions as dist
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.model import Model
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.masks import is_mask_of_x, mask_of, missing_from
from ppl_vae.programs.modules import arguments, evaluating, require_callable
from ppl_vae.programs.observed.entries import observed_entries
from ppl_vae.programs.observed.functions_of_x import require_x_itself
from ppl_vae.programs.observed.known import KNOWN
from ppl_vae.programs.observed.site_of_x import entries_of_x, is_all_of_x
from ppl_vae.programs.particles import Program, Site
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import is_local, observes, redrawn, sample_sites
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.seeding import seeded

__all__ = ["simulate"]


def simulate(
    model: Program,
    data: Dataset | None = None,
    *,
    num_data: int = 100,
    context: Tensor | None = None,
    seed: int | None = 0,
) -> tuple[Dataset, dict[str, Tensor]]:
    """(z, x) ~ p(z) p(x given z): simulated data, and the latents that generated them.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        data: Data to imitate: number of rows, covariates and missing entries are theirs (those of
            a missingness model are drawn). A custom Pyro model needs them; a `Model` does not.
        num_data: Number of rows where `data` is None.
        context: Covariates where `data` is None, (N, C).
        seed: Seed of the draws; None draws from torch's global stream.

    Returns:
        The data, and their latents by site, each (N, *plates, *event).

    Raises:
        ValueError: a custom Pyro model without data; a site observes neither entries of x nor of a
            further argument; a factor in the model (`pyro.factor`); covariates beside data.

    Example:
        >>> from ppl_vae import beds
        >>> given = Dataset([[0.0, float("nan"), 0.0, 0.0, 0.0]] * 3)
        >>> data, latents = simulate(beds.linear_gaussian().model, given)
        >>> data.mask[0].tolist(), latents["z"].shape
        ([True, False, True, True, True], torch.Size([3, 2]))
    """
    require_callable(model=model)
    num_data = whole_number(num_data, "num_data")
    if data is not None:
        if context is not None:
            raise ValueError("context was given beside data: put it in Dataset(context=...)")
        data = as_dataset(data).in_memory()
        model, _ = adapted(model, model, data)
    with evaluating(model), seeded(seed):
        if data is None:
            return _generate(model, num_data, context)
        return _imitate(model, data)


def _generate(
    model: Program, num_data: int, context: Tensor | None
) -> tuple[Dataset, dict[str, Tensor]]:
    """Data from a `Model`, and their z."""
    if not isinstance(model, Model):
        raise ValueError(
            "Simulating from a custom Pyro model needs `data` for shape, covariates and missingness"
        )
    trace = poutine.trace(model).get_trace(None, context, num_data=num_data)
    sites = [site for site in sample_sites(trace) if not is_mask_of_x(site)]
    latents = {site["name"]: site["value"] for site in sites if site["name"] != "x"}
    x: Any = trace.nodes["_RETURN"]["value"]
    return Dataset(x, context=context, dtype=x.dtype), latents


def _imitate(model: Program, data: Dataset) -> tuple[Dataset, dict[str, Tensor]]:
    """Data like the given ones, and their latents; missing where those are."""
    require_x_itself(model, data)
    trace = poutine.trace(redrawn(model)).get_trace(*arguments(data))
    sites = sample_sites(trace)
    latents = {
        s["name"]: rows_first(s["value"], s, num_lead=0) if is_local(s) else s["value"]
        for s in sites
        if not (s["is_observed"] or s["infer"].get("was_observed"))
    }
    observed = [s for s in sites if is_local(s) and observes(s) and not is_mask_of_x(s)]
    _refuse_factors(observed)
    args = list(arguments(data))
    if len(observed) == 1 and _is_all_of_x(model, data, observed[0]["name"]):
        drawn = rows_first(observed[0]["value"], observed[0], num_lead=0)
        args[0] = drawn.reshape(data.x.shape).to(data.x.dtype)
    else:
        _put_observed(args, model, [site for site in observed if _says_something(site)])
    x = args[0].masked_fill(missing_from(data.x, sites), float("nan"))
    further = dict(zip(data.args, args[len(args) - len(data.args) :], strict=True))
    given: dict[str, Any] = {"context": data.context, "args": further | data.constants}
    return Dataset(x, **given, dtype=x.dtype), latents


def _is_all_of_x(model: Program, data: Dataset, name: str) -> bool:
    """Whether a site observes x as a whole."""
    places = entries_of_x(model, arguments(data)).get(name)
    return places is not None and is_all_of_x(places, data.event_shape.numel())


def _refuse_factors(sites: list[Site]) -> None:
    """Raise ValueError where a factor weighs the rows, of which nothing is drawn."""
    for site in sites:
        if isinstance(site["fn"], dist.Unit) and site["fn"].log_factor.any():
            raise ValueError(
                f"site {site['name']!r} is a factor (pyro.factor), of which nothing can be drawn, "
                "so that simulated data were not from the model: observe x by a distribution there"
            )


def _says_something(site: Site) -> bool:
    """Whether a site has entries, and some of them count."""
    return bool(site["value"].numel() and mask_of(site).any())


def _put_observed(args: list[Tensor], model: Program, sites: list[Site]) -> None:
    """Put what was drawn at the observed sites where the arguments hold it.

    Raises:
        ValueError: a site observes something else than entries of the arguments; it is named.
    """
    entries = observed_entries(model, tuple(args))
    for site in sites:
        if site["name"] not in entries and site["name"].endswith(KNOWN):
            raise ValueError(
                f"site {site['name']!r} observes the known values of a latent (obs_mask) as no "
                "entries of x, so that simulated rows could not have them: give rows whose latent "
                "is unknown"
            )
        if site["name"] not in entries:
            raise ValueError(
                f"site {site['name']!r}, of shape {tuple(site['value'].shape)}, observes neither "
                "entries of x nor of a further argument, so that its draws have no place in "
                "simulated data: observe x, or Dataset(args=...), as given"
            )
        where = entries[site["name"]]
        args[where.argument] = where.put(args[where.argument], site)
