"""Latents outside the data plate, whose KL the batches of an epoch share."""

from typing import Any

from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ppl_vae.data import Dataset
from ppl_vae.objectives import Bound
from ppl_vae.programs.modules import evaluating
from ppl_vae.programs.particles import PLATE, Program, run
from ppl_vae.programs.traces import is_local, sample_sites
from ppl_vae.runtime.seeding import seeded


def shared_among(
    train: Dataset, objective: ELBO, model: Program, guide: Program, rows: tuple[Tensor, ...]
) -> tuple[ELBO, Program, Program]:
    """Objective, model and guide in which a batch carries B / N of the KL of a global latent.

    N is the number of training rows, or the sum of their weights if weights, of mean one, multiply
    the terms of rows.

    With plate("data", len(x)) a batch has weight B in the sum over N rows, and the whole KL of a
    global latent would be counted once per batch, so the fitted q(g) would depend on the batch
    size. If the plate has its own size, its rows are scaled by N / B and the KL is counted in full.
    """
    if isinstance(objective, Bound):
        return objective.over(train.sum_of_weights), model, guide
    with evaluating(model, guide), seeded(0):
        drawn = run(guide, *rows)
        joint = run(poutine.replay(model, trace=drawn), *rows)
    nodes: list[Any] = [*drawn.nodes.values(), *joint.nodes.values()]
    frames = [frame for site in nodes for frame in site.get("cond_indep_stack", ())]
    is_sized_by_batch = {f.full_size for f in frames if f.name == PLATE} == {len(rows[0])}
    sites = [s for trace in (drawn, joint) for s in sample_sites(trace)]
    if all(map(is_local, sites)) or (train.weights is None and not is_sized_by_batch):
        return objective, model, guide
    share = ShareOfGlobals(train.sum_of_weights)
    if not is_sized_by_batch:
        share.num_rows = len(train)
    return objective, share(model), share(guide)


class ShareOfGlobals(Messenger):
    """Multiplies the scale of the sites outside the data plate by the share of the rows.

    These are the rows that the plate represents: those of the batch, or `num_rows`.
    """

    num_rows: int | None = None

    def __init__(self, num_data: float) -> None:
        super().__init__()
        self.num_data = num_data

    def __call__(self, program: Program) -> Program:
        """The program, its first argument a batch."""

        def sharing(x: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.share = (self.num_rows or len(x)) / self.num_data
            with self:
                return program(x, *args, **kwargs)

        return sharing

    def _pyro_sample(self, msg: Any) -> None:
        if not is_local(msg):
            msg["scale"] = msg["scale"] * self.share
