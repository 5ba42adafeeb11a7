"""What a report is made of: a diagnosis, and the findings of several on one run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ppl_vae.data import Dataset
from ppl_vae.evidence import Evidence
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.metrics import Metrics
from ppl_vae.experiment.saved.rows import digest_of_rows
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.report.attempts import NotApplicable, attempt, reason
from ppl_vae.report.elements import Panel
from ppl_vae.report.rules import WORST_FIRST, Check, Rule

__all__ = ["Diagnosis", "Findings", "Subject"]

NUM_WORST = 10
IN_PYTHON = {  # what stands for options of `ppl-vae evaluate` where there is no run in a folder
    "--refine": "`refine`",
    "--refine --num-particles": "`num_particles` of `log_evidence`",
    "--num-particles": "`num_particles` of `log_evidence`",
    "--split test": "`data.split(test=0.2)` before training",
}


@dataclass(frozen=True)
class Subject:
    """A finished run, and how much of it is diagnosed.

    Args:
        folder: Its folder; None for a run in memory.
        run: From `load_run`, or made in Python.
        metrics: Its estimates, and how they were computed.
        evidence: log p(x) of the run, per row.
        num_data: Most diagnoses use the first `num_data` rows of the evaluation split.
        seed: Seed of the draws.
        against: log p(x) of another run of the same rows, by its name.
        judged: The file of its estimates; None is the run's own.

    Example:
        >>> Subject.__dataclass_fields__["num_data"].default
        300
    """

    folder: Folder | None
    run: TrainedRun
    metrics: Metrics
    evidence: Evidence
    num_data: int = 300
    seed: int = 0
    against: Mapping[str, Evidence] = field(default_factory=dict)
    judged: Path | None = None

    @property
    def name(self) -> str:
        """The name of the folder, or of the data."""
        return self.run.rows.name if self.folder is None else self.folder.path.name

    @cached_property
    def digest(self) -> str:
        """A digest of x and the covariates of all rows."""
        return digest_of_rows(self.run.rows)

    @property
    def evaluations(self) -> list[Path]:
        """The files of evaluations other than the one that is judged."""
        if self.folder is None:
            return []
        files = [self.folder.metrics, *self.folder.evaluations]
        return [file for file in files if file != (self.judged or self.folder.metrics)]

    @cached_property
    def rows(self) -> Dataset:
        """The rows that are diagnosed: the first of the evaluation split."""
        return self._split[: self.num_data]

    @property
    def evaluated(self) -> Dataset:
        """The rows whose log p(x) was estimated."""
        return self._split[: len(self.evidence)]

    @property
    def worst(self) -> np.ndarray:
        """The evaluated rows with the largest k-hat, or standard error if k-hat is unknown."""
        k_hat = self.evidence.pareto_k
        worth = np.where(np.isnan(k_hat), self.evidence.mc_se, k_hat)
        return np.argsort(-np.nan_to_num(worth, neginf=-1e9), kind="stable")[:NUM_WORST]

    @property
    def least_likely(self) -> np.ndarray:
        """The evaluated rows with the smallest log p(x)."""
        return np.argsort(self.evidence.log_evidence, kind="stable")[:NUM_WORST]

    @property
    def _split(self) -> Dataset:
        return self.run.part(self.run.evaluation.split)


@dataclass(frozen=True)
class Diagnosis:
    """One question that a report asks of a run: what is computed, judged, shown and stored.

    All functions take the `Findings` of the run, and may raise `NotApplicable` with a reason.

    Args:
        name: `findings[name]` is what `compute` returns.
        title: Heading of its panel.
        section: Heading of the part of the page in which the panel stands.
        compute: Computes it, when a rule, a panel or the tree first asks for it.
        rules: Its lines in the checklist.
        panel: Its panel on the page; None, also as its result, is no panel.
        page: Where the documentation explains the panel.
        tree: Its groups of report.nc by name; None takes them from the `to_datatree` method of what
            was computed, if it has one.
        about: The question of the first screen that its rules help to answer, e.g. "Encoder".

    Example:
        >>> from ppl_vae.report import Measured
        >>> words = ("There are enough rows.", "There are few rows.", "There are too few rows.")
        >>> measure = lambda found: Measured(found["size"], f"{found['size']} rows")
        >>> rule = Rule("Size", measure, "Rows", 100, 10, words, better="more")
        >>> size = Diagnosis("size", compute=lambda found: len(found.subject.rows), rules=[rule])
        >>> size.rules[0].check({"size": 40}).verdict
        'look'
    """

    name: str
    title: str = ""
    section: str = ""
    compute: Callable[["Findings"], Any] | None = None
    rules: Sequence[Rule] = ()
    panel: Callable[["Findings"], Panel | None] | None = None
    page: str = ""
    tree: Callable[["Findings"], Mapping[str, xr.Dataset]] | None = None
    about: str = ""

    def titled_panel(self, findings: "Findings") -> Panel | None:
        """Its panel with heading and page, if it has one."""
        if self.panel is None:
            return None
        panel = self.panel(findings)
        return None if panel is None else panel.entitled(self.title, self.page)

    def groups(self, findings: "Findings") -> dict[str, xr.Dataset]:
        """Its groups of report.nc; a single group of the result's own tree gets its name."""
        if self.tree is not None:
            return dict(self.tree(findings))
        found = None if self.compute is None else findings[self.name]
        make: Callable[[], xr.DataTree] | None = getattr(found, "to_datatree", None)
        if make is None:
            return {}
        groups = {name: node.to_dataset() for name, node in make().children.items()}
        return {self.name: next(iter(groups.values()))} if len(groups) == 1 else groups


