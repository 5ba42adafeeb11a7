"""Draws of p(z given x) chosen among those of the guide by their importance weights."""

from dataclasses import dataclass

import numpy as np
import torch
from pyro import poutine
from scipy.special import softmax
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.importance import rows_per_chunk
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.traces import Program, Site, is_local, log_terms, sample_sites
from ppl_vae.runtime.seeding import derived_seed, seeded


@dataclass(frozen=True)
class Resampled:
    """S draws of each latent in the data plate, (S, *plates, B, *event), and k-hat of their
    weights, (B,).
    """

    sites: dict[str, Tensor]
    pareto_k: np.ndarray

    def trace(self, draws: slice) -> poutine.Trace:
        """Some of the draws as a trace that a program can be replayed against."""
        trace = poutine.Trace()
        for name, values in self.sites.items():
            trace.add_node(
                name, name=name, type="sample", is_observed=False, value=values[draws], infer={}
            )
        return trace


def resampled(
    model: Program,
    guide: Program,
    data: Dataset,
    *,
    num_samples: int,
    num_particles: int,
    seed: int,
) -> Resampled:
    """S of K draws of the guide for each row, chosen by systematic resampling, in random order.

    References:
        Rubin (1987), A noniterative sampling/importance resampling alternative, JASA 82.
    """
    step, parts, k_hats, row_dims = rows_per_chunk(len(data), num_particles, None), [], [], {}
    for start in range(0, len(data), step):
        part = data[start : start + step]
        with evaluating(model, guide), seeded(derived_seed(seed, start)):
            terms = log_terms(
                model, guide, *arguments(part.x, part.context), num_particles=num_particles
            )
        log_w = terms.log_weights.double().cpu().numpy()
        chosen = torch.from_numpy(_choose(log_w, num_samples, derived_seed(seed, start)))
        local = [
            site
            for site in sample_sites(terms.guide_trace)
            if is_local(site) and not site["is_observed"]
        ]
        row_dims = {site["name"]: -1 - site["fn"].event_dim for site in local}
        parts.append({site["name"]: _taken(site, chosen) for site in local})
        k_hats.append(reduce_log_weights(log_w).pareto_k)
    sites = {name: torch.cat([part[name] for part in parts], dim) for name, dim in row_dims.items()}
    return Resampled(sites, np.concatenate(k_hats))


def _choose(log_weights: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    """Which particles are taken, (K, B) -> (S, B): row by row each about S times its share of the
    weights.
    """
    rng = np.random.default_rng(seed)
    num_particles, num_rows = log_weights.shape
    ends = softmax(log_weights, axis=0).cumsum(0)
    steps = (np.arange(num_samples)[:, None] + rng.random(num_rows)) / num_samples
    taken = [np.searchsorted(ends[:, b], steps[:, b] * ends[-1, b]) for b in range(num_rows)]
    return rng.permuted(np.stack(taken, axis=1).clip(max=num_particles - 1), axis=0)


def _taken(site: Site, chosen: Tensor) -> Tensor:
    """A site's values at the particles that were taken, row by row, (S, *plates, B, *event)."""
    row_dim = site["value"].dim() - site["fn"].event_dim - 1
    by_row = site["value"].movedim(row_dim, 1)
    rows = torch.arange(by_row.shape[1], device=by_row.device)
    return by_row[chosen.to(by_row.device), rows].movedim(1, row_dim)
