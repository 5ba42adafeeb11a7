"""The report on a trained run: one HTML page, the same as Markdown, and a tree of all numbers."""

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jinja2
import xarray as xr

from ppl_vae.evidence import Evidence
from ppl_vae.evidence.fingerprints import same_rows
from ppl_vae.experiment.config import ConfigError
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Estimates
from ppl_vae.experiment.result_table import headline
from ppl_vae.experiment.results import measure, provenance
from ppl_vae.experiment.run import load_experiment, load_run
from ppl_vae.experiment.saved.card import CARD, write_verdicts
from ppl_vae.experiment.saved.run import SavedRun
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.programs.inference import Inference
from ppl_vae.report.answers import Answer, answers
from ppl_vae.report.contents import DIAGNOSES
from ppl_vae.report.diagnoses.baselines import AGAINST
from ppl_vae.report.diagnosis import Diagnosis, Findings, Subject
from ppl_vae.report.elements import Panel, Picture
from ppl_vae.report.rules import VERDICTS, WORST_FIRST, Check
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.display import Shown
from ppl_vae.runtime.files import is_writable, require_writable, write_tree, write_whole
from ppl_vae.runtime.progress import progress_bar
from ppl_vae.runtime.text import as_markdown, echoed
from ppl_vae.training import FitResult

__all__ = ["Report", "write_report"]

ROOT = Path(__file__).resolve().parents[2]  # of a checkout, with docs/ in it


