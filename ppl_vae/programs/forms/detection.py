"""The form of a program, found by running it: the plate over its rows, and how particles fit."""

import logging
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import pyro
from pyro import poutine
from pyro.contrib.easyguide import EasyGuide
from torch import nn

from ppl_vae.data import Dataset
from ppl_vae.programs.forms.adapted import (
    AdaptedProgram,
    Form,
    KnownRows,
    adapted_within,
    is_known,
    itself,
    with_form,
)
from ppl_vae.programs.forms.calls import call_of, positional, takes, takes_any_position
from ppl_vae.programs.forms.copies import Arguments, with_particles
from ppl_vae.programs.forms.keys import ByPosition, read_by_position
from ppl_vae.programs.forms.once import log_once
from ppl_vae.programs.modules import arguments, evaluating, modules_of
from ppl_vae.programs.particles import PLATE, SUBSAMPLES, Program, Site, run
from ppl_vae.programs.sites import is_deterministic, sample_sites
from ppl_vae.programs.validation import fits
from ppl_vae.runtime.checks import warn_caller
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed

__all__ = ["adapted", "adapted_for_fit"]

logger = logging.getLogger(__name__)

MOST_ROWS = 4  # that are looked at
ROWS = "_rows_of_parameters"  # an attribute of a fitted guide


def adapted(
    model: Program, guide: Program, data: Dataset | Arguments, *, data_plate: str | None = None
) -> tuple[Program, Program]:
    """Model and guide in the library's form, as they are where they have it.

    The plate over the rows is the one that the observed sites share, whatever its name and dim. If
    a program fails under a plate of particles, or its log-probabilities differ from those of a loop
    over particles, it is run on K copies of the rows instead, and a line in the log says so.
    Programs that fail in every form are returned as they are, and raise their own errors later.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide.
        data: The rows, or the arguments of both, rows first.
        data_plate: Name of the plate over the rows; None finds it.

    Raises:
        ValueError: several plates may be the one over the rows, or no plate has this name; `fit`
            trained parameters of the guide for other rows.

    Example:
        >>> import pyro, torch
        >>> def model(x):
        ...     with pyro.plate("documents", len(x)):
        ...         z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        ...         pyro.sample("x", pyro.distributions.Normal(z, 1.0), obs=x)
        >>> found, _ = adapted(model, poutine.block(model, hide=["x"]), (torch.zeros(3),))
        >>> found.form.plate
        'documents'
    """
    if isinstance(data, Dataset):
        model, guide = _called(model, guide, data)
        args = arguments(data)
    else:
        args = data
    if all(map(is_known, (model, guide))):
        if data_plate not in (None, PLATE):
            raise PlateError(
                f"data_plate={echoed(data_plate)} is no plate of the model: found [{PLATE!r}]"
            )
        return model, guide
    if (known := rows_of_parameters(guide)) is not None:
        known.positions(tuple(each[:] for each in args))  # other rows are refused by name
    store: Any = pyro.get_param_store()
    # Parameters that a look makes in Pyro's store are not kept.
    with store.scope(store.get_state()), evaluating(model, guide), seeded(0):
        try:
            try:
                return _adapted(model, guide, args, data_plate, MOST_ROWS)
            except PlateError:
                raise
            except Exception as error:  # a plate of a fixed size takes all rows alone
                logger.debug("the programs do not take %d rows: %s", MOST_ROWS, error)
                return _adapted(model, guide, args, data_plate, len(args[0]))
        except PlateError:
            raise
        except Exception as error:  # it is the programs' own, and will be raised again
            logger.debug("the form of the programs was not found: %s", error)
            return model, guide


def adapted_for_fit(model: Program, guide: Program, data: Dataset) -> tuple[Program, Program]:
    """The same for training; a guide keeps the rows that its parameters belong to, if any.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide.
        data: The rows of training.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> _ = adapted_for_fit(bed.model, bed.guide, Dataset(bed.x))
        >>> rows_of_parameters(bed.guide) is None
        True
    """
    _keep_rows(guide, None)
    model, guide = adapted(model, guide, data)
    _keep_rows(guide, guide.form.known if isinstance(guide, AdaptedProgram) else None)
    return model, guide


def rows_of_parameters(guide: Program) -> KnownRows | None:
    """The rows of training, if the guide has parameters for each of them."""
    return getattr(itself(guide), ROWS, None)


def _keep_rows(guide: Program, known: KnownRows | None) -> None:
    if known is None and rows_of_parameters(guide) is None:
        return
    with suppress(AttributeError, TypeError):  # of a method, say
        setattr(itself(guide), ROWS, known)


