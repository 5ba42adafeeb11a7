"""Data sets described for a reader."""

from typing import Any

from ppl_vae.data import available
from ppl_vae.experiment.assemble import load_data
from ppl_vae.experiment.config import read_config

__all__ = ["describe_data"]


def describe_data(name: str, *, data_dir: str | None = None) -> dict[str, Any]:
    """The facts of a named data set or a file, in words.

    Args:
        name: As in `load`.
        data_dir: Where to look first.

    Raises:
        ConfigError: it cannot be had.

    Example:
        >>> describe_data("digits")["event shape"]
        '8 x 8'
    """
    changes = [("data.name", name)] + ([("data.data_dir", data_dir)] if data_dir else [])
    data = load_data(read_config(changes=changes).data)
    facts = data.describe()
    return {
        "name": facts["name"],
        "about": available().get(name, "a file"),
        "size": f"{facts['num_data']:,} data",
        "event shape": " x ".join(map(str, facts["event_shape"])),
        "splits": ", ".join(f"{split} {size:,}" for split, size in facts["splits"].items()),
        "values": "{:g} to {:g}".format(*facts["range"]),
        "missing": f"{100 * facts['missing']:.1f} %",
        "covariates": ", ".join(map(str, facts["context"])) or "none",
        "labels": f"{facts['labels']} classes" if facts["labels"] else "none",
    }
