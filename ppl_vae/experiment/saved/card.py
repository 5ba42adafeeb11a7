"""The card of a run: README.md in its folder, for whoever finds it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ppl_vae.experiment.metrics import Estimates
from ppl_vae.experiment.result_table import headline
from ppl_vae.experiment.saved.document import Document
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.text import as_markdown, table

__all__ = ["CARD", "write_card", "write_verdicts"]

CARD = "README.md"
MOST_LEVELS = 8  # of a category that are listed
VERDICTS = re.compile("(<!-- verdicts -->\n).*?(<!-- end of verdicts -->)", re.DOTALL)
NO_REPORT = """\
No report has been written: `ppl-vae report FOLDER`, or `pv.write_report(run)` in Python, checks the
encoder, the model and the estimates of log p(x), and puts its verdicts here."""
LIMITS = """\
- log p(x) and everything derived from it are for rows that were sampled, measured and preprocessed
  as those of training. It is in nats, in the units of the columns, and is compared with that of
  other models on the same rows alone.
- A level of a category that training did not have is refused.
- Missing values are treated as missing at random, unless the model has a missingness model.
- Imputations, anomaly scores and latents are those of one fit: they do not show what another
  sample of training rows would change.
- A low density shows that a row is unusual, and a high one does not show that it is typical."""


def write_card(folder: Path, document: Document, metrics: Estimates | None = None) -> Path:
    """Write the card.

    Args:
        folder: The folder of the run.
        document: What run.json holds.
        metrics: The estimates of a run that was evaluated.

    Example:
        >>> CARD
        'README.md'
    """
    found = "" if metrics is None else f"## Estimates\n\nlog p(x): {headline(metrics)}."
    names = document.programs.names
    parts = [
        f"# {as_markdown(document.data.columns.get('name', 'data'))}: a variational autoencoder",
        f"Prior {names['prior']}, likelihood {names['likelihood']}, posterior "
        f"{names['posterior']}. Saved {document.saved} by ppl_vae "
        f"{document.versions.get('ppl-vae', '')}.",
        found,
        "## Verdicts",
        f"<!-- verdicts -->\n{NO_REPORT}\n<!-- end of verdicts -->",
        "## Rows and columns",
        _rows(document),
        _columns(document.data.columns),
        "## Training",
        _training(document.result or {}),
        "## Limits",
        LIMITS,
        "## Load it",
        _loading(document),
        "## Versions",
        ", ".join(f"{name} {version}" for name, version in document.versions.items()) + ".",
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    return write_whole(folder / CARD, lambda p: p.write_text(text, encoding="utf-8"))


def write_verdicts(folder: Path, lines: Sequence[str]) -> None:
    """Put the verdicts of a report in the card; one that was rewritten by hand is left alone.

    Args:
        folder: The folder of the run.
        lines: A line for each verdict.

    Example:
        >>> write_verdicts(Path("nowhere"), ["pass"])
    """
    path = folder / CARD
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    listed = "\n".join(f"- {as_markdown(line)}" for line in lines)
    new = VERDICTS.sub(lambda found: f"{found[1]}{listed}\n{found[2]}", text)
    if new != text:
        write_whole(path, lambda p: p.write_text(new, encoding="utf-8"))


def _rows(document: Document) -> str:
    """Numbers of rows, and whether they are here."""
    data = document.data
    splits = ", ".join(f"{name} {count:,}" for name, count in data.splits.items())
    held = "They are not in this folder" if data.sha256 is None else "They are in this folder"
    return (
        f"{data.num_data:,} rows{f' ({splits})' * bool(splits)}, {data.missing:.1%} of the values "
        f"missing. {held}; their digest is {data.digest}."
    )


def _columns(schema: dict[str, Any]) -> str:
    """The columns of x and of the covariates as a table."""
    kinds = schema["kinds"] or schema["columns"]["types"]
    rows = _described(schema["columns"], kinds, "x")
    rows += _described(schema["covariates"], schema["covariates"]["types"], "covariate")
    if not rows:
        return f"One row has the shape {tuple(schema['event_shape'])}."
    return table([("column", "role", "kind", "levels"), *rows], markdown=True)


def _described(layout: dict[str, Any], kinds: Sequence[str], role: str) -> list[tuple[str, ...]]:
    """A line for each column."""
    rows: list[tuple[str, ...]] = []
    for name, kind in zip(layout["names"], kinds, strict=True):
        levels = list(layout["levels"].get(str(name), ()))
        shown = levels[:MOST_LEVELS] + [f"... ({len(levels)})"] * (len(levels) > MOST_LEVELS)
        # The table escapes the bars between its cells itself.
        listed = as_markdown(", ".join(shown)).replace("\\|", "|")
        rows.append((as_markdown(name).replace("\\|", "|"), role, kind, listed))
    return rows


def _training(result: dict[str, Any]) -> str:
    """The history in a sentence, and the settings."""
    if not result:
        return "The programs were saved without a training history."
    num_epochs = len(result["history"].get("epoch", []))
    again = result["refit_epochs"]
    lines = [
        f"Objective `{result['objective']}`: {num_epochs} epochs ({result['stopped']}), the best "
        f"of them {result['best_epoch']}"
        + f"; then {again} epochs on training and validation rows together" * bool(again)
        + f". Seed {result['seed']}, {result['wall_time']:.0f} s."
    ]
    settings = [
        f"`{name}={value}`" for name, value in result["settings"].items() if value != "None"
    ]
    return "\n\n".join([*lines, ", ".join(settings)])


def _loading(document: Document) -> str:
    """How the run is used, from Python and from the shell."""
    given = ", model=model, guide=guide" * bool(document.programs.custom)
    lines = [
        "```python",
        "import ppl_vae as pv",
        "",
        f'run = pv.load_run("FOLDER"{given})  # run.model, run.guide',
        'pv.impute(run.model, run.guide, run.read("new.csv"))',
        "```",
    ]
    if document.programs.custom:
        return "\n".join([f"The programs are custom ({document.programs.custom}).", "", *lines])
    shell = ["", "```sh", "ppl-vae score FOLDER new.csv", "ppl-vae impute FOLDER new.csv", "```"]
    return "\n".join([*lines, *shell] if document.data.columns["is_named"] else lines)