def _adapted(
    model: Program, guide: Program, args: Arguments, data_plate: str | None, most: int
) -> tuple[Program, Program]:
    """The programs in the library's form, in evaluation mode, by a look at some rows."""
    some = tuple(each[:most] for each in args)
    model, guide = _with_shape(model, guide, some, args)
    _set_up(guide, args)
    fewer = min(most, max(1, len(args[0]) - 1))
    of_guide = None if is_known(guide) else read_by_position(guide, args)
    of_model = None if is_known(model) else read_by_position(model, args, guide)
    for found in (of_guide, of_model):
        _warn_of_other_rows(found)
    has_rows = of_guide is not None or not _takes(guide, tuple(each[:fewer] for each in args))
    rows = tuple(each[:] for each in args) if has_rows else some
    try:
        forms = _plates(model, guide, rows, data_plate)
    except PlateError:
        if data_plate is not None or has_rows or len(args[0]) <= most:
            raise
        # Another plate has the size of these rows by chance.
        forms = _plates(model, guide, tuple(each[: most - 1] for each in args), data_plate)
    if has_rows and not is_known(guide):
        guide = with_form(guide, known=rows_of_parameters(guide) or KnownRows(*rows))
        message = "the guide has parameters for each of %d rows: it runs on all"
        log_once(logger, itself(guide), message, len(rows[0]))
    model = _placed(model, forms[0])
    guide = _placed(guide, forms[1])
    if of_model is not None:
        model = with_form(model, by_position=of_model)
    model, guide = with_particles(model, guide, rows)
    return _known(model), _known(guide)


def _warn_of_other_rows(found: ByPosition | None) -> None:
    """Warn where a parameter has other entries than the rows, of which each takes one in turn."""
    if found is not None and found.size != found.num_rows:
        warn_caller(
            f"parameter {found.name!r} has {found.size} entries, read by the position of a row, "
            f"and there are {found.num_rows} rows: they must be the first ones of those that it "
            "was trained on, in their order; new rows need a network of x"
        )


def _with_shape(
    model: Program, guide: Program, rows: Arguments, all_rows: Arguments
) -> tuple[Program, Program]:
    """The programs, given x as (B,) where rows have one value and an observed site takes (B,)."""
    if rows[0].shape[1:] != (1,):
        return model, guide
    pair = [p if is_known(p) else with_form(p, takes_scalars=True) for p in (model, guide)]
    for args in (rows, all_rows):  # a plate may have a fixed size
        if _observes(model, args):
            return model, guide
        if _observes(pair[0], args):
            return pair[0], pair[1]
    return model, guide


def _observes(model: Program, rows: Arguments) -> bool:
    """Whether the shapes of all that a model observes are those of its sites."""
    with poutine.trace() as capture:
        try:
            model(*rows)
        except Exception as error:  # x may not fit before the site
            logger.debug("the model does not take x of this shape: %s", error)
    sites = sample_sites(capture.trace)
    observed = [site for site in sites if site["is_observed"] and site["value"].numel()]
    return bool(observed) and all(
        fits(site["value"].shape, site["fn"])
        and site["value"].dim() > site["fn"].event_dim
        # x of (B, 1) next to a location of (B,) gives (B, B) values.
        and not (site["value"].shape == (len(rows[0]), 1) != site["fn"].shape())
        for site in observed
    )


def _set_up(guide: Program, args: Arguments) -> None:
    """Let a guide with parameters for each row see all rows before any others."""
    # Pyro's automatic and easy guides keep the number of rows that they saw first.
    is_new = any(getattr(part, "prototype_trace", "") is None for part in _parts(guide))
    if is_new or _makes_rows(guide, tuple(each[:MOST_ROWS] for each in args)):
        run(guide, *(each[:] for each in args))


def _parts(guide: Program) -> list[nn.Module]:
    """All modules of a guide."""
    return [part for module in modules_of(guide) for part in module.modules()]


def _makes_rows(guide: Program, rows: Arguments) -> bool:
    """Whether a guide makes parameters in Pyro's store that may be one for each row."""
    store: Any = pyro.get_param_store()
    before = set(store.keys())
    with store.scope(store.get_state()) as made:
        try:
            run(guide, *rows)
        except Exception:  # it does not take some rows without the others, and made them before
            return False
    new = [value for name, value in made["params"].items() if name not in before]
    return any(len(rows[0]) in value.shape for value in new if not isinstance(value, nn.Parameter))


def _takes(guide: Program, rows: Arguments) -> bool:
    """Whether a guide takes these rows without the others."""
    store = pyro.get_param_store()
    try:
        with store.scope(store.get_state()):
            trace = run(guide, *rows)
    except Exception:
        for part in _parts(guide):
            if isinstance(part, EasyGuide):  # it keeps the plates of a run that fails
                part.plates.clear()
        return False
    if is_known(guide):
        return True
    sizes = {frame.size for site in sample_sites(trace) for frame in site["cond_indep_stack"]}
    return not sizes or bool(sizes & {len(rows[0]), -1})


class PlateError(ValueError):
    """Several plates may be the one over the rows, or it holds some of them alone."""


