"""The results of a run as a plain table, and what they say in words."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES

__all__ = ["headline", "is_bound", "reading", "table"]

CURES = (
    "`ppl-vae evaluate RUN --refine` refines the guide for these rows and estimates again (in "
    "Python, `refine`); "
    "`evidence_interval` bounds log p(x) from above as well."
)

UPPER = {  # what each kind of upper bound needs, and what a bad k-hat does to it
    "upper in the limit": ("in the limit of many particles", "lie below log p(x)"),
    "upper if converged": (
        "if the chains behind it have reached the posterior",
        "be far above log p(x)",
    ),
}


def table(metrics: Mapping[str, Any], files: Sequence[Path] = ()) -> str:
    """An aligned table of the results, what they say, and where the files are.

    Args:
        metrics: From `run_experiment` or `evaluate_run`.
        files: Where they are, all in one folder.

    Example:
        >>> run = {"data": "digits", "prior": "VampPrior"}
        >>> numbers = {"elbo": -20.0, "log_evidence": -18.5, "mc_se": 0.01, "data_se": 0.3, "mc_bias": 0.0, "kl": 9.0}
        >>> sizes = {"active_units": 8, "latent_dim": 8, "num_data": 300, "num_particles": 1000, "mean_ess": 80.0}
        >>> evaluation = {"split": "test", "method": {"name": "ImportanceSampling", "num_particles": 1000}}
        >>> metrics = numbers | sizes | {"share_bad_k": 0.12, "distortion": 11.0, "run": run, "evaluation": evaluation}
        >>> table(metrics).splitlines()[1]
        'test split, 300 data, ImportanceSampling with 1000 particles each'
        >>> print(table(metrics).splitlines()[5])
          log p(x) >=                     -18.500  nats per datum
    """
    lines = [*_heads(metrics), "", *_rows(metrics), "", *reading(metrics)]
    lines += (
        ["", f"files in {files[0].parent}:", f"  {', '.join(path.name for path in files)}"]
        if files
        else []
    )
    return "\n".join(lines)


def is_bound(metrics: Mapping[str, Any]) -> bool:
    """Whether log p(x) is a lower bound, not an estimate, for some rows.

    Example:
        >>> is_bound({"share_estimate": 0.98, "share_bad_k": 0.0})
        True
    """
    return metrics.get("bound", "lower") == "lower" and share_bound(metrics) > 0


def share_bound(metrics: Mapping[str, Any]) -> float:
    """Share of the rows without an estimate; runs of an earlier version know k-hat alone."""
    return 1 - float(metrics.get("share_estimate", 1 - (metrics["share_bad_k"] or 0.0)))


def headline(metrics: Mapping[str, Any]) -> str:
    """log p(x) in a line, with what it is worth.

    Example:
        >>> numbers = {"log_evidence": -18.5, "data_se": 0.3, "share_estimate": 0.98, "share_bad_k": 0.0}
        >>> headline(numbers)
        '>= -18.500 nats per row, a lower bound for 2 % of the rows; data se 0.300'
    """
    value, error = (_number(metrics[name]) for name in ("log_evidence", "data_se"))
    if metrics.get("bound", "lower") != "lower":
        return f"<= {value} nats per row, {metrics['bound']}; data se {error}"
    if not is_bound(metrics):
        return f"{value} nats per row; data se {error}"
    return f">= {value} nats per row, a lower bound for {_percent(share_bound(metrics))} of the rows; data se {error}"


def reading(metrics: Mapping[str, Any]) -> list[str]:
    """What the numbers say, a sentence each.

    Example:
        >>> metrics = {"share_bad_k": 0.12, "active_units": 2, "latent_dim": 2}
        >>> reading(metrics)[0][:86]
        'log p(x) is a lower bound, not an estimate, for 12 % of the rows (k-hat > 0.7 for 12 %'
    """
    lines = [_reading_of_k(metrics)]
    unused = (
        0 if metrics["active_units"] is None else metrics["latent_dim"] - metrics["active_units"]
    )
    if unused:
        which = "is not used: it follows" if unused == 1 else "are not used: they follow"
        lines.append(
            f"{unused} of {metrics['latent_dim']} latent dimensions {which} the prior whatever x "
            "is."
        )
    return lines


def _heads(metrics: Mapping[str, Any]) -> list[str]:
    where = f"{metrics['evaluation']['split']} split, {metrics['num_data']} data"
    about = f"{where}, {_method(metrics)[0]} with {_draws_each(metrics)}"
    heads = [", ".join(metrics["run"].values()), about]
    if "history" in metrics:  # it was trained here
        epochs, best = metrics["num_epochs"], f"best epoch {metrics['best_epoch']}"
        best = best if metrics["best_epoch"] or not epochs else "no epoch after the KL warm-up"
        heads.insert(
            1,
            f"{epochs} epochs in {metrics['training_seconds']:.0f} s ({metrics['stopped']}, "
            f"{best})",
        )
    return heads


def _method(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Its name, and what it draws: particles, chains, as its first number says."""
    method = metrics.get("evaluation", {}).get("method", {})
    draws = next(
        (word.removeprefix("num_") for word in method if word.startswith("num_")), "particles"
    )
    return method.get("name", "ImportanceSampling"), draws


