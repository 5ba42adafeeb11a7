"""Checks of data and programs, once, before loops that run without validation."""

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from ppl_vae.data.streaming import blocks
from ppl_vae.families import posteriors
from ppl_vae.families.shared import shared_latents
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.masks import mask_of
from ppl_vae.programs.modules import evaluating, require_programs
from ppl_vae.programs.particles import Program, Site, run
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.sites import (
    is_auxiliary,
    is_deterministic,
    is_local,
    log_prob_of,
    observed_shape,
    require_rows,
    sample_sites,
)
from ppl_vae.runtime.seeding import seeded
from ppl_vae.semi_supervised import SemiSupervisedGuide, SemiSupervisedModel

__all__ = ["check_programs"]

CHECKED = Model | Guide | SemiSupervisedModel | SemiSupervisedGuide
ROWS_AT_ONCE = 10_000


def check_data(
    model: Program, x: Tensor, context: Tensor | None, guide: Program | None = None
) -> None:
    """Check all data, and that model and guide belong together, before an unvalidated loop."""
    checks = [program.check for program in (model, guide) if isinstance(program, CHECKED)]
    start = 0
    for part in blocks(x) if checks else ():
        try:
            for check in checks:
                check(part, context)
        except ValueError as error:
            if not start:
                raise
            raise ValueError(f"{error} (its rows are counted from {start})") from None
        start += len(part)
    if isinstance(model, Model) and isinstance(guide, Guide):
        check_latents(model, guide)


def check_latents(model: Model, guide: Guide) -> None:
    """Raise ValueError unless prior and posterior are over vectors of one support and size."""
    prior = model.prior
    posterior = guide.posterior
    support = getattr(prior, "support", posterior.support)
    if support is not posterior.support:
        fit = [name for name in posteriors.__all__ if getattr(posteriors, name).support is support]
        raise ValueError(
            f"the posterior {type(posterior).__name__} has another support than the prior "
            f"{type(prior).__name__}: use posteriors.{', '.join(fit)}"
        )
    of_prior, of_posterior = (shared_latents(p) for p in (model.prior, guide.posterior))
    if of_prior.keys() != of_posterior.keys():
        raise ValueError(
            f"the prior {type(model.prior).__name__} shares {list(of_prior) or 'no latents'} among "
            f"rows and the posterior {type(guide.posterior).__name__} "
            f"{list(of_posterior) or 'none'}: use posteriors.GaussianProcess(prior) with "
            "priors.GaussianProcess, and only with it"
        )
    if of_prior and getattr(guide.posterior, "prior", model.prior) is not model.prior:
        raise ValueError(
            f"the posterior {type(guide.posterior).__name__} was made for another prior: give it "
            "model.prior"
        )
    if model.latent_dim != guide.latent_dim:
        raise ValueError(
            f"the model has {model.latent_dim} latent dimensions and the guide "
            f"{guide.latent_dim}: give prior and posterior the same latent_dim"
        )