def _called(model: Program, guide: Program, data: Dataset) -> tuple[Program, Program]:
    """The programs, called with the further arguments of the data.

    Raises:
        ValueError: neither takes an argument of this name.
    """
    for name in (*data.args, *data.constants):
        if not any(
            takes(each, name) or takes_any_position(each) or adapted_within(each)
            for each in (model, guide)
        ):
            raise ValueError(
                f"args has {name!r}, which neither model nor guide takes: it must be the name of "
                "one of their parameters"
            )
    return _with_call(model, data, guide), _with_call(guide, data, model)


def _with_call(program: Program, data: Dataset, other: Program) -> Program:
    """The program, called with the further arguments of the data; its names, or the other one's."""
    if adapted_within(program) is not None:
        return program
    call = call_of(program, data, positional(program) or positional(other))
    if call is None:
        return program
    return with_form(program, call=call)


def _placed(program: Program, form: Form) -> Program:
    """The program with its rows where the library has them."""
    if is_known(program):
        return program
    return with_form(program, plate=form.plate, is_moved=form.is_moved)


def _known(program: Program) -> Program:
    """An adapted program, marked so that it is not looked at again."""
    if isinstance(program, AdaptedProgram):
        return with_form(program, is_known=True)
    return program


def _plates(
    model: Program, guide: Program, rows: Arguments, given: str | None
) -> tuple[Form, Form]:
    """The plates over the rows, of the model and of the guide."""
    drawn, joint = _both(model, guide, rows)
    _refuse_subsamples((drawn, joint), len(rows[0]))
    in_model = PLATE if is_known(model) else given or _shared_plate(joint, len(rows[0]))
    if given is not None and given not in _names(joint):
        found = ", ".join(map(repr, _names(joint))) or "none"
        raise PlateError(f"data_plate={echoed(given)} is no plate of the model: found {found}")
    in_guide = in_model
    names = _names(drawn)
    if names and in_model not in names:
        sites = [site for site in sample_sites(drawn) if not site["is_observed"]]
        candidates = _candidates(sites, len(rows[0]))
        in_guide = candidates[0] if len(candidates) == 1 else in_model
    return _form(joint, in_model), _form(drawn, in_guide)


def _refuse_subsamples(traces: Iterable[Any], num_rows: int) -> None:
    """Raise PlateError where a plate over the rows has drawn some of them."""
    sites = [site for trace in traces for site in sample_sites(trace)]
    for site in sites:
        for frame in site["cond_indep_stack"]:
            if frame.full_size == num_rows > frame.size > 0:
                raise PlateError(
                    f"the plate {frame.name!r} holds {frame.size} of {num_rows} rows at site "
                    f"{site['name']!r}: {SUBSAMPLES}"
                )


def _form(trace: Any, plate: str) -> Form:
    """The form of a program with this plate over the rows."""
    sites = sample_sites(trace)
    frames = [f for site in sites for f in site["cond_indep_stack"] if f.name == plate]
    is_moved = any(frame.dim != -1 or frame.size < 0 for frame in frames if frame.vectorized)
    return Form(plate, is_moved=is_moved)


def _both(model: Program, guide: Program, rows: Arguments) -> tuple[Any, Any]:
    """Traces of the guide and of the model, without particles."""
    drawn = run(guide, *rows)
    try:
        return drawn, run(poutine.replay(model, trace=drawn), *rows)
    except (ValueError, RuntimeError):  # the guide may be in the library's form already
        return drawn, run(model, *rows)


def _names(trace: Any) -> list[str]:
    """Names of the plates in a trace."""
    sites = sample_sites(trace)
    return list(dict.fromkeys(f.name for site in sites for f in site["cond_indep_stack"]))


def _shared_plate(joint: Any, num_rows: int) -> str:
    """The plate that the observed sites share."""
    sites = sample_sites(joint)
    observed = [s for s in sites if s["is_observed"] and not is_deterministic(s)]
    names = [{frame.name for frame in site["cond_indep_stack"]} for site in observed]
    if any(PLATE in each for each in names):
        return PLATE
    found = _candidates(observed, num_rows)
    if len(found) > 1:
        raise PlateError(
            f"the plates {', '.join(map(repr, found))} may each be the one over the rows of x: say "
            f"which, pv.from_pyro(model, guide, data, data_plate={found[0]!r})"
        )
    return found[0] if found else PLATE


def _candidates(sites: Iterable[Site], num_rows: int) -> list[str]:
    """Plates of as many rows as there are that the sites in plates share."""
    shared: dict[str, None] | None = None
    for site in sites:
        frames = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        if not frames:
            continue
        fitting = {f.name: None for f in frames if f.size in (-1, num_rows)}
        if shared is None:
            shared = fitting
        else:
            shared = {name: None for name in shared if name in fitting} or shared | fitting
    return list(shared or {})
