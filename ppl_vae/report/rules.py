"""The checklist: every rule by which a report says pass, look or fail stands in the table RULES."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from ppl_vae.report.elements import NotApplicable, slug
from ppl_vae.report.findings import Findings, attempt
from ppl_vae.report.measures import (
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
    """What is measured, and where it passes or fails; in between it wants a look. A limit itself is
    on the good side.

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
        return (
            "fail"
            if worse(number, self.fails)
            else "look"
            if worse(number, self.passes)
            else "pass"
        )

    @property
    def text(self) -> str:
        """The rule in words."""
        good, bad = self.form.format(self.passes), self.form.format(self.fails)
        from_on, beyond = (
            ("from {} up", "below") if self.better == "more" else ("up to {}", "above")
        )
        fails = (
            f"fails {beyond} {bad}"
            if 0 < self.fails < math.inf or self.passes == self.fails
            else "never fails"
        )
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
    """Every rule applied, in order; what could not be checked comes last.

    Args:
        findings: Of a run.

    Example:
        >>> len({rule.title for rule in RULES}) == len(RULES)
        True
    """
    return sorted(
        (rule.check(findings) for rule in RULES), key=lambda check: check.verdict == "skipped"
    )


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
            "Training has not seen the evaluated rows.",
            "The evaluated rows chose the epoch, so log p(x) is a little too high: evaluate test "
            "rows.",
            "The evaluated rows are those of training, so log p(x) says nothing of new rows: "
            "evaluate test rows.",
        ),
        panel="Data",
        page="concepts.md",
    ),
    Rule(
        "Training has levelled off",
        gain,
        "Change of the bound in a tenth of the epochs, at the end, in nats per row",
        passes=0.1,
        fails=1.0,
        words=(
            "More epochs would change little.",
            "The bound was still moving: train longer, or end with a lower learning rate.",
            "The bound was moving fast: train much longer.",
        ),
        panel="Training",
        page="howto/report.md#training",
    ),
    Rule(
        "Training has not diverged",
        loss,
        "How far the bound ends below its best, in nats per row",
        passes=0.5,
        fails=2.0,
        words=(
            "The bound does not end below its best.",
            "The bound was better before: set patience, or lower the learning rate.",
            "The bound has fallen far: set patience, lower the learning rate, or take a smaller "
            "network.",
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
        "Monte Carlo error or bias of log p(x), the larger, as a share of the standard error over "
        "the data",
        passes=0.1,
        fails=0.5,
        words=(
            "More particles would change little.",
            "The Monte Carlo error shows in log p(x): take more particles.",
            "The Monte Carlo error is as large as that of the rows: take many more particles, or "
            "refine the guide.",
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
        words=(
            "No error is seen:",
            "The encoder errs a little; take weighted draws where that matters:",
            "The encoder errs; take weighted draws, refine it, or try a richer posterior:",
        ),
        panel="Calibration of the encoder",
        page="howto/calibration.md",
    ),
    Rule(
        "Encoder: coverage",
        coverage_error,
        f"Distance of the coverage of {HPD_LEVEL:.0%} regions from that, where its p or that of "
        f"hpd is below {LEVEL:g}",
        passes=0.0,
        fails=0.05,
        words=(
            "No error of the credible regions is seen.",
            "Credible regions cover a little too much or too little: take weighted draws where "
            "that matters.",
            "Credible regions cover too much or too little: take weighted draws, refine, or try a "
            "richer posterior.",
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
            "By these statistics, data sets drawn from the model look like the observed one.",
            "Data sets drawn from the model differ: try a richer prior if only these do, else "
            "another likelihood.",
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
            "Even with the latents of these rows the data sets differ: try another likelihood, or "
            "more latents.",
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
            "A feature may not be distributed as the model says: see the marginal PIT for which, "
            "and how.",
            "A feature is not distributed as the model says: try a likelihood that can be wider, "
            "or skewed.",
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
            "Hidden entries lie where the model expects them.",
            "Hidden entries of a feature may not lie where the model expects them: see the "
            "conditional PIT.",
            "Hidden entries do not lie where the model expects them: try another likelihood, or "
            "more latents.",
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
            "Of the bits predicted with probability p, a share p is on.",
            "Predicted probabilities of bits may be off: see their reliability.",
            "Predicted probabilities of bits are off: try more latents, a larger decoder, or fewer "
            "epochs.",
        ),
        panel="Reliability of bits",
        page="howto/predictive_checks.md#bits",
        better="more",
    ),
    Rule(
        "Latents say something of x",
        rate,
        "Rate, the KL of q(z given x) from the prior, in nats per row",
        passes=0.1,
        fails=0.1,
        words=(
            "The latents are used.",
            "",
            "The latents say nothing of x: anneal the KL, or set free bits.",
        ),
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
        words=(
            "No latent dimension is dead.",
            "Dead dimensions do no harm: fewer latents would do.",
            "",
        ),
        panel="Collapse",
        page="howto/collapse.md#active-units",
        form="{:.0%}",
    ),
    Rule(
        "q(z) is the prior",
        marginal_kl,
        "KL of q(z), averaged over the rows, from the prior, in nats",
        passes=PRIOR_PASSES,
        fails=3.0,
        words=(
            "Averaged over the rows, the latents follow the prior.",
            "Averaged over the rows, the latents do not quite follow the prior: a richer one may "
            "help.",
            "Averaged over the rows, the latents do not follow the prior: try a richer one, such "
            "as VampPrior.",
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
        words=(
            "The scale is above its floor.",
            "",
            "The likelihood is unbounded here; raise the floor or fix the scale:",
        ),
        panel="Architecture",
        page="howto/report.md#scale",
    ),
)
