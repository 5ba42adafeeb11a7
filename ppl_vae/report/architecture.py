"""How model and guide are built: their graphs, and their layers with shapes and parameters."""

import importlib.util
import io
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pyro
from matplotlib.axes import Axes
from matplotlib.patches import Circle, FancyBboxPatch
from pyro.infer.inspect import get_model_relations
from torch import Tensor, nn

from ppl_vae.data import Dataset
from ppl_vae.guide import Guide
from ppl_vae.model import Model
from ppl_vae.programs.modules import arguments, evaluating, place
from ppl_vae.programs.traces import Program
from ppl_vae.report.elements import Table
from ppl_vae.runtime.seeding import seeded

__all__ = ["chain", "layers", "plot_graph"]

KNOWN, LATENT = "0.85", "white"
RADIUS = 0.3


def plot_graph(
    program: Program, data: Dataset, given: Sequence[str] = (), ax: Axes | None = None
) -> Axes:
    """The sites of a Pyro program, with arrows between dependent sites and a box for the plate.

    Observed and given sites are grey. If graphviz is installed, Pyro draws programs without given
    values.

    Args:
        program: A model or guide.
        data: The rows that the program is called with.
        given: Names of values that are not sites, on which all sites depend: ["x"] for a guide.
            Covariates are added to them.
        ax: Where to draw.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> [text.get_text() for text in plot_graph(bed.guide, Dataset(bed.x), ["x"]).texts][:4]
        ['data', 'x', 'given', 'z']
    """
    ax = ax or plt.subplots(layout="constrained")[1]
    data = place(data[:1], program)
    args = arguments(data)
    given = list(given)
    if data.context is not None:
        given.append("context")
    with evaluating(program), seeded(0):
        if not given and importlib.util.find_spec("graphviz") and shutil.which("dot"):
            graph = pyro.render_model(program, model_args=args, render_distributions=True)
            graph.graph_attr["dpi"] = "200"
            ax.imshow(plt.imread(io.BytesIO(graph.pipe(format="png")), format="png"))
            ax.set_axis_off()
            return ax
        relations = get_model_relations(program, model_args=args)
    relations["sample_dist"] |= _families(program)
    parents = {name: [*given, *above] for name, above in relations["sample_sample"].items()}
    _draw_graph(ax, dict.fromkeys(given, []) | parents, relations, given)
    return ax


def _families(program: Program) -> dict[str, str]:
    """The names of prior, likelihood and posterior by site, where the program has them."""
    if isinstance(program, Model):
        return {"z": type(program.prior).__name__, "x": type(program.likelihood).__name__}
    if isinstance(program, Guide):
        return {"z": type(program.posterior).__name__}
    return {}


def _draw_graph(
    ax: Axes, parents: Mapping[str, list[str]], relations: Mapping[str, Any], given: list[str]
) -> None:
    places = _places(parents)
    inside = [places[name] for name in [*given, *relations["plate_sample"].get("data", [])]]
    (left, right), (low, high) = ((min(each), max(each)) for each in zip(*inside, strict=True))
    corner = (left - 0.62, low - 0.78)
    size = (right - left + 1.24, high - low + 1.3)
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
    """Places of the sites, each to the right of the sites that it depends on.

    If an arrow passes a column, every other column is drawn higher, so that the arrow meets no
    site.
    """
    depth: dict[str, int] = {}
    for name, above in parents.items():  # parents come first
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
    """The parts from the encoder to the likelihood, with their classes.

    Args:
        model: The model.
        guide: The guide.
        data: Rows for them.

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
    """Every layer in the order of computation, with the shape of its output for one row.

    Parameters that belong to no layer of their module have their own row; shared parameters are
    counted once.

    Args:
        model: The model.
        guide: The guide.
        data: Rows that they are called with.

    Example:
        >>> from ppl_vae.families import likelihoods, posteriors, priors
        >>> guide, data = Guide(posteriors.MeanFieldNormal(2), 5), Dataset([[0.0] * 5])
        >>> model = Model(priors.StandardNormal(2), likelihoods.Bernoulli(5))
        >>> [row[1] for row in layers(model, guide, data).rows][:2]
        ['Encoding(5)', 'Linear(in_features=5, out_features=256, bias=True)']
    """
    data = place(data[:1], model, guide)
    # Parts in both, as with a VampPrior, count as the guide's.
    both: dict[str, nn.Module] = {"model": model, "guide": guide}
    names = {
        each: f"{which}.{name}" for which, top in both.items() for name, each in top.named_modules()
    }
    own = {each: list(each.parameters(recurse=False)) for each in names}
    found = [each for each in names if own[each] or not list(each.children())]
    shapes = _shapes(found, (model, guide), data)
    rows = []
    counted: set[int] = set()
    for each, given in shapes.items():
        layer = f"{type(each).__name__}({' '.join(each.extra_repr().split())})"
        sizes = {id(p): p.numel() for p in own[each] if id(p) not in counted}
        counted |= set(sizes)
        rows.append((names[each], layer, given, f"{sum(sizes.values()):,}" if sizes else ""))
    total = sum(p.numel() for p in nn.ModuleDict(both).parameters())
    rows.append(("all", "", "", f"{total:,}"))
    return Table(("part", "layer", "gives", "parameters"), rows, kind="text")


def _shapes(
    found: list[nn.Module], programs: tuple[Model, Guide], data: Dataset
) -> dict[nn.Module, str]:
    """The shape of each output for one row, in the order of first calls; "" without a call."""
    shapes: dict[nn.Module, str] = {}

    def note(module: nn.Module, inputs: Any, output: Any) -> None:
        size = getattr(output, "event_shape", ())
        if isinstance(output, Tensor):
            size = output.shape[1:]
        shapes.setdefault(module, _shape(size))

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


def _shape(size: Sequence[int]) -> str:
    return " × ".join(map(str, size)) or "1"
