"""Inference gaps: approximation gap of the family, amortisation gap of the encoder, and the sum."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.evidence.errors import error_of_mean, row_mean, sum_in_quadrature
from ppl_vae.evidence.fingerprints import digests, other_rows, row_weights
from ppl_vae.evidence.pareto import share_of_bad
from ppl_vae.evidence.result import Evidence, joined
from ppl_vae.evidence.summary import k_hat_of
from ppl_vae.evidence.weights import reduce_log_weights
from ppl_vae.hmc import HMC
from ppl_vae.importance import iter_log_weights
from ppl_vae.programs.inference import Inference
from ppl_vae.programs.traces import Program
from ppl_vae.refinement.gradient import ELBO, GradientRefinement
from ppl_vae.refinement.guide import RefinedGuide
from ppl_vae.refinement.methods import refine
from ppl_vae.refinement.task import Refinement
from ppl_vae.runtime.checks import whole_number
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.progress import progress_bar

__all__ = ["GapsSummary", "InferenceGaps", "inference_gaps"]

ROWS = {
    "log_evidence": "log p(x)",
    "refined_elbo": "ELBO, refined",
    "elbo": "ELBO, amortised",
    "approximation": "approximation gap",
    "amortization": "amortisation gap",
    "inference": "inference gap",
}


@dataclass(frozen=True)
class GapsSummary(Shown):
    """Means over the rows, in nats per row, with both kinds of error.

    Args:
        mean: Mean by name: "log_evidence", "refined_elbo", "elbo", "approximation", "amortization",
            "inference".
        mc_se: Their Monte Carlo standard errors.
        data_se: Their standard errors over the rows; NaN for one row.
        share_bad_k: Share of rows with k-hat > 0.7, for which log p(x) and two of the gaps are
            lower bounds.
        num_data: Number of rows N.

    Example:
        >>> one = {"inference": 1.0}
        >>> GapsSummary(one, one, one, share_bad_k=0.0, num_data=5).mean["inference"]
        1.0
    """

    mean: dict[str, float]
    mc_se: dict[str, float]
    data_se: dict[str, float]
    share_bad_k: float
    num_data: int

    def __str__(self) -> str:
        lines = [f"{'nats per row':20}{'mean':>10}{'Monte Carlo se':>16}{'data se':>10}"]
        for name, mean in self.mean.items():
            errors = f"{self.mc_se[name]:>16.3f}{self.data_se[name]:>10.3f}"
            lines.append(f"{ROWS[name]:20}{mean:>10.3f}{errors}")
        lines.append(f"{k_hat_of(self.share_bad_k)} of {self.num_data} rows")
        if self.share_bad_k > 0:
            lines[-1] += ": there log p(x), approximation and inference gap are lower bounds"
        return "\n".join(lines)


@dataclass(frozen=True)
class InferenceGaps(Shown):
    """The gaps between log p(x) and the ELBO of a guide, per row.

    Args:
        log_evidence: log p(x), nats, (N,).
        refined_elbo: ELBO of the family's best member for the row, as refinement found it, (N,).
        elbo: ELBO of the guide itself, (N,).
        errors: Standard error (N,) of each of these and of each gap, by name; gaps from paired
            draws.
        pareto_k: k-hat of the weights that gave log p(x), (N,): above 0.7 log p(x), and with it the
            approximation and inference gap, is a lower bound.
        digests: A hash of each row of x, (N,), by which `with_evidence` checks the rows; None if
            unknown.
        weights: Sampling weights of the rows, (N,), by which means are weighted; None weights them
            equally.

    References:
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders,
        arXiv:1801.03558, eq. 4.

    Example:
        >>> one, errors = np.ones(3), dict.fromkeys(ROWS, np.zeros(3))
        >>> InferenceGaps(one, 0.75 * one, 0.5 * one, errors, 0 * one).approximation.tolist()
        [0.25, 0.25, 0.25]
    """

    log_evidence: np.ndarray
    refined_elbo: np.ndarray
    elbo: np.ndarray
    errors: dict[str, np.ndarray]
    pareto_k: np.ndarray
    digests: np.ndarray | None = None
    weights: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.log_evidence)

    @property
    def approximation(self) -> np.ndarray:
        """log p(x) - ELBO of the best member: the limits of the family, (N,)."""
        return self.log_evidence - self.refined_elbo

    @property
    def amortization(self) -> np.ndarray:
        """ELBO of the best member - ELBO of the guide: the encoder's error, (N,)."""
        return self.refined_elbo - self.elbo

    @property
    def inference(self) -> np.ndarray:
        """log p(x) - ELBO of the guide, their sum: KL(q || p(z given x)), (N,)."""
        return self.log_evidence - self.elbo

    def with_evidence(self, evidence: Evidence) -> "InferenceGaps":
        """The same gaps with log p(x) from another method, for the same rows in the same order.

        Raises:
            ValueError: evidence of other rows, or a bound from above.

        Example:
            >>> from ppl_vae import beds
            >>> from ppl_vae.evidence import ImportanceSampling, log_evidence
            >>> from ppl_vae.refinement import GradientRefinement
            >>> bed = beds.linear_gaussian(num_data=3)
            >>> programs, method = (bed.model, bed.guide), GradientRefinement(num_steps=1)
            >>> gaps = inference_gaps(*programs, bed.x, method, num_particles=30)
            >>> defended = log_evidence(*programs, bed.x, ImportanceSampling(100, "prior"))
            >>> bool((gaps.with_evidence(defended).errors["inference"] > 0).all())
            True
        """
        if evidence.bound != "lower":
            raise ValueError(
                f"the evidence is an upper bound ({evidence.bound}): give an estimate or a lower "
                "bound"
            )
        if len(evidence) != len(self):
            raise ValueError(
                f"the evidence has {len(evidence)} rows and the gaps have {len(self)}: use the "
                "same rows"
            )
        ours, theirs = self.digests, evidence.digests
        if ours is not None and theirs is not None and (ours != theirs).any():
            raise ValueError(f"evidence and gaps have different rows: {other_rows(ours, theirs)}")
        errors = self.errors | {
            "log_evidence": evidence.mc_se,
            "approximation": np.hypot(evidence.mc_se, self.errors["refined_elbo"]),
            "inference": np.hypot(evidence.mc_se, self.errors["elbo"]),
        }
        return replace(
            self, log_evidence=evidence.log_evidence, errors=errors, pareto_k=evidence.pareto_k
        )

    def summary(self) -> GapsSummary:
        """Means over the rows and their standard errors."""
        values = {name: getattr(self, name) for name in ROWS}
        return GapsSummary(
            mean={name: float(row_mean(value, self.weights)) for name, value in values.items()},
            mc_se={name: sum_in_quadrature(self.errors[name], self.weights) for name in ROWS},
            data_se={name: error_of_mean(value, self.weights) for name, value in values.items()},
            share_bad_k=share_of_bad(self.pareto_k),
            num_data=len(self),
        )

    def __str__(self) -> str:
        return str(self.summary())


