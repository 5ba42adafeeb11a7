"""The checklist: every rule by which a report says pass, look or fail stands in the table RULES."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ppl_vae.experiment.elements import NotApplicable, slug
from ppl_vae.experiment.findings import Findings, attempt
from ppl_vae.experiment.measures import (
    HPD_LEVEL,
    LEVEL,
    MANY_BOUNDS,
    PRIOR_PASSES,
    Measured,
    bits_p,
    concerns,
    coverage_error,
    gain,
    largest_error,
    loss,
    marginal_kl,
    monte_carlo,
    pit_p,
    predictive_p,
    rate,
    share_bounded,
    unused,
    use_of_the_rows,
)

__all__ = ["RULES", "VERDICTS", "Check", "Rule", "checklist"]

Verdict = Literal["pass", "look", "fail", "skipped"]
VERDICTS: tuple[Verdict, ...] = ("pass", "look", "fail", "skipped")


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    No paper.

    Args:
        title: What is checked.
        verdict: "pass", "look", "fail", or "skipped" where it makes no sense or could not be done.
        says: The verdict in a sentence.
        number: The number, as written.
        value: The number; NaN if skipped.
        rule: The rule.
        panel: Anchor of the panel that shows it.
        page: Where the documentation explains it.

    Example:
        >>> print(Check("Bits", "pass", "Predicted probabilities come true.", "p = 0.4", 0.4, "", "bits", ""))
        pass     Bits: Predicted probabilities come true. (p = 0.4)
    """

    title: str
    verdict: Verdict
    says: str
    number: str
    value: float
    rule: str
    panel: str
    page: str

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.title}: {self.says}{f' ({self.number})' if self.number else ''}"


@dataclass(frozen=True)
class Rule:
    """What is measured, and where it passes or fails; in between it wants a look. A limit itself is on the good side.

    No paper.

    Args:
        title: What is checked.
        measure: The number; raises `NotApplicable` where there is none.
        what: The number in words.
        passes: The worst number that passes.
        fails: The worst number that does not fail; 0 and infinity never do.
        words: What a pass, a look and a failure mean.
        panel: Title of the panel that shows it.
        page: Where the documentation explains it.
        better: Which numbers are good.
        form: How the limits are written.

    Example:
        >>> words = ("It holds.", "It may not.", "It does not.")
        >>> rule = Rule("Bits", lambda _: Measured(0.4, "p = 0.4"), "The p-value", 0.05, 0.001, words, "", "", "more")
        >>> [rule.grade(p) for p in (0.05, 0.01, 0.001, 0.0001)]
        ['pass', 'look', 'look', 'fail']
        >>> rule.text
        'The p-value: passes from 0.05 up, fails below 0.001'
    """

    title: str
    measure: Callable[[Findings], Measured]
    what: str
    passes: float
    fails: float
    words: tuple[str, str, str]
    panel: str
    page: str
    better: Literal["less", "more"] = "less"
    form: str = "{:g}"

    def grade(self, number: float) -> Verdict:
        """The verdict on a number."""
        worse = operator.lt if self.better == "more" else operator.gt
        return "fail" if worse(number, self.fails) else "look" if worse(number, self.passes) else "pass"

    @property
    def text(self) -> str:
        """The rule in words."""
        good, bad = self.form.format(self.passes), self.form.format(self.fails)
        from_on, beyond = ("from {} up", "below") if self.better == "more" else ("up to {}", "above")
        fails = f"fails {beyond} {bad}" if 0 < self.fails < math.inf or self.passes == self.fails else "never fails"
        return f"{self.what}: passes {from_on.format(good)}, {fails}"

    def check(self, findings: Findings) -> Check:
        """The line of the checklist."""
        found = attempt(lambda: self.measure(findings))
        where = (self.text, slug(self.panel), self.page)
        if isinstance(found, Exception):
            return Check(self.title, "skipped", _reason(found), "", math.nan, *where)
        verdict = self.grade(found.number)
        said = " ".join(filter(None, [self.words[VERDICTS.index(verdict)], found.says]))
        return Check(self.title, verdict, said, found.shown, found.number, *where)


