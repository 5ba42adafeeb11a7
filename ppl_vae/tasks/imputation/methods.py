"""How z is drawn given the observed entries of a row, and the missing entries given z."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.diagnostics.datatree.resampled import chosen_particles
from ppl_vae.diagnostics.sbc.against_hmc import LARGEST_R_HAT, SMALLEST_ESS
from ppl_vae.evidence import Defensive, reduce_log_weights
from ppl_vae.evidence.defensive import mixture_terms
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.families.missing import completed
from ppl_vae.hmc import HMC, LogJoint
from ppl_vae.programs.discrete.cases import cases_of, draws_discrete
from ppl_vae.programs.discrete.given_x import trace_at_all_latents
from ppl_vae.programs.inference import PAIRS_PER_CHUNK, Block, Inference
from ppl_vae.programs.masks import completed_x
from ppl_vae.programs.traces import Program, log_terms
from ppl_vae.refinement import GradientRefinement, refine
from ppl_vae.runtime.seeding import derived_seed

FEWEST_EFFECTIVE = 20  # draws that each particle set is worth, or its choice is biased by 1 / 20
FEWEST_CHAINS = 4
REFINEMENT, DRAWING = range(2)  # random streams of a method


class Entries(NamedTuple):
    """The missing entries of a block: their rows in it, and their places in a flattened row."""

    rows: Tensor
    places: Tensor

    def of(self, x: Tensor) -> Tensor:
        """These entries of draws, (T, B, *event) -> (T, n)."""
        return x.flatten(2)[:, self.rows, self.places]


class Group(NamedTuple):
    """The imputations that share a fit, and one draw of the latents outside the data plate."""

    model: Program
    guide: Program
    imputations: list[int]


class Drawn(NamedTuple):
    """T draws of the n missing entries of B rows, which belong to several imputations.

    x is (T, n), log_weights (T, B); `chosen` is the draw that each imputation takes, (imputations,
    B), and r_hat and ess are those of chains, (B,), None of particles. `worth` is the share of
    particles that discrete latents leave effective, (B,), None without them.
    """

    x: Tensor
    log_weights: Tensor
    chosen: np.ndarray
    r_hat: np.ndarray | None = None
    ess: np.ndarray | None = None
    worth: np.ndarray | None = None


class Method(Protocol):
    """A way to draw z given x."""

    name: ClassVar[str]

    @property
    def rows_at_once(self) -> int:
        """Rows of a block."""

    def num_draws(self, groups: list[Group]) -> int:
        """Draws of a row, T, of all groups."""

    def ready(
        self, group: Group, data: Dataset, near: Program | None, *, seed: int, progress: bool
    ) -> Inference:
        """Model, guide and the rows, after whatever must precede the draws.

        `near` is the guide of these rows for another fit with nearly the same theta, if there is
        one.
        """

    def draw(self, block: Block, group: Group, entries: Entries) -> Drawn:
        """Draws of the missing entries of a block of rows."""


@dataclass(frozen=True)
class Importance:
    """A particle set of the guide's draws for each imputation, which chooses one by its weight."""

    num_particles: int
    name: ClassVar[str] = "importance"

    @property
    def rows_at_once(self) -> int:
        """As many as one particle set allows."""
        return max(1, PAIRS_PER_CHUNK // self.num_particles)

    def num_draws(self, groups: list[Group]) -> int:
        """Particles of all sets."""
        return self.num_particles * sum(len(group.imputations) for group in groups)

    def ready(
        self, group: Group, data: Dataset, near: Program | None, *, seed: int, progress: bool
    ) -> Inference:
        """The guide as it is."""
        return Inference(group.model, group.guide, data)

    def draw(self, block: Block, group: Group, entries: Entries) -> Drawn:
        """One set after the other."""
        sets = [self._set(block, group, number, entries) for number in group.imputations]
        x, log_weights, chosen = zip(*sets, strict=True)
        firsts = self.num_particles * np.arange(len(sets))
        return Drawn(
            x=torch.cat(x),
            log_weights=torch.cat(log_weights),
            chosen=np.stack(chosen) + firsts[:, None],
            worth=_worth(block, self.proposals(block, group)),
        )

    def proposals(self, block: Block, group: Group) -> list[tuple[Program, int]]:
        """Guides, with the number of particles of each."""
        return [(block.inference.guide, self.num_particles)]

    def _set(
        self, block: Block, group: Group, number: int, entries: Entries
    ) -> tuple[Tensor, Tensor, np.ndarray]:
        """x, log-weights and the chosen particle of each row, for the imputation of this number."""
        own = replace(block, seed=derived_seed(block.seed, number))
        with own.evaluating():
            model = block.inference.model
            terms, log_weights = mixture_terms(model, self.proposals(block, group), *block.args)
            traces = (trace_at_all_latents(each, model, *block.args) for each in terms)
            x = torch.cat([entries.of(_x_drawn(trace, block)) for trace in traces])
        log_weights = log_weights.nan_to_num(nan=-torch.inf, posinf=torch.inf)
        chosen = chosen_particles(_finite(log_weights).cpu().numpy(), 1, own.seed)
        return x, log_weights, chosen[0]


@dataclass(frozen=True)
class Refined(Importance):
    """The same with a guide that has parameters of its own for each row.

    A fifth of the particles are the guide's own, and weights are those of the mixture: a mode that
    refinement left is not lost in silence.
    """

    refinement: Any = None
    name: ClassVar[str] = "refined"

    def ready(
        self, group: Group, data: Dataset, near: Program | None, *, seed: int, progress: bool
    ) -> Inference:
        """A refined guide for these rows, from that of another fit in fewer steps."""
        start = group.guide
        refinement = self.refinement
        if near is not None and isinstance(refinement, GradientRefinement):
            start = near
            refinement = refinement.from_near()
        options: dict[str, Any] = {"seed": seed, "progress": progress}
        return Inference(group.model, refine(group.model, start, data, refinement, **options), data)

    def proposals(self, block: Block, group: Group) -> list[tuple[Program, int]]:
        """The refined guide, and the guide."""
        both = (block.inference.guide, group.guide)
        return list(zip(both, Defensive().strata(self.num_particles), strict=True))


@dataclass(frozen=True)
class Chained:
    """Hamiltonian Monte Carlo: a chain for each imputation, which takes its last draw."""

    sampler: HMC
    num_imputations: int
    num_draws_wanted: int
    name: ClassVar[str] = "hmc"

    @property
    def rows_at_once(self) -> int:
        """As many as the chains of all imputations allow."""
        return max(1, PAIRS_PER_CHUNK // max(FEWEST_CHAINS, self.num_imputations))

    def num_draws(self, groups: list[Group]) -> int:
        """Draws that are kept of all chains."""
        return sum(len(self._kept(group)) * _num_chains(group) for group in groups)

    def ready(
        self, group: Group, data: Dataset, near: Program | None, *, seed: int, progress: bool
    ) -> Inference:
        """The guide as it is, at whose draws the chains start."""
        return Inference(group.model, group.guide, data)

    def draw(self, block: Block, group: Group, entries: Entries) -> Drawn:
        """The draws of all chains after warm-up, with equal weights."""
        model = block.inference.model
        guide = block.inference.guide
        num_chains = _num_chains(group)
        own = replace(block, seed=derived_seed(block.seed, group.imputations[0]))
        with own.evaluating():
            terms = log_terms(model, guide, *block.args, num_particles=num_chains)
            log_joint = LogJoint(terms, model, *block.args)
            if log_joint.has_sums:
                raise ValueError(
                    "chains sum discrete latents out, and missing entries are drawn given all "
                    'latents: impute by method="importance"'
                )
            chains = self.sampler.run(log_joint, log_joint.start)
            draws = chains.draws[self._kept(group)].flatten(0, 1)
            step = max(1, PAIRS_PER_CHUNK // len(block))
            traces = (log_joint.trace(log_joint.values(part)) for part in draws.split(step))
            x = torch.cat([entries.of(_x_drawn(trace, block)) for trace in traces])
        last = len(draws) - num_chains + np.arange(len(group.imputations))
        return Drawn(
            x=x,
            log_weights=draws.new_zeros(len(draws), len(block)),
            chosen=np.repeat(last[:, None], len(block), axis=1),
            r_hat=chains.r_hat().max(1),
            ess=chains.ess().min(1),
        )

    def _kept(self, group: Group) -> list[int]:
        """Transitions after which x is drawn, evenly spaced, the last of them included."""
        share = max(1, self.num_draws_wanted // self.num_imputations) * len(group.imputations)
        wanted = -(-share // _num_chains(group))
        gap = max(1, self.sampler.num_samples // wanted)
        return list(range(self.sampler.num_samples - 1, -1, -gap))[::-1]


class Judged(NamedTuple):
    """What judges the draws of z row by row, (B,) each: NaN where it does not apply."""

    pareto_k: np.ndarray
    ess: np.ndarray
    r_hat: np.ndarray
    is_reliable: np.ndarray


class Pool(NamedTuple):
    """The draws of all imputations; weights (T, B) sum to one, and imputations have equal shares.

    `chosen` is the draw that each imputation takes, (m, B).
    """

    x: Tensor
    weights: Tensor
    chosen: np.ndarray
    judged: Judged


def pooled(parts: list[Drawn]) -> Pool:
    """Draws of several fits, one after the other; fits are weighted alike, not by their p(x)."""
    firsts = np.cumsum([0, *(len(part.x) for part in parts[:-1])])
    pairs = zip(parts, firsts, strict=True)
    chosen = np.concatenate([part.chosen + first for part, first in pairs])
    log_weights = torch.cat([_relative(part.log_weights) for part in parts])
    return Pool(
        x=torch.cat([part.x for part in parts]),
        weights=log_weights.double().softmax(0),
        chosen=chosen,
        judged=_of_chains(parts) or _of_weights(parts, log_weights, len(chosen)),
    )


def _of_weights(parts: list[Drawn], log_weights: Tensor, num_imputations: int) -> Judged:
    """By k-hat and the effective sample size of all weights."""
    evidence = reduce_log_weights(log_weights.cpu().numpy())
    dead = torch.stack([part.log_weights.isneginf().all(0) for part in parts]).any(0)
    k_hat = np.where(dead.cpu().numpy(), np.inf, evidence.pareto_k)
    ess = evidence.ess
    worth = [len(part.x) * part.worth for part in parts if part.worth is not None]
    if worth:
        ess = np.minimum(ess, np.sum(worth, axis=0))
    is_reliable = (k_hat <= GOOD_K) & (ess >= FEWEST_EFFECTIVE * num_imputations)
    return Judged(k_hat, ess, np.full(len(k_hat), np.nan), is_reliable)


def _worth(block: Block, proposals: list[tuple[Program, int]]) -> np.ndarray | None:
    """1 / sum_y p(y given x)^2 / q(y given x) over all values of discrete latents, (B,), or None.

    Weights of the draws do not show a value that was never drawn.
    """
    model = block.inference.model
    args = block.args
    with block.evaluating():
        # One draw tells; most models have no discrete latents, and their particles are dear.
        has_discrete = all(draws_discrete(guide, *args) for guide, _ in proposals)
    if not has_discrete:
        return None
    log_w, log_q = [], []
    with block.evaluating():
        for guide, count in proposals:
            cases = cases_of(
                log_terms(model, guide, *args, num_particles=count), model, guide, *args
            )
            if cases is None:
                return None
            log_w.append(cases.log_weights.double().logsumexp(1))
            log_q.append(cases.log_q_discrete.double().logsumexp(1))
    num_draws = sum(count for _, count in proposals)
    log_p = log_w[0].log_softmax(0)
    ratios = 2 * log_p - torch.stack(log_q).logsumexp(0) + math.log(num_draws)
    total = torch.where(log_p > -torch.inf, ratios, -torch.inf).logsumexp(0)
    return torch.exp(-total).nan_to_num(0.0, posinf=0.0).cpu().numpy()


def _of_chains(parts: list[Drawn]) -> Judged | None:
    """By the worst R-hat, and the smallest effective sample size of a fit; None of particles."""
    r_hats = [part.r_hat for part in parts if part.r_hat is not None]
    sizes = [part.ess for part in parts if part.ess is not None]
    if not r_hats:
        return None
    r_hat = np.max(r_hats, axis=0)
    is_reliable = (r_hat < LARGEST_R_HAT) & (np.min(sizes, axis=0) >= SMALLEST_ESS)
    return Judged(np.full(len(r_hat), np.nan), np.sum(sizes, axis=0), r_hat, is_reliable)


def conditioned(group: Group, values: dict[str, Tensor]) -> Group:
    """The group with these values of the latents outside the data plate."""
    model, guide = (poutine.condition(each, data=values) for each in (group.model, group.guide))
    return Group(model, guide, group.imputations)


def _x_drawn(trace: poutine.Trace, block: Block) -> Tensor:
    """A draw of x for each draw of z, (T, B, *event), missing entries given the observed ones.

    With a missingness model the weights are those of these missing entries: there is no other draw.
    """
    x = completed_x(trace)
    if x is None:
        x = completed(trace.nodes[block.inference.site_of_x]["fn"])
    return x.reshape(-1, len(block), *block.data.event_shape)


def _relative(log_weights: Tensor) -> Tensor:
    """Weights of mean one over the draws; all equal where none is positive."""
    finite = _finite(log_weights)
    return finite - finite.logsumexp(0) + np.log(len(finite))


def _finite(log_weights: Tensor) -> Tensor:
    """Zero instead of minus infinity in rows where all are."""
    return log_weights.masked_fill(log_weights.isneginf().all(0), 0.0)


def _num_chains(group: Group) -> int:
    """One for each imputation, and at least four, by which they are judged."""
    return max(FEWEST_CHAINS, len(group.imputations))
