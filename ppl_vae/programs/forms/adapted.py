"""A program that is run in its own form, and seen in the library's."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.forms.keys import ByPosition, RowKeys
from ppl_vae.programs.forms.layout import Layout
from ppl_vae.programs.forms.private_store import PrivateStore
from ppl_vae.programs.forms.relaid import relaid
from ppl_vae.programs.modules import module_of, reached
from ppl_vae.programs.particles import PLATE, SUBSAMPLES, Particles, Program, Site
from ppl_vae.programs.sites import is_deterministic, observed_shape

__all__ = ["Form", "in_form"]


@dataclass(frozen=True)
class Form:
    """How a program differs from the library's form.

    Args:
        plate: Name of its plate over the rows.
        is_moved: Whether that plate has another dim than -1, or no size.
        is_tiled: Whether it runs on K copies of the rows, because it takes no axis of particles.
        takes_scalars: Whether x of rows of one value is given to it as (B,), not (B, 1).
        known: The rows for which the program has parameters: it runs on all of them, and the rows
            in question are looked up.
        by_position: The parameter that it reads by the position of a row: it takes all at once.
        call: Makes its arguments and keywords of the rows: x, covariates, further tensors.
        store: Parameters of `pyro.param` that it has instead of those in Pyro's store.
        is_known: Whether the form was found out.

    Example:
        >>> Form("documents").is_tiled
        False
    """

    plate: str = PLATE
    is_moved: bool = False
    is_tiled: bool = False
    takes_scalars: bool = False
    known: "KnownRows | None" = field(default=None, compare=False, repr=False)
    by_position: ByPosition | None = field(default=None, compare=False, repr=False)
    call: Callable[..., tuple[tuple[Any, ...], Mapping[str, Any]]] | None = field(
        default=None, compare=False
    )
    store: PrivateStore | None = field(default=None, compare=False, repr=False)
    is_known: bool = field(default=False, compare=False, repr=False)


class KnownRows:
    """The rows for which a program has parameters, in their order.

    Args:
        args: Its arguments for all of them.
    """

    def __init__(self, *args: Tensor) -> None:
        self.args = args
        self.keys = RowKeys(*args)

    def __len__(self) -> int:
        return len(self.args[0])

    def positions(self, rows: tuple[Tensor, ...]) -> Tensor:
        """Where these rows are among them.

        Raises:
            ValueError: a row is not among them; it is named.
        """
        rows = tuple(each.to(known) for each, known in zip(rows, self.args, strict=False))
        found = self.keys.positions(*rows, on=self.args[0].device)
        if (found < 0).any():
            row = int((found < 0).nonzero()[0])
            raise ValueError(
                f"row {row} of x is not among the {len(self)} rows for which the guide has "
                "parameters: give the rows that it was trained on; new or simulated rows need a "
                "guide with an encoder"
            )
        return found


class AdaptedProgram:
    """A program that Pyro's handlers see in the library's form.

    Args:
        program: The program.
        form: Its form.
    """

    program: Program
    form: Form

    def __repr__(self) -> str:
        return repr(self.program)

    def run(self, *rows: Any, **kwargs: Any) -> Any:
        """Run it on these rows, under the particles around it, if there are any."""
        particles = next((m for m in reversed(_PYRO_STACK) if isinstance(m, Particles)), None)
        copies = particles.size if self.form.is_tiled and particles is not None else None
        num_rows = len(rows[0]) if rows and rows[0] is not None else 0
        if self.form.by_position is not None:
            self.form.by_position.require_all(num_rows)
        given: tuple[Any, ...] = rows
        index = None
        if self.form.known is not None:
            index = self.form.known.positions(rows)
            given = self.form.known.args
        total = 0 if index is None else len(given[0])
        if copies is not None:
            given = tuple(_copied(each, copies) for each in given)
        if self.form.takes_scalars:
            # A guide around this program may have been given scalars already.
            given = (given[0].squeeze(-1) if given[0].dim() > 1 else given[0], *given[1:])
        keywords: Mapping[str, Any] = {}
        if self.form.call is not None:
            given, keywords = self.form.call(*given)
        place = particles.dim if particles is not None and particles.dim is not None else -1
        shown = InLibraryForm(self.form.plate, Rows(num_rows, copies, place, index, total))
        with nullcontext() if self.form.store is None else self.form.store.open(), shown:
            return self.program(*given, **keywords, **kwargs)


class AdaptedFunction(AdaptedProgram):
    """A function in the library's form."""

    def __init__(self, program: Program, form: Form) -> None:
        self.program = program
        self.form = form

    def __call__(self, *rows: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.run(*rows, **kwargs)


class AdaptedModule(AdaptedProgram, nn.Module):
    """A module in the library's form."""

    def __init__(self, program: Program, form: Form) -> None:
        nn.Module.__init__(self)
        self.program = program
        self.form = form
        self.store = form.store
        if not isinstance(program, nn.Module):
            self.parts = module_of(program)

    def forward(self, *rows: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.run(*rows, **kwargs)


def in_form(program: Program, form: Form) -> Program:
    """The program in the library's form; itself where it has that form.

    Args:
        program: Any Pyro program.
        form: Its form.

    Example:
        >>> import pyro
        >>> def model(x):
        ...     with pyro.plate("documents", len(x)):
        ...         pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
        >>> found = pyro.poutine.trace(in_form(model, Form("documents"))).get_trace(torch.zeros(3))
        >>> found.nodes["x"]["cond_indep_stack"][0].name
        'data'
    """
    if form == Form() and all(
        each is None for each in (form.call, form.known, form.store, form.by_position)
    ):
        return program
    if isinstance(program, nn.Module) or form.store is not None:
        return AdaptedModule(program, form)
    return AdaptedFunction(program, form)


@dataclass(frozen=True)
class Rows:
    """The rows that a program runs on.

    Args:
        number: Number of rows B in question; 0 if it is not known.
        copies: Number of copies of them, or None.
        place: Dim of the particles in the library.
        index: Where they are among those that the program runs on; None where they are all.
        total: Number of rows that the program runs on, if there is an index.
    """

    number: int
    copies: int | None
    place: int
    index: Tensor | None
    total: int

    @property
    def expected(self) -> int:
        """Size of the program's plate."""
        return self.total or self.number * (self.copies or 1)

    def layout(self, frame: Any, rank: int) -> Layout:
        """The layout of a site in this plate, with so many batch dims."""
        number = self.number or frame.size
        where = (self.place, rank, self.index, self.total)
        return Layout(frame.dim, number, self.copies, *where)


class InLibraryForm(Messenger):
    """Shows the sites of a program in the library's form, and gives it values in its own.

    Args:
        plate: Name of the program's plate over the rows.
        rows: The rows.
    """

    def __init__(self, plate: str, rows: "Rows") -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows
        self.layouts: dict[str, Layout] = {}
        self.drawn: dict[str, Tensor] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            # The rows of a guide and of a model on copies differ in number: each has its own.
            is_changed = self.rows.copies is not None or self.rows.index is not None
            msg["stop"] = is_changed and msg["name"] == self.plate
            return
        frames = msg["cond_indep_stack"]
        frame = next((each for each in frames if each.name == self.plate), None)
        if frame is None:
            return
        self._require_rows(frame, msg)
        rank = max(-each.dim for each in frames if each.vectorized)
        rank = max(rank, len(msg["fn"].batch_shape))
        layout = self.rows.layout(frame, rank)
        if is_deterministic(msg) and not layout.is_identity:
            msg["cond_indep_stack"] = ()
            return
        msg["cond_indep_stack"] = tuple(self._frame(each, layout) for each in frames)
        if frame.size < 0 or not layout.is_identity:
            _expand(msg, frames, layout)
        if layout.is_identity:
            return
        self._relay(msg, layout)
        if self.rows.copies is not None and frame.full_size > frame.size > 0:
            msg["scale"] = msg["scale"] * self.rows.copies
        self.layouts[msg["name"]] = layout

    def _relay(self, msg: Site, layout: Layout) -> None:
        """Move the dims of a site to where the library has them."""
        fn = msg["fn"]
        for key in ("mask", "scale"):
            if isinstance(msg[key], Tensor) and msg[key].dim():
                msg[key] = layout.to_library(msg[key].expand(fn.batch_shape))
        if layout.index is not None:
            self.drawn[msg["name"]] = fn.sample() if msg["value"] is None else msg["value"]
        msg["fn"] = relaid(fn, layout)
        if msg["value"] is not None:
            msg["value"] = layout.to_library(msg["value"], fn.event_dim)

    def _pyro_post_sample(self, msg: Any) -> None:
        layout = self.layouts.get(msg["name"])
        if layout is not None and not site_is_subsample(msg):
            others = self.drawn.get(msg["name"])
            msg["value"] = layout.to_program(msg["value"], msg["fn"].event_dim, others)

    def _require_rows(self, frame: Any, msg: Site) -> None:
        """Raise ValueError where the plate cannot hold the rows."""
        if not frame.vectorized:
            raise ValueError(
                f"the plate {self.plate!r} is a loop at site {msg['name']!r}: write it as a "
                f'context, with pyro.plate("{self.plate}", len(x)):'
            )
        expected = self.rows.expected
        if frame.size not in (-1, expected) and expected:
            raise ValueError(
                f"the plate {self.plate!r} holds {frame.size} of {expected} rows at site "
                f"{msg['name']!r}: {self._remedy(frame)}"
            )

    def _remedy(self, frame: Any) -> str:
        """What to do where a plate has another size than the rows."""
        if frame.full_size is not None and frame.full_size > frame.size:
            return SUBSAMPLES
        return (
            f"its size is fixed; write pyro.plate({self.plate!r}, len(x)), or give all of the rows "
            "that it was made for (an automatic guide of other rows: train a guide with an encoder)"
        )

    def _frame(self, frame: Any, layout: Layout) -> Any:
        """A plate's frame as the library has it."""
        if frame.name != self.plate:
            return frame if not frame.vectorized else frame._replace(dim=layout.moved(frame.dim))
        full = layout.rows
        if frame.full_size is not None and frame.full_size > max(frame.size, layout.size):
            full = frame.full_size
        return frame._replace(name=PLATE, dim=-1, size=layout.rows, full_size=full)


def _expand(msg: Site, frames: Any, layout: Layout) -> None:
    """Expand a site's distribution and observation to all its rows and plates."""
    fn = msg["fn"]
    sizes = [1] * layout.rank
    for frame in frames:
        if frame.vectorized:
            sizes[frame.dim] = layout.size if frame.dim == layout.dim else frame.size
    target = torch.broadcast_shapes(fn.batch_shape, tuple(sizes))
    if target != fn.batch_shape:
        expanded = fn.expand(target)
        if expanded.has_rsample != fn.has_rsample:
            expanded.has_rsample = fn.has_rsample
        msg["fn"] = fn = expanded
    value = msg["value"]
    if value is None or isinstance(fn, dist.Unit):
        return
    shape = observed_shape(value, fn)
    if value.dim() > len(shape) or _unequal(value.shape, shape):
        raise ValueError(
            f"site {msg['name']!r} is for values of shape {tuple(shape)} and observes "
            f"{tuple(value.shape)}: give x the shape that the model's site has"
        )
    msg["value"] = value.expand(shape)


def _unequal(found: Any, expected: Any) -> bool:
    """Whether a shape cannot be broadcast to another one."""
    pairs = zip(reversed(found), reversed(expected), strict=False)
    return any(a not in (1, b) for a, b in pairs)


def _copied(values: Any, copies: int) -> Any:
    """Rows, `copies` times one after the other."""
    if not isinstance(values, Tensor) or not values.dim():
        return values
    return values.repeat(copies, *[1] * (values.dim() - 1))


def with_form(program: Program, **changes: Any) -> Program:
    """The program in a form with these changes."""
    if isinstance(program, AdaptedProgram):
        return in_form(program.program, replace(program.form, **changes))
    return in_form(program, replace(Form(), **changes))


def itself(program: Program) -> Program:
    """The user's program within its forms."""
    while isinstance(program, AdaptedProgram):
        program = program.program
    return program


def is_known(program: Program) -> bool:
    """Whether the program has the library's form by construction, or was looked at before."""
    if isinstance(program, Model | Guide):
        return True
    if isinstance(program, AdaptedProgram):
        return program.form.is_known or is_known(program.program)
    return adapted_within(program) is not None


def adapted_within(program: Program) -> Any:
    """An adapted program, or the one that a handler wraps; None if there is none."""
    for item in reached(program):
        parts = item.modules() if isinstance(item, nn.Module) else [item]
        for part in parts:
            if isinstance(part, AdaptedProgram):
                return part
    return None
