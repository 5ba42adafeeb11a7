"""Path derivatives for the latents that have one, score functions for the others."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, override

import torch
from pyro.ops.provenance import detach_provenance, get_provenance, track_provenance
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.objectives.gradients.pathwise import Reparameterized
from ppl_vae.objectives.target import Target, mean_of_others
from ppl_vae.programs.sites import is_local, local_log_probs, sample_sites
from ppl_vae.programs.traces import LogTerms
from ppl_vae.runtime.checks import one_of, real_number

__all__ = ["PathAndScore"]

BASELINES = ("leave-one-out", "moving-average", None)


@dataclass(frozen=True)
class PathAndScore(Reparameterized):
    """The path derivative through the latents that have one, the score function of the others.

    For a program of discrete and continuous latents. The score of a discrete latent is multiplied
    by the terms of its own row and particle that depend on it, directly or through other latents
    (of the ELBO; of other bounds by the whole bound of its row), minus a baseline. A site of the
    guide may have a baseline of its own, as in Pyro: `infer={"baseline": {"nn_baseline": net,
    "nn_baseline_input": x}}` is a network of x, trained to predict that sum;
    `{"use_decaying_avg_baseline": True, "baseline_beta": 0.9}` is its running mean.

    Args:
        baseline: "leave-one-out" (the mean over the other particles; needs K >= 2),
            "moving-average" (the running mean of the batches) or None, for the sites without one of
            their own.
        decay: Decay of the moving average, at least 0 and below 1.

    Raises:
        ValueError: the baseline is unknown, leave-one-out with one particle, the decay is outside
            [0, 1), or model and guide follow different targets.

    References:
        Schulman et al. (2015), Gradient estimation using stochastic computation graphs,
        arXiv:1506.05254, theorem 1; Mnih and Gregor (2014), Neural variational inference and
        learning in belief networks, arXiv:1402.0030, section 2.3 (baselines).

    Example:
        >>> PathAndScore("moving-average")
        PathAndScore(baseline='moving-average', decay=0.9)
    """

    baseline: str | None = "leave-one-out"
    decay: float = 0.9
    _averages: dict[str, Tensor] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    is_shown = True

    def __post_init__(self) -> None:
        one_of(self.baseline, "PathAndScore(baseline)", BASELINES)
        real_number(self.decay, "PathAndScore(decay)", at_least=0, below=1)
        object.__setattr__(self, "has_state", self.baseline == "moving-average")

    @override
    def check(self, bound: Target) -> None:
        name = type(bound).__name__
        if bound.splits or not bound.of_log_weights:
            raise ValueError(f"{self!r} is not defined for {name}: use TraceELBO or IWAE")
        if self.baseline == "leave-one-out" and bound.num_particles < 2:
            raise ValueError(
                f"{self!r} compares a particle with the others: give {name} num_particles >= 2, or "
                'use PathAndScore("moving-average")'
            )

    @override
    def state(self) -> dict[str, Tensor]:
        return dict(self._averages)

    @override
    def restore(self, state: dict[str, Tensor]) -> None:
        self._averages.clear()
        self._averages.update(state)

    @override
    def watching(self) -> AbstractContextManager[Any]:
        return Watching()

    @override
    def surrogate(self, bound: Target, terms: LogTerms) -> Tensor:
        total = bound.value(terms)
        for name, log_q in terms.posterior_sites.items():
            site = terms.guide_trace.nodes[name]
            if not site["fn"].has_rsample:
                total = total + self._score(bound, terms, name, log_q)
        return detach_provenance(total)

    def _score(self, bound: Target, terms: LogTerms, name: str, log_q: Tensor) -> Tensor:
        """A tensor per row, (B,), of value zero, whose gradient is that of the site's score."""
        is_sum = bound.linear
        cost = downstream(bound, terms, name) if is_sum else bound.rewards(bound.log_weights(terms))
        cost = detach_provenance(cost).detach()
        own = (terms.guide_trace.nodes[name]["infer"] or {}).get("baseline")
        if own is not None:
            baseline = self._own_baseline(name, own, cost)
        elif self.baseline == "leave-one-out" and is_sum:
            baseline = mean_of_others(cost)
        elif self.baseline == "leave-one-out":
            baseline = bound.rewards_without(detach_provenance(bound.log_weights(terms)).detach())
        elif self.baseline == "moving-average":
            baseline = self._average(name, cost, self.decay)
        else:
            baseline = torch.zeros_like(cost)
        signal = cost - baseline.detach()
        if is_sum:  # the derivative of log q in the bound has mean zero: take it out again
            signal = (signal + bound.kl_weight) / len(cost)
        score = (signal * log_q).sum(0)
        fit = -(cost - baseline).square().mean(0)
        return score - score.detach() + fit - fit.detach()

    def _average(self, name: str, cost: Tensor, decay: float) -> Tensor:
        """The running mean before this batch."""
        mean = cost.mean()
        average = self._averages.get(name, mean)
        self._averages[name] = decay * average + (1 - decay) * mean
        return average.expand_as(cost)

    def _own_baseline(self, name: str, options: Mapping[str, Any], cost: Tensor) -> Tensor:
        """What the site's `infer["baseline"]` says, (K, B)."""
        baseline = torch.zeros_like(cost)
        if options.get("use_decaying_avg_baseline"):
            baseline = baseline + self._average(name, cost, options.get("baseline_beta", 0.9))
        if (network := options.get("nn_baseline")) is not None:
            found = network(detach_provenance(options["nn_baseline_input"]).detach())
            baseline = baseline + _by_row(found, cost)
        elif (value := options.get("baseline_value")) is not None:
            baseline = baseline + _by_row(detach_provenance(value), cost)
        return baseline


def _by_row(values: Tensor, like: Tensor) -> Tensor:
    """A baseline of K copies of the rows, one after the other, or of the rows, with a last axis of
    size one or without, as (K, B) or (B,).
    """
    shape = like.shape if values.numel() == like.numel() else like.shape[1:]
    return values.reshape(shape)


class Watching(Messenger):
    """Lets each draw without a path derivative carry its name into all that depends on it."""

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["type"] != "sample" or msg["is_observed"] or not is_local(msg):
            return
        names = get_provenance(msg["value"])
        if msg["name"] in names or getattr(msg["fn"], "has_rsample", False):
            return  # a draw of the guide, in the model
        # Of the parameters too: what a later latent depends on, its successors do as well.
        names |= get_provenance(msg["fn"].log_prob(msg["value"])) | {msg["name"]}
        msg["value"] = track_provenance(msg["value"], names)


def downstream(bound: Target, terms: LogTerms, name: str) -> Tensor:
    """The terms of log p(x, z) - log q that depend on a latent, (K, B)."""
    p_sites, q_sites = (sample_sites(trace) for trace in (terms.model_trace, terms.guide_trace))
    weight = bound.kl_weight
    priors = {key: weight * value for key, value in terms.prior_sites.items()}
    scores = {key: -weight * value for key, value in terms.posterior_sites.items()}
    likelihoods = local_log_probs(p_sites, observed=True)
    factors = {key: -v for key, v in local_log_probs(q_sites, observed=True).items()}
    parts = [*priors.values(), *scores.values(), *likelihoods.values(), *factors.values()]
    dependent = [part for part in parts if name in get_provenance(part)]
    return sum(dependent, torch.zeros_like(terms.log_likelihood))