@dataclass(frozen=True)
class Report(Shown):
    """The checklist of a run, and the files of its report; `print` shows the checklist.

    Args:
        checks: The verdicts: fails first, then what to look at, passes, and what was skipped.
        files: report.html, report.md and report.nc, in this order.
        answers: The first screen: log p(x), encoder and model, a sentence each.

    Example:
        >>> check = Check("Bits", "pass", "They come true.", "p = 0.4", 0.4, "", "", "")
        >>> print(Report([check], []))
        pass     Bits: They come true. (p = 0.4)
        1 pass, 0 look, 0 fail, 0 skipped
    """

    checks: Sequence[Check]
    files: Sequence[Path]
    answers: Sequence[Answer] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of checks with each verdict."""
        verdicts = [check.verdict for check in self.checks]
        return {verdict: verdicts.count(verdict) for verdict in VERDICTS}

    def figures(self) -> dict[str, Any]:
        """The answers and the checklist as plain values."""
        return {
            "answers": [vars(answer) for answer in self.answers],
            "checks": [vars(check) for check in self.checks],
            "counts": self.counts,
        }

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.items())
        answers = [*map(str, self.answers), ""] if self.answers else []
        return "\n".join([*answers, *map(str, self.checks), counts])


def write_report(
    run: str | Path | TrainedRun | Sequence[Any],
    output: str | Path | None = None,
    *,
    num_data: int = 300,
    seed: int = 0,
    diagnoses: Sequence[Diagnosis] = DIAGNOSES,
    against: str | Path | None = None,
    progress: bool = True,
    **place: str | None,
) -> Report:
    """Diagnose a trained run and write the report: verdicts first, then the reasons.

    report.html is a single page with all pictures, which needs no network; report.md is the same
    as text, with pictures in report/; report.nc holds all numbers for ArviZ
    (`xarray.open_datatree`). Nothing is refitted. A panel that fails shows the error, and the other
    panels are still written.

    Args:
        run: The folder of a finished run, a run of `load_run`, a fitted estimator of
            `ppl_vae.sklearn`, or (model, guide, data, result) of a model made in Python; log p(x)
            is then estimated by importance sampling for test rows, or else for validation rows, or
            else for those of training.
        output: Folder for the report; None is the run's own.
        num_data: Most diagnoses use the first `num_data` rows of the evaluation split.
        seed: Seed of their draws.
        diagnoses: The diagnoses on the page, in order: `[*DIAGNOSES, own]` adds one.
        against: The folder of another run with the same evaluated rows, for a paired comparison.
        progress: Whether to show a bar after two seconds.
        place: As in `load_run`: `data_dir`, the folder of the data, and `device`, where to compute.

    Returns:
        The checklist and the files; `print` shows the checklist.

    Raises:
        ConfigError: no finished run there, a damaged one, or too few rows.

    References:
        Gelman et al. (2020), Bayesian workflow, arXiv:2011.01808.

    Example:
        >>> write_report("runs/none")
        Traceback (most recent call last):
        ppl_vae.experiment.config.ConfigError: runs/none holds no run: there is no config.toml ...
    """
    if num_data < 2:
        raise ConfigError(f"num_data is {num_data}: a diagnosis takes at least 2 rows")
    subject = replace(_subject(run, progress, place), num_data=num_data, seed=seed)
    folder = None if subject.folder is None else subject.folder.path
    place_of_report = folder if output is None else Path(output)
    if place_of_report is None:
        raise ConfigError("a report on a run in memory needs a place: give output=, a folder")
    require_writable(place_of_report / "report.html")
    if against is not None:
        diagnoses = [*diagnoses, AGAINST]
        subject = replace(subject, against={str(against): _evidence_of(Folder(against))})
    findings = Findings(subject, diagnoses)
    computed = [each.name for each in findings.diagnoses if each.compute is not None]
    with progress_bar(len(computed), "report", unit="panels", progress=progress) as bar:
        for name in computed:
            bar.set_postfix_str(name, refresh=False)
            findings.find(name)
            bar.update()
    files = [place_of_report / f"report.{suffix}" for suffix in ("html", "md", "nc")]
    checks = findings.checklist()
    report = Report(checks, files, answers(checks, subject.metrics))
    _write(report, findings.panels(), subject)
    _write_tree(report, findings)
    if folder is not None and is_writable(folder / CARD):
        write_verdicts(folder, list(map(str, [*report.answers, *report.checks])))
    return report


def _subject(run: Any, progress: bool, place: dict[str, Any]) -> Subject:
    """The run with its estimates, which are read or computed."""
    if isinstance(run, str | Path):
        if Folder(run).config.is_file():
            return _finished(Folder(run), place)
        run = load_run(run, **place)
    elif not isinstance(run, TrainedRun):
        model, guide, data, *fitted = _parts(run)
        run = SavedRun.of(*Inference(model, guide, data).programs, data, *fitted)
    started = time.perf_counter()
    evidence, estimates = measure(run, run.held_out, progress=progress)
    result = getattr(run, "result", None) or FitResult()
    metrics = provenance(estimates, run, result, time.perf_counter() - started)
    path = getattr(run, "folder", None)
    return Subject(None if path is None else Folder(path), run, metrics, evidence)


def _parts(run: Any) -> Sequence[Any]:
    """Model, guide, data and result, as they are given or of a fitted estimator."""
    if hasattr(run, "result_"):
        return run.model_, run.guide_, run.data_, run.result_
    if not isinstance(run, Sequence) or len(run) not in (3, 4):
        raise ConfigError(
            f"run is {echoed(run)}: give the folder of a run, a run of load_run, a fitted "
            "estimator, or (model, guide, data, result)"
        )
    return run


def _finished(folder: Folder, place: dict[str, Any]) -> Subject:
    """The run of a configuration, with the estimates in its folder."""
    experiment = load_experiment(folder.path, **place)
    if not folder.finished:
        raise ConfigError(
            f"{folder.path} was not evaluated: ppl-vae fit {folder.config} --output {folder.path} "
            "continues it"
        )
    metrics = _read(folder.metrics, folder.read_metrics)
    return _refined(Subject(folder, experiment, metrics, _evidence_of(folder)))


def _refined(subject: Subject) -> Subject:
    """With the estimates of the same rows by refined guides instead, if there are any."""
    assert subject.folder is not None
    where = subject.metrics.evaluation["split"], subject.metrics.num_data
    found = {path: _read(path, partial(Estimates.read, path)) for path in subject.evaluations}
    refined = {
        path: _per_row(path)
        for path, each in found.items()
        if each.num_refined and (each.evaluation["split"], each.num_data) == where
    }
    rows = subject.evidence.digests
    same = [path for path, each in refined.items() if same_rows(each.digests, rows)]
    if not same:
        return subject
    judged = min(same, key=lambda path: found[path].share_bound)
    metrics = replace(subject.metrics, **found[judged])
    return replace(subject, metrics=metrics, evidence=refined[judged], judged=judged)


def _per_row(path: Path) -> Evidence:
    """log p(x) per row of an evaluation, whose means are in `path`."""
    per_row = path.with_suffix(".npz")
    if not per_row.exists():
        run = path.parent.parent
        raise ConfigError(
            f"{per_row} is missing, which {path.name} was computed from: bring it back, or remove "
            f"{path.name} and evaluate again by ppl-vae evaluate {run} --refine"
        )
    return _read(per_row, partial(Evidence.load, per_row))


def _evidence_of(folder: Folder) -> Evidence:
    """log p(x) per row, as the run in a folder estimated it."""
    if not folder.path.is_dir():
        raise ConfigError(f"{folder.path} holds no run: there is no such folder")
    return _read(folder.evidence, lambda: Evidence.load(folder.evidence))


def _read[T](path: Path, read: Callable[[], T]) -> T:
    """The content of one of the run's files."""
    try:
        return read()
    except (OSError, TypeError, ValueError, BadZipFile) as error:
        command = "ppl-vae evaluate"
        if path.with_name("config.toml").is_file():
            command = f"ppl-vae fit {path.with_name('config.toml')} --output {path.parent}"
        raise ConfigError(
            f"{path} cannot be read ({one_line(error)}): remove it, and {command} evaluates again"
        ) from error


