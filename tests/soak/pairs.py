"""Pairs of fits in two threads: each ends as it does alone."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

import ppl_vae as pv
from ppl_vae import likelihoods, networks, objectives, posteriors, priors
from ppl_vae.training import Training

OBJECTIVES = [
    objectives.TraceELBO(),
    objectives.MeanFieldELBO(),
    objectives.IWAE(num_particles=3),
    objectives.ReweightedWakeSleep(num_particles=3),
]


def built(number: int) -> tuple[pv.Model, pv.Guide]:
    """A model and a guide by their number. Their first weights are drawn from torch's generator,
    which all threads share, so that they are made in one thread."""
    with pv.seeded(number):
        prior = (priors.StandardNormal, priors.LearnedNormal)[number % 2](2)
        model = pv.Model(prior, likelihoods.Gaussian(3), networks.MLP(2, [8]))
        return model, pv.Guide(posteriors.MeanFieldNormal(2), 3, networks.MLP(3, [8]))


def fitted(number: int, model: pv.Model, guide: pv.Guide) -> tuple[list[float], float]:
    """The bounds of a fit by its number, and the mean of log p(x)."""
    data = pv.Dataset(torch.randn(60, 3, generator=torch.Generator().manual_seed(number)))
    training = Training(num_epochs=3, batch_size=20, seed=number, progress=False)
    objective = OBJECTIVES[number % len(OBJECTIVES)]
    result = pv.fit(model, guide, data, objective=objective, training=training)
    evidence = pv.log_evidence(model, guide, data, num_particles=30, progress=False)
    return result.history["train"], float(evidence.log_evidence.mean())


def soak(num_pairs: int) -> dict[str, Any]:
    """So many pairs; those that differ from what each fit gives alone."""
    numbers = range(2 * num_pairs)
    alone = [fitted(number, *built(number)) for number in numbers]
    programs = [built(number) for number in numbers]
    wrong = []
    for first in numbers[::2]:
        pair = (first, first + 1)
        with ThreadPoolExecutor(2) as threads:
            together = list(threads.map(lambda number: fitted(number, *programs[number]), pair))
        if together != alone[first : first + 2]:
            wrong.append((first, together, alone[first : first + 2]))
    return {"pairs": num_pairs, "wrong": wrong}
