"""The particle plate: K runs of a program at once, sharing what lies outside the data plate."""

import re
from collections.abc import Callable
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor

__all__ = ["Particles", "run"]

Program = Callable[..., Any]
Site = Any  # Pyro's message: a dict whose keys depend on its type
PLATE = "data"
PARTICLES = "num_particles_vectorized"  # Pyro's own name for it
MOST_PLATES = 8

SUBSAMPLES = (
    "a plate that subsamples itself takes all rows here; leave its subsample_size out, or give the "
    "argument that sets it as None"
)
INDEX = (
    "x of whole numbers arrives as floats: write x.long() where the program takes it as an index"
)
REMEDIES = {
    **dict.fromkeys(("for index", "as indices", "to index tensor", "'indices'"), INDEX),
    "subsample_size does not match": SUBSAMPLES,
    "collide at dim": (
        f'a plate lies where the particles go: write pyro.plate("{PLATE}", len(x), dim=-1), and '
        "set max_plate_nesting where there are plates besides it"
    ),
    f"inside plate('{PARTICLES}')": (
        "the site has an axis of its own where the particles go: keep rows as the last axis before "
        "the event, and declare any other axis by .to_event(n) or a plate"
    ),
    f"inside plate('{PLATE}')": (
        f'x has another number of rows than the plate "{PLATE}": write pyro.plate("{PLATE}", '
        "len(x), dim=-1), with subsample_size=len(x) where it is to have a fixed size; a guide "
        "with parameters for each row takes all rows at once, batch_size=len(x)"
    ),
}


class NestedPlateError(ValueError):
    """A plate lies where the particles go, or to the left of them."""


class Particles(pyro.plate):
    """A plate of K particles for local sites; a site outside the data plate is drawn once.

    A global latent W with a particle axis of its own, (K, 1, D), would broadcast against rows or
    features of the local sites, (K, B, D) @ (K, 1, D, J), and give log-probabilities of the wrong
    shape.

    Args:
        num_particles: Number of particles K.
        max_plate_nesting: Depth of the plates inside it, "data" included.

    Example:
        >>> def program():
        ...     mean = pyro.sample("mean", pyro.distributions.Normal(0.0, 1.0))
        ...     with pyro.plate("data", 4, dim=-1):
        ...         z = pyro.sample("z", pyro.distributions.Normal(mean, 1.0))
        ...     return mean.shape, z.shape
        >>> Particles(3, 1)(program)()
        (torch.Size([]), torch.Size([3, 4]))
    """

    def __init__(self, num_particles: int, max_plate_nesting: int) -> None:
        self.max_plate_nesting = max_plate_nesting
        super().__init__(PARTICLES, num_particles, dim=-1 - max_plate_nesting)

    def _process_message(self, msg: Any) -> None:
        if any(frame.name == PLATE for frame in msg["cond_indep_stack"]):
            super()._process_message(msg)


def run(program: Program, *args: Any, **kwargs: Any) -> poutine.Trace:
    """The trace of one run; errors about plates and parameters are preceded by the remedy.

    Raises:
        ValueError: Pyro refuses the plates; a parameter for each row does not fit these rows.

    Example:
        >>> list(run(lambda: pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))).nodes)
        ['_INPUT', 'z', '_RETURN']
    """
    handler = poutine.trace(program)
    try:
        return handler.get_trace(*args, **kwargs)
    except (ValueError, RuntimeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        remedy = next((remedy for words, remedy in REMEDIES.items() if words in reason), None)
        remedy = remedy or _remedy_of_parameters(handler.trace, reason, args)
        if remedy is None:
            raise
        kind = NestedPlateError if "collide at dim" in reason else ValueError
        raise kind(f"{remedy} ({reason})") from None


def _remedy_of_parameters(trace: Any, reason: str, args: tuple[Any, ...]) -> str | None:
    """What to do where a parameter with an entry for each row does not fit these rows, or None."""
    if ("size" not in reason and "shape" not in reason) or SUBSAMPLES in reason:
        return None
    num_rows = len(args[0]) if args and isinstance(args[0], Tensor) and args[0].dim() else 0
    sizes = {int(number) for number in re.findall(r"\d+", reason)} - {0, 1, num_rows}
    for name, site in trace.nodes.items():
        if site["type"] != "param" or not sizes & set(site["value"].shape[:1]):
            continue
        drawn = [each for each, node in trace.nodes.items() if node["type"] == "sample"]
        after = f" after site {drawn[-1]!r}" if drawn else ""
        return (
            f"parameter {name!r} of shape {tuple(site['value'].shape)} does not fit {num_rows} rows"
            f"{after}: with an entry for each row it takes all rows at once, by chunk_size of at "
            "least particles times rows and batch_size of all rows, or is an array in Dataset(x, "
            "args={...})"
        )
    return None


def with_any_nesting(function: Callable[[int], Any], max_plate_nesting: int | None) -> Any:
    """function(max_plate_nesting); None finds the smallest depth that clears all plates."""
    if max_plate_nesting is not None:
        return function(max_plate_nesting)
    failed: RuntimeError | ValueError | None = None
    for depth in range(1, MOST_PLATES):
        try:
            return function(depth)
        except NestedPlateError:
            continue
        except (RuntimeError, ValueError) as error:
            # A plate without a dim, left of the particles, may fit no shape: try one depth more.
            if failed is not None:
                raise failed from None
            failed = error
    return function(MOST_PLATES)


def require_outermost(trace: poutine.Trace, max_plate_nesting: int) -> None:
    """Raise NestedPlateError where Pyro put a plate without a dim to the left of the particles."""
    nodes: Any = trace.nodes
    frames = (frame for site in nodes.values() for frame in site.get("cond_indep_stack", ()))
    for frame in frames:
        if frame.vectorized and frame.dim < -1 - max_plate_nesting:
            raise NestedPlateError(
                f"plate {frame.name!r} lies at dim {frame.dim}, to the left of the particles: give "
                f"it a dim, or set max_plate_nesting={-frame.dim}"
            )
