"""The numbers that a report's rules judge, read off the findings; each says how it is to be
written.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ppl_vae.evidence import Evidence
from ppl_vae.experiment.result_table import reading
from ppl_vae.report.elements import NotApplicable, number
from ppl_vae.report.findings import Findings

MANY_BOUNDS = (
    0.25  # share of the data that has only a bound, beyond which a Monte Carlo error means nothing
)
FEWEST_EPOCHS = 5  # that a trend is read from
LEVEL = 0.05  # of a test within a line
HPD_LEVEL = 0.9
SEEN = 1e-6  # an error that a test sees, however small it is
# of fewer, one feature in a hundred whose predictions are a whole sd off is missed 1 time in 10 or
# more
FEWEST_ROWS = 30
MOST_BAD_K = 0.25  # share of bad weights beyond which predictions of hidden entries are not judged
PRIOR_PASSES = 1.0  # nats


@dataclass(frozen=True)
class Measured:
    """A number, how it is written, and what else is to be said of it.

    Example:
        >>> Measured(0.034, "3.4 %").says
        ''
    """

    number: float
    shown: str
    says: str = ""


def use_of_the_rows(found: Findings) -> Measured:
    """0 for rows that training never saw, 1 for rows that chose the epoch, 2 for rows that it
    fitted.
    """
    config = found.subject.experiment.config
    split = config.evaluation.split
    chose = split == "valid" and config.training.keywords.get("patience") is not None
    return Measured(2.0 if split == "train" else float(chose), f"{split} split")


def _bounds_at_full_weight(found: Findings) -> np.ndarray:
    """The bound after each epoch at full KL weight, on validation rows if there are any."""
    history = found.subject.metrics["history"]
    bound = np.array(history.get("valid", history.get("train", [])), dtype=float)
    bound = bound[np.array(history.get("kl_weight", []), dtype=float) >= 1]
    bound = bound[np.isfinite(bound)]
    if len(bound) < 2:
        raise NotApplicable("fewer than two epochs were trained at full KL weight")
    return bound


def _restored(found: Findings) -> bool:
    """Whether the weights are those of the best epoch, whatever came after it."""
    patience = found.subject.experiment.config.training.keywords.get("patience")
    return patience is not None and "valid" in found.subject.metrics["history"]


def gain(found: Findings) -> Measured:
    """Nats per datum in a tenth of the epochs, by a line through the last three tenths; a fall
    counts as well.
    """
    bound = _bounds_at_full_weight(found)
    last, tenth = bound[-max(FEWEST_EPOCHS, 3 * len(bound) // 10) :], max(1, len(bound) // 10)
    gained = float(np.polyfit(np.arange(len(last)), last, 1)[0] * tenth)
    shown = f"{gained:+.2f} nats in {tenth} epoch{'s' * (tenth > 1)}"
    return Measured(max(gained, 0.0) if _restored(found) else abs(gained), shown)


def loss(found: Findings) -> Measured:
    """Nats per datum that the bound ends below its best."""
    if _restored(found):
        best = found.subject.metrics["best_epoch"]
        return Measured(0.0, f"best epoch: {best}", "The weights are those of the best epoch.")
    bound = _bounds_at_full_weight(found)
    lost = float(bound.max() - bound[-FEWEST_EPOCHS:].max())
    return Measured(lost, f"{lost:.2f} nats below the best epoch")


def share_bounded(found: Findings) -> Measured:
    """Share of the rows whose log p(x) is a lower bound and no more."""
    evidence: Evidence = found["importance"]
    if evidence.bound != "lower" or np.isnan(evidence.pareto_k).any():
        raise NotApplicable(reading(found.subject.metrics)[0])
    share = float(1 - evidence.is_estimate.mean())
    return Measured(share, f"{share:.1%} of {len(evidence)} rows")


def monte_carlo(found: Findings) -> Measured:
    """Monte Carlo error or bias of log p(x), as a share of its standard error over the data."""
    metrics, bad = found.subject.metrics, share_bounded(found)
    if bad.number > MANY_BOUNDS:
        raise NotApplicable(
            f"log p(x) is a lower bound for {bad.shown}, and there the error is not known"
        )
    mc_se, data_se, bias = (metrics[name] for name in ("mc_se", "data_se", "mc_bias"))
    if not data_se or mc_se is None:
        raise NotApplicable("it takes two data and two particles at least")
    share = max(mc_se, abs(bias or 0.0)) / data_se
    return Measured(
        share, f"se {number(mc_se)}, bias {number(bias or 0.0)}, data se {number(data_se)} nats"
    )


def largest_error(found: Findings) -> Measured:
    """Largest error, in sds, of the quantities that simulation-based calibration flags."""
    summary = found["sbc"].summary()
    wrong = [summary.names.index(name) for name in summary.flagged]
    errors = np.maximum(np.abs(summary.bias), np.abs(np.log(summary.spread)))[wrong]
    size, of = (
        (float(errors.max()), f", of {summary.names[wrong[errors.argmax()]]}")
        if wrong
        else (0.0, "")
    )
    shown = f"{size:.2f} sd{of}; smallest p {summary.adjusted.min():.2g}, {summary.num_data} rows"
    return Measured(size, shown, f"{summary.verdict.partition(': ')[2]}.")


def coverage_error(found: Findings) -> Measured:
    """How far the coverage of highest-density regions is off, if a test sees it.

    Two tests, so the p-value of coverage (binomial, exact) is doubled; that of hpd is corrected
    with all quantities.
    """
    summary = found["sbc"].summary()
    coverage, num_data = float(summary.hpd_coverage[1]), summary.num_data
    if np.isnan(coverage):
        raise NotApplicable("q has no density to make regions of")
    of_coverage = 2 * binomtest(round(coverage * num_data), num_data, HPD_LEVEL).pvalue
    p_value = min(1.0, of_coverage, float(summary.adjusted[summary.names.index("hpd")]))
    error = max(abs(coverage - HPD_LEVEL), SEEN) if p_value < LEVEL else 0.0
    return Measured(
        error, f"{coverage:.1%} of {num_data} truths in {HPD_LEVEL:.0%} regions, p {p_value:.2g}"
    )


def predictive_p(kind: str) -> Callable[[Findings], Measured]:
    """Smallest corrected p-value of the test statistics, under one of the predictives."""

    def measure(found: Findings) -> Measured:
        check = found["predictive"]
        rows = {name: row[f"{kind} p"] for name, row in check.summary().items()}
        known = {name: p for name, p in rows.items() if not np.isnan(p)}
        if not known:
            raise NotApplicable("no test statistic is a number")
        worst = min(known, key=lambda name: known[name])
        p_value = min(1.0, known[worst] * max(1, check.num_distinct(f"{kind}_predictive")))
        return _of_rows(p_value, f"of the {worst.replace('_', ' ')}", check.num_data)

    return measure


def pit_p(name: str) -> Callable[[Findings], Measured]:
    """Smallest corrected p-value of the features, by one of the PITs."""

    def measure(found: Findings) -> Measured:
        pit = _trusted(found[name])
        summary = pit.summary()
        said = f"of feature {summary.feature}; spread {summary.spread:.3f}"
        return _of_rows(summary.p_value, said, _most_observed(pit))

    return measure


def bits_p(found: Findings) -> Measured:
    """Smallest corrected p-value of the bins of predicted probability."""
    bits, pit = found["reliability"], _trusted(found["conditional_pit"])
    return _of_rows(bits.p_value, f"off by {bits.error:.3f} on average", _most_observed(pit))


def _of_rows(p_value: float, said: str, num_rows: int) -> Measured:
    """A p-value; of few rows only a small one says anything."""
    if num_rows < FEWEST_ROWS and p_value >= LEVEL:
        raise NotApplicable(
            f"{num_rows} rows are too few to tell (p {p_value:.2g}): take {FEWEST_ROWS} or more"
        )
    return Measured(p_value, f"smallest p {p_value:.2g}, {said}; {num_rows} rows")


def _most_observed(pit: Any) -> int:
    """Rows in which the feature that is seen most often is seen."""
    return int((~np.isnan(pit.values)).sum(0).max())


def _trusted(pit: Any) -> Any:
    share = pit.summary().share_bad_k
    if share > MOST_BAD_K:
        raise NotApplicable(
            f"k-hat > 0.7 for {share:.0%} of the weights, so the predictions of hidden entries are "
            "rough"
        )
    return pit


def rate(found: Findings) -> Measured:
    """KL of q(z given x) from the prior."""
    nats = found.subject.metrics["kl"]
    return Measured(nats, f"{nats:.3f} nats per row")


def unused(found: Findings) -> Measured:
    """Share of dead latent dimensions."""
    count, dim = (found.subject.metrics[name] for name in ("active_units", "latent_dim"))
    if count is None:
        raise NotApplicable("it takes two data at least")
    return Measured(1 - count / dim, f"{count} of {dim} are active")


def marginal_kl(found: Findings) -> Measured:
    """The truth lies between two estimates: the nearer limit is taken if both are on one side of
    it.
    """
    summary = found["surgery"].summary()
    high = max(0.0, summary.mean["marginal_kl"])
    low = min(max(0.0, summary.mean["rate"] - summary.mean["leave_one_out"]), high)
    if low <= PRIOR_PASSES < high:
        raise NotApplicable(
            f"between {low:.2f} and {high:.2f} nats: {summary.num_data} rows are too few to tell"
        )
    return Measured(
        high if high <= PRIOR_PASSES else low, f"between {low:.2f} and {high:.2f} nats per row"
    )


def concerns(found: Findings) -> Measured:
    """How many of the scales are at their floor."""
    said = found["concerns"]
    return Measured(float(len(said)), "", " ".join(said))
