"""Ranks of a true z among weighted draws given its observation, by functions of z and x."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.latents.means import dimension_names
from ppl_vae.diagnostics.sbc.sources import ImportanceDraws, PosteriorDraws
from ppl_vae.evidence.defensive import prior_guide
from ppl_vae.programs.inference import rows_per_chunk
from ppl_vae.programs.masks import completed_x, mask_of
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.plates import plates_first, rows_first
from ppl_vae.programs.traces import LogTerms, Program, drawing, log_terms, sample_sites

__all__ = ["Quantity", "Ranking", "weighted_pit"]

Quantity = Callable[[Any, Tensor], Tensor]
Latents = dict[str, Tensor]
OWN = ("log_joint", "hpd", "norm")
TIE = 16  # roundings by which the log-densities of equal latents may differ


def weighted_pit(
    values: Tensor, log_weights: Tensor, uniforms: Tensor, counted: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """P(f_s < f) among weighted draws; ties and the gaps between draws are filled at random.

    With n = (sum w)^2 / sum w^2, the effective number of draws, the result is (n P(f_s < f) + u (n
    P(f_s = f) + 1)) / (n + 1). It is exactly uniform for equal weights and draws of the posterior.
    The weight of the truth must be left out, because with it the result is uniform for every guide.
    A truth that does not count has no rank, NaN; others are ranked among the draws that count.

    Args:
        values: f of the truth, then of the draws.
        log_weights: Log-weights of the draws.
        uniforms: Uniform random numbers.
        counted: Which truths and draws count; None counts all.

    Shape:
        values, counted (1 + S, B, Q), log_weights (S, B), uniforms (B, Q) -> (B, Q) and n of all
        draws, (B,)

    References:
        Talts et al. (2018), arXiv:1804.06788, theorem 1; Modrák et al. (2023), arXiv:2211.02383
        (ties).

    Example:
        >>> values = torch.tensor([2.5, 1.0, 2.0, 3.0])[:, None, None]
        >>> pit, num_effective = weighted_pit(values, torch.zeros(3, 1), torch.tensor([[0.5]]))
        >>> pit.item(), num_effective.item()  # two of three below: between 2 / 4 and 3 / 4
        (0.625, 3.0)
    """
    truth = values[0]
    draws = values[1:]
    if counted is None:
        counted = torch.ones_like(values[:, :1, :1], dtype=torch.bool)
    weights = log_weights.double().softmax(0)
    equal = torch.isclose(draws, truth, rtol=TIE * torch.finfo(values.dtype).eps, atol=0.0)
    below = (draws < truth) & ~equal

    def total(weights: Tensor, of: Tensor) -> Tensor:
        return torch.einsum("sb,sbq->bq", weights, (of & counted[1:]).double())

    every = torch.ones_like(below[:, :, :1])
    mass = total(weights, every)
    squares = total(weights.square(), every)
    # n / mass, which is 0 where no draw counts: such a rank is uniform.
    unit = torch.where(squares > 0, mass / squares, 0.0)
    gaps = unit * total(weights, equal) + 1
    pit = (unit * total(weights, below) + uniforms * gaps) / (unit * mass + 1)
    return pit.clamp(0.0, 1.0).masked_fill(~counted[0], torch.nan), 1 / weights.square().sum(0)


class Ranking:
    """Ranks latents from which x was simulated among draws of z given x.

    Args:
        model: The model.
        guide: The guide.
        method: The source of the draws.
        quantities: Further functions of z and x, by name.
        data: The simulated observations.
        latents: Their latents, by site.

    Raises:
        ValueError: a latent is outside the data plate; a name is already used; importance weights
            are asked for and the guide has no density.

    Example:
        See `calibration`.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        method: PosteriorDraws,
        quantities: Mapping[str, Quantity],
        *,
        data: Dataset,
        latents: Latents,
    ) -> None:
        self.model = model
        self.method = method
        self.quantities = quantities
        row = data[:1]
        terms = log_terms(model, guide, *arguments(row))
        shared = [site["name"] for site in terms.global_latents]
        for name in latents.keys() & shared:
            raise ValueError(
                f'latent site {name!r} is outside the plate "data", and its posterior is not the '
                "encoder's: condition the programs on a value of it (pyro.condition)"
            )
        if not terms.prior_sites:
            raise ValueError("the model has no latent site: there is no posterior to be calibrated")
        self.shapes = {name: tuple(latents[name].shape[1:]) for name in terms.prior_sites}
        self.sites = {name: terms.model_trace.nodes[name] for name in self.shapes}
        self.dtype = terms.log_q.dtype
        # Whether q(z given x) can be evaluated at points that the guide did not draw.
        drawn = sample_sites(terms.guide_trace)
        self.knows_density = not any((site["infer"] or {}).get("is_auxiliary") for site in drawn)
        if self.knows_density:
            try:
                self._terms(guide, row, {name: latents[name][None, :1] for name in self.shapes})
            except (NotImplementedError, KeyError):
                self.knows_density = False
        self.guide = guide if self.knows_density else prior_guide(model)
        if not self.knows_density and isinstance(method, ImportanceDraws):
            raise ValueError(
                "the guide's density is not known at points that it did not draw: use HMCDraws()"
            )
        for name in quantities.keys() & {*OWN, *self.shapes, *dimension_names(self.shapes)}:
            raise ValueError(f"the name {name!r} is already used: give the quantity another name")

    @property
    def names(self) -> tuple[str, ...]:
        """Latent dimensions, then quantities."""
        latents = dimension_names(self.shapes)
        own = ["log_joint", *["hpd"] * self.knows_density, *["norm"] * (len(latents) > 1)]
        return (*latents, *own, *self.quantities)

    def pit(
        self, data: Dataset, truth: Latents, draws: Latents, random: np.random.Generator
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """PITs (B, Q) and effective numbers of draws (B,), some rows at a time."""
        num_draws = len(next(iter(draws.values())))
        rows = rows_per_chunk(len(data), num_draws + 1, self.method.chunk_size)
        for first in range(0, len(data), rows):
            where = slice(first, first + rows)
            part = data[where]
            values = {
                name: torch.cat([truth[name][None, where], draws[name][:, where]])
                for name in self.shapes
            }
            uniforms = torch.from_numpy(random.uniform(size=(len(part), len(self.names))))
            with evaluating(self.model, self.guide):
                terms = self._terms(self.guide, part, values)
                masks = {
                    name: rows_first(mask_of(site), site)
                    for name, site in terms.model_trace.nodes.items()
                    if name in values
                }
                columns = self._columns(terms, values, masks, part.x)
                log_weights = self._log_weights(terms, part, values)
                counted = self._counted(masks, columns)
                yield weighted_pit(columns, log_weights, uniforms.to(columns.device), counted)

    def _log_weights(self, terms: LogTerms, data: Dataset, values: Latents) -> Tensor:
        """Log-weights of the draws, (S, B), from their densities.

        A missingness model draws the missing entries anew, and its weights prefer some of these
        draws: log_joint has draws of its own, as it has for the truth, or the truth would differ.
        """
        if completed_x(terms.model_trace) is not None:
            terms = self._terms(self.guide, data, values)
        return self.method.log_weights(terms)[1:]

    def _terms(self, program: Program, data: Dataset, values: Latents) -> LogTerms:
        """Densities at these latents, (1 + S, B)."""
        num_particles = len(next(iter(values.values())))
        args = arguments(data)
        laid_out = {name: plates_first(value, self.sites[name]) for name, value in values.items()}
        return log_terms(self.model, drawing(program, laid_out), *args, num_particles=num_particles)

    def _counted(self, masks: Latents, columns: Tensor) -> Tensor | None:
        """Which columns count: not those of masked latents, which x says nothing about."""
        if all(mask.all() for mask in masks.values()):
            return None
        counted = torch.ones_like(columns, dtype=torch.bool)
        flat = [masks[name].reshape(*columns.shape[:2], -1) for name in self.shapes]
        latents = torch.cat(flat, -1)
        counted[..., : latents.shape[-1]] = latents
        return counted

    def _columns(self, terms: LogTerms, values: Latents, masks: Latents, x: Tensor) -> Tensor:
        """f of the truth and of the draws, in the order of `names`, (1 + S, B, Q)."""
        values = {name: value.masked_fill(~masks[name], 0) for name, value in values.items()}
        flat = [value.reshape(*value.shape[:2], -1) for value in values.values()]
        z = torch.cat([value.to(self.dtype) for value in flat], -1)
        own = {"log_joint": terms.log_joint, "hpd": -terms.log_q, "norm": z.norm(dim=-1)}
        found = {name: own[name] for name in self.names if name in own}
        latent = next(iter(values.values())) if len(values) == 1 else values
        for name, f in self.quantities.items():
            found[name] = _checked(name, f(latent, x), z.shape[:2])
        return torch.cat([z, *(value.to(self.dtype)[..., None] for value in found.values())], -1)


def _checked(name: str, value: Any, shape: torch.Size) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(
            f"quantity {name!r} returned a {type(value).__name__}: f(z, x) must return a tensor"
        )
    if value.shape != shape:
        raise ValueError(
            f"quantity {name!r} has shape {tuple(value.shape)}: f(z, x) must return {tuple(shape)}"
        )
    if value.isnan().any():
        raise ValueError(
            f"quantity {name!r} is NaN at {int(value.isnan().sum())} draws: f(z, x) must return "
            "numbers that can be ranked"
        )
    return value
