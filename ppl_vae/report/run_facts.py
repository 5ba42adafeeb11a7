"""Panels on what was asked for: the configuration, the data, seeds, versions and times."""

from typing import Any

from ppl_vae.experiment.config import to_toml
from ppl_vae.report.elements import Panel, Table
from ppl_vae.report.findings import Findings

FACTS = ("", "")


def configuration(found: Findings) -> Panel:
    """The file that the run was made from, complete with defaults."""
    return Panel(code=to_toml(_config(found)))


def data(found: Findings) -> Panel:
    """What was observed, and which rows of it this page speaks of."""
    subject = found.subject
    whole, split = subject.experiment.data, _config(found).evaluation.split
    facts, size = whole.describe(), len(getattr(whole, split))
    rows = [
        ("name", facts["name"]),
        ("size", f"{len(whole):,} data of shape {' × '.join(map(str, whole.event_shape))}"),
        ("values", "{:g} to {:g}".format(*facts["range"])),
        ("missing", f"{facts['missing']:.1%}"),
        ("binarised", facts["binarize"] or "no"),
        ("covariates", ", ".join(facts["context"]) or "none"),
        ("labels", f"{facts['labels']} classes" if facts["labels"] else "none"),
        ("splits", ", ".join(f"{name} {rows:,}" for name, rows in facts["splits"].items())),
        ("log p(x) on", f"{len(subject.evidence):,} of the {size:,} {split} rows"),
        ("diagnosed", f"the first {len(subject.rows):,} of the {size:,} {split} rows"),
    ]
    return Panel(tables=[Table(FACTS, rows, kind="facts")])


def provenance(found: Findings) -> Panel:
    """Seeds, versions and times."""
    metrics = found.subject.metrics
    seconds = {
        name: metrics[name] for name in ("training_seconds", "evaluation_seconds", "seconds")
    }
    tables = {
        "Seeds": metrics["seeds"] | {"this page": found.subject.seed},
        "Versions": metrics["versions"],
        "Seconds": {
            name.removesuffix("_seconds").replace("seconds", "all"): f"{s:.1f}"
            for name, s in seconds.items()
        },
        "Epochs": {
            "trained": metrics["num_epochs"],
            "best": metrics["best_epoch"],
            "ended by": metrics["stopped"],
        },
    }
    return Panel(
        tables=[
            Table(FACTS, list(rows.items()), name, kind="facts") for name, rows in tables.items()
        ]
    )


def _config(found: Findings) -> Any:
    return found.subject.experiment.config
