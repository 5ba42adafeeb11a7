"""How a number is judged: a rule grades it, and a check is its line in the checklist."""

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ppl_vae.report.attempts import NotApplicable, Undecided, attempt, reason
from ppl_vae.report.elements import slug
from ppl_vae.runtime.display import Shown

__all__ = ["VERDICTS", "WORST_FIRST", "Check", "Measured", "Rule"]

Verdict = Literal["pass", "look", "fail", "skipped"]
VERDICTS: tuple[Verdict, ...] = ("pass", "look", "fail", "skipped")
WORST_FIRST: tuple[Verdict, ...] = ("fail", "look", "pass", "skipped")


@dataclass(frozen=True)
class Measured:
    """A number that a rule judges.

    Args:
        number: The number.
        shown: How the page writes it.
        says: A sentence to add to the verdict.
        instead: A sentence in place of the rule's own for this verdict.
        remedy: What to do, in place of the rule's remedy.

    Example:
        >>> Measured(0.034, "3.4 %").says
        ''
    """

    number: float
    shown: str
    says: str = ""
    instead: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Check(Shown):
    """One line of the checklist.

    Args:
        title: What is checked.
        verdict: "pass", "look", "fail", or "skipped" if it does not apply or could not be computed.
        says: The verdict in a sentence.
        number: The number, as written.
        value: The number; NaN if skipped.
        rule: The rule in words.
        panel: Anchor of the panel that shows it.
        page: Where the documentation explains it.
        remedy: What to do, after a look or a failure.
        about: The question that it helps to answer, e.g. "Encoder".
        applies: Whether the question makes sense for this run.

    Example:
        >>> print(Check("Bits", "pass", "They come true.", "p = 0.4", 0.4, "", "bits", ""))
        pass     Bits: They come true. (p = 0.4)
    """

    title: str
    verdict: Verdict
    says: str
    number: str
    value: float
    rule: str
    panel: str
    page: str
    remedy: str = ""
    about: str = ""
    applies: bool = True

    def __str__(self) -> str:
        number = f"({self.number})" * bool(self.number)
        said = " ".join(filter(None, [self.says, self.remedy, number]))
        return f"{self.verdict:8} {self.title}: {said}"


@dataclass(frozen=True)
class Rule:
    """A number with the limits of a pass and of a failure; between them is "look".

    A number equal to a limit is on the good side.

    Args:
        title: What is checked.
        measure: Computes the number from the `Findings`; raises `NotApplicable` if there is none.
        what: The number in words.
        passes: The worst number that passes.
        fails: The worst number that does not fail; infinite if nothing fails.
        words: What a pass, a look and a failure mean.
        panel: Title of the panel that shows it; that of the diagnosis by default.
        page: Where the documentation explains it; as the panel by default.
        better: Which numbers are good.
        form: How the limits are written.
        remedy: What to do after a look or a failure.
        limits: What passes and what fails in words, if the number is a code.

    Example:
        >>> words = ("It holds.", "It may not.", "It does not.")
        >>> measure = lambda found: Measured(0.4, "p = 0.4")
        >>> rule = Rule("Bits", measure, "The p-value", 0.05, 0.001, words, better="more")
        >>> [rule.grade(p) for p in (0.05, 0.01, 0.001, 0.0001)]
        ['pass', 'look', 'look', 'fail']
        >>> rule.text
        'The p-value: passes from 0.05 up, fails below 0.001'
    """

    title: str
    measure: Callable[[Any], Measured]
    what: str
    passes: float
    fails: float
    words: tuple[str, str, str]
    panel: str = ""
    page: str = ""
    better: Literal["less", "more"] = "less"
    form: str = "{:g}"
    remedy: str = ""
    limits: str = ""

    def grade(self, number: float) -> Verdict:
        """The verdict on a number."""
        worse = operator.lt if self.better == "more" else operator.gt
        if worse(number, self.fails):
            return "fail"
        return "look" if worse(number, self.passes) else "pass"

    @property
    def text(self) -> str:
        """The rule in words."""
        if self.limits:
            return f"{self.what}: {self.limits}"
        good = self.form.format(self.passes)
        passes, beyond = f"up to {good}", "above"
        if self.better == "more":
            passes, beyond = f"from {good} up", "below"
        fails = "never fails"
        if math.isfinite(self.fails):
            fails = f"fails {beyond} {self.form.format(self.fails)}"
        return f"{self.what}: passes {passes}, {fails}"

    def check(self, findings: Any, panel: str = "", page: str = "", about: str = "") -> Check:
        """The line of the checklist.

        Args:
            findings: Of a run.
            panel: Title of the panel, if the rule names none.
            page: Page of the documentation, if the rule names none.
            about: The question that it helps to answer.
        """
        where = (self.text, slug(self.panel or panel), self.page or page)
        found = attempt(self._known, findings)
        if isinstance(found, Exception):
            said = f"Not checked: {reason(found)}."
            applies = isinstance(found, Undecided) or not isinstance(found, NotApplicable)
            rest: Any = {"about": about, "applies": applies}
            return Check(self.title, "skipped", said, "", math.nan, *where, **rest)
        verdict = self.grade(found.number)
        said = found.instead or self.words[VERDICTS.index(verdict)]
        remedy = (found.remedy or self.remedy) * (verdict != "pass")
        sentences = " ".join(filter(None, [said, found.says]))
        return Check(
            self.title, verdict, sentences, found.shown, found.number, *where, remedy, about
        )

    def _known(self, findings: Any) -> Measured:
        """The number, which is not NaN."""
        found = self.measure(findings)
        if math.isnan(found.number):
            raise Undecided("the number is not known")
        return found
