"""Whether rows have a density of their own, in the model and in the guide."""

import logging
from typing import Any

import pyro.distributions as dist
import torch
from pyro.ops.provenance import get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.forms.adapted import adapted_within, itself
from ppl_vae.programs.forms.once import log_once
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.observed.functions_of_x import functions_of_x
from ppl_vae.programs.particles import Program, Site, run
from ppl_vae.programs.sites import (
    is_auxiliary,
    is_deterministic,
    is_local,
    log_prob_of,
    per_datum,
    sample_sites,
)
from ppl_vae.programs.traces import drawing
from ppl_vae.programs.validation import ROWS_AT_ONCE, check_programs
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.runtime.seeding import seeded

__all__ = ["check_rows", "points"]

logger = logging.getLogger(__name__)

KNOWN = {"ppl_vae", "pyro", "torch", "zuko"}
ROWS_TOGETHER = 6
TOLERANCE = 1e-3  # of log-densities in float32, whose rounding depends on the number of rows


def check_rows(model: Program, guide: Program, *args: Tensor) -> list[str]:
    """Check that each row has a density of its own, before results by row.

    Custom programs run once over all rows, as `check_programs` has it, and on a few rows, where
    the log-densities of a row have to be the same among others as without them. A warning names a
    site that observes another function of x than x, what the guide observes, and a log-density of
    the model that is itself random.

    Args:
        model: `Model`, or any Pyro model in the library's form.
        guide: `Guide`, or any Pyro guide in the library's form.
        args: Arguments of both, rows first.

    Returns:
        Names of the guide's latent sites outside the data plate, without auxiliary ones.

    Raises:
        ValueError: as `check_programs`; the rows depend on each other; the guide draws the latents
            of all rows at one site.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> check_rows(bed.model, bed.guide, bed.x)
        []
    """
    outside = check_programs(model, guide, *args)
    different = _different_rows(guide, args)
    count = min(ROWS_TOGETHER, len(different))
    index = different[torch.linspace(0, len(different) - 1, count).long()]
    some = tuple(each[index.to(each.device)] for each in args)
    if _may_be_random(model):
        _warn_of_noise(model, guide, *some)
    if isinstance(model, Model) and isinstance(guide, Guide):
        return outside
    if not isinstance(guide, Guide):
        require_own_draws(guide, *some)
        _warn_of_factors(guide, *some)
    require_rows_apart(model, guide, *some)
    if not isinstance(model, Model):
        _warn_of_functions(model, *(each[:ROWS_AT_ONCE] for each in args))
    return outside


def _different_rows(guide: Program, args: tuple[Tensor, ...]) -> Tensor:
    """Positions of the rows; of different ones where a guide has parameters for each row.

    Equal rows take such parameters in turn, so that those of one depend on how many are before it.
    """
    form = getattr(adapted_within(guide), "form", None)
    if form is None or form.known is None:
        return torch.arange(len(args[0]))
    found = form.known.keys.first(*args)
    return torch.tensor([found.tolist().index(each) for each in dict.fromkeys(found.tolist())])


