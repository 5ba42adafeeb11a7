"""A report on a trained run: one HTML page that needs nothing else, the same as Markdown, every
number in a tree.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import jinja2

from ppl_vae.evidence import Evidence
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.result_table import headline
from ppl_vae.experiment.run import load_run
from ppl_vae.report.elements import NotApplicable, Panel, Picture, number
from ppl_vae.report.findings import Findings, Subject, attempt
from ppl_vae.report.panels import PANELS
from ppl_vae.report.rules import VERDICTS, Check, checklist
from ppl_vae.report.to_tree import findings_tree
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.files import write_whole

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Report", "write_report"]

ROOT = Path(__file__).resolve().parents[2]  # of a checkout, with docs/ in it
ESCAPED = re.compile(r"([\\`*_{}\[\]<>|#~$])")


@dataclass(frozen=True)
class Report:
    """The checklist of a run, and where the report on it was written; `print` shows the checklist.

    Args:
        checks: The verdicts, in the order of the page.
        files: report.html, report.md and report.nc, in this order.

    Example:
        >>> check = Check("Bits", "pass", "They come true.", "p = 0.4", 0.4, "", "", "")
        >>> print(Report([check], []))
        pass     Bits: They come true. (p = 0.4)
        1 pass, 0 look, 0 fail, 0 skipped
    """

    checks: Sequence[Check]
    files: Sequence[Path]

    @property
    def counts(self) -> dict[str, int]:
        """How many checks have which verdict."""
        verdicts = [check.verdict for check in self.checks]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        return "\n".join([*map(str, self.checks), counts])


def write_report(
    folder: str | Path,
    output: str | Path | None = None,
    *,
    num_data: int = 300,
    seed: int = 0,
    data_dir: str | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Report:
    """Look at a trained run from all sides, and write what was seen: verdicts first, then what they
    rest on.

    report.html is one page with everything in it, which needs no network and no script; report.md
    is the same for text, with pictures in report/; report.nc holds all numbers for ArviZ
    (`xarray.open_datatree`). Nothing is fitted again. A panel that fails says so on the page, and
    the others go on.

    Args:
        folder: A finished run.
        output: Folder for the report; None is the run's own.
        num_data: The diagnoses take the first so many rows of the evaluation split.
        seed: Seed of their draws.
        data_dir: Where the data are now.
        device: Where to compute; None is the CPU.
        progress: Whether to show a bar when it takes more than two seconds.

    Returns:
        The checklist and the files; `print` shows the checklist.

    Raises:
        ConfigError: no finished run there, a damaged one, or too few rows.

    References:
        Gelman et al. (2020), Bayesian workflow, arXiv:2011.01808.

    Example:
        >>> write_report("runs/none")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/none holds no run: there is no config.toml
    """
    if num_data < 2:
        raise ConfigError(f"num_data is {num_data}: a diagnosis takes at least 2 rows")
    run, place = Folder(folder), Path(folder if output is None else output)
    experiment = load_run(folder, data_dir=data_dir, device=device)
    if not run.finished:
        raise ConfigError(
            f"{folder} was not evaluated: ppl-vae fit {run.config} --output {folder} goes on"
        )
    found = (
        _read(run.metrics, run.read_metrics),
        _read(run.evidence, lambda: Evidence.load(run.evidence)),
    )
    subject = Subject(run, experiment, *found, num_data, seed)
    findings = Findings(subject, progress=progress)
    checks = checklist(findings)
    groups = {
        group: [_panel(findings, *each) for each in panels.items()]
        for group, panels in PANELS.items()
    }
    files = [place / f"report.{suffix}" for suffix in ("html", "md", "nc")]
    report = Report(checks, files)
    _write(report, groups, subject)
    _write_tree(files[2], findings, checks)
    return report


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """What a file of the run holds."""
    try:
        return read()
    except (OSError, ValueError, BadZipFile) as error:
        again = f"remove it, and ppl-vae fit {path.with_name('config.toml')} --output {path.parent} evaluates again"
        raise ConfigError(f"{path} cannot be read ({one_line(error)}): {again}") from error


def _panel(findings: Findings, title: str, make: Any) -> Panel:
    """The panel, or one that says why there is none."""
    found = attempt(lambda: make(findings))
    if isinstance(found, Exception):
        said = " ".join(str(found).split()).rstrip(".")
        why = (
            f"Not for this run: {said}."
            if isinstance(found, NotApplicable)
            else f"Failed: {_name(found)}: {said}."
        )
        found = Panel(problem=why)
    return found.entitled(title)


def _name(error: Exception) -> str:
    return type(error).__name__


def _write(report: Report, groups: dict[str, list[Panel]], subject: Subject) -> None:
    """Both texts, and the pictures of the second."""
    page, text = report.files[:2]
    pictures = page.with_suffix("")
    for panel in (panel for panels in groups.values() for panel in panels):
        for picture in _pictures(panel):
            write_whole(
                pictures / f"{picture.name}.png", partial(Path.write_bytes, data=picture.png)
            )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppl_vae.report"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": _plain, "number": number, "headline": headline}
    environment.tests |= {"picture": lambda cell: isinstance(cell, Picture)}
    known = {"report": report, "groups": groups, "subject": subject, "docs": _docs(page.parent)}
    for file in (page, text):
        written = environment.get_template(f"{file.name}.jinja").render(
            known, pictures=pictures.name
        )
        write_whole(file, partial(Path.write_text, data=written, encoding="utf-8"))


def _pictures(panel: Panel) -> Iterator[Picture]:
    """Those of a panel, and those in its tables."""
    yield from panel.pictures
    for table in panel.tables:
        yield from (cell for row in table.rows for cell in row if isinstance(cell, Picture))


def _docs(folder: Path) -> str:
    """The way to the documentation from a folder inside a checkout; "" elsewhere, where there is
    nothing to link to.
    """
    inside = folder.resolve().is_relative_to(ROOT) and (ROOT / "docs").is_dir()
    return "../" * len(folder.resolve().relative_to(ROOT).parts) if inside else ""


def _plain(text: object) -> str:
    """Text that Markdown takes as it is, on one line."""
    return ESCAPED.sub(r"\\\1", " ".join(str(text).split()))


def _write_tree(path: Path, findings: Findings, checks: Sequence[Check]) -> None:
    """All findings and the checklist."""
    tree = findings_tree(findings)
    tree["verdicts"] = _verdicts(checks)
    numbers = {
        node.path: [name for name, each in node.data_vars.items() if each.dtype.kind == "f"]
        for node in tree.leaves
    }
    packed = {group: {name: {"zlib": True} for name in names} for group, names in numbers.items()}
    write_whole(path, lambda p: tree.to_netcdf(p, engine="h5netcdf", encoding=packed))


def _verdicts(checks: Sequence[Check]) -> "xr.DataTree":
    import xarray as xr

    columns = {
        name: [getattr(check, name) for check in checks]
        for name in ("verdict", "value", "number", "says", "rule")
    }
    variables = {name: ("check", values) for name, values in columns.items()}
    return xr.DataTree(xr.Dataset(variables, {"check": [check.title for check in checks]}))
