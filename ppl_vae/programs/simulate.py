"""Data simulated from a model, beside the latents that they came from: one exact draw from each p(z
given x).
"""

from pyro import poutine
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.model import Model
from ppl_vae.programs.modules import arguments, evaluating
from ppl_vae.programs.plates import rows_first
from ppl_vae.programs.traces import Program, is_local, sample_sites
from ppl_vae.programs.validation import require_x_itself
from ppl_vae.runtime.seeding import seeded

__all__ = ["simulate"]


def simulate(
    model: Program,
    data: Dataset | None = None,
    *,
    num_data: int = 100,
    context: Tensor | None = None,
    seed: int | None = 0,
) -> tuple[Dataset, dict[str, Tensor]]:
    """(z, x) ~ p(z) p(x given z): data and the latents that they were made with.

    Args:
        model: `Model`, or any Pyro model with a plate "data" at dim -1.
        data: Data whose like are simulated: as many, with the same covariates and holes. A program
            of one's own needs them; a `Model` can do without.
        num_data: Number of data where none are given.
        context: Covariates where no data are given, (N, C).
        seed: Seed of the draws; None draws from torch's global stream.

    Returns:
        The data, and their latents by site, each (N, *plates, *event).

    Raises:
        ValueError: a program of one's own without data; not exactly one observed site that holds
            the data.

    Example:
        >>> from ppl_vae import beds
        >>> data, latents = simulate(beds.linear_gaussian().model, Dataset([[0.0, float("nan"), 0.0, 0.0, 0.0]] * 3))
        >>> data.mask[0].tolist(), latents["z"].shape
        ([True, False, True, True, True], torch.Size([3, 2]))
    """
    with evaluating(model), seeded(seed):
        return _generate(model, num_data, context) if data is None else _imitate(model, data)


def _generate(
    model: Program, num_data: int, context: Tensor | None
) -> tuple[Dataset, dict[str, Tensor]]:
    """Data from a `Model`, and their z."""
    if not isinstance(model, Model):
        raise ValueError("a program of one's own needs data whose like are simulated: give it data")
    trace = poutine.trace(model).get_trace(None, context, num_data=num_data)
    sites = {site["name"]: site["value"] for site in sample_sites(trace)}
    x = sites.pop("x")
    return Dataset(x, context=context, dtype=x.dtype), sites


def _imitate(model: Program, data: Dataset) -> tuple[Dataset, dict[str, Tensor]]:
    """Data like the given ones, and their latents; missing where those are."""
    require_x_itself(model, data.x, data.context)
    trace = poutine.trace(poutine.uncondition(model)).get_trace(*arguments(data.x, data.context))
    latents, observed = {}, []
    for site in sample_sites(trace):
        if not site["infer"].get("was_observed"):
            latents[site["name"]] = (
                rows_first(site["value"], site, num_lead=0) if is_local(site) else site["value"]
            )
        elif not site["infer"].get("_deterministic"):
            observed.append(site)
    if len(observed) != 1 or observed[0]["value"].numel() != data.x.numel():
        found = ", ".join(
            f"{site['name']!r} of shape {tuple(site['value'].shape)}" for site in observed
        )
        raise ValueError(
            f"data of shape {tuple(data.x.shape)} are simulated from a model with one observed "
            "site of as many values; "
            f"found {found}"
        )
    drawn = rows_first(observed[0]["value"], observed[0], num_lead=0)
    x = drawn.to(data.x.dtype).reshape(data.x.shape).masked_fill(data.x.isnan(), float("nan"))
    return Dataset(x, context=data.context, dtype=x.dtype), latents
