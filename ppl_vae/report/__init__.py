"""One page on a trained run: verdicts first, then what they rest on."""

from ppl_vae.report.page import Report, write_report

__all__ = ["Report", "write_report"]
