"""TOML -> run -> results -> report; the only place that knows configuration files."""

from ppl_vae.experiment.build import Experiment, build
from ppl_vae.experiment.config import Config, ConfigError, differences, read_config, to_toml
from ppl_vae.experiment.demo import demo_config
from ppl_vae.experiment.estimators import Comparison, read_comparison, write_comparison
from ppl_vae.experiment.folder import Folder, write_json
from ppl_vae.experiment.listing import describe_data
from ppl_vae.experiment.report import reading, table
from ppl_vae.experiment.run import evaluate_run, load_run, run_experiment
from ppl_vae.experiment.samples import write_samples

__all__ = [
    "Comparison",
    "Config",
    "ConfigError",
    "Experiment",
    "Folder",
    "build",
    "demo_config",
    "describe_data",
    "differences",
    "evaluate_run",
    "load_run",
    "read_comparison",
    "read_config",
    "reading",
    "run_experiment",
    "table",
    "to_toml",
    "write_comparison",
    "write_json",
    "write_samples",
]