def _write(report: Report, groups: dict[str, list[Panel]], subject: Subject) -> None:
    """Both texts, and the pictures of the second."""
    page, text = report.files[:2]
    pictures = page.with_suffix("")
    for picture in _pictures(groups):
        write_whole(pictures / f"{picture.name}.png", partial(Path.write_bytes, data=picture.png))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ppl_vae.report"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"plain": as_markdown, "headline": headline}
    environment.tests |= {"picture": lambda cell: isinstance(cell, Picture)}
    known = {
        "report": report,
        "groups": groups,
        "subject": subject,
        "worst_first": WORST_FIRST,
        "link": _link_from(page.parent),
        "written": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "version": importlib.metadata.version("ppl_vae"),
    }
    for file in (page, text):
        template = environment.get_template(f"{file.name}.jinja")
        written = template.render(known, pictures=pictures.name)
        write_whole(file, partial(Path.write_text, data=written, encoding="utf-8"))


def _pictures(groups: dict[str, list[Panel]]) -> Iterator[Picture]:
    """Those of the panels, and those in their tables."""
    for panel in (panel for panels in groups.values() for panel in panels):
        yield from panel.pictures
        for table in panel.tables:
            yield from (cell for row in table.rows for cell in row if isinstance(cell, Picture))


def _link_from(folder: Path) -> Callable[[str], str]:
    """The address of a page of the documentation, by its name.

    It is on the site that the package names, or else in the checkout that the folder lies in; ""
    where there is neither.
    """
    folder = folder.resolve()
    site = _site()
    inside = folder.is_relative_to(ROOT) and (ROOT / "docs").is_dir()

    def link(page: str) -> str:
        if page and site:
            return f"{site}/{page.replace('.md', '.html')}"
        if page and inside:
            return f"{'../' * len(folder.relative_to(ROOT).parts)}docs/{page}"
        return ""

    return link


def _site() -> str:
    """The address of the documentation in the package's metadata; "" if it has none."""
    addresses = importlib.metadata.metadata("ppl_vae").get_all("Project-URL") or []
    known = dict(address.split(", ", 1) for address in addresses)
    return known.get("Documentation", "").rstrip("/")


def _write_tree(report: Report, findings: Findings) -> None:
    """All findings and the checklist."""
    rows = findings.subject.rows
    attrs = {"inference_library": "ppl_vae", "data": rows.name, "seed": findings.subject.seed}
    columns = {
        name: ("check", [getattr(check, name) for check in report.checks])
        for name in ("verdict", "value", "number", "says", "rule")
    }
    verdicts = xr.Dataset(columns, {"check": [check.title for check in report.checks]})
    groups = {"/": xr.Dataset(attrs=attrs), **findings.tree(), "verdicts": verdicts}
    tree = xr.DataTree.from_dict(groups)
    packed = {
        node.path: {
            name: {"zlib": True} for name, each in node.data_vars.items() if each.dtype.kind == "f"
        }
        for node in tree.leaves
    }
    write_tree(report.files[2], tree, encoding=packed)
