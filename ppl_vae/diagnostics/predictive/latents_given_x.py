"""Draws of the latents given x: of the guide, resampled by their importance weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ppl_vae.diagnostics.datatree.resampled import chosen_particles
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.programs.discrete.cases import cases_of, num_cases
from ppl_vae.programs.discrete.given_x import trace_at_all_latents
from ppl_vae.programs.inference import Block, Inference, rows_per_chunk
from ppl_vae.programs.observed.known import with_known
from ppl_vae.programs.traces import (
    Site,
    drawing,
    is_local,
    log_terms,
    run_under_particles,
    sample_sites,
)
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.seeding import derived_seed

__all__ = ["drawn_latents"]

NUM_PARTICLES = 1000  # draws of the guide per row; those of the posterior are chosen among them
FEWEST_OF_A_VALUE = 100  # for each value of a discrete latent, which share the number above
NUM_PARTICLES_GIVEN_SHARED = 100  # where each draw has its own, given latents of all rows
LATENTS = 1  # their random stream; x of a draw has another, or its noise would follow g


def drawn_latents(
    inference: Inference, num_samples: int, seed: int, *, with_shared: bool, progress: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor], np.ndarray]:
    """S draws of each latent in the data plate, (S, *plates, N, *event), and outside it; k-hat.

    Args:
        inference: Model, guide and rows.
        num_samples: Number of draws S.
        seed: Seed of the draws.
        with_shared: Whether there are latents outside the data plate: drawn from the guide, anew
            for each of the S draws, which has its latents of the rows given them.
        progress: Whether to show a bar.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> inference = Inference(bed.model, bed.guide, bed.x)
        >>> latents, shared, pareto_k = drawn_latents(inference, 5, 0, with_shared=False)
        >>> latents["z"].shape, shared, pareto_k.shape
        (torch.Size([5, 3, 2]), {}, (3,))
    """
    if with_shared:
        return _with_shared(inference, num_samples, seed, progress)
    latents, pareto_k = Resampling(inference, num_samples, NUM_PARTICLES)(seed, progress=progress)
    return latents, {}, pareto_k


def _with_shared(
    inference: Inference, num_samples: int, seed: int, progress: bool
) -> tuple[dict[str, Tensor], dict[str, Tensor], np.ndarray]:
    """S draws of the latents in the data plate and outside it, those of a draw together."""
    local: list[dict[str, Tensor]] = []
    shared: list[dict[str, Tensor]] = []
    k_hats: list[np.ndarray] = []
    with progress_bar(num_samples, "draws of z", unit="draws", progress=progress) as bar:
        for draw in range(num_samples):
            own_seed = derived_seed(seed, draw, LATENTS)
            shared.append(_drawn_shared(inference, own_seed))
            # The first draw has as many particles as k-hat needs.
            num_particles = NUM_PARTICLES_GIVEN_SHARED if draw else NUM_PARTICLES
            resampling = Resampling(inference, 1, num_particles, shared[-1], has_k_hat=draw == 0)
            values, pareto_k = resampling(own_seed)
            local.append(values)
            k_hats.append(pareto_k)
            bar.update()
    latents = {name: torch.cat([each[name] for each in local]) for name in local[0]}
    outside = {name: torch.stack([each[name] for each in shared]) for name in shared[0]}
    return latents, outside, k_hats[0]


def _drawn_shared(inference: Inference, seed: int) -> dict[str, Tensor]:
    """One draw of the guide's latents outside the data plate, given all rows."""
    with inference.evaluating(seed):
        sites = sample_sites(run_under_particles(inference.guide, 1, *inference.args))
    outside = [site for site in sites if not is_local(site) and not site["is_observed"]]
    return {site["name"]: site["value"] for site in outside}


@dataclass(frozen=True)
class Resampling:
    """S of K draws of each latent in the data plate, chosen row by row by their weights.

    Where the guide draws a discrete latent, there are draws for each of its values: one that
    q(y given x) leaves out would be missed by draws of the guide, whose weights do not show it.

    Args:
        inference: Model, guide and rows.
        num_samples: Number of draws chosen S.
        num_particles: Number of draws of the guide K.
        shared: Values of the latents outside the data plate.
        has_k_hat: Whether k-hat is computed; it is NaN otherwise.

    References:
        Rubin (1987), A noniterative sampling/importance resampling alternative, JASA 82.
    """

    inference: Inference
    num_samples: int
    num_particles: int
    shared: Mapping[str, Tensor] = field(default_factory=dict)
    has_k_hat: bool = True

    def __call__(
        self, seed: int, *, progress: bool = False
    ) -> tuple[dict[str, Tensor], np.ndarray]:
        """Draws of each latent, (S, *plates, N, *event), and k-hat by row, (N,)."""
        parts: list[dict[str, Tensor]] = []
        k_hats: list[np.ndarray] = []
        row_dims: dict[str, int] = {}
        step = rows_per_chunk(len(self.inference), self.num_particles)
        for block in self.inference.blocks(step, seed=seed, title="draws of z", progress=progress):
            log_w, values, row_dims = self._block(block)
            pool = log_w.flatten(0, 1).cpu().numpy()
            chosen = torch.from_numpy(chosen_particles(pool, self.num_samples, block.seed))
            parts.append(
                {name: _taken(each, chosen, row_dims[name]) for name, each in values.items()}
            )
            k_hats.append(self._k_hat(log_w.logsumexp(0).cpu().numpy()))
        latents = {
            name: torch.cat([part[name] for part in parts], dim) for name, dim in row_dims.items()
        }
        return latents, np.concatenate(k_hats)

    def _k_hat(self, log_w: np.ndarray) -> np.ndarray:
        """k-hat of the weights of some rows, (B,)."""
        if not self.has_k_hat:
            return np.full(log_w.shape[1], np.nan)
        return reduce_log_weights(log_w).pareto_k

    def _block(self, block: Block) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
        """Log-weights of some rows by value of y, (values, K, B), latents, and their rows' dims."""
        guide = drawing(self.inference.guide, self.shared)
        model = self.inference.model
        args = block.args
        with self.inference.evaluating(seed=0):  # leaves the block's stream as it is
            share = self.num_particles // num_cases(guide, *args)
        count = min(self.num_particles, max(FEWEST_OF_A_VALUE, share))
        with block.evaluating():
            terms = log_terms(model, guide, *args, num_particles=count)
            cases = cases_of(terms, model, guide, *args)
            runs = (terms,) if cases is None else cases.terms
            joints = [trace_at_all_latents(each, model, *args) for each in runs]
        log_w = terms.log_weights[None] if cases is None else cases.log_weights
        sites = [site for site in sample_sites(joints[0]) if _is_drawn(site)]
        values = {
            site["name"]: torch.cat([with_known(each.nodes[site["name"]], each) for each in joints])
            for site in sites
        }
        return log_w.double(), values, {site["name"]: -1 - site["fn"].event_dim for site in sites}


def _is_drawn(site: Site) -> bool:
    """Whether a site of the model draws a value of each row."""
    return is_local(site) and not site["is_observed"]


def _taken(value: Tensor, chosen: Tensor, row_dim: int) -> Tensor:
    """A site's values at the chosen particles of each row, (S, *plates, B, *event)."""
    by_row = value.movedim(row_dim, 1)
    rows = torch.arange(by_row.shape[1], device=by_row.device)
    return by_row[chosen.to(by_row.device), rows].movedim(1, row_dim)
