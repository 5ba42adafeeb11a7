"""Models that observe a function of x in its place."""

from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.programs.modules import arguments
from ppl_vae.programs.observed.comparison import (
    FirstRows,
    first_difference,
    fits,
    marked_entries,
)
from ppl_vae.programs.particles import Program

__all__ = ["functions_of_x", "require_x_itself"]


def require_x_itself(model: Program, data: Dataset) -> None:
    """Raise where the model observes only a function of x, so that its draws are not of x.

    Args:
        model: A model in the library's form.
        data: Its rows.

    Raises:
        ValueError: no site observes entries of x, and some observe as many values as x has.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> require_x_itself(bed.model, Dataset(bed.x))
    """
    if found := functions_of_x(model, arguments(data)):
        raise ValueError(
            f"{found}: observe x itself (its logarithm is normal where x is LogNormal), or "
            "transform the data set before"
        )


def functions_of_x(model: Program, args: tuple[Tensor, ...]) -> str:
    """Where a model observes another value than x, in words; "" where sites observe x.

    Args:
        model: A model in the library's form.
        args: Its arguments, x first.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> functions_of_x(bed.model, (bed.x,))
        ''
    """
    rows = FirstRows.of(model, args)
    x = rows.args[0]
    fitting = [site for site in rows.sites if fits(site, rows.every)]
    differences = {site["name"]: first_difference(site, x, rows.every) for site in fitting}
    if not differences or not all(differences.values()):
        return ""
    if marked_entries(model, rows).keys() - differences.keys():
        return ""
    return next(iter(differences.values()))
