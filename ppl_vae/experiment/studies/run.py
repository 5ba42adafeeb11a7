"""A study: a grid over priors, likelihoods, posteriors, objectives and seeds, a run per cell."""

import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, cpu_count, delayed, effective_n_jobs  # type: ignore[import-untyped]
from tqdm.std import tqdm

from ppl_vae.experiment.config import Config
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.run import refuse_other_rows, run_experiment
from ppl_vae.experiment.studies.grid import Study, read_study
from ppl_vae.experiment.studies.table import StudyResult, read_results
from ppl_vae.runtime.checks import one_line
from ppl_vae.runtime.distributed import dead_workers_told
from ppl_vae.runtime.files import write_whole
from ppl_vae.runtime.locks import alone_in
from ppl_vae.runtime.progress import progress_bar

__all__ = ["run_study"]


def run_study(
    study: Study | str | Path,
    output: str | Path,
    *,
    n_jobs: int | None = None,
    progress: bool = True,
) -> StudyResult:
    """Run all unfinished cells, each in output/cells/NAME, and compare the models.

    An interrupted study resumes when it is called again. If a cell fails, this is reported, its
    traceback is in output/errors/NAME.txt, and the other cells continue. Runs use joblib: a backend
    chosen by `joblib.parallel_config` (Dask, Ray) spreads them over machines that share the folder.
    Threads cannot be used, since they would share torch's random stream.

    Args:
        study: From `read_study`, or the file.
        output: The folder.
        n_jobs: Number of cells run at once, -1 for one per core, each with its share of the cores;
            None is joblib's default.
        progress: Whether to show a bar over the cells.

    Returns:
        The numbers of the cells, the failures, and the comparisons: `print` it.

    Raises:
        ConfigError: the folder of a cell holds another run, or one on other rows.
        InUseError: another study runs in this folder.
        WorkerError: a worker process was killed.

    Example:
        >>> import tempfile
        >>> from ppl_vae.experiment import Cell, read_config
        >>> small = [("data.name", "digits"), ("data.binarize", "static")]
        >>> small += [("training.num_epochs", 0), ("evaluation.num_data", 20)]
        >>> small += [("evaluation.num_particles", 30)]
        >>> study = Study((Cell({"prior": "StandardNormal"}, read_config(changes=small)),))
        >>> run_study(study, tempfile.mkdtemp(), progress=False).table.index.tolist()
        ['StandardNormal']
    """
    study = study if isinstance(study, Study) else read_study(study)
    folders = study.folders(output)
    for cell in study.cells:
        if folders[cell.name].config.is_file():
            folders[cell.name].claim(cell.config)
    with alone_in(output):
        failed = _run_cells(study, folders, n_jobs, progress)
        for name in folders:
            _write_error(Path(output) / "errors" / f"{name}.txt", failed.get(name))
        return read_results(study, output, {name: error.reason for name, error in failed.items()})


def _run_cells(
    study: Study, folders: Mapping[str, Folder], n_jobs: int | None, progress: bool
) -> "dict[str, _Failure]":
    """Run the cells that are not finished; those that failed, by name."""
    waiting = [cell for cell in study.cells if not folders[cell.name].finished]
    refuse_other_rows(*(folder for folder in folders.values() if folder.finished))
    threads = _threads(min(effective_n_jobs(n_jobs), len(waiting)))
    tasks = (delayed(_run)(cell.config, folders[cell.name].path, threads) for cell in waiting)
    total = len(study.cells)
    done = total - len(waiting)
    with progress_bar(total, "study", unit="cells", done=done, progress=progress) as bar:
        with dead_workers_told("run fewer cells at once, and run it again to resume"):
            said = _Watched(bar, n_jobs=n_jobs, batch_size=1)(tasks)
    return {cell.name: error for cell, error in zip(waiting, said, strict=True) if error}


class _Watched(Parallel):
    """joblib's Parallel with a bar over complete tasks, for any backend."""

    def __init__(self, bar: tqdm, **options: Any) -> None:
        super().__init__(**options)
        self.bar, self.before = bar, bar.n

    def print_progress(self) -> None:
        """Called by joblib after each task."""
        self.bar.update(self.before + self.n_completed_tasks - self.bar.n)


@dataclass(frozen=True)
class _Failure:
    """Why a cell failed, in one line and in full; as text, since some errors cannot be pickled."""

    reason: str
    trace: str


def _run(config: Config, path: Path, threads: int | None) -> _Failure | None:
    """Run one cell in this process."""
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        run_experiment(config, path, progress=False)
    except Exception as error:
        return _Failure(one_line(f"{type(error).__name__}: {error}"), traceback.format_exc())
    return None


def _threads(jobs: int) -> int | None:
    """The share of the cores for each of several jobs; None for a single one."""
    return max(1, min(torch.get_num_threads(), cpu_count() // jobs)) if jobs > 1 else None


def _write_error(path: Path, failure: _Failure | None) -> None:
    if failure is None:
        path.unlink(missing_ok=True)
    else:
        write_whole(path, lambda p: p.write_text(failure.trace, encoding="utf-8"))
