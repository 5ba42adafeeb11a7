"""Panels on what was found out, and the order of all panels on the page."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ppl_vae.data import Dataset
from ppl_vae.diagnostics import (
    PIT,
    CalibrationSummary,
    ModelComparison,
    plot_calibration,
    plot_collapse,
    plot_k_hat,
    plot_pit,
    plot_predictive_check,
    plot_reliability,
)
from ppl_vae.diagnostics.latents.surgery import ROWS
from ppl_vae.diagnostics.models.table import HEADER
from ppl_vae.diagnostics.report_plots import as_images, plot_rate_distortion, plot_weights
from ppl_vae.evidence.pareto import GOOD_K
from ppl_vae.experiment.result_table import is_bound, reading
from ppl_vae.report.elements import Panel, Table, draw, number, thumbnail
from ppl_vae.report.findings import Findings
from ppl_vae.report.measures import MOST_BAD_K
from ppl_vae.report.run import architecture, graph, latent_space, reconstructions, samples, training
from ppl_vae.report.run_facts import configuration, data, provenance

__all__ = ["PANELS"]

MOST_VALUES = 6
FORMS = {"mean": ".4g", "sd": ".2g", "p": ".2g"}
NATS = ("", "nats per datum", "Monte Carlo se", "data se", "data", "draws")


def bounds(found: Findings) -> Panel:
    """From the ELBO to log p(x)."""
    metrics, few = found.subject.metrics, found["weights"]
    kind = "" if metrics.get("bound", "lower") == "lower" else f", {metrics['bound']}"
    count, draws = f"{metrics['num_data']:,}", f"{metrics['num_particles']:,}"
    sizes = (f"{few.num_first:,}", f"{len(few.log_weights):,}")
    elbo = found["importance"].elbo
    data_se = number(elbo.std(ddof=1) / len(elbo) ** 0.5) if len(elbo) > 1 else ""
    rows: list[tuple[str, ...]] = [("ELBO", number(metrics["elbo"]), "", data_se, count, draws)]
    rows += [
        (f"IWAE bound, K = {k}", *map(number, values), *sizes) for k, values in few.bounds.items()
    ]
    if few.num_first < metrics["num_data"]:
        first = found["importance"][: few.num_first]
        numbers = vars(first.summary()) | {"share_estimate": first.is_estimate.mean()}
        rows.append((f"log p(x){kind}, the same data", *_errors(numbers), sizes[0], draws))
    rows.append((f"log p(x){kind}", *_errors(metrics), count, draws))
    rows += [_other(json.loads(path.read_text(encoding="utf-8"))) for path in _others(found)]
    bias = (
        f"The bias of log p(x) is about {number(metrics['mc_bias'])} nats, if the weights are good."
    )
    what = (
        "Each is at most log p(x) on average; the more particles K, the nearer. Monte Carlo se: "
        "were the particles "
        "drawn again. Data se: were the data."
    )
    return Panel(
        [what, *reading(metrics), bias],
        tables=[Table(NATS, rows)],
        page="concepts.md#iwae-bound-and-log-p-x",
    )


def plain_models(found: Findings) -> Panel:
    """log p(x) beside that of plain models of the same rows."""
    comparison = found["baselines"]
    shown = [
        HEADER.index(name)
        for name in ("model", "log p(x)", "difference", "95 % interval", "bounds")
    ]
    rows = [[cells[i] for i in shown] for cells in comparison.cells]
    what = (
        "Plain models, fitted to the training rows and judged on the same held-out rows; their log "
        "p(x) is exact. "
        "Their number of factors or components was chosen on a fifth of the training rows."
    )
    table = Table([HEADER[i] for i in shown], rows)
    return Panel(
        [_best_of(comparison), what], tables=[table], page="howto/compare_models.md#is-8-5-good"
    )


def _best_of(comparison: ModelComparison) -> str:
    """How far the model is from the best baseline, as far as it is proved."""
    at = next(i for i, name in enumerate(comparison.names) if name != comparison.reference)
    name, (low, high) = comparison.names[at], comparison.interval[at]
    if high < 0:
        return f"The model is better than every baseline: than {name}, the best of them, by at least {-high:.2f} nats."
    if low > 0:
        return f"A baseline is better than the model: {name}, by at least {low:.2f} nats per row."
    bounded = comparison.share_bound.max() > 0
    why = (
        "log p(x) of the model is a lower bound for some rows"
        if bounded
        else "the interval holds 0"
    )
    return f"It is not proved that the model differs from {name}, the best of the baselines: {why}."


def _errors(numbers: Mapping[str, Any]) -> tuple[str, ...]:
    """Of a summary or of metrics: the Monte Carlo error is left out where it does not hold."""
    value, mc_se, data_se = (number(numbers[name]) for name in ("log_evidence", "mc_se", "data_se"))
    return (f">= {value}", "unknown", data_se) if is_bound(numbers) else (value, mc_se, data_se)


def _others(found: Findings) -> list[Any]:
    """What `ppl-vae evaluate` has left in the run's folder."""
    return sorted((found.subject.folder.path / "evaluations").glob("*.json"))


