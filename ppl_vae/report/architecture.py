"""How model and guide are built: their graphs, and their layers with shapes and parameters."""

import importlib.util
import io
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyro
from pyro.infer.inspect import get_model_relations
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.modules import arguments, evaluating, place
from ppl_vae.programs.traces import Program
from ppl_vae.report.elements import Table
from ppl_vae.runtime.seeding import seeded

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chain", "layers", "plot_graph"]

KNOWN, LATENT = "0.85", "white"
RADIUS = 0.3


def plot_graph(
    program: Program, data: Dataset, given: Sequence[str] = (), ax: "Axes | None" = None
) -> "Axes":
    """The sites of a Pyro program, arrows between those that depend on each other, and a box for
    the data plate.

    Observed and given ones are grey. Where graphviz is installed, Pyro draws a program that is
    given nothing.

    Args:
        program: A model or guide.
        data: What it is called with.
        given: What is no site and goes into all sites: ["x"] for a guide. Covariates are given to
            all sites.
        ax: Where to draw.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> [text.get_text() for text in plot_graph(bed.guide, Dataset(bed.x), ["x"]).texts][:4]
        ['data', 'x', 'given', 'z']
    """
    import matplotlib.pyplot as plt

    ax, data = ax or plt.subplots(layout="constrained")[1], place(data[:1], program)
    given, args = (
        [*given, *["context"] * (data.context is not None)],
        arguments(data.x, data.context),
    )
    with evaluating(program), seeded(0):
        if not given and importlib.util.find_spec("graphviz") and shutil.which("dot"):
            graph = pyro.render_model(program, model_args=args, render_distributions=True)
            graph.graph_attr["dpi"] = "200"
            ax.imshow(plt.imread(io.BytesIO(graph.pipe(format="png")), format="png"))
            ax.set_axis_off()
            return ax
        relations = get_model_relations(program, model_args=args)
    parents = {name: [*given, *above] for name, above in relations["sample_sample"].items()}
    _draw_graph(ax, dict.fromkeys(given, []) | parents, relations, given)
    return ax