def inference_gaps(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    method: Refinement | HMC | RefinedGuide | None = None,
    *,
    num_particles: int = 1000,
    seed: int | None = 0,
    progress: bool = True,
) -> InferenceGaps:
    """How far the ELBO is from log p(x), per row, divided between the family and the encoder.

    approximation = log p(x) - ELBO(q*), amortisation = ELBO(q*) - ELBO(q), where q* is the best
    member of q's family for the row, as `refine` finds it. log p(x) is estimated by importance
    sampling from q*; if its k-hat is too large (`pareto_k`), replace it by `with_evidence`.
    Refinement that stops early counts as approximation. Standard errors of quantities that contain
    log p(x) are too small if k-hat is above 0.5, or above 0.2 with few particles.

    Args:
        model: `Model`, or any Pyro model with one plate "data" at dim -1.
        guide: `Guide`, or any Pyro guide with the same latent sites; for a custom guide q* is a
            full-rank normal unless the method names its family.
        data: A `Dataset` (its rows: pass `data.test`), or an array, tensor, DataFrame, DataArray.
        method: How to refine, or a guide returned by `refine`; None is `GradientRefinement()`,
            which maximises the ELBO unless it is given an objective.
        num_particles: Particles K per row for the ELBOs and for log p(x).
        seed: Seed of the draws, the same for both guides; None draws from torch's global stream.
        progress: Whether to show bars after two seconds.

    Returns:
        `InferenceGaps` of the N rows; `print` shows their means.

    Raises:
        ValueError: as `refine`; fewer than 2 particles; a latent is outside the plate.

    References:
        Cremer, Li and Duvenaud (2018), Inference suboptimality in variational autoencoders,
        arXiv:1801.03558.

    Example:
        >>> from ppl_vae import beds
        >>> from ppl_vae.refinement import GradientRefinement
        >>> bed = beds.linear_gaussian(num_data=3, guide_shift=1.0)
        >>> gaps = inference_gaps(bed.model, bed.guide, bed.x, GradientRefinement(num_steps=200))
        >>> bool((gaps.approximation < 0.01).all() and (gaps.amortization > 0.5).all())
        True
    """
    whole_number(num_particles, "num_particles", at_least=2)  # a standard error takes two
    inference = Inference(model, guide, as_dataset(data).in_memory())
    model, guide = inference.programs
    inference.require_density()
    if outside := inference.check_programs():
        raise ValueError(
            f"latent site {outside[0]!r} is outside the plate over the rows, and not a row's: "
            "condition both programs on a value of it (pyro.condition)"
        )
    if isinstance(method, RefinedGuide):
        best = method
    else:
        method = method or GradientRefinement()
        if isinstance(method, GradientRefinement) and method.objective is None:
            method = replace(method, objective=ELBO)
        best = refine(model, guide, inference.data, method, seed=seed, progress=progress)
    sizes: Any = {"num_particles": num_particles, "seed": seed, "chunk_size": None}
    chunks = [iter_log_weights(model, each, inference.args, **sizes) for each in (guide, best)]
    parts = []
    with progress_bar(len(inference), "gaps", progress=progress) as bar:
        for log_w, log_w_best in zip(*chunks, strict=True):
            parts.append(_reduce(log_w.cpu().numpy(), log_w_best.cpu().numpy()))
            bar.update(len(parts[-1]))
    rows = inference.data
    return replace(joined(parts), digests=digests(rows.x), weights=row_weights(rows))


def _reduce(log_w: np.ndarray, log_w_best: np.ndarray) -> InferenceGaps:
    """The gaps of a block, their errors from each particle's influence (delta method)."""
    evidence = reduce_log_weights(log_w_best)
    log_w, log_w_best = log_w.astype(np.float64), log_w_best.astype(np.float64)
    ratio = np.exp(log_w_best - evidence.log_evidence)  # w / mean(w)
    influence = {
        "log_evidence": ratio,
        "refined_elbo": log_w_best,
        "elbo": log_w,
        "approximation": ratio - log_w_best,
        "amortization": log_w_best - log_w,
        "inference": ratio - log_w,
    }
    size = np.where(np.isnan(evidence.mc_se), np.nan, np.sqrt(len(log_w)))
    errors = {name: each.std(axis=0, ddof=1) / size for name, each in influence.items()}
    return InferenceGaps(
        evidence.log_evidence, evidence.elbo, log_w.mean(0), errors, evidence.pareto_k
    )
