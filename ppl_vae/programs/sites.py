"""Sites of a trace: their plates, what they observe, and their log-probabilities per row."""

import math
from collections.abc import Collection, Iterable
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.uncondition_messenger import UnconditionMessenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ppl_vae.programs.particles import PARTICLES, PLATE, SUBSAMPLES, Program, Site

__all__ = ["inner_plates", "observes", "redrawn"]

WEIGHTED = "_weighted"  # marks a site's `infer` where weights of rows are part of its scale


def sample_sites(trace: poutine.Trace) -> list[Site]:
    """The trace's random sites, without Pyro's own subsampling sites."""
    nodes: Any = trace.nodes
    return [s for s in nodes.values() if s["type"] == "sample" and not site_is_subsample(s)]


def observes(site: Site) -> bool:
    """Whether a site observes something, also where `redrawn` draws its value.

    A value recorded by `pyro.deterministic` is not an observation.

    Args:
        site: A site of a trace.

    Example:
        >>> observes({"is_observed": True, "infer": {"_deterministic": True}})
        False
    """
    was_observed = (site["infer"] or {}).get("was_observed", False)
    return bool(site["is_observed"] or was_observed) and not is_deterministic(site)


class Redrawing(UnconditionMessenger):
    """Draws what the rows observe; what is observed outside the plate stays."""

    def __init__(self, keep: Collection[str]) -> None:
        super().__init__()
        self.keep = keep

    def _pyro_sample(self, msg: Any) -> None:
        if is_local(msg) and msg["name"] not in self.keep:
            super()._pyro_sample(msg)


def redrawn(program: Program, keep: Collection[str] = ()) -> Program:
    """The program, drawing what it observes of its rows.

    A latent outside the plate that is conditioned on keeps its value.

    Args:
        program: A program in the library's form.
        keep: Names of sites that keep what they observe.

    Example:
        >>> from ppl_vae import beds
        >>> bed = beds.linear_gaussian(num_data=3)
        >>> bool((redrawn(bed.model)(bed.x) == bed.x).any())
        False
    """
    return Redrawing(keep)(program)


def is_auxiliary(site: Site) -> bool:
    """Whether a site of the guide is none of the model's, from which others are made."""
    return bool((site["infer"] or {}).get("is_auxiliary"))


def is_deterministic(site: Site) -> bool:
    """Whether a site only records a value, by `pyro.deterministic`."""
    return bool((site["infer"] or {}).get("_deterministic"))


def is_observation(site: Site) -> bool:
    """Whether a site observes a value of each row: not a `pyro.deterministic` or `pyro.factor`."""
    is_factor = math.prod(site["fn"].event_shape) == 0
    return site["is_observed"] and is_local(site) and not is_factor and not is_deterministic(site)


def observed_shape(value: Tensor, fn: Any) -> torch.Size:
    """Shape that a value of a distribution has: a hidden Markov model takes series of any length.

    Args:
        value: The value.
        fn: Its distribution.

    Example:
        >>> import pyro.distributions as dist
        >>> emission = dist.Categorical(torch.ones(1, 2, 3))
        >>> hmm = dist.DiscreteHMM(torch.zeros(2), torch.zeros(2, 2), emission)
        >>> hmm.shape(), observed_shape(torch.zeros(5), hmm)
        (torch.Size([1]), torch.Size([5]))
    """
    shape = fn.shape()
    if not type(getattr(fn, "base_dist", fn)).__name__.endswith("HMM") or not fn.event_dim:
        return shape
    length = len(fn.batch_shape)
    if shape[length] != 1 or value.dim() < fn.event_dim:
        return shape
    return shape[:length] + value.shape[value.dim() - fn.event_dim :][:1] + shape[length + 1 :]


def is_local(site: Site) -> bool:
    """Whether a site lies inside the data plate."""
    return any(frame.name == PLATE for frame in site["cond_indep_stack"])


def require_rows(sites: Iterable[Site]) -> None:
    """Raise ValueError where no site of a model lies in the data plate."""
    sites = list(sites)
    if any(is_local(site) for site in sites):
        return
    frames = [frame for site in sites for frame in site["cond_indep_stack"]]
    for frame in frames:
        if frame.full_size is not None and frame.full_size > frame.size > 0:
            raise ValueError(
                f"the plate {frame.name!r} holds {frame.size} of {frame.full_size} rows: "
                f"{SUBSAMPLES}"
            )
    missing = "no site of the model lies in a plate over the rows"
    if frames:
        names = ", ".join(dict.fromkeys(repr(frame.name) for frame in frames))
        missing = f"no observed site of the model lies in a plate over the rows (plates: {names})"
    raise ValueError(
        f'{missing}: write pyro.plate("{PLATE}", len(x), dim=-1) around what x observes; rows that '
        "depend on each other have no log p(x) of a row, but a bound of all rows: fit(model, "
        "guide, x, objective=pyro.infer.Trace_ELBO())"
    )


