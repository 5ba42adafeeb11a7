"""The command line, a thin layer over experiment/ and report/."""

from ppl_vae.cli import coding_commands, row_commands, study_commands, task_commands
from ppl_vae.cli.commands import app

__all__ = ["app", "coding_commands", "row_commands", "study_commands", "task_commands"]