def check_programs(model: Program, guide: Program, x: Tensor, *others: Tensor) -> list[str]:
    """Run custom programs once over all data, before a loop that runs without validation.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites.
        x: Data, (N, *event).
        others: Their further arguments, rows first: covariates.

    Returns:
        Names of the guide's latent sites outside the data plate, without auxiliary ones.

    Raises:
        TypeError: one of them cannot be called.
        ValueError: an observed site is of another shape than x, x lies outside its support, a
            log-density is NaN (the site and the first such row are named), or it has another shape
            than the plates around it; a latent is masked in one of the programs and not in the
            other.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("x", pyro.distributions.Poisson(torch.ones(len(x))), obs=x)
        >>> check_programs(model, lambda x: None, torch.tensor([1.0, -1.0]))
        Traceback (most recent call last):
        ValueError: row 1 of x lies outside the support of site 'x', Poisson: it observes -1
    """
    require_programs(model, guide)
    outside = dict[str, None]()
    if isinstance(model, Model) and isinstance(guide, Guide):
        return list(shared_latents(guide.posterior))
    for start in range(0, len(x), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        args = tuple(each[part] for each in (x, *others))
        with evaluating(model, guide), seeded(0):
            drawn = run(guide, *args)
            joint = run(poutine.replay(model, trace=drawn), *args)
            require_rows(sample_sites(joint))
            sites = [] if isinstance(model, Model) else sample_sites(joint)
            for site in [*sample_sites(drawn), *sites]:
                check_site(site, args[0], start)
            for site in sites:
                check_masks(site, drawn.nodes.get(site["name"]), start)
            latents = [site for site in sample_sites(drawn) if not site["is_observed"]]
        outside |= {s["name"]: None for s in latents if not (is_local(s) or is_auxiliary(s))}
    return list(outside)


def check_site(site: Site, x: Tensor, start: int) -> None:
    """Raise ValueError unless a local site can be evaluated at its value; rows from `start`."""
    name, fn, value = site["name"], site["fn"], site["value"]
    if not is_local(site) or is_deterministic(site):
        return
    if site["is_observed"]:
        if not fits(value.shape, fn):
            raise ValueError(
                f"site {name!r} is for values of shape {tuple(fn.shape())} and observes "
                f"{tuple(value.shape)}: give x the shape that the model's site has"
            )
        outside = _outside(site)
        if outside.any():
            row = int(outside.nonzero()[0])
            kind = type(getattr(fn, "base_dist", fn)).__name__
            raise ValueError(f"row {start + row} of {_observed_there(site, x, row, kind)}")
    try:
        log_p = log_prob_of(site)
    except (RuntimeError, IndexError):  # NaN is no index of a category
        if not (site["is_observed"] and value.isnan().any()):
            raise
        by_row = rows_first(value, site, num_lead=0)
        log_p = by_row.reshape(len(by_row), -1).sum(1)
    unknown = _by_row(scale_and_mask(log_p, mask=site["mask"]).isnan())
    if unknown.any():
        row = int(unknown.nonzero()[0])
        remedy = "look at its parameters there"
        if row < len(x) and x[row].isnan().any():
            remedy = (
                "x is missing there, which a custom program has to mask: fn, obs = "
                "families.missing.observed_part(fn, x)"
            )
            if not site["is_observed"]:
                remedy = "x is missing there: give the network x.nan_to_num()"
        raise ValueError(f"the log-density of site {name!r} is NaN for row {start + row}: {remedy}")


def check_masks(site: Site, guided: Site | None, start: int) -> None:
    """Raise ValueError where only one of model and guide masks a local latent."""
    if guided is None or site["is_observed"] or not is_local(site):
        return
    in_model, in_guide = (rows_first(mask_of(each), each, num_lead=0) for each in (site, guided))
    differ = (in_model != in_guide).nonzero()
    if len(differ):
        row = int(differ[0, 0])
        program = "guide" if in_model[row].all() else "model"
        raise ValueError(
            f"latent site {site['name']!r} is masked for row {start + row} in the {program} and "
            "not in the other: mask the same entries in both, so that log q leaves out what log p "
            "leaves out"
        )


def fits(shape: torch.Size, fn: Any) -> bool:
    """Whether a value keeps the distribution's batch shape and has its event shape."""
    batch = shape[: len(shape) - fn.event_dim]
    expected = observed_shape(torch.empty(()).expand(shape), fn)[len(fn.batch_shape) :]
    if shape[len(batch) :] != expected or len(batch) > len(fn.batch_shape):
        return False
    return all(a in (1, b) for a, b in zip(reversed(batch), reversed(fn.batch_shape), strict=False))


def _outside(site: Site) -> Tensor:
    """Which rows lie outside a site's support, (B,); none that is missing or may be masked."""
    fn = site["fn"]
    value = site["value"]
    none = torch.zeros(1, dtype=torch.bool)
    try:
        outside = ~fn.support.check(value)
    except NotImplementedError:
        return none
    depth = value.dim() - fn.event_dim
    outside, missing = (
        each.flatten(depth).any(-1) if each.dim() > depth else each
        for each in (outside, value.isnan())
    )
    while hasattr(fn, "base_dist"):
        if isinstance(fn, MaskedDistribution):
            return none
        fn = fn.base_dist
    unmasked = torch.as_tensor(True if site["mask"] is None else site["mask"])
    return _by_row(outside & ~missing & unmasked)


def _observed_there(site: Site, x: Tensor, row: int, kind: str) -> str:
    """What lies outside a site's support in a row, in words."""
    value = site["value"].expand(observed_shape(site["value"], site["fn"]))
    seen = rows_first(value, site, num_lead=0)[row].flatten()
    is_of_x = torch.isin(seen.to(x), x[row].flatten()).any()
    what = "x" if is_of_x else "an argument besides x"
    some = ", ".join(f"{each:g}" for each in seen[:5].tolist())
    more = ", ..." if len(seen) > 5 else ""
    return (
        f"{what} lies outside the support of site {site['name']!r}, {kind}: it observes "
        f"{some}{more}"
    )


def _by_row(values: Tensor) -> Tensor:
    """Any over the plates inside the data plate, (*plates, B) -> (B,)."""
    return values.flatten(0, -2).any(0) if values.dim() > 1 else values
