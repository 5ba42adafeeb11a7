"""Whether the model is right: replicated data sets, PIT values, and predicted bits."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from ppl_vae.diagnostics import (
    PIT,
    Reliability,
    conditional_pit,
    marginal_pit,
    plot_pit,
    plot_predictive_check,
    plot_reliability,
    predictive_check,
    reliability,
)
from ppl_vae.report.attempts import NotApplicable, Undecided
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, draw, sentence
from ppl_vae.report.rules import Measured, Rule
from ppl_vae.runtime.text import percent

NUM_PREDICTED = 100  # draws of z per row for a marginal PIT
NUM_CONDITIONED = 300  # for a conditional PIT: weights reduce their effective number
# With fewer rows, a feature in a hundred whose predictions are a whole sd off is missed 1 time in
# 10 or more.
FEWEST_ROWS = 30
LEVEL = 0.05  # a p-value below it counts even with few rows
MOST_BAD_K = 0.25  # share of bad weights above which predictions of hidden entries are not judged
FORMS = {"mean": ".4g", "sd": ".2g", "p": ".2g"}
BINS = ("predicted", "frequency", "se", "count")
PREDICTED = {"marginal": "of its feature", "conditional": "from the rest of its row"}


# --- test statistics ------------------------------------------------------------------------------


def predictive_p(kind: str) -> Callable[[Findings], Measured]:
    """Smallest corrected p-value of the test statistics, under one of the predictives."""

    def measure(found: Findings) -> Measured:
        check = found["predictive"]
        rows = {name: row[f"{kind} p"] for name, row in check.summary().items()}
        known = {name: p for name, p in rows.items() if not np.isnan(p)}
        if not known:
            raise Undecided("no test statistic is a number")
        worst = min(known, key=lambda name: known[name])
        p_value = min(1.0, known[worst] * max(1, check.num_distinct(f"{kind}_predictive")))
        return judged(p_value, f"of the {worst.replace('_', ' ')}", check.num_data)

    return measure


def judged(p_value: float, said: str, num_rows: int) -> Measured:
    """A p-value; with few rows only a small one is evidence."""
    if num_rows < FEWEST_ROWS and p_value >= LEVEL:
        raise Undecided(
            f"{num_rows} rows are too few to tell (p {p_value:.2g}): take {FEWEST_ROWS} or more"
        )
    return Measured(p_value, f"smallest p {p_value:.2g}, {said}; {num_rows} rows")


def _statistics(found: Findings) -> Panel:
    """Test statistics of replicated data sets."""
    check = found["predictive"]
    rows = {name.replace("_", " "): row for name, row in check.summary().items()}
    alts = [
        f"Histograms of the {name} of replicated data sets, on average {row['prior mean']:.4g} "
        f"from the prior and {row['posterior mean']:.4g} from the posterior; a line for the "
        f"observed rows at {row['data']:.4g}."
        for name, row in rows.items()
    ]
    columns = {"data": ".4g"}
    for kind in ("prior", "posterior"):
        columns |= {f"{kind} {what}": form for what, form in FORMS.items()}
    cells = [
        (name, *(format(row[key], form) for key, form in columns.items()))
        for name, row in rows.items()
    ]
    says = [
        f"{check.num_samples} data sets of {check.num_data} rows each, with z from the prior "
        "(blue) and from the guide (orange); black: the observed rows.",
        "Off in both: the likelihood is wrong, or z carries too little information about x.",
        "Off in the first alone: q(z) differs from the prior.",
    ]
    pictures = draw(lambda axes: plot_predictive_check(check, axes), alts)
    return Panel(says, pictures=pictures, tables=[Table(("", *columns), cells)])


# --- PIT values -----------------------------------------------------------------------------------


def pit_p(name: str) -> Callable[[Findings], Measured]:
    """Smallest corrected p-value of the features, by one of the PITs."""

    def measure(found: Findings) -> Measured:
        pit = trusted(found[name])
        summary = pit.summary()
        said = f"of feature {summary.feature}; spread {summary.spread:.3f}"
        return judged(summary.p_value, said, _most_observed(pit))

    return measure


def trusted(pit: PIT) -> PIT:
    """PIT values whose weights are good enough for a verdict."""
    share = pit.summary().share_bad_k
    if share > MOST_BAD_K:
        raise Undecided(
            f"k-hat > 0.7 for {percent(share)} of the weights, so the predictions of hidden "
            "entries are rough"
        )
    return pit


def _most_observed(pit: PIT) -> int:
    """Number of rows in which the most observed feature is observed."""
    return int((~np.isnan(pit.values)).sum(0).max())


def _conditional_pit(found: Findings) -> PIT:
    if found.subject.rows.event_shape.numel() == 1:
        raise NotApplicable("each row has one entry, so there are no others to predict it from")
    if getattr(getattr(found.programs[0], "likelihood", None), "is_joint", False):
        raise NotApplicable("the entries have one joint density, so none can be hidden alone")
    return conditional_pit(
        *found.programs, found.subject.rows, num_particles=NUM_CONDITIONED, **found.options
    )


def _pit_panel(name: str) -> Callable[[Findings], Panel]:
    def panel(found: Findings) -> Panel:
        pit = found[name]
        summary = pit.summary()
        alt = (
            f"Ordered {pit.kind} PIT values minus those expected, with a band for uniform ones; p "
            f"{summary.p_value:.2g}."
        )

        def plot(ax: Any) -> None:
            plot_pit(pit, ax).legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

        where = f"Where each entry lies in what the model predicts {PREDICTED[pit.kind]}"
        says = [f"{where}; uniform if it is right.", sentence(summary), *_rough(pit)]
        return Panel(says, pictures=draw(plot, alt, size=(7.4, 3.4)))

    return panel


def _rough(pit: PIT) -> list[str]:
    """A warning if the weights are bad."""
    said = "The weights are too bad for a verdict: predictions of hidden entries are rough."
    return [said] * (pit.summary().share_bad_k > MOST_BAD_K)


# --- bits -----------------------------------------------------------------------------------------


def bits_p(found: Findings) -> Measured:
    """Smallest corrected p-value of the bins of predicted probability."""
    bits = found["reliability"]
    said = f"off by {bits.error:.3f} on average"
    return judged(bits.p_value, said, _most_observed(trusted(found["conditional_pit"])))


def _reliability(found: Findings) -> Reliability:
    x = found.subject.rows.x
    if not bool(((x == 0) | (x == 1) | x.isnan()).all()):
        raise NotApplicable("x is not binary")
    return reliability(found["conditional_pit"])


def _bits(found: Findings) -> Panel:
    """Whether predicted probabilities come true."""
    bits = found["reliability"]
    size = len(bits.count)
    alt = f"Frequency of ones against predicted probability in {size} bins, with the diagonal."
    pictures = draw(lambda ax: plot_reliability(bits, ax), alt, size=(4.2, 4.2))
    what = "Share of ones among hidden bits predicted at probability p; bars: two standard errors."
    says = [what, sentence(bits), *_rough(found["conditional_pit"])]
    return Panel(says, pictures=pictures)


def _tree_of_bits(found: Findings) -> dict[str, xr.Dataset]:
    bits = found["reliability"]
    variables = {name: ("bin", getattr(bits, name)) for name in BINS}
    return {"reliability": xr.Dataset(variables, {"bin": list(range(len(bits.count)))})}


SECTION = "Is the model right?"
LIKELIHOOD = "Try another likelihood, or more latents."
PIT_PAGE = "howto/predictive_checks.md#pit-values"
STATISTICS = Diagnosis(
    "predictive",
    "Test statistics",
    SECTION,
    compute=lambda found: predictive_check(*found.programs, found.subject.rows, **found.options),
    panel=_statistics,
    page="howto/predictive_checks.md#test-statistics",
    about="Model",
    rules=[
        Rule(
            "Data sets from the prior",
            predictive_p("prior"),
            "Smallest p-value of the test statistics, corrected for their number",
            passes=0.05,
            fails=-math.inf,
            words=(
                "By these statistics, data sets drawn from the model look like the observed one.",
                "Data sets drawn from the model differ from the observed one.",
                "",
            ),
            remedy="Try a richer prior if only these differ, else another likelihood.",
            better="more",
        ),
        Rule(
            "Data sets from the posterior",
            predictive_p("posterior"),
            "Smallest p-value of the test statistics, corrected for their number",
            passes=0.05,
            fails=-math.inf,
            words=(
                "By these statistics, data sets drawn with the latents of these rows look like "
                "the observed one.",
                "Even with the latents of these rows, drawn data sets differ from the observed "
                "one.",
                "",
            ),
            remedy=LIKELIHOOD,
            better="more",
        ),
    ],
)
MARGINAL_PIT = Diagnosis(
    "marginal_pit",
    "Marginal PIT",
    SECTION,
    compute=lambda found: marginal_pit(
        found.programs[0], found.subject.rows, num_samples=NUM_PREDICTED, **found.options
    ),
    panel=_pit_panel("marginal_pit"),
    page=PIT_PAGE,
    about="Model",
    rules=[
        Rule(
            "Features on their own",
            pit_p("marginal_pit"),
            "Smallest p-value of uniformity of the marginal PIT, corrected for the features",
            passes=0.05,
            fails=0.001,
            words=(
                "Each feature has the distribution that the model predicts.",
                "A feature may differ from its predicted distribution.",
                "A feature differs from its predicted distribution.",
            ),
            remedy="See the marginal PIT for which feature, and how; a likelihood that can be "
            "wider, or skewed, may help.",
            better="more",
        )
    ],
)
CONDITIONAL_PIT = Diagnosis(
    "conditional_pit",
    "Conditional PIT",
    SECTION,
    compute=_conditional_pit,
    panel=_pit_panel("conditional_pit"),
    page=PIT_PAGE,
    about="Model",
    rules=[
        Rule(
            "Features given the others",
            pit_p("conditional_pit"),
            "Smallest p-value of uniformity of the conditional PIT, corrected for the features",
            passes=0.05,
            fails=0.001,
            words=(
                "Hidden entries have the distribution that the model predicts.",
                "Hidden entries of a feature may differ from their predicted distribution.",
                "Hidden entries differ from their predicted distribution.",
            ),
            remedy=LIKELIHOOD,
            better="more",
        )
    ],
)
BITS = Diagnosis(
    "reliability",
    "Reliability of bits",
    SECTION,
    compute=_reliability,
    panel=_bits,
    page="howto/predictive_checks.md#bits",
    tree=_tree_of_bits,
    about="Model",
    rules=[
        Rule(
            "Bits",
            bits_p,
            "Smallest p-value of the bins of predicted probability, corrected for their number",
            passes=0.05,
            fails=0.001,
            words=(
                "Of the bits predicted with probability p, a share p is 1.",
                "Predicted probabilities of bits may be off.",
                "Predicted probabilities of bits are off.",
            ),
            remedy="Try more latents, a larger decoder, or fewer epochs.",
            better="more",
        )
    ],
)