def frame_of(site: Site) -> Any:
    """The data plate's frame at this site, or None for a global site."""
    frame = next((f for f in site["cond_indep_stack"] if f.name == PLATE), None)
    if frame is not None and frame.dim != -1:
        raise ValueError(
            f'plate "{PLATE}" is at dim {frame.dim} at site {site["name"]!r}: it must be at dim=-1'
        )
    if frame is not None and frame.size < 1:
        raise ValueError(
            f'plate "{PLATE}" has no size at site {site["name"]!r}: write pyro.plate("{PLATE}", '
            "len(x), dim=-1)"
        )
    return frame


def inner_plates(site: Site) -> torch.Size:
    """Sizes of the plates that a site has inside the data plate, left to right.

    Args:
        site: A site of a trace.

    Example:
        >>> import pyro
        >>> data, repeat = pyro.plate("data", 5, dim=-1), pyro.plate("repeat", 3, dim=-2)
        >>> with pyro.poutine.trace() as capture, data, repeat:
        ...     z = pyro.sample("z", pyro.distributions.Normal(0.0, 1.0))
        >>> inner_plates(capture.trace.nodes["z"])
        torch.Size([3])
    """
    frames = [frame for frame in _inner_frames(site) if frame.name != PARTICLES]
    return torch.Size(frame.size for frame in sorted(frames, key=lambda frame: frame.dim))


def _inner_frames(site: Site) -> list[Any]:
    return [f for f in site["cond_indep_stack"] if f.vectorized and f.name != PLATE]


def log_prob_of(site: Site) -> Tensor:
    """A site's log-probabilities, unscaled; of a local one, of the shape of its plates."""
    if "unscaled_log_prob" not in site:
        log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
        site["unscaled_log_prob"] = of_plates(log_p, site) if frame_of(site) else log_p
    return site["unscaled_log_prob"]


def of_plates(log_p: Tensor, site: Site) -> Tensor:
    """A local site's log-probabilities, expanded to the shape of its plates, (K, *inner plates, B).

    Raises:
        ValueError: an axis belongs to no plate, and would be summed as if it did.
    """
    sizes = {frame.dim: frame.size for frame in site["cond_indep_stack"] if frame.vectorized}
    plates = tuple(sizes.get(dim, 1) for dim in range(min(sizes), 0))
    while log_p.dim() > len(plates) and log_p.shape[0] == 1:
        log_p = log_p[0]
    for dim in range(-log_p.dim(), 0):
        found = log_p.shape[dim]
        if dim < -len(plates) or found not in (1, plates[dim]):
            raise ValueError(
                f"site {site['name']!r} has log-probabilities of shape {tuple(log_p.shape)}, and "
                f"its plates have shape {plates}: axis {dim}, of size {found}, belongs to no "
                "plate. Keep particles as the leftmost axis and rows as the last one before the "
                "event; declare any other axis by .to_event(n) or a plate"
            )
    return log_p.expand(plates)


def inner_scale(site: Site) -> float:
    """Scale of subsampled plates inside the data plate: part of one row's log-probability."""
    return math.prod((f.full_size or f.size) / f.size for f in _inner_frames(site))


def common_scale(local: list[Site]) -> float | Tensor:
    """The factor of each row, the same at every site inside the data plate."""
    (first, scale), *others = [(site["name"], site["scale"] / inner_scale(site)) for site in local]
    if (local[0]["infer"] or {}).get(WEIGHTED):  # by `fit`; a recorded step cannot compare values
        return scale
    for name, other in others:
        one, two = (torch.as_tensor(each, dtype=torch.float64) for each in (scale, other))
        if not torch.allclose(one, two):
            raise ValueError(
                f"sites {first!r} and {name!r} carry different scales ({scale} and {other}): a "
                "row has one scale; to anneal the KL use Training(kl_warmup_epochs=...) or "
                "objective.annealed(weight), not poutine.scale"
            )
    return scale


def per_datum(values: Tensor, site: Site) -> Tensor:
    """Sum one site's (K, *plates, B) values over the plates nested in the data plate, (K, B)."""
    values = scale_and_mask(values, scale=inner_scale(site), mask=site["mask"])
    return values.flatten(1, -2).sum(1) if values.dim() > 2 else values


def local_log_probs(sites: list[Site], *, observed: bool) -> dict[str, Tensor]:
    """Log-probabilities (K, B) of the latent or the observed sites in the data plate, by name."""
    local = (site for site in sites if frame_of(site) and site["is_observed"] == observed)
    return {site["name"]: per_datum(log_prob_of(site), site) for site in local}


def global_sum(sites: list[Site], *, observed: bool) -> Tensor:
    """Sum over the latent or the observed sites outside the data plate, scaled, a scalar."""
    outside = (site for site in sites if not frame_of(site) and site["is_observed"] == observed)
    return sum((scaled_sum(log_prob_of(site), site) for site in outside), torch.zeros(()))


def scaled_sum(values: Tensor, site: Site) -> Tensor:
    """Sum one global site's values, scaled and masked, a scalar."""
    return scale_and_mask(values, scale=site["scale"], mask=site["mask"]).sum()


def global_log_prob(site: Site) -> Tensor:
    """Log-probability of a global site, masked, scaled by subsampled plates alone, a scalar."""
    log_p = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_p, scale=inner_scale(site), mask=site["mask"]).sum()