def checklist(findings: Findings) -> list[Check]:
    """Every rule applied, in order; what could not be checked comes last. No paper.

    Args:
        findings: Of a run.

    Example:
        >>> len({rule.title for rule in RULES}) == len(RULES)
        True
    """
    return sorted((rule.check(findings) for rule in RULES), key=lambda check: check.verdict == "skipped")


def _reason(error: Exception) -> str:
    """Why there is no number, in one line."""
    kind = "" if isinstance(error, NotApplicable) else f"{type(error).__name__}: "
    return f"Not checked: {kind}{' '.join(str(error).split()).rstrip('.')}."


CURE = "Refine the guide (ppl-vae evaluate RUN --refine), or take evidence_interval."
RULES: tuple[Rule, ...] = (
    Rule(
        "Held-out data",
        use_of_the_rows,
        "What the evaluated rows were used for (0: nothing, 1: to choose the epoch, 2: to train)",
        passes=0,
        fails=1,
        words=(
            "log p(x) is of data that training has not seen.",
            "The evaluated rows chose the epoch: log p(x) is a little too high.",
            "log p(x) is of training rows: it says nothing of new data.",
        ),
        panel="Data",
        page="concepts.md",
    ),
    Rule(
        "Training has levelled off",
        gain,
        "Change of the bound in a tenth of the epochs, at the end, in nats per datum",
        passes=0.1,
        fails=1.0,
        words=(
            "More epochs would change little.",
            "The bound was still moving: train longer, or end with a lower learning rate.",
            "The bound was moving fast: training is not finished.",
        ),
        panel="Training",
        page="howto/report.md#training",
    ),
    Rule(
        "Training has not diverged",
        loss,
        "How far the bound ends below its best, in nats per datum",
        passes=0.5,
        fails=2.0,
        words=(
            "The bound does not end below its best.",
            "The bound was better before: set patience, or lower the learning rate.",
            "The bound has fallen far: training diverged, or learned its rows by heart.",
        ),
        panel="Training",
        page="howto/report.md#training",
    ),
    Rule(
        "log p(x) is an estimate",
        share_bounded,
        "Share of the rows where log p(x) is a lower bound only",
        passes=0.05,
        fails=MANY_BOUNDS,
        words=(
            "log p(x) and its standard errors may be believed.",
            f"For some rows log p(x) is only a lower bound. {CURE}",
            f"For many rows log p(x) is only a lower bound. {CURE}",
        ),
        panel="Importance weights",
        page="concepts.md#pareto-k-hat",
        form="{:.0%}",
    ),
    Rule(
        "Monte Carlo error is small",
        monte_carlo,
        "Monte Carlo error or bias of log p(x), the larger, as a share of the standard error over the data",
        passes=0.1,
        fails=0.5,
        words=(
            "More particles would change little.",
            "The draws can be seen in log p(x): take more particles.",
            "The draws matter as much as the data: take many more particles, or a better proposal.",
        ),
        panel="Bounds",
        page="concepts.md#standard-error-by-the-delta-method",
        form="{:.0%}",
    ),
    Rule(
        "Encoder: each quantity",
        largest_error,
        "Largest error of those that simulation-based calibration sees at p < 0.05, in sds",
        passes=0.0,
        fails=0.1,
        words=("No error is seen:", "The encoder errs a little:", "The encoder errs:"),
        panel="Calibration of the encoder",
        page="howto/calibration.md",
    ),
    Rule(
        "Encoder: coverage",
        coverage_error,
        f"Distance of the coverage of {HPD_LEVEL:.0%} regions from that, where its p or that of hpd is below {LEVEL:g}",
        passes=0.0,
        fails=0.05,
        words=(
            "No error of the credible regions is seen.",
            "Credible regions do not quite hold what they promise.",
            "Credible regions are not to be believed.",
        ),
        panel="Calibration of the encoder",
        page="howto/calibration.md#how-to-read-the-picture",
        form="{:.0%}",
    ),
    Rule(
        "Data sets from the prior",
        predictive_p("prior"),
        "Smallest p-value of the test statistics, corrected for their number",
        passes=0.05,
        fails=0.0,
        words=(
            "By these statistics, data sets that the model makes look like the data.",
            "Data sets that the model makes differ: if only these, q(z) is not the prior.",
            "",
        ),
        panel="Test statistics",
        page="howto/predictive_checks.md#test-statistics",
        better="more",
    ),
    Rule(
        "Data sets from the posterior",
        predictive_p("posterior"),
        "Smallest p-value of the test statistics, corrected for their number",
        passes=0.05,
        fails=0.0,
        words=(
            "By these statistics, with the latents of these rows the model makes such data sets.",
            "Even with the latents of these rows the data sets differ: try another likelihood, or more latents.",
            "",
        ),
        panel="Test statistics",
        page="howto/predictive_checks.md#test-statistics",
        better="more",
    ),
    Rule(
        "Features on their own",
        pit_p("marginal_pit"),
        "Smallest p-value of uniformity of the marginal PIT, corrected for the features",
        passes=0.05,
        fails=0.001,
        words=(
            "Each feature on its own is distributed as the model says.",
            "A feature may be distributed otherwise than the model says.",
            "A feature is distributed otherwise than the model says.",
        ),
        panel="Marginal PIT",
        page="howto/predictive_checks.md#pit-values",
        better="more",
    ),
    Rule(
        "Features given the others",
        pit_p("conditional_pit"),
        "Smallest p-value of uniformity of the conditional PIT, corrected for the features",
        passes=0.05,
        fails=0.001,
        words=(
            "Hidden entries are where the model expects them, however little it knows of them.",
            "Hidden entries of a feature may be elsewhere than the model expects.",
            "Hidden entries of a feature are elsewhere than the model expects.",
        ),
        panel="Conditional PIT",
        page="howto/predictive_checks.md#pit-values",
        better="more",
    ),
    Rule(
        "Bits",
        bits_p,
        "Smallest p-value of the bins of predicted probability, corrected for their number",
        passes=0.05,
        fails=0.001,
        words=(
            "Of the bits given probability p, a share p is on.",
            "Predicted probabilities of bits may be off.",
            "Predicted probabilities of bits are off.",
        ),
        panel="Reliability of bits",
        page="howto/predictive_checks.md#bits",
        better="more",
    ),
    Rule(
        "Latents say something of x",
        rate,
        "Rate, the KL of q(z given x) from the prior, in nats per datum",
        passes=0.1,
        fails=0.1,
        words=("The latents are used.", "", "Posterior collapse: the latents say nothing of x."),
        panel="Collapse",
        page="howto/collapse.md",
        better="more",
    ),
    Rule(
        "Every latent is used",
        unused,
        "Share of latent dimensions whose posterior mean does not vary with x",
        passes=0.0,
        fails=math.inf,
        words=("No latent dimension is dead.", "Dead dimensions follow the prior whatever x is.", ""),
        panel="Collapse",
        page="howto/collapse.md#active-units",
        form="{:.0%}",
    ),
    Rule(
        "q(z) is the prior",
        marginal_kl,
        "KL of q(z), averaged over the data, from the prior, in nats",
        passes=PRIOR_PASSES,
        fails=3.0,
        words=(
            "Averaged over the data, the latents follow the prior.",
            "Averaged over the data, the latents do not quite follow the prior: a richer one may help.",
            "Averaged over the data, the latents do not follow the prior: try a richer one.",
        ),
        panel="Collapse",
        page="howto/collapse.md#elbo-surgery",
    ),
    Rule(
        "The likelihood's scale",
        concerns,
        "Number of scales at their floor",
        passes=0,
        fails=0,
        words=("The scale is above its floor.", "", "The likelihood is unbounded here:"),
        panel="Architecture",
        page="howto/report.md#scale",
    ),
)
