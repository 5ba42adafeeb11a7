"""An epoch of training: MNIST, 60,000 images binarised afresh, batch 128; and counts as single
cells give them."""

import tempfile
from functools import partial

import problems
import torch
from peers import NotMeasured, Peer
from problems import COMPILED, EAGER, HAND, PYRO, HandWritten, Trainer
from timing import Options, Row, in_turn, ratio, timed
from torch import nn

import ppl_vae as pv
from ppl_vae import likelihoods, objectives, posteriors, priors

TITLE = "Epoch"
BATCH = 128
PYTHAE, SCVI = "Pythae's trainer", "scvi-tools' SCVI"


def measure(options: Options) -> list[Row]:
    return images(options) + counts(options)


def images(options: Options) -> list[Row]:
    rounds, (grey, name) = options.pick(9, 1), problems.mnist(options.pick(60_000, 1_000))
    data, hand, pyro = pv.Dataset(grey, binarize="dynamic"), HandWritten(), problems.example()
    compiled, eager = (
        Trainer(problems.ours(), data, objectives.MeanFieldELBO(), BATCH, how)
        for how in (COMPILED, EAGER)
    )
    works = {"compiled": timed(compiled.epoch), "eager": timed(eager.epoch)}
    works |= {
        HAND: timed(partial(hand.epoch, grey, BATCH)),
        PYRO: timed(partial(pyro.epoch, grey, BATCH)),
    }
    work = f"epoch of {len(grey):,} {name}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with Peer("pythae", options.envs, folder, torch.bernoulli(grey)) as peer:
                times = in_turn(works | {PYTHAE: peer.work("epoch", 1)}, rounds)
            pythae = peer.named(ratio(work, times, "compiled", PYTHAE, at_most=0.45))
        except NotMeasured as error:
            times = in_turn(works, rounds)
            pythae = Row(work, PYTHAE, at_most=0.45, not_measured=str(error))
    return [
        ratio(work, times, "compiled", HAND, at_most=0.52),
        ratio(f"{work}, eager", times, "eager", HAND),
        ratio(work, times, "compiled", PYRO, at_most=0.50),
        pythae,
    ]


def cells(num_cells: int, num_genes: int) -> torch.Tensor:
    """Counts, gamma-Poisson, of genes whose means differ."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_genes, generator=generator).exp() * torch.rand(
        num_cells, num_genes, generator=generator
    )
    return torch.poisson(means, generator=generator)


def counts(options: Options) -> list[Row]:
    """One hidden layer of 128, 10 latents, negative binomial, on both sides; ours has no library
    size."""
    x, rounds = cells(options.pick(20_000, 300), options.pick(1_000, 50)), options.pick(9, 1)
    encoder, decoder = (
        nn.Sequential(nn.Linear(x.shape[1], 128), nn.ReLU()),  # of standardised log(1 + x / a)
        problems.perceptron(10, 128),
    )
    guide = pv.Guide(posteriors.MeanFieldNormal(10), x.shape[1], encoder=encoder)
    likelihood = likelihoods.NegativeBinomial(x.shape[1])
    model = pv.Model(
        priors.StandardNormal(10), likelihood, nn.Sequential(decoder, nn.ReLU()), start=x
    )
    trainer = Trainer((model, guide), pv.Dataset(x), objectives.MeanFieldELBO(), BATCH, COMPILED)
    work = f"epoch of {len(x):,} cells, {x.shape[1]:,} genes"
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            Peer("scvi-tools", options.envs, folder, x) as peer,
        ):
            times = in_turn({"compiled": timed(trainer.epoch), SCVI: peer.work("epoch", 1)}, rounds)
    except NotMeasured as error:
        return [Row(work, SCVI, not_measured=str(error))]
    return [peer.named(ratio(work, times, "compiled", SCVI))]
