"""The first screen of a report: an answer to each question, in a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass

from ppl_vae.experiment.metrics import Estimates
from ppl_vae.experiment.result_table import floor_of
from ppl_vae.report.elements import number
from ppl_vae.report.rules import WORST_FIRST, Check, Verdict
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.text import counted, percent

__all__ = ["COVERAGE", "SHARE", "Answer", "answers"]

EVIDENCE = "log p(x)"
SHARE = "log p(x) is an estimate"  # the check that the first sentence puts in words
COVERAGE = "Encoder: coverage"
ALWAYS = ("Encoder", "Model")
NO_TEST = ("The likelihood's scale",)  # compares no rows with the model
NAMED = ("Plain models", "Other run")  # said whatever the verdict is
SAID: dict[str, dict[str, str]] = {
    "Encoder": {
        "pass": "no error found in its credible regions.",
        "look": "its credible regions are a little off; use weighted draws if that matters.",
        "fail": "do not report its credible regions; refine first.",
    },
    "Model": {
        "pass": "no misfit detected.",
        "look": "possible misfit: see {}.",
        "fail": "misfit: see {}.",
    },
    "Training": dict.fromkeys(("look", "fail"), "it has not ended well: see {}."),
    "": dict.fromkeys(("look", "fail"), "see {}."),
}


@dataclass(frozen=True)
class Answer(Shown):
    """What a report says about one question.

    Args:
        about: The question: log p(x), Encoder, Model, and others where there is something to say.
        verdict: The worst verdict of its checks.
        says: A sentence.

    Example:
        >>> print(Answer("Model", "pass", "no misfit detected."))
        Model: no misfit detected.
    """

    about: str
    verdict: Verdict
    says: str

    def __str__(self) -> str:
        return f"{self.about}: {self.says}"


def answers(checks: Sequence[Check], metrics: Estimates) -> list[Answer]:
    r"""The answers, those about log p(x), the encoder and the model first.

    Others are there if one of their checks did not pass, or has a name of its own.

    Args:
        checks: The checklist.
        metrics: The estimates of the run.

    Example:
        >>> check = Check("Bits", "fail", "They are off.", "", 0.0, "", "", "", about="Model")
        >>> found = answers([check], Estimates(share_estimate=0.97, share_bad_k=0.02))
        >>> print(*found, sep="\n")
        log p(x): usable for 97 % of the rows; 3 % are lower bounds.
        Encoder: not checked.
        Model: misfit: see Bits.
    """
    asked = {check.about for check in checks} - {EVIDENCE, *ALWAYS}
    groups = {about: [check for check in checks if check.about == about] for about in asked}
    rest = [_answer(about, groups[about]) for about in sorted(groups) if _is_said(groups[about])]
    known = [_answer(about, [c for c in checks if c.about == about]) for about in ALWAYS]
    return [_of_evidence([c for c in checks if c.about == EVIDENCE], metrics), *known, *rest]


def _is_said(checks: Sequence[Check]) -> bool:
    """Whether the first screen has a line for it."""
    return checks[0].about in NAMED or _worst(checks) in ("look", "fail")


def _worst(checks: Sequence[Check]) -> Verdict:
    found = [check.verdict for check in checks]
    return min(found, key=WORST_FIRST.index, default="skipped")


def _answer(about: str, checks: Sequence[Check]) -> Answer:
    """The sentence that belongs to the worst verdict, with the checks that have it."""
    worst = _worst(checks)
    skipped = [check for check in checks if check.verdict == "skipped" and check.applies]
    those = [check for check in checks if check.verdict == worst]
    is_tested = any(check.title not in NO_TEST for check in those)
    if worst == "skipped" or (worst == "pass" and not is_tested):
        return Answer(about, "skipped", "not checked.")
    if about not in SAID:
        return Answer(about, worst, _named(those[0]))
    said = SAID[about][worst].format(_listed(those))
    regions = [check.verdict for check in checks if check.title == COVERAGE]
    if worst in ("look", "fail") and regions == ["pass"]:
        said = f"its credible regions cover, but its draws are off: see {_listed(those)}."
    if worst == "pass" and skipped:
        said += f" Not checked: {_listed(skipped)}."
    return Answer(about or "Also", worst, said)


def _of_evidence(checks: Sequence[Check], metrics: Estimates) -> Answer:
    """For how many rows log p(x) can be used, and what else keeps it from being reported."""
    share = [check.verdict for check in checks if check.title == SHARE]
    said = [_usable(metrics)]
    if "fail" in share and not metrics.num_refined:
        said.append("Refine the guide first.")
    others = [check for check in checks if check.title != SHARE]
    said += [check.says for check in others if check.verdict in ("look", "fail")]
    verdict: Verdict = "fail" if metrics.at_floor else _worst(checks)
    return Answer(EVIDENCE, verdict, " ".join(said))


def _usable(metrics: Estimates) -> str:
    if metrics.at_floor:
        return f"set by {floor_of(metrics.at_floor)}: not usable."
    if metrics.bound != "lower":
        return f"at most {number(metrics.log_evidence)} nats per row ({metrics.bound})."
    if metrics.share_bad_k is None:
        return "its reliability is not known: there are too few particles for k-hat."
    before = ""
    if metrics.num_refined:
        before = f"with the guide refined for {counted(metrics.num_refined, 'row')}, "
    if not metrics.is_bound:
        return f"{before}usable for all rows."
    if metrics.share_bound == 1:
        return f"{before}a lower bound for every row, not an estimate."
    usable = percent(1 - metrics.share_bound)
    bounds = percent(metrics.share_bound)
    return f"{before}usable for {usable} of {metrics.whole}; {bounds} are lower bounds."


def _listed(checks: Sequence[Check]) -> str:
    return ", ".join(check.title for check in checks)


def _named(check: Check) -> str:
    """The sentence of a check and its number."""
    said = check.says[:1].lower() + check.says[1:].rstrip(".")
    return f"{said} ({check.number})."
