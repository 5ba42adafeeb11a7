"""A Pyro model and guide as they were written, ready for every function here."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ppl_vae.data import Dataset, as_dataset
from ppl_vae.programs.forms.adapted import AdaptedProgram, with_form
from ppl_vae.programs.forms.detection import adapted
from ppl_vae.programs.forms.private_store import PrivateStore
from ppl_vae.programs.modules import arguments as arguments_of
from ppl_vae.programs.modules import evaluating, place, require_programs
from ppl_vae.programs.particles import Program, run
from ppl_vae.runtime.seeding import seeded
from ppl_vae.runtime.text import echoed

__all__ = ["from_pyro"]

logger = logging.getLogger(__name__)


def from_pyro(
    model: Program,
    guide: Program,
    data: Dataset | Any,
    *,
    data_plate: str | None = None,
    arguments: Callable[..., Any] | None = None,
) -> tuple[Program, Program]:
    """Model and guide of a Pyro program, trained or not, as every function here takes them.

    Functions here do the same by themselves; this one is for what cannot be guessed. Parameters
    that Pyro's SVI trained are kept: those of modules stay where they are, and those of
    `pyro.param` are copied out of Pyro's store, so that clearing it or training another program
    does not change them.

    Args:
        model: Any Pyro model with a plate over the rows.
        guide: Any Pyro guide with the same latent sites.
        data: The rows that it is for, or some of them; all of them where the guide has parameters
            for each row.
        data_plate: Name of the plate over the rows; None is the one that observed sites share.
        arguments: The program's arguments as a function of the rows, (x, covariates, further
            arguments): a tensor, a tuple, or a dict of keywords. None gives x, covariates, and
            `Dataset(args=...)` by name.

    Returns:
        The model and the guide.

    Raises:
        ValueError: several plates may be the one over the rows; a program fails on these rows.

    Example:
        >>> import pyro, torch
        >>> import pyro.distributions as dist
        >>> def model(words):  # (words, documents)
        ...     rate = pyro.param("rate", torch.tensor(2.0))
        ...     with pyro.plate("words", len(words), dim=-2):
        ...         with pyro.plate("documents", words.shape[1], dim=-1):
        ...             pyro.sample("count", dist.Poisson(rate), obs=words)
        >>> rows = Dataset(torch.ones(5, 3))  # (documents, words)
        >>> pair = from_pyro(model, lambda words: None, rows, arguments=lambda x: x.T)
        >>> from ppl_vae.importance import log_weights
        >>> log_weights(*pair, rows).shape
        torch.Size([1, 5])
    """
    require_programs(model, guide)
    data = place(as_dataset(data), model, guide)
    if arguments is not None:
        if not callable(arguments):
            raise TypeError(
                f"arguments is {echoed(arguments)}; it must be a function of the rows that returns "
                "the arguments of both programs"
            )
        model, guide = (with_form(each, call=_call(arguments)) for each in (model, guide))
    args = arguments_of(data)

    def run_once() -> None:
        with evaluating(model, guide), seeded(0):
            run(guide, *args)
            run(model, *args)

    store = PrivateStore(run_once)
    if store.names:
        model, guide = (with_form(each, store=store) for each in (model, guide))
    model, guide = adapted(model, guide, data, data_plate=data_plate)
    for name, program in (("model", model), ("guide", guide)):
        if isinstance(program, AdaptedProgram):
            logger.info("%s: %s", name, program.form)
    return model, guide


def _call(arguments: Callable[..., Any]) -> Callable[..., Any]:
    """The positional arguments and keywords that a function of the rows makes."""

    def call(*rows: Tensor) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        found = arguments(*rows)
        if isinstance(found, Mapping):
            return (), found
        return (tuple(found) if isinstance(found, tuple | list) else (found,)), {}

    return call
