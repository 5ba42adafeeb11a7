"""The results of a run as a plain table, and what they say in words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ppl_vae.experiment.folder import Folder

__all__ = ["reading", "table"]


def table(metrics: Mapping[str, Any], output: str | Path | None = None) -> str:
    """An aligned table of the results, what they say, and where the files are. No paper.

    Args:
        metrics: From `run_experiment` or `evaluate_run`.
        output: The run's folder.

    Example:
        >>> run = {"data": "digits", "prior": "VampPrior"}
        >>> numbers = {"elbo": -20.0, "log_evidence": -18.5, "mc_se": 0.01, "data_se": 0.3, "mc_bias": 0.0, "kl": 9.0}
        >>> sizes = {"active_units": 8, "latent_dim": 8, "num_data": 300, "num_particles": 1000, "mean_ess": 80.0}
        >>> evaluation = {"split": "test"}
        >>> metrics = numbers | sizes | {"share_bad_k": 0.12, "distortion": 11.0, "run": run, "evaluation": evaluation}
        >>> print(table(metrics).splitlines()[4])
          log p(x)                        -18.500  nats per datum
    """
    lines = [*_heads(metrics), "", *_rows(metrics), "", *reading(metrics)]
    lines += ["", *_files(Folder(output))] if output is not None else []
    return "\n".join(lines)


def reading(metrics: Mapping[str, Any]) -> list[str]:
    """What the numbers say, a sentence each. No paper.

    Example:
        >>> metrics = {"share_bad_k": 0.12, "active_units": 2, "latent_dim": 2}
        >>> reading(metrics)[0]
        'k-hat > 0.7 for 12 % of the data: for those, log p(x) is a lower bound, not an estimate.'
    """
    lines = [_reading_of_k(metrics["share_bad_k"])]
    unused = 0 if metrics["active_units"] is None else metrics["latent_dim"] - metrics["active_units"]
    if unused:
        lines.append(
            f"{unused} of {metrics['latent_dim']} latent dimensions are not used: they follow the prior whatever x is."
        )
    return lines


def _heads(metrics: Mapping[str, Any]) -> list[str]:
    split, num_data, num_particles = metrics["evaluation"]["split"], metrics["num_data"], metrics["num_particles"]
    heads = [", ".join(metrics["run"].values()), f"{split} split, {num_data} data, {num_particles} particles each"]
    if "history" in metrics:  # it was trained here
        epochs, best = metrics["num_epochs"], metrics["best_epoch"]
        heads.insert(
            1, f"{epochs} epochs in {metrics['training_seconds']:.0f} s ({metrics['stopped']}, best epoch {best})"
        )
    return heads


def _reading_of_k(share: float | None) -> str:
    if share is None:
        return "k-hat needs at least 25 particles: whether log p(x) can be believed is not known."
    if share == 0:
        return "k-hat is at most 0.7 for all data: log p(x) and its standard errors can be believed."
    percent = "less than 1" if share < 0.01 else f"{100 * share:.0f}"
    return f"k-hat > 0.7 for {percent} % of the data: for those, log p(x) is a lower bound, not an estimate."


def _rows(metrics: Mapping[str, Any]) -> list[str]:
    nats = "nats per datum"
    share, units = metrics["share_bad_k"], metrics["active_units"]
    rows = [
        ("ELBO", _number(metrics["elbo"]), nats),
        ("log p(x)", _number(metrics["log_evidence"]), nats),
        ("  Monte Carlo standard error", _number(metrics["mc_se"]), ""),
        ("  data standard error", _number(metrics["data_se"]), ""),
        ("KL(q || p)", _number(metrics["kl"]), nats),
        ("active units", "unknown" if units is None else str(units), f"of {metrics['latent_dim']}"),
        ("k-hat > 0.7", "unknown" if share is None else f"{100 * share:.1f}", "" if share is None else "% of the data"),
        ("effective sample size", f"{metrics['mean_ess']:.1f}", f"of {metrics['num_particles']}, on average"),
    ]
    return [f"  {name:30} {value:>8}  {unit}".rstrip() for name, value, unit in rows]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _files(folder: Folder) -> list[str]:
    return [f"files in {folder.path}:", f"  {', '.join(folder.files)}"]