def _draw_graph(
    ax: "Axes", parents: Mapping[str, list[str]], relations: Mapping[str, Any], given: list[str]
) -> None:
    from matplotlib.patches import Circle, FancyBboxPatch

    places = _places(parents)
    inside = [places[name] for name in [*given, *relations["plate_sample"].get("data", [])]]
    (left, right), (low, high) = ((min(each), max(each)) for each in zip(*inside, strict=True))
    corner, size = (left - 0.62, low - 0.78), (right - left + 1.24, high - low + 1.3)
    box = FancyBboxPatch(
        corner, *size, boxstyle="round,pad=0,rounding_size=0.1", fill=False, edgecolor="0.5"
    )
    ax.add_patch(box)
    ax.text(
        corner[0] + size[0] - 0.06, corner[1] + 0.06, "data", ha="right", va="bottom", color="0.35"
    )
    for name, above in parents.items():
        known = name in given or name in relations["observed"]
        ax.add_patch(
            Circle(places[name], RADIUS, facecolor=KNOWN if known else LATENT, edgecolor="black")
        )
        ax.text(*places[name], name, ha="center", va="center")
        what = "given" if name in given else f"{name} ~ {relations['sample_dist'][name]}"
        ax.text(
            places[name][0],
            places[name][1] - RADIUS - 0.06,
            what,
            ha="center",
            va="top",
            fontsize="small",
        )
        for other in above:
            style = {"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0}
            start, end = _between(places[other], places[name])
            ax.annotate("", end, start, arrowprops=style)
    across, up = zip(*places.values(), strict=True)
    ax.set_xlim(min(across) - 0.67, max(across) + 0.67)
    ax.set_ylim(min(up) - 0.83, max(up) + 0.57)
    ax.set_aspect("equal")
    ax.set_axis_off()


def _places(parents: Mapping[str, list[str]]) -> dict[str, tuple[float, float]]:
    """What depends on nothing stands on the left, and everything to the right of what it depends
    on.

    Where an arrow goes past a column, every other column stands higher, so that it meets nothing.
    """
    depth: dict[str, int] = {}
    for name, above in parents.items():  # in the order of the program: parents first
        depth[name] = 1 + max((depth[other] for other in above), default=-1)
    lift = 0.9 * any(
        depth[name] - depth[other] > 1 for name, above in parents.items() for other in above
    )
    columns = [
        [name for name in parents if depth[name] == column]
        for column in range(max(depth.values()) + 1)
    ]
    return {
        name: (1.5 * x, 1.1 * ((len(names) - 1) / 2 - y) + lift * (x % 2))
        for x, names in enumerate(columns)
        for y, name in enumerate(names)
    }


def _between(
    start: tuple[float, float], end: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """From the rim of one circle to that of the other."""
    across, up = end[0] - start[0], end[1] - start[1]
    share = RADIUS / (across**2 + up**2) ** 0.5
    dx, dy = share * across, share * up
    return (start[0] + dx, start[1] + dy), (end[0] - dx, end[1] - dy)


def chain(model: Model, guide: Guide, data: Dataset) -> list[tuple[str, str]]:
    """What x goes through, from the encoder to the likelihood: names, and what they are.

    Args:
        model: The model.
        guide: The guide.
        data: What they are for.

    Example:
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> guide, data = Guide(posteriors.MeanFieldNormal(2), 5), Dataset([[0.0] * 5])
        >>> chain(Model(priors.StandardNormal(2), likelihoods.Bernoulli(5)), guide, data)[1:4]
        [('encoder', 'MLP'), ('posterior', 'MeanFieldNormal'), ('z', '2 from StandardNormal')]
    """
    size = _shape(data.event_shape)
    parts = {"encoder": guide.encoder, "posterior": guide.posterior, "decoder": model.decoder}
    kinds = {
        name: type(part).__name__
        for name, part in (parts | {"likelihood": model.likelihood}).items()
    }
    kinds |= {"z": f"{model.latent_dim} from {type(model.prior).__name__}", "x": size}
    return [
        (name, kinds[name])
        for name in ("x", "encoder", "posterior", "z", "decoder", "likelihood", "x")
    ]


def layers(model: Model, guide: Guide, data: Dataset) -> Table:
    """Every layer in the order of the computation, with the shape of what it gives for one datum
    and its parameters.

    Parameters of a module that belong to no layer of it have a row of their own; what two parts
    share is counted once.


    Args:
        model: The model.
        guide: The guide.
        data: What they are called with.

    Example:
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> guide, data = Guide(posteriors.MeanFieldNormal(2), 5), Dataset([[0.0] * 5])
        >>> [row[1] for row in layers(Model(priors.StandardNormal(2), likelihoods.Bernoulli(5)), guide, data).rows][:2]
        ['Linear(in_features=5, out_features=256, bias=True)', 'ReLU()']
    """
    data = place(data[:1], model, guide)
    both: dict[str, nn.Module] = {
        "model": model,
        "guide": guide,
    }  # what they share, as a VampPrior does, is the guide's
    names = {
        each: f"{which}.{name}" for which, top in both.items() for name, each in top.named_modules()
    }
    shapes = _shapes(
        [each for each in names if _has_own(each) or not list(each.children())],
        (model, guide),
        data,
    )
    rows, counted = [], set()
    for each, given in shapes.items():
        own = {id(p): p.numel() for p in each.parameters(recurse=False) if id(p) not in counted}
        counted |= set(own)
        rows.append((names[each], _one_line(each), given, f"{sum(own.values()):,}" if own else ""))
    total = sum(
        p.numel() for p in {id(p): p for top in both.values() for p in top.parameters()}.values()
    )
    return Table(
        ("part", "layer", "gives", "parameters"),
        [*rows, ("all", "", "", f"{total:,}")],
        kind="text",
    )


def _shapes(
    found: list[nn.Module], programs: tuple[Model, Guide], data: Dataset
) -> dict[nn.Module, str]:
    """What each gives for one datum, in the order in which they were first called; those that were
    not come last.
    """
    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        given = (
            output.shape[1:] if isinstance(output, Tensor) else getattr(output, "event_shape", ())
        )
        shapes.setdefault(module, _shape(given))

    hooks = [module.register_forward_hook(note) for module in found]
    try:
        model, guide = programs
        with evaluating(model, guide), seeded(0):
            z = guide.encode(data.x, data.context).sample()
            model.prior(data.context)
            model.decode(z, data.context)
    finally:
        for hook in hooks:
            hook.remove()
    return shapes | {module: "" for module in found if module not in shapes}


def _has_own(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


def _one_line(module: nn.Module) -> str:
    """The layer without what is inside it."""
    return f"{type(module).__name__}({' '.join(module.extra_repr().split())})"


def _shape(size: Sequence[int]) -> str:
    return " × ".join(map(str, size)) or "1"
