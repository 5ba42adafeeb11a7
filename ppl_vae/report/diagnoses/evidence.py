"""log p(x), and the importance weights behind it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import logsumexp

from ppl_vae.data import Dataset
from ppl_vae.data.validation import storable
from ppl_vae.diagnostics import plot_k_hat
from ppl_vae.diagnostics.report_plots import plot_weights
from ppl_vae.evidence import reduce_log_weights
from ppl_vae.evidence.errors import error_of_mean, row_mean, sum_in_quadrature
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.experiment.metrics import Estimates
from ppl_vae.experiment.result_table import reading
from ppl_vae.importance import log_weights
from ppl_vae.programs.modules import place
from ppl_vae.report.answers import SHARE
from ppl_vae.report.attempts import Undecided
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, draw, number
from ppl_vae.report.rules import Measured, Rule
from ppl_vae.runtime.text import counted, percent

NUM_PARTICLES = 500  # for bounds of few particles, and for the largest weight
BOUNDS = (1, 10, 100, 500)
MANY_BOUNDS = (
    0.25  # share of rows with only a bound, above which a Monte Carlo error is meaningless
)
NATS = ("", "nats per row", "Monte Carlo se", "data se", "rows", "draws")
PER_ROW = ("log_evidence", "mc_se", "ess", "pareto_k", "elbo", "smoothed", "num_used")
CURE = (
    "Refine the guide (`ppl-vae evaluate RUN --refine`), or bound log p(x) from above as well "
    "(`evidence_interval`)."
)
CURE_OF_REFINED = (
    "Draw more particles (`ppl-vae evaluate RUN --refine --num-particles`), or bound log p(x) from "
    "above as well (`evidence_interval`)."
)


@dataclass(frozen=True)
class Weights:
    """Log-weights of the first evaluated rows and of those in the tables of worst rows.

    Args:
        log_weights: log w, (K, B).
        rows: Positions of their rows among the evaluated ones, in order, (B,).
        num_first: How many of them are the first ones, which the bounds are averaged over.
        sampling: Sampling weights of those first ones; None is equal weights.

    Example:
        >>> Weights(np.zeros((500, 2)), np.array([0, 7]), num_first=1).bounds[10]
        (0.0, 0.0, nan)
    """

    log_weights: np.ndarray = field(repr=False)
    rows: np.ndarray
    num_first: int
    sampling: np.ndarray | None = None

    @property
    def largest(self) -> np.ndarray:
        """Share of the largest weight in the sum of all K, (B,)."""
        return np.exp(self.log_weights.max(0) - logsumexp(self.log_weights, axis=0))

    @property
    def bounds(self) -> dict[int, tuple[float, float, float]]:
        """IWAE bound by K, with its Monte Carlo standard error and that over the rows."""
        return {k: self._bound(k) for k in BOUNDS}

    def _bound(self, num_particles: int) -> tuple[float, float, float]:
        """Mean over groups of K particles, then over the rows."""
        num_data = self.num_first
        log_w = self.log_weights[:, :num_data]
        groups = log_w.reshape(-1, num_particles, num_data)
        values = logsumexp(groups, axis=1) - np.log(num_particles)
        if len(values) > 1:
            se = values.std(0, ddof=1) / len(values) ** 0.5
        else:
            se = reduce_log_weights(log_w).mc_se
        mean = values.mean(0)
        return (
            float(row_mean(mean, self.sampling)),
            sum_in_quadrature(se, self.sampling),
            error_of_mean(mean, self.sampling),
        )


def share_bounded(found: Findings) -> Measured:
    """Share of the rows, or of their weight, whose log p(x) is only a lower bound."""
    evidence = found["importance"]
    if evidence.bound != "lower" or np.isnan(evidence.pareto_k).any():
        raise Undecided(reading(found.subject.metrics)[0])
    share = 1 - evidence.summary().share_estimate
    weight = "the weight of " if evidence.weights is not None else ""
    shown = f"only a lower bound for {share:.1%} of {weight}{len(evidence)} rows"
    if share == 0:
        shown = f"an estimate for all of {len(evidence)} rows"
    num_refined = found.subject.metrics.num_refined
    if not num_refined:
        return Measured(share, shown)
    shown += f", {num_refined} by a refined guide"
    return Measured(share, shown, remedy=CURE_OF_REFINED)


def monte_carlo(found: Findings) -> Measured:
    """Monte Carlo error or bias of log p(x), as a share of its standard error over the rows."""
    bounded = share_bounded(found)
    if bounded.number > MANY_BOUNDS:
        raise Undecided(f"log p(x) is {bounded.shown}, and its error is not known there")
    metrics = found.subject.metrics
    if not metrics.data_se or metrics.mc_se is None:
        raise Undecided("at least two rows and two particles are needed")
    bias = metrics.mc_bias or 0.0
    sizes = f"se {number(metrics.mc_se)}, bias {number(bias)}, data se {number(metrics.data_se)}"
    return Measured(max(metrics.mc_se, abs(bias)) / metrics.data_se, f"{sizes} nats")


# --- bounds of few particles ----------------------------------------------------------------------


def _weights(found: Findings) -> Weights:
    subject = found.subject
    num_first = min(subject.num_data, len(subject.evidence))
    which = reduce(np.union1d, [np.arange(num_first), subject.worst, subject.least_likely])
    rows = place(subject.evaluated[which], *found.programs)
    sizes: dict[str, Any] = {"num_particles": NUM_PARTICLES, "seed": subject.seed}
    log_w = log_weights(*found.programs, rows, **sizes)
    sampling = subject.evidence.weights
    sampling = None if sampling is None else sampling[:num_first]
    return Weights(log_w.double().cpu().numpy(), which, num_first, sampling)


def _bounds(found: Findings) -> Panel:
    """From the ELBO to log p(x)."""
    metrics, evidence, few = found.subject.metrics, found["importance"], found["weights"]
    kind = "" if metrics.bound == "lower" else f", {metrics.bound}"
    sizes = (f"{metrics.num_data:,}", f"{metrics.num_particles:,}")
    few_sizes = (f"{few.num_first:,}", f"{len(few.log_weights):,}")
    elbo = evidence.elbo
    data_se = number(error_of_mean(elbo, evidence.weights)) if len(elbo) > 1 else ""
    rows: list[tuple[str, ...]] = [("ELBO", number(metrics.elbo), "", data_se, *sizes)]
    rows += [
        (f"IWAE bound, K = {k}", *map(number, values), *few_sizes)
        for k, values in few.bounds.items()
    ]
    if few.num_first < metrics.num_data:
        first = Estimates(**vars(evidence[: few.num_first].summary()))
        rows.append((f"log p(x){kind}, the same rows", *_errors(first), few_sizes[0], sizes[1]))
    refined = f", {counted(metrics.num_refined, 'row')} refined" * bool(metrics.num_refined)
    rows.append((f"log p(x){kind}{refined}", *_errors(metrics), *sizes))
    rows += [_other(Estimates.read(path)) for path in found.subject.evaluations]
    bias = f"The bias of log p(x) is about {number(metrics.mc_bias)} nats, if the weights are good."
    what = (
        "Each is at most log p(x) on average, and closer to it with more particles K. Monte "
        "Carlo se: over draws of the particles. Data se: over samples of rows."
    )
    if evidence.weights is not None:
        what += " All means are weighted."
    return Panel([what, *reading(metrics), bias], tables=[Table(NATS, rows)])


def _errors(found: Estimates) -> tuple[str, ...]:
    """log p(x) and its errors, without a Monte Carlo error that is not valid."""
    value = number(found.log_evidence)
    data_se = number(found.data_se)
    if found.is_bound:
        return (f">= {value}", "unknown", data_se)
    return (value, number(found.mc_se), data_se)


def _other(found: Estimates) -> tuple[str, ...]:
    """The row of another evaluation of the run."""
    table = found.evaluation
    name = f"{table['method']['name']}, {table['split']} split ({found.bound})"
    if found.num_refined:
        name += f", {counted(found.num_refined, 'row')} refined"
    return (name, *_errors(found), f"{found.num_data:,}", f"{found.num_particles:,}")


def _tree_of_weights(found: Findings) -> dict[str, xr.Dataset]:
    weights = found["weights"]
    bounds = zip(*weights.bounds.values(), strict=True)
    columns = dict(zip(("bound", "mc_se", "data_se"), map(np.array, bounds), strict=True))
    variables = {name: ("num_particles", column) for name, column in columns.items()}
    rows = found.subject.evaluated[weights.rows]
    return {
        "bounds": xr.Dataset(variables, {"num_particles": list(weights.bounds)}),
        "weights": _by_row({"largest_share": weights.largest}, rows),
    }


def _by_row(values: Mapping[str, np.ndarray], rows: Dataset, **attrs: Any) -> xr.Dataset:
    dim = rows.dims[0]
    coords = {dim: storable(rows.coords[dim])}
    return xr.Dataset({name: (dim, array) for name, array in values.items()}, coords, attrs)


# --- the weights ----------------------------------------------------------------------------------


def _importance(found: Findings) -> Panel:
    """k-hat, effective sample size and largest weight, by row."""
    evidence, few = found["importance"], found["weights"]
    largest = few.largest[: few.num_first]
    good = np.mean(evidence.pareto_k <= 0.5)
    bad = np.mean(evidence.pareto_k > GOOD_K)
    says = [
        "k-hat measures the tail of the weights: up to 0.5 their variance is finite; above 0.7 "
        "log p(x) is only a lower bound.",
    ]
    if evidence.is_estimate.any():
        share = percent(evidence.summary().share_estimate)
        says.append(
            f"log p(x) is an estimate for {share} of {found.subject.metrics.whole}: for "
            "these, intervals of two standard errors cover, judging by the skewness of similar "
            "rows."
        )
    alts = (
        f"Histogram of k-hat of {len(evidence)} rows: {good:.0%} at most 0.5, {bad:.0%} above 0.7.",
        "Effective sample size against k-hat, in the same three classes; median "
        f"{np.median(evidence.ess):.0f} of {evidence.num_particles}.",
        f"Share of the largest of {len(few.log_weights)} weights by row, sorted; median "
        f"{np.median(largest):.2f}.",
    )

    def plot(axes: Any) -> None:
        plot_k_hat(evidence, axes[0]).legend(loc="best")  # above, it would be too wide
        plot_weights(evidence, largest, axes[1:])

    return Panel(says, pictures=draw(plot, alts))


def _tree_of_evidence(found: Findings) -> dict[str, xr.Dataset]:
    evidence = found["importance"]
    values = {name: getattr(evidence, name) for name in PER_ROW} | dict(evidence.checks)
    return {"importance": _by_row(values, found.subject.evaluated, bound=evidence.bound)}


SECTION = "log p(x)"
FEW_PARTICLES = Diagnosis(
    "weights",
    "Bounds",
    SECTION,
    compute=_weights,
    panel=_bounds,
    page="concepts.md#iwae-bound-and-log-p-x",
    tree=_tree_of_weights,
)
IMPORTANCE = Diagnosis(
    "importance",
    "Importance weights",
    SECTION,
    compute=lambda found: found.subject.evidence,
    panel=_importance,
    page="concepts.md#pareto-k-hat",
    tree=_tree_of_evidence,
    about="log p(x)",
    rules=[
        Rule(
            SHARE,
            share_bounded,
            "Share of the rows whose log p(x) is only a lower bound",
            passes=0.05,
            fails=MANY_BOUNDS,
            words=(
                "log p(x) and its standard errors are reliable for at least 95 % of the rows.",
                "For some rows log p(x) is only a lower bound.",
                "For many rows log p(x) is only a lower bound.",
            ),
            remedy=CURE,
            form="{:.0%}",
        ),
        Rule(
            "Monte Carlo error is small",
            monte_carlo,
            "The larger of the Monte Carlo error and bias of log p(x), as a share of the data "
            "standard error",
            passes=0.1,
            fails=0.5,
            words=(
                "More particles would change little.",
                "The Monte Carlo error of log p(x) is visible.",
                "The Monte Carlo error is about as large as the data standard error.",
            ),
            remedy="Use more particles (`ppl-vae evaluate RUN --num-particles`), or refine the "
            "guide.",
            panel="Bounds",
            page="concepts.md#standard-error-by-the-delta-method",
            form="{:.0%}",
        ),
    ],
)
