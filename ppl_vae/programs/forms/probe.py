"""A model and a guide recognised by their log-densities at a few draws, which are kept."""

from typing import Any

import torch
from torch import Tensor

from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import Program, run
from ppl_vae.programs.sites import (
    is_deterministic,
    is_local,
    log_prob_of,
    per_datum,
    sample_sites,
    scaled_sum,
)
from ppl_vae.programs.traces import drawing
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.seeding import seeded

__all__ = ["Probe", "difference", "probe"]

Probe = dict[str, Any]  # tensors and names, as a file holds them
ROWS = 3
TOLERANCE = 1e-3  # of log-densities: devices and versions of torch round differently


def probe(model: Program, guide: Program, *args: Tensor) -> Probe | None:
    """Log-densities of the first rows by site, at draws that are kept with them.

    The draws are kept, so that the densities can be computed again on another device, whose random
    numbers differ. Random states and the mode of modules stay as they were.

    Args:
        model: Any Pyro model in the library's form.
        guide: Any Pyro guide in the library's form.
        args: Arguments of both, rows first.

    Returns:
        Plain values and tensors; None where the programs fail alone, as some do outside training.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=5)
        >>> {name: each.shape for name, each in probe(bed.model, bed.guide, bed.x)["model"].items()}
        {'z': torch.Size([3]), 'x': torch.Size([3])}
    """
    for num_rows in (ROWS, len(args[0])):  # programs with parameters for each row take all rows
        try:
            return _densities(model, guide, [each[:num_rows] for each in args], {}, seed=0)
        except Exception:  # a probe never ends a training
            continue
    return None


def difference(known: Probe, model: Program, guide: Program, *args: Tensor) -> str:
    """Where the programs have other densities than those of a probe, in words; "" if nowhere.

    Densities that are random themselves are not compared.

    Args:
        known: What `probe` returned.
        model: Any Pyro model in the library's form.
        guide: Any Pyro guide in the library's form.
        args: Arguments of both, rows first, which begin with those of the probe.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=5)
        >>> known = probe(bed.model, bed.guide, bed.x)
        >>> difference(known, bed.model, bed.guide, bed.x)
        ''
        >>> difference(known, bed.model, bed.guide, bed.x + 1.0)
        "another guide, whose log-density at site 'z' differs"
    """
    rows = [each[: known["num_rows"]] for each in args]
    latents = {name: each.to(rows[0].device) for name, each in known["latents"].items()}
    try:
        found, again = (_densities(model, guide, rows, latents, seed) for seed in (0, 1))
    except Exception as error:
        return f"another model or guide, which fails at the same draws ({one_line(error)})"
    for which in ("guide", "model"):
        for name in {**known[which], **found[which]}:
            one, two, repeated = (each[which].get(name) for each in (known, found, again))
            if not _are_close(one, two) and _are_close(two, repeated):
                return f"another {which}, whose log-density at site {name!r} differs"
    return ""


def _densities(
    model: Program, guide: Program, args: list[Tensor], latents: dict[str, Tensor], seed: int
) -> Probe:
    """The log-densities of both programs at these latents; at draws of their own without them."""
    with evaluating(model, guide), seeded(seed):
        drawn = run(drawing(guide, latents), *args)
        joint = run(drawing(model, latents | _latents(drawn)), *args)
        return {
            "num_rows": len(args[0]),
            "latents": _latents(drawn) | _latents(joint),
            "guide": _by_site(drawn),
            "model": _by_site(joint),
        }


def _latents(trace: Any) -> dict[str, Tensor]:
    """What a program drew, by site."""
    found = (site for site in sample_sites(trace) if not site["is_observed"])
    return {site["name"]: site["value"].detach() for site in found}


def _by_site(trace: Any) -> dict[str, Tensor]:
    """Log-densities by site: (B,), or one number where a site lies outside the data plate."""
    found = {}
    for site in sample_sites(trace):
        if is_deterministic(site):
            continue
        log_p = log_prob_of(site)
        by_row = per_datum(log_p.unsqueeze(0), site)[0] if is_local(site) else None
        values = scaled_sum(log_p, site) if by_row is None else by_row
        found[site["name"]] = values.detach().double().cpu()
    return found


def _are_close(one: Tensor | None, other: Tensor | None) -> bool:
    """Whether they are equal but for rounding, which grows with the largest of them."""
    if one is None or other is None or one.shape != other.shape:
        return one is other
    sizes = one[one.isfinite()].abs()
    scale = 1.0 + (sizes.max().item() if len(sizes.view(-1)) else 0.0)
    return torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True)
