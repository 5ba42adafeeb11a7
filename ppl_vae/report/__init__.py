"""One page on a trained run: verdicts first, then the reasons."""

from ppl_vae.report.attempts import NotApplicable, Undecided
from ppl_vae.report.contents import DIAGNOSES
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Picture, Table, draw
from ppl_vae.report.page import Report, write_report
from ppl_vae.report.rules import Check, Measured, Rule

__all__ = [
    "DIAGNOSES",
    "Check",
    "Diagnosis",
    "Findings",
    "Measured",
    "NotApplicable",
    "Panel",
    "Picture",
    "Report",
    "Rule",
    "Table",
    "Undecided",
    "draw",
    "write_report",
]
