"""TOML -> run -> results; the only room that reads configuration files."""

from ppl_vae.experiment.assemble import Experiment, build
from ppl_vae.experiment.config import Config, ConfigError, differences, read_config, to_toml
from ppl_vae.experiment.demo import demo_config
from ppl_vae.experiment.folder import Folder
from ppl_vae.experiment.from_table import recipe_config
from ppl_vae.experiment.metrics import Estimates, Metrics
from ppl_vae.experiment.result_table import reading, table
from ppl_vae.experiment.rows.anomalies import FileAnomalies, calibration_rows, file_anomalies
from ppl_vae.experiment.rows.coded import FileSizes, compress_file, decompress_file
from ppl_vae.experiment.rows.contrasted import FileContrast, contrast_file
from ppl_vae.experiment.rows.denoised import DenoisedTable, denoise_file, noise_of
from ppl_vae.experiment.rows.imputed import ImputedTable, impute_file
from ppl_vae.experiment.rows.latents import write_latents
from ppl_vae.experiment.rows.samples import write_samples
from ppl_vae.experiment.rows.scores import figures_of, write_scores
from ppl_vae.experiment.rows.sources import describe_data
from ppl_vae.experiment.run import evaluate_run, load_experiment, load_run, run_experiment
from ppl_vae.experiment.saved.run import SavedRun, save_run
from ppl_vae.experiment.saved.trained import TrainedRun
from ppl_vae.experiment.studies.estimators import Comparison, read_comparison, write_comparison
from ppl_vae.experiment.studies.grid import Cell, Study, read_study
from ppl_vae.experiment.studies.plain_models import write_baselines
from ppl_vae.experiment.studies.run import run_study
from ppl_vae.experiment.studies.table import StudyResult, write_study

__all__ = [
    "Cell",
    "Comparison",
    "Config",
    "ConfigError",
    "DenoisedTable",
    "Estimates",
    "Experiment",
    "FileAnomalies",
    "FileContrast",
    "FileSizes",
    "Folder",
    "ImputedTable",
    "Metrics",
    "SavedRun",
    "Study",
    "StudyResult",
    "TrainedRun",
    "build",
    "calibration_rows",
    "compress_file",
    "contrast_file",
    "decompress_file",
    "demo_config",
    "denoise_file",
    "describe_data",
    "differences",
    "evaluate_run",
    "figures_of",
    "file_anomalies",
    "impute_file",
    "load_experiment",
    "load_run",
    "noise_of",
    "read_comparison",
    "read_config",
    "read_study",
    "reading",
    "recipe_config",
    "run_experiment",
    "run_study",
    "save_run",
    "table",
    "to_toml",
    "write_comparison",
    "write_latents",
    "write_samples",
    "write_scores",
    "write_baselines",
    "write_study",
]