def _draws_each(metrics: Mapping[str, Any]) -> str:
    most, mean, draws = metrics["num_particles"], metrics.get("mean_used"), _method(metrics)[1]
    return (
        f"{most} {draws} each"
        if mean in (None, most)
        else f"{mean:.0f} {draws} on average, at most {most}"
    )


def _of_draws(metrics: Mapping[str, Any]) -> str:
    return f"of {metrics.get('mean_used', metrics['num_particles']):.0f} {_method(metrics)[1]}, on average"


def _of_what(metrics: Mapping[str, Any]) -> str:
    bound = metrics.get("bound", "lower")
    if bound != "lower":
        return f"log p(x), {bound}"
    return "log p(x) >=" if is_bound(metrics) else "log p(x)"


def _reading_of_k(metrics: Mapping[str, Any]) -> str:
    share = metrics["share_bad_k"]
    if share is None:
        needed = f"k-hat needs at least {SMALLEST_NUM_PARTICLES} {_method(metrics)[1]}"
        return f"{needed}: whether log p(x) can be believed is not known."
    if (bound := metrics.get("bound", "lower")) != "lower":
        condition, danger = UPPER[bound]
        where = f"where k-hat > 0.7 ({_percent(share)} of the data)"
        return f"log p(x) is at most this {condition}; {where} the bound may {danger}."
    if is_bound(metrics):
        return (
            f"log p(x) is a lower bound, not an estimate, for {_percent(share_bound(metrics))} of "
            "the rows (k-hat > "
            f"0.7 for {_percent(share)}), and the Monte Carlo error does not hold there: {CURES}"
        )
    return "log p(x) is an estimate for all rows, by k-hat, and its standard errors hold."


def _percent(share: float) -> str:
    return "less than 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"


def _rows(metrics: Mapping[str, Any]) -> list[str]:
    nats = "nats per datum"
    share, units = metrics["share_bad_k"], metrics["active_units"]
    bounded = is_bound(metrics)
    rows = [
        *[("lower bound, no estimate", f"{100 * share_bound(metrics):.1f}", "% of the rows")]
        * bounded,
        *[("refined", str(metrics.get("num_refined")), "rows")] * bool(metrics.get("num_refined")),
        ("ELBO", _number(metrics["elbo"]), nats),
        (_of_what(metrics), _number(metrics["log_evidence"]), nats),
        ("  Monte Carlo standard error", *_monte_carlo(metrics)),
        ("  data standard error", _number(metrics["data_se"]), ""),
        ("KL(q || p)", _number(metrics["kl"]), nats),
        ("active units", "unknown" if units is None else str(units), f"of {metrics['latent_dim']}"),
        (
            "k-hat > 0.7",
            "unknown" if share is None else f"{100 * share:.1f}",
            "" if share is None else "% of the data",
        ),
        ("effective sample size", f"{metrics['mean_ess']:.1f}", _of_draws(metrics)),
        *(
            (name.replace("_", " "), _number(value), "median")
            for name, value in metrics.get("checks", {}).items()
        ),
    ]
    return [f"  {name:30} {value:>8}  {unit}".rstrip() for name, value, unit in rows]


def _monte_carlo(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """The error where it holds."""
    error = _number(metrics["mc_se"])
    return (
        ("unknown", f"({error} by the weights, without what they missed)")
        if is_bound(metrics)
        else (error, "")
    )


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