def require_rows_apart(model: Program, guide: Program, *args: Tensor) -> None:
    """Raise ValueError where the log-density of a row, at the same latents, depends on other rows.

    Args:
        model: Any Pyro model in the library's form.
        guide: Any Pyro guide in the library's form.
        args: Arguments of both, of a few rows.

    Raises:
        ValueError: it does; the program and the site are named.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     with pyro.plate("data", len(x), dim=-1):
        ...         pyro.sample("x", dist.Normal(x.mean(), 1.0), obs=x)
        >>> require_rows_apart(model, lambda x: None, torch.arange(4.0))
        Traceback (most recent call last):
        ValueError: the model's log-density of a row at site 'x' depends on the other rows: ...
    """
    num_rows = len(args[0])
    if num_rows == 1 or all(map(_has_rows_apart, (model, guide))):
        return
    # Rows with neighbours on both sides, and not in the middle: their mean is that of sorted rows.
    rows = slice(1, max(2, (num_rows + 1) // 2))
    fewer = tuple(each[rows] for each in args)
    with evaluating(model, guide):
        drawn = _run("guide", guide, {}, args)
        joint = None if drawn is None else _run("model", model, _latents(drawn), args)
        for which, program, trace in (("guide", guide, drawn), ("model", model, joint)):
            if trace is None:
                return
            if _has_rows_apart(program):
                continue
            values = _latents(trace, rows)
            alone, again = (_run(which, program, values, fewer, seed) for seed in (0, 1))
            if alone is None or again is None:
                continue
            if _site_that_differs(again, alone, slice(None)) is not None:
                continue  # its density is itself random
            name = _site_that_differs(trace, alone, rows)
            if name is not None:
                raise ValueError(
                    f"the {which}'s log-density of a row at site {name!r} depends on the other "
                    "rows: it differs where the row is evaluated with fewer of them, so that no "
                    "log p(x) of a row exists. Take statistics of all rows (a mean, a number of "
                    "rows) beforehand and pass them as Dataset(x, args={...}); rows that do depend "
                    "on each other have a bound, by fit(..., objective=pyro.infer.Trace_ELBO())"
                )


def _has_rows_apart(program: Program) -> bool:
    """Whether a program has a density for each row by construction."""
    return isinstance(program, Model | Guide)


def _latents(trace: Any, rows: slice = slice(None)) -> dict[str, Tensor]:
    """What a program drew, by site; of some rows where it is theirs."""
    latents = [site for site in sample_sites(trace) if not site["is_observed"]]
    return {s["name"]: _of_rows(s, rows) if is_local(s) else s["value"] for s in latents}


def _run(
    which: str, program: Program, values: dict[str, Tensor], args: tuple[Tensor, ...], seed: int = 0
) -> Any:
    """The trace of a program on a few rows, at these latents; None if it is refused."""
    try:
        with seeded(seed):
            trace = run(drawing(program, values), *args)
            _by_row(trace)
            return trace
    except (ValueError, KeyError, RuntimeError) as error:
        # Its plate, a mask or parameters have a fixed size, or it knows no density of given draws.
        log_once(
            logger,
            itself(program),
            "the %s takes %d rows only together with others, so that they must fit in one block, "
            "and was not checked for rows that depend on each other: it may have parameters for "
            "each row, which Dataset(x, args={...}) can hold (%s)",
            which,
            len(args[0]),
            str(error).split("\n", maxsplit=1)[0],
        )
        return None


def _of_rows(site: Site, rows: slice) -> Tensor:
    """A local site's values of some rows."""
    value = site["value"]
    axis = value.dim() - site["fn"].event_dim - 1
    return value.movedim(axis, 0)[rows].movedim(0, axis)


def _site_that_differs(together: Any, alone: Any, rows: slice) -> str | None:
    """The first site at which log-densities of rows differ, if those of all sites together do."""
    one = {name: values[rows] for name, values in _by_row(together).items()}
    two = _by_row(alone)
    if _are_close(sum(one.values()), sum(two.values())):
        return None
    common = [name for name in one if name in two and not _are_close(one[name], two[name])]
    return (common or [*one])[0]


def _by_row(trace: Any) -> dict[str, Tensor]:
    """Log-densities of a trace without particles, (B,), by site."""
    local = [s for s in sample_sites(trace) if is_local(s) and not is_deterministic(s)]
    return {s["name"]: per_datum(log_prob_of(s).unsqueeze(0), s)[0].detach() for s in local}


def _are_close(one: Any, two: Any) -> bool:
    one, two = (torch.as_tensor(each) for each in (one, two))
    return torch.allclose(one, two, TOLERANCE, TOLERANCE, equal_nan=True)


def _may_be_random(model: Program) -> bool:
    """Whether a model has parts that are not of the libraries, which draw only at sites."""
    if not isinstance(model, Model):
        return True
    return any(type(part).__module__.partition(".")[0] not in KNOWN for part in model.modules())


def _warn_of_noise(model: Program, guide: Program, *args: Tensor) -> None:
    """Warn where the model's log-density, at the same latents, depends on the seed."""
    with evaluating(model, guide):
        drawn = _run("guide", guide, {}, args)
        joint = None if drawn is None else _run("model", model, _latents(drawn), args)
        again = None if joint is None else _run("model", model, _latents(joint), args, seed=1)
    if again is None:
        return
    name = _site_that_differs(joint, again, slice(None))
    if name is not None:
        warn_caller(
            f"the model's log-density at site {name!r} is itself random at given latents: it draws "
            "numbers outside of sample sites (torch.randn, functional dropout), so that log p(x) "
            "is that of no fixed model; draw them by pyro.sample, or leave them out in evaluation "
            "mode"
        )


def _warn_of_factors(guide: Program, *args: Tensor) -> None:
    """Warn of what the guide observes of the rows."""
    with evaluating(guide), seeded(0):
        sites = sample_sites(run(guide, *args))
    local = [s for s in sites if is_local(s) and not is_deterministic(s)]
    names = [site["name"] for site in local if site["is_observed"]]
    if names:
        warn_caller(
            f"the guide observes {', '.join(map(repr, names))}, which counts with a minus sign, as "
            "in Pyro's loss: the result is no estimate and no bound of log p(x). For these, "
            f"evaluate pyro.poutine.block(guide, hide={names})"
        )


def _warn_of_functions(model: Program, *args: Tensor) -> None:
    """Warn where the model observes only a function of x."""
    if found := functions_of_x(model, args):
        warn_caller(
            f"{found}: the result is the log-density of what the site observes, without the "
            "Jacobian of that function of x; observe x itself, or transform the data set before"
        )


def is_point(fn: Any) -> bool:
    """Whether a distribution is one point."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution | dist.ExpandedDistribution):
        fn = fn.base_dist
    return isinstance(fn, dist.Delta)


class Following(Messenger):
    """Lets each draw carry its name into all that depends on it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if not (msg["is_observed"] or is_point(msg["fn"])):
            names = get_provenance(msg["value"]) | {msg["name"]}
            msg["value"] = track_provenance(msg["value"], names)


def followed(guide: Program, *args: Any) -> list[Site]:
    """The guide's latent sites of a run, whose values know the draws that they depend on."""
    with evaluating(guide), seeded(0), Following():
        sites = sample_sites(run(guide, *args))
    return [site for site in sites if not site["is_observed"]]


def require_own_draws(guide: Program, *args: Any) -> None:
    """Raise ValueError where a guide draws the latents of all rows at one site.

    Args:
        guide: Any Pyro guide in the library's form.
        args: Its arguments.

    Raises:
        ValueError: it does; the site is named.

    Example:
        >>> require_own_draws(lambda: None)
    """
    sites = followed(guide, *args)
    shared = {site["name"] for site in sites if is_auxiliary(site) and not is_local(site)}
    for site in sites:
        joint = get_provenance(site["value"]) & shared
        if joint and is_local(site) and is_point(site["fn"]):
            raise ValueError(
                f"the guide draws {site['name']!r} of all rows together, at site "
                f"{min(joint)!r}, so that a row has no density q, and log p(x) of a row no "
                "estimate: use a guide with a site for each latent (AutoNormal, or AutoGuideList "
                "with one of them for the latents of the rows); its bound can be trained"
            )


def points(guide: Program, *args: Any) -> list[str]:
    """Names of the latents of a row that a guide sets to a point, without a density.

    Args:
        guide: Any Pyro guide in the library's form.
        args: Its arguments.

    Example:
        >>> points(lambda: None)
        []
    """
    return [
        site["name"]
        for site in followed(guide, *args)
        if is_local(site)
        and is_point(site["fn"])
        and not get_provenance(site["value"])
        and site["value"].is_floating_point()
    ]