def _other(metrics: Mapping[str, Any]) -> tuple[str, ...]:
    evaluation = metrics["evaluation"]
    name = f"{evaluation['method']['name']}, {evaluation['split']} split ({metrics['bound']})"
    if metrics.get("num_refined"):
        name += f", {metrics['num_refined']:,} rows refined"
    return (name, *_errors(metrics), f"{metrics['num_data']:,}", f"{metrics['num_particles']:,}")


def weights(found: Findings) -> Panel:
    """k-hat, effective sample size and largest weight, by datum."""
    evidence, few = found["importance"], found["weights"]
    largest, size = few.largest[: few.num_first], len(evidence)
    good, bad = np.mean(evidence.pareto_k <= 0.5), np.mean(evidence.pareto_k > GOOD_K)
    says = [
        "k-hat tells how heavy the tail of the weights is: up to 0.5 their variance is finite; "
        "above 0.7 log p(x) is "
        "only a lower bound.",
        f"log p(x) is an estimate for {evidence.is_estimate.mean():.0%} of the rows: there "
        "intervals of two standard "
        "errors cover, judged by the skewness of rows alike.",
    ]
    alts = (
        f"Histogram of k-hat of {size} data: {good:.0%} at most 0.5, {bad:.0%} above 0.7.",
        "Effective sample size against k-hat, in the same three classes; median "
        f"{np.median(evidence.ess):.0f} of "
        f"{evidence.num_particles}.",
        f"Share of the largest of {len(few.log_weights)} weights by datum, sorted; median "
        f"{np.median(largest):.2f}.",
    )

    def plot(axes: Any) -> None:
        plot_k_hat(evidence, axes[0]).legend(
            loc="best"
        )  # above, it would be wider than the picture
        plot_weights(evidence, largest, axes[1:])

    return Panel(
        [*says, *reading(found.subject.metrics)],
        pictures=draw(plot, alts),
        page="concepts.md#pareto-k-hat",
    )


def worst_data(found: Findings) -> Panel:
    """The data whose log p(x) is least to be believed."""
    subject, few = found.subject, found["weights"]
    which, evidence = subject.worst, found["importance"]
    rows = subject.evaluated[which]
    names = ("pareto_k", "ess", "log_evidence", "mc_se", "elbo")
    values = [[number(getattr(evidence, name)[i], 2) for name in names] for i in which]
    labels: Any = (
        [()] * len(which) if rows.labels is None else [(str(label),) for label in rows.labels]
    )
    shares = (f"{share:.2f}" for share in few.largest[np.searchsorted(few.rows, which)])
    label = ("label",) * (rows.labels is not None)
    columns = ("datum", "x", *label, "largest weight", "k-hat", "ESS", "log p(x)", "se", "ELBO")
    parts = zip(_shown(rows), labels, shares, values, strict=True)
    cells = [[*who, *label, share, *rest] for who, label, share, rest in parts]
    ordered = "standard error" if np.isnan(evidence.pareto_k).any() else "k-hat"
    some = len(which) < len(evidence)
    those = f"The {len(which)} of {len(evidence):,} evaluated data with the largest {ordered}"
    says = [
        f"{those if some else f'All {len(which)} evaluated data, the largest {ordered} first'}."
    ]
    return Panel(
        says, tables=[Table(columns, cells, kind="sortable")], page="concepts.md#pareto-k-hat"
    )


def _shown(rows: Dataset) -> list[tuple[str, Any]]:
    """Name and picture of each datum, or its first values."""
    names = [str(name) for name in rows.coords[rows.dims[0]]]
    if rows.image_shape is not None:
        pixels = as_images(rows)
        return [
            (name, thumbnail(pixels[i], f"datum {name}", f"worst-{i + 1}"))
            for i, name in enumerate(names)
        ]
    features = rows.coords[rows.dims[1]] if len(rows.dims) == 2 else range(rows.event_shape.numel())
    values = rows.x.flatten(1).cpu().numpy()
    return [(name, _values(features, values[i])) for i, name in enumerate(names)]


