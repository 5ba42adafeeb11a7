"""The results of a run as a plain table, and in words."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from ppl_vae.evidence.pareto import SMALLEST_NUM_PARTICLES
from ppl_vae.experiment.metrics import Estimates, Metrics
from ppl_vae.runtime import text
from ppl_vae.runtime.text import counted, percent

__all__ = ["columns_in_words", "floor_of", "headline", "reading", "table"]

NATS = "nats per row"
NAMED = 3  # features in a sentence
LISTED = 40  # columns in a list
CURES = (
    "`ppl-vae evaluate RUN --refine` refines the guide for these rows and estimates again (in "
    "Python, `refine`); `evidence_interval` bounds log p(x) from above as well."
)
CURES_OF_REFINED = (
    "draw more particles (`--num-particles`); `evidence_interval` in Python bounds log p(x) from "
    "above as well."
)
UPPER = {  # what each kind of upper bound needs, and what a bad k-hat does to it
    "upper in the limit": ("in the limit of many particles", "lie below log p(x)"),
    "upper if converged": (
        "if the chains behind it have reached the posterior",
        "be far above log p(x)",
    ),
}


def table(metrics: Estimates, files: Sequence[Path] = ()) -> str:
    """An aligned table of the results, their interpretation, and the names of the files.

    Args:
        metrics: From `run_experiment` or `evaluate_run`.
        files: The files, all in one folder.

    Example:
        >>> run = {"data": "digits", "prior": "VampPrior"}
        >>> asked = {"split": "test", "method": {"name": "AIS", "num_chains": 30}}
        >>> found = {"log_evidence": -18.5, "share_bad_k": 0.12, "mean_ess": 8.0}
        >>> sizes = {"num_data": 300, "num_particles": 30, "active_units": 8, "latent_dim": 8}
        >>> metrics = Estimates(run=run, evaluation=asked, **found, **sizes)
        >>> table(metrics).splitlines()[1]
        'test split, 300 rows, AIS with 30 chains each'
        >>> print(table(metrics).splitlines()[5])
          log p(x) >=                     -18.500  nats per row
    """
    lines = [*_heads(metrics), "", *_rows(metrics), "", *reading(metrics)]
    if files:
        names = ", ".join(path.name for path in files)
        lines += ["", f"files in {files[0].parent}:", f"  {names}"]
    return "\n".join(lines)


def columns_in_words(columns: Sequence[Mapping[str, str]]) -> str:
    """What the columns of a table were taken for, the first 40 of many.

    Example:
        >>> weight = {"column": "w", "kind": "count", "likelihood": "Poisson", "why": "given"}
        >>> print(columns_in_words([weight]))
        columns:
          column  kind   likelihood  why
          w       count  Poisson     given
    """
    heads = ("column", "kind", "likelihood", "why")
    rows = [heads, *([each[head] for head in heads] for each in columns[:LISTED])]
    lines = ["columns:", *text.table(rows, numbers=False).splitlines()]
    if len(columns) > LISTED:
        lines.append(f"and {counted(len(columns) - LISTED, 'further column')}: see metrics.json")
    return "\n  ".join(lines)


def headline(metrics: Estimates) -> str:
    """log p(x) in a line, with its conditions.

    Example:
        >>> headline(Estimates(log_evidence=-18.5, data_se=0.3, share_estimate=0.98))
        '>= -18.500 nats per row, a lower bound for 2 % of the rows; data se 0.300'
    """
    value = f"{_number(metrics.log_evidence)} nats per row"
    error = f"data se {_number(metrics.data_se)}"
    if metrics.at_floor:
        return f"{value}, set by {floor_of(metrics.at_floor)}: not usable"
    if metrics.bound != "lower":
        return f"<= {value}, {metrics.bound}; {error}"
    if not metrics.is_bound:
        return f"{value}; {error}"
    return (
        f">= {value}, a lower bound for {percent(metrics.share_bound)} of {metrics.whole}; {error}"
    )


def reading(metrics: Estimates) -> list[str]:
    """The interpretation of the numbers, a sentence each.

    Example:
        >>> reading(Estimates(share_bad_k=0.12, active_units=2, latent_dim=2))[0][:86]
        'log p(x) is a lower bound, not an estimate, for 12 % of the rows (k-hat > 0.7 for 12 %'
    """
    lines = []
    if metrics.rows_used_for:
        lines.append(
            f"These rows were used for {metrics.rows_used_for}, so that log p(x) of new rows is "
            "lower: evaluate the test split."
        )
    if metrics.at_floor:
        lines.append(_reading_of_floor(metrics.at_floor))
    if metrics.is_bound or not metrics.at_floor:
        lines.append(_reading_of_k(metrics))
    dim, active = metrics.latent_dim, metrics.active_units
    if active is not None and active < dim:
        which = "is not used: it follows" if dim - active == 1 else "are not used: they follow"
        lines.append(f"{dim - active} of {dim} latent dimensions {which} the prior for every x.")
    return lines


def floor_of(features: Sequence[str]) -> str:
    """The scale that sets log p(x), in words.

    Example:
        >>> floor_of(["k"]), floor_of(["a", "b", "c", "d"])
        ("the scale floor of 'k'", "the scale floor of 'a', 'b', 'c' and 1 more")
    """
    rest = f" and {len(features) - NAMED} more" * (len(features) > NAMED)
    return f"the scale floor of {', '.join(map(repr, features[:NAMED]))}{rest}"


def _reading_of_floor(features: Sequence[str]) -> str:
    dropped = shlex.quote(",".join(features[:NAMED]))
    return (
        f"log p(x) is set by {floor_of(features)}, where the density has no upper limit: it is not "
        f"usable. Leave such columns out (`ppl-vae fit --drop {dropped}`), or give them a "
        "likelihood with a probability of repeated values."
    )


def _reading_of_k(metrics: Estimates) -> str:
    share = metrics.share_bad_k
    if share is None:
        needed = f"k-hat needs at least {SMALLEST_NUM_PARTICLES} {_draws(metrics)}"
        return f"{needed}: the reliability of log p(x) is not known."
    if metrics.bound != "lower":
        condition, danger = UPPER[metrics.bound]
        where = f"where k-hat > 0.7 ({percent(share)} of {metrics.whole})"
        return f"log p(x) is at most this {condition}; {where} the bound may {danger}."
    if metrics.is_bound:
        skewed = round(metrics.share_bound - share, 9)
        reasons = [f"k-hat > 0.7 for {percent(share)}"] * (share > 0 or skewed <= 0)
        if skewed > 0:
            draws = f"{metrics.num_particles} {_draws(metrics)}"
            reasons.append(f"weights too skewed for {draws} for {percent(skewed)}")
        return (
            f"log p(x) is a lower bound, not an estimate, for {percent(metrics.share_bound)} of "
            f"{metrics.whole} ({', '.join(reasons)}), and the Monte Carlo error is not known "
            f"there: {CURES_OF_REFINED if metrics.num_refined else CURES}"
        )
    return "log p(x) is an estimate for all rows, by k-hat, and its standard errors are valid."


def _heads(metrics: Estimates) -> list[str]:
    """The run, its training, and the method for log p(x)."""
    heads = [", ".join(metrics.run.values())]
    if isinstance(metrics, Metrics):
        best = f"best epoch {metrics.best_epoch}"
        if metrics.num_epochs and not metrics.best_epoch:
            best = "no epoch after the KL warm-up"
        took = f"{metrics.num_epochs} epochs in {metrics.training_seconds:.0f} s"
        heads.append(f"{took} ({metrics.stopped}, {best})")
    most, mean, draws = metrics.num_particles, metrics.mean_used, _draws(metrics)
    each = f"{most} {draws} each"
    if mean not in (None, most):
        each = f"{mean:.0f} {draws} on average, at most {most}"
    where = f"{metrics.evaluation['split']} split, {counted(metrics.num_data, 'row')}"
    return [*heads, f"{where}, {metrics.evaluation['method']['name']} with {each}"]


def _draws(metrics: Estimates) -> str:
    """The draws of the method, by the name of its first number: particles, chains."""
    method = metrics.evaluation.get("method", {})
    numbers = [word.removeprefix("num_") for word in method if word.startswith("num_")]
    return next(iter(numbers), "particles")


def _rows(metrics: Estimates) -> list[str]:
    share, units, mc_se = metrics.share_bad_k, metrics.active_units, _number(metrics.mc_se)
    used = metrics.num_particles if metrics.mean_used is None else metrics.mean_used
    name = "log p(x)" if metrics.bound == "lower" else f"log p(x), {metrics.bound}"
    rows: list[tuple[str, str, str]] = []
    error = (mc_se, "")
    if metrics.is_bound:
        bounded = f"{100 * metrics.share_bound:.1f}"
        rows.append(("lower bound, no estimate", bounded, "% of the rows"))
        name = "log p(x) >="
        error = ("unknown", f"({mc_se} by the weights, without mass they missed)")
    if metrics.num_refined:
        rows.append(("refined", str(metrics.num_refined), "rows"))
    bad = ("unknown", "") if share is None else (f"{100 * share:.1f}", f"% of {metrics.whole}")
    rows += [
        ("ELBO", _number(metrics.elbo), NATS),
        (name, _number(metrics.log_evidence), NATS),
        ("  Monte Carlo standard error", *error),
        ("  data standard error", _number(metrics.data_se), ""),
        ("KL(q || p)", _number(metrics.kl), NATS),
        ("active units", "unknown" if units is None else str(units), f"of {metrics.latent_dim}"),
        ("k-hat > 0.7", *bad),
        (
            "effective sample size",
            f"{metrics.mean_ess:.1f}",
            f"of {used:.0f} {_draws(metrics)}, on average",
        ),
    ]
    rows += [(n.replace("_", " "), _number(x), "median") for n, x in metrics.checks.items()]
    return [f"  {name:30} {value:>8}  {unit}".rstrip() for name, value, unit in rows]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