def in_python(remedy: str) -> str:
    """A remedy for a run in memory, which no command reads.

    Example:
        >>> in_python("Evaluate test rows (`ppl-vae evaluate RUN --split test`).")
        'Evaluate test rows (`data.split(test=0.2)` before training).'
    """
    for command, call in IN_PYTHON.items():
        remedy = remedy.replace(f"`ppl-vae evaluate RUN {command}`", call)
    return remedy


class Findings:
    """What the diagnoses of a run found, by name; each is computed once, when first asked for.

    Args:
        subject: The run.
        diagnoses: In the order of the page.

    Raises:
        ValueError: two diagnoses have the same name.

    Example:
        >>> Findings(None, [Diagnosis("seven", compute=lambda found: 7)])["seven"]
        7
    """

    def __init__(self, subject: Subject, diagnoses: Iterable[Diagnosis]) -> None:
        self.subject = subject
        self.diagnoses = tuple(diagnoses)
        self._found: dict[str, Any] = {}
        names = [each.name for each in self.diagnoses]
        if again := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two diagnoses are called {again[0]!r}: give one another name")

    def find(self, name: str) -> Any:
        """What a diagnosis computed, or its exception."""
        if name not in self._found:
            compute = {each.name: each.compute for each in self.diagnoses}.get(name)
            if compute is None:
                raise KeyError(f"no diagnosis computes {name!r}")
            self._found[name] = attempt(compute, self)
        return self._found[name]

    def __getitem__(self, name: str) -> Any:
        """What a diagnosis computed; one that failed raises its exception again."""
        found = self.find(name)
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def options(self) -> dict[str, Any]:
        """Keywords that most diagnoses take."""
        return {"seed": self.subject.seed, "progress": False}

    @property
    def programs(self) -> tuple[Any, Any]:
        """Model and guide."""
        return self.subject.run.model, self.subject.run.guide

    @property
    def pair(self) -> tuple[Model, Guide]:
        """Model and guide, if both are made of the library's parts."""
        model, guide = self.programs
        if not isinstance(model, Model):
            raise NotApplicable("the model is a Pyro program of its own, and no `Model`")
        if not isinstance(guide, Guide):
            raise NotApplicable("the guide is a Pyro program of its own, and no `Guide`")
        return model, guide

    def part(self, name: str) -> Any:
        """The model's prior or likelihood."""
        return getattr(self.pair[0], name)

    def checklist(self) -> list[Check]:
        """The line of each rule: those that fail, to look at, that pass, and that were skipped."""
        lines = [
            rule.check(self, each.title, each.page, each.about)
            for each in self.diagnoses
            for rule in each.rules
        ]
        if self.subject.folder is None:
            lines = [replace(line, remedy=in_python(line.remedy)) for line in lines]
        return sorted(lines, key=lambda line: WORST_FIRST.index(line.verdict))

    def panels(self) -> dict[str, list[Panel]]:
        """The panels by section; a panel that failed gives the reason."""
        sections: dict[str, list[Panel]] = {}
        for each in self.diagnoses:
            panel = attempt(each.titled_panel, self)
            if isinstance(panel, Exception):
                why = "Not for this run" if isinstance(panel, NotApplicable) else "Failed"
                panel = Panel(problem=f"{why}: {reason(panel)}.", title=each.title)
            if panel is not None:
                sections.setdefault(each.section, []).append(panel)
        return sections

    def tree(self) -> dict[str, xr.Dataset]:
        """The groups of all diagnoses; one that failed has an empty group that gives the reason."""
        groups: dict[str, xr.Dataset] = {}
        for each in self.diagnoses:
            found = attempt(each.groups, self)
            if not isinstance(found, Exception):
                groups |= found
            elif not isinstance(found, NotApplicable):
                groups[each.name] = xr.Dataset(attrs={"failed": reason(found)})
        return groups