def _values(features: Any, values: np.ndarray) -> str:
    numbered = list(features) == list(range(len(values)))  # names that say nothing
    heads = [""] * len(values) if numbered else [f"{name} " for name in features]
    shown = [
        f"{head}{'missing' if np.isnan(v) else f'{v:.4g}'}"
        for head, v in zip(heads, values, strict=True)
    ]
    more = [f"and {len(shown) - MOST_VALUES} more"] * (len(shown) > MOST_VALUES)
    return ", ".join([*shown[:MOST_VALUES], *more])


def _calibration(name: str) -> Callable[[Findings], Panel]:
    def panel(found: Findings) -> Panel:
        summary = found[name].summary()
        half, most = summary.hpd_coverage
        latents, others = summary.names[: summary.num_latents], summary.names[summary.num_latents :]
        tested = [name for name in others if name != "hpd"]
        regions = (
            f"{half:.0%} at 50%, {most:.0%} at 90%"
            if "hpd" in others
            else "q has no density to make them of"
        )
        alts = (
            f"ECDF less uniform of the PIT of {summary.num_latents} latent dimensions, over a "
            "band; "
            f"departing from uniform: {_flagged(summary, latents)}.",
            f"The same of {', '.join(tested)}; departing from uniform: "
            f"{_flagged(summary, tested)}.",
            "Coverage of central intervals less its level, by latent dimension, over a band.",
            f"Coverage of highest-density regions less its level, over a band: {regions}.",
        )
        says = [
            "Latents that data were simulated with should lie anywhere among draws given these "
            "data, and regions of "
            "90% should hold 90% of them.",
            f"{summary.num_data} data simulated from the model. {summary.method}: worth "
            f"{summary.mean_effective:.0f} "
            f"independent draws each. {_sentence(summary.verdict)}",
            "A band holds all lines of its picture with probability 95% where the draws are right. "
            "The verdict is over "
            "all quantities together: a line may leave its band by chance, and the verdict be a "
            "pass.",
        ]
        pictures = draw(lambda axes: plot_calibration(found[name], axes), alts)
        return Panel(
            says, pictures=pictures, tables=[_quantities(summary)], page="howto/calibration.md"
        )

    return panel


def _flagged(summary: CalibrationSummary, names: Sequence[str]) -> str:
    return ", ".join([name for name in summary.flagged if name in names][:4]) or "none"


def _quantities(summary: CalibrationSummary) -> Table:
    columns = ("", "p", "adjusted p", "bias, sd", "spread", "in 50%", "in 90%")
    held = summary.coverage.copy()
    if "hpd" in summary.names:
        held[:, summary.names.index("hpd")] = summary.hpd_coverage
    numbers = (summary.p_value, summary.adjusted, summary.bias, summary.spread, *held)
    forms = ("{:.2g}", "{:.2g}", "{:.2f}", "{:.2f}", "{:.1%}", "{:.1%}")
    cells = [
        [form.format(value) for value in values]
        for form, values in zip(forms, numbers, strict=True)
    ]
    return Table(columns, list(zip(summary.names, *cells, strict=True)))


def statistics(found: Findings) -> Panel:
    """Test statistics of replicated data sets."""
    check = found["predictive"]
    rows = {name.replace("_", " "): row for name, row in check.summary().items()}
    alts = [
        f"Histograms of the {name} of replicated data sets, on average {row['prior mean']:.4g} "
        "from the prior and "
        f"{row['posterior mean']:.4g} from the posterior; a line for the data at {row['data']:.4g}."
        for name, row in rows.items()
    ]
    columns = {"data": ".4g"} | {
        f"{kind} {what}": form for kind in ("prior", "posterior") for what, form in FORMS.items()
    }
    cells = [
        (name, *(format(row[key], form) for key, form in columns.items()))
        for name, row in rows.items()
    ]
    says = [
        f"{check.num_samples} data sets of {check.num_data} rows each, with z from the prior "
        "(blue) and from the guide "
        "(orange); black is the data.",
        "Off in both: the likelihood is wrong, or z says too little of x.",
        "Off in the first alone: q(z) is not the prior.",
    ]
    pictures = draw(lambda axes: plot_predictive_check(check, axes), alts)
    table = Table(("", *columns), cells)
    return Panel(
        says, pictures=pictures, tables=[table], page="howto/predictive_checks.md#test-statistics"
    )


def _pit(name: str) -> Callable[[Findings], Panel]:
    def panel(found: Findings) -> Panel:
        pit, page = found[name], "howto/predictive_checks.md#pit-values"
        summary = pit.summary()
        alt = f"Ordered {pit.kind} PIT values less expected, with a band of uniform ones; p {summary.p_value:.2g}."

        def plot(ax: Any) -> None:
            plot_pit(pit, ax).legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

        pictures = draw(plot, alt, size=(7.4, 3.4))
        return Panel(
            [PREDICTED[pit.kind], _sentence(summary), *_rough(pit)], pictures=pictures, page=page
        )

    return panel


