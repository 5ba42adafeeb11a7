"""Whether programs take an axis of particles, or run on copies of their rows."""

import logging
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.programs.forms.adapted import is_known, itself, with_form
from ppl_vae.programs.forms.once import log_once
from ppl_vae.programs.particles import Particles, Program, require_outermost, run, with_any_nesting
from ppl_vae.programs.sites import (
    is_deterministic,
    is_local,
    log_prob_of,
    per_datum,
    sample_sites,
)

__all__ = ["with_particles"]

logger = logging.getLogger(__name__)

Arguments = tuple[Tensor, ...]


def with_particles(model: Program, guide: Program, rows: Arguments) -> tuple[Program, Program]:
    """The programs, each on copies of its rows if it takes no axis of particles.

    Args:
        model: The model.
        guide: The guide.
        rows: Arguments of both, of a few rows.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> with_particles(bed.model, bed.guide, (bed.x,))[0] is bed.model
        True
    """
    pair = model, guide
    if _equals_loop(*pair, rows):
        return pair
    for tiled in ((True, False), (False, True), (True, True)):
        other = tuple(
            with_form(program, is_tiled=True) if copies and not is_known(program) else program
            for program, copies in zip(pair, tiled, strict=True)
        )
        if _equals_loop(other[0], other[1], rows):
            which = " and ".join(
                name for name, copies in zip(("model", "guide"), tiled, strict=True) if copies
            )
            message = "the %s takes no axis of particles: it runs on K copies of the rows"
            log_once(logger, itself(model), message, which)
            return other[0], other[1]
    return pair


def _equals_loop(model: Program, guide: Program, rows: Arguments) -> bool:
    """Whether log-probabilities under a plate of particles are those of a loop over particles."""
    count = 2 if len(rows[0]) != 2 else 3
    try:
        drawn, joint = _under_particles(model, guide, rows, count)
        for k in range(count):
            alone = _alone(model, guide, rows, drawn, k)
            for together, single in zip((drawn, joint), alone, strict=True):
                if not _agree(together, single, k):
                    return False
    except Exception as error:  # shapes that do not fit
        logger.debug("no plate of particles: %s", error)
        return False
    return True


def _under_particles(
    model: Program, guide: Program, rows: Arguments, count: int
) -> tuple[Any, Any]:
    """Traces of guide and model under particles."""

    def at_depth(depth: int) -> tuple[Any, Any]:
        particles = Particles(count, depth)
        drawn = run(particles(guide), *rows)
        require_outermost(drawn, depth)
        joint = run(poutine.replay(particles(model), trace=drawn), *rows)
        require_outermost(joint, depth)
        return drawn, joint

    return with_any_nesting(at_depth, None)


def _alone(
    model: Program, guide: Program, rows: Arguments, together: Any, k: int
) -> tuple[Any, Any]:
    """Traces of guide and model at the draws of one particle."""
    drawn = run(guide, *rows)
    for site in sample_sites(drawn):
        value = together.nodes[site["name"]]["value"]
        if is_local(site) and not site["is_observed"]:
            value = value[k].reshape(site["value"].shape)
        site["value"] = value
    replayed = run(poutine.replay(guide, trace=drawn), *rows)
    return replayed, run(poutine.replay(model, trace=replayed), *rows)


def _agree(together: Any, alone: Any, k: int) -> bool:
    """Whether a particle's log-probabilities are those of the run by itself."""
    for site in sample_sites(alone):
        other = together.nodes[site["name"]]
        if is_deterministic(site):
            continue
        if not is_local(site):
            if is_local(other):
                return False
            continue
        one = per_datum(log_prob_of(other), other)[k]
        two = per_datum(log_prob_of(site).unsqueeze(0), site)[0]
        if one.shape != two.shape or not torch.allclose(one, two, 1e-3, 1e-3, equal_nan=True):
            return False
    return True
