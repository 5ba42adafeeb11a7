"""Whether the encoder is right: simulation-based calibration of its draws."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest

from ppl_vae.diagnostics import (
    Calibration,
    CalibrationSummary,
    GuideDraws,
    ImportanceDraws,
    calibration,
    plot_calibration,
)
from ppl_vae.report.answers import COVERAGE
from ppl_vae.report.attempts import NotApplicable, reasons
from ppl_vae.report.diagnosis import Diagnosis, Findings
from ppl_vae.report.elements import Panel, Table, draw, sentence
from ppl_vae.report.rules import Measured, Rule

NUM_SIMULATED = 500
NUM_DRAWS = 200  # of z for each simulated row
LEVEL = 0.05  # of the test of coverage
HPD_LEVEL = 0.9
COVERAGE_FAILS = 0.05
CURE = "Use weighted draws (importance resampling), refine the guide, or try a richer posterior."
SEEN = 1e-6  # an error that a test finds, however small it is


def largest_error(found: Findings) -> Measured:
    """Largest error, in sds, of the quantities that simulation-based calibration flags."""
    summary = found["sbc"].summary()
    wrong = [summary.names.index(name) for name in summary.flagged]
    size, of = 0.0, ""
    if wrong:
        errors = np.maximum(np.abs(summary.bias), np.abs(np.log(summary.spread)))[wrong]
        size = float(errors.max())
        of = f", of {summary.names[wrong[errors.argmax()]]}"
    shown = (
        f"{size:.2f} sd{of}; smallest p {np.nanmin(summary.adjusted):.2g}, {summary.num_data} rows"
    )
    return Measured(size, shown, f"{summary.verdict.partition(': ')[2]}.")


def coverage_error(found: Findings) -> Measured:
    """Error of the coverage of highest-density regions; 0 unless one of two tests is significant.

    The p-value of the coverage (binomial, exact) is doubled; that of hpd is corrected with all
    quantities.
    """
    summary = found["sbc"].summary()
    coverage = float(summary.hpd_coverage[1])
    if np.isnan(coverage):
        raise NotApplicable("q has no density, so its highest-density regions are not defined")
    num_data = summary.num_data
    of_coverage = 2 * binomtest(round(coverage * num_data), num_data, HPD_LEVEL).pvalue
    p_value = min(1.0, of_coverage, float(summary.adjusted[summary.names.index("hpd")]))
    shown = f"{coverage:.1%} of {num_data} truths in {HPD_LEVEL:.0%} regions, p {p_value:.2g}"
    if p_value >= LEVEL:
        return Measured(0.0, shown)
    error = max(abs(coverage - HPD_LEVEL), SEEN)
    size = "a little " * (error <= COVERAGE_FAILS)
    side = "much" if coverage > HPD_LEVEL else "little"
    return Measured(error, shown, instead=f"Credible regions cover {size}too {side}.")


def _calibration(draws: Any) -> Callable[[Findings], Calibration]:
    def compute(found: Findings) -> Calibration:
        method = draws(NUM_DRAWS, progress=False)
        sizes: dict[str, Any] = {"num_data": NUM_SIMULATED, "seed": found.subject.seed}
        with reasons(ValueError):
            return calibration(*found.programs, found.subject.rows, method, **sizes)

    return compute


def _panel(name: str) -> Callable[[Findings], Panel]:
    def panel(found: Findings) -> Panel:
        result = found[name]
        summary = result.summary()
        pictures = draw(lambda axes: plot_calibration(result, axes), _alts(summary))
        says = [
            "The latents behind simulated observations should rank uniformly among draws given "
            "these observations, and 90% regions should contain 90% of them.",
            f"{summary.num_data} rows simulated from the model. {summary.method}: worth "
            f"{summary.mean_effective:.0f} independent draws each. {sentence(summary.verdict)}",
            *([sentence(summary.left_out)] if summary.left_out else []),
            "If the draws are right, all lines of a picture stay inside its band with "
            "probability 95%. The verdict is over all quantities together, so it may be a pass "
            "although a line leaves its band by chance.",
        ]
        return Panel(says, pictures=pictures, tables=[_quantities(summary)])

    return panel


def _alts(summary: CalibrationSummary) -> list[str]:
    """What the four pictures show."""
    latents, others = summary.names[: summary.num_latents], summary.names[summary.num_latents :]
    tested = [name for name in others if name != "hpd"]
    half, most = summary.hpd_coverage
    regions = "q has no density"
    if "hpd" in others:
        regions = f"{half:.0%} at 50%, {most:.0%} at 90%"
    return [
        f"ECDF of the PIT minus uniform, of {summary.num_latents} latent dimensions, over a band; "
        f"departing from uniform: {_flagged(summary, latents)}.",
        f"The same of {', '.join(tested)}; departing from uniform: {_flagged(summary, tested)}.",
        "Coverage of central intervals minus its level, by latent dimension, over a band.",
        f"Coverage of highest-density regions minus its level, over a band: {regions}.",
    ]


def _flagged(summary: CalibrationSummary, names: Sequence[str]) -> str:
    return ", ".join([name for name in summary.flagged if name in names][:4]) or "none"


def _quantities(summary: CalibrationSummary) -> Table:
    held = summary.coverage.copy()
    if "hpd" in summary.names:
        held[:, summary.names.index("hpd")] = summary.hpd_coverage
    columns = {
        "p": ("{:.2g}", summary.p_value),
        "adjusted p": ("{:.2g}", summary.adjusted),
        "bias, sd": ("{:.2f}", summary.bias),
        "spread": ("{:.2f}", summary.spread),
        "in 50%": ("{:.1%}", held[0]),
        "in 90%": ("{:.1%}", held[1]),
    }
    cells = [
        ["" if np.isnan(value) else form.format(value) for value in values]
        for form, values in columns.values()
    ]
    return Table(["", *columns], list(zip(summary.names, *cells, strict=True)))


SECTION = "Is the encoder right?"
CALIBRATION = Diagnosis(
    "sbc",
    "Calibration of the encoder",
    SECTION,
    compute=_calibration(GuideDraws),
    panel=_panel("sbc"),
    page="howto/calibration.md",
    about="Encoder",
    rules=[
        Rule(
            "Encoder: each quantity",
            largest_error,
            "Largest error of the quantities with p < 0.05 in simulation-based calibration, in sds",
            passes=0.0,
            fails=0.1,
            words=(
                "No error is seen:",
                "The encoder has small errors:",
                "The encoder has errors:",
            ),
            remedy=CURE,
        ),
        Rule(
            COVERAGE,
            coverage_error,
            f"Distance of the coverage of {HPD_LEVEL:.0%} regions from {HPD_LEVEL:.0%}, if its "
            f"p-value or that of hpd is below {LEVEL:g}",
            passes=0.0,
            fails=COVERAGE_FAILS,
            words=(
                "No error of the credible regions was found.",
                "Credible regions cover a little too much or too little.",
                "Credible regions cover too much or too little.",
            ),
            remedy=CURE,
            page="howto/calibration.md#how-to-read-the-picture",
            form="{:.0%}",
        ),
    ],
)
WEIGHTED_CALIBRATION = Diagnosis(
    "sbc_importance",
    "Calibration of its weighted draws",
    SECTION,
    compute=_calibration(ImportanceDraws),
    panel=_panel("sbc_importance"),
    page="howto/calibration.md",
)