def _rough(pit: PIT) -> list[str]:
    share = pit.summary().share_bad_k
    return ["The weights are too bad for a verdict: predictions of hidden entries are rough."] * (
        share > MOST_BAD_K
    )


PREDICTED = {
    "marginal": "Where each entry lies in what the model predicts of its feature; uniform if it is right.",
    "conditional": "Where each entry lies in what the model predicts from the rest of its row; uniform if it is right.",
}


def bits(found: Findings) -> Panel:
    """Whether predicted probabilities come true."""
    reliability, page = found["reliability"], "howto/predictive_checks.md#bits"
    alt = f"Frequency of ones against predicted probability in {len(reliability.count)} bins, with the diagonal."
    pictures = draw(lambda ax: plot_reliability(reliability, ax), alt, size=(4.2, 4.2))
    what = "Of the hidden bits given probability p, how many are on; bars are two standard errors."
    return Panel(
        [what, _sentence(reliability), *_rough(found["conditional_pit"])],
        pictures=pictures,
        page=page,
    )


def collapse(found: Findings) -> Panel:
    """What each latent dimension carries."""
    units, surgery = found["active_units"], found["surgery"]
    summary, size = surgery.summary(), len(units.names)
    rate, information = (summary.mean[name] for name in ("rate", "mutual_information"))
    alts = (
        f"Bars of what each of {size} latent dimensions carries, sorted.",
        f"Active units falling with the threshold; {units.count} of {size} at {units.threshold:g}.",
        f"Bars of the parts of the rate of {rate:.2f} nats, of which I(x; z) is {information:.2f}.",
    )
    columns = ("nats per datum", "mean", "Monte Carlo se", "data se")
    errors = (summary.mean, summary.mc_se, summary.data_se)
    cells = [
        (ROWS[name].strip(), *(number(each[name]) for each in errors)) for name in summary.mean
    ]
    limit = f"q(z) is the mixture over {summary.num_data} data: I(x; z) cannot exceed {np.log(summary.num_data):.2f} nats."
    pictures = draw(lambda axes: plot_collapse(units, surgery, axes), alts)
    if any(np.isnan(value) for value in summary.mean.values()):
        limit += (
            " What is unknown needs a guide, or a prior, that is a product over latent dimensions."
        )
    return Panel(
        [f"{units}.", limit],
        pictures=pictures,
        tables=[Table(columns, cells)],
        page="howto/collapse.md",
    )


def rate_and_distortion(found: Findings) -> Panel:
    """Where the model stands between saying nothing and saying all."""
    parts = found["rate_distortion"]
    rate, distortion = parts.rate.mean(), parts.distortion.mean()
    alt = (
        f"A point per datum at its rate and distortion; means {rate:.2f} and {distortion:.2f} nats."
    )
    pictures = draw(lambda ax: plot_rate_distortion(parts, ax), alt, size=(5.2, 3.8))
    what = "Rate: what z says of x. Distortion: what z leaves unsaid. Their sum is less the ELBO."
    return Panel([what, _sentence(parts)], pictures=pictures, page="howto/collapse.md")


def _sentence(said: object) -> str:
    """Capital letter and full stop."""
    text = str(said)
    return f"{text[:1].upper()}{text[1:]}."


PANELS: dict[str, dict[str, Callable[[Findings], Panel]]] = {
    "What was run": {
        "Configuration": configuration,
        "Data": data,
        "Seeds, versions, times": provenance,
    },
    "How it is built": {"Graphical model": graph, "Architecture": architecture},
    "What it learned": {
        "Training": training,
        "Reconstructions": reconstructions,
        "Samples": samples,
        "Latent space": latent_space,
    },
    "log p(x)": {
        "Bounds": bounds,
        "Baselines": plain_models,
        "Importance weights": weights,
        "Worst data": worst_data,
    },
    "Is the encoder right?": {
        "Calibration of the encoder": _calibration("sbc"),
        "Calibration of its weighted draws": _calibration("sbc_importance"),
    },
    "Is the model right?": {
        "Test statistics": statistics,
        "Marginal PIT": _pit("marginal_pit"),
        "Conditional PIT": _pit("conditional_pit"),
        "Reliability of bits": bits,
    },
    "What the latents carry": {"Collapse": collapse, "Rate and distortion": rate_and_distortion},
}
