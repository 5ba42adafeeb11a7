"""Factor loadings of models that are linear in z."""

import itertools
from typing import Any, Literal

import numpy as np
import torch

from ppl_vae.model import Model
from ppl_vae.programs.modules import evaluating
from ppl_vae.runtime.checks import instance_of, one_of

__all__ = ["factor_loadings"]

MOST_SWEEPS = 1000
SMALLEST_ANGLE = 1e-10
POINTS = 5  # at which slopes are compared
LEAST_CURVATURE = 1e-4  # of the largest slope


def factor_loadings(
    model: Model, rotation: Literal["varimax", "lower"] | None = "varimax"
) -> np.ndarray:
    """The loadings W of a linear model: E[x given z] = m + W z for z ~ N(0, I), in the units of x.

    W R with an orthogonal R is the same model, so a rotation has to be chosen. "varimax" maximises
    the variance of the squares in each column, with the rows in units of their communalities
    (Kaiser's normalisation), and orders columns by decreasing sum of squares, with positive sums.
    "lower" makes W lower triangular with a positive diagonal: the first feature loads on the first
    factor alone, and so on. None leaves W as it was learned. The scales of a learned normal prior
    are part of W.

    Args:
        model: A `Model` whose E[x given z] is linear, as with `networks.Linear` as decoder and a
            `Gaussian` likelihood.
        rotation: "varimax", "lower" or None.

    Returns:
        Loadings, (J, D), J the number of features.

    Raises:
        ValueError: E[x given z] is not linear in z, or a rotation is asked for and p(z) is not a
            normal with independent dimensions.

    References:
        Kaiser (1958), The varimax criterion for analytic rotation in factor analysis, Psychometrika
        23; Anderson and Rubin (1956), Statistical inference in factor analysis, section 7 (lower
        triangular loadings).

    Example:
        >>> from ppl_vae.families import likelihoods, networks, priors
        >>> model = Model(priors.StandardNormal(2), likelihoods.Gaussian(5), networks.Linear(2))
        >>> factor_loadings(model).shape
        (5, 2)
    """
    instance_of(model, "model", Model)
    one_of(rotation, "factor_loadings(rotation)", ("varimax", "lower", None))
    context = None if not model.context_dim else torch.zeros(1, model.context_dim)
    with evaluating(model):
        loadings = _slopes(model, context)
        prior: Any = model.prior(context)
        base = getattr(prior, "base_dist", prior)
        if isinstance(base, torch.distributions.Normal):
            loadings = loadings * base.scale.reshape(-1).double().cpu().numpy()
        elif rotation is not None:
            raise ValueError(
                f"a rotation changes the model under {type(model.prior).__name__}, whose "
                "directions are identified: pass rotation=None"
            )
    if rotation == "lower":
        return _lower(loadings)
    return loadings if rotation is None else _varimax(loadings)


def _slopes(model: Model, context: torch.Tensor | None) -> np.ndarray:
    """d E[x given z] / d z, (J, D), which must be the same everywhere."""
    parameter = next(model.parameters())

    def mean(z: torch.Tensor) -> torch.Tensor:
        return model.decode(z.unsqueeze(0), context).mean.reshape(-1)

    points = 3 * torch.arange(float(POINTS * model.latent_dim)).cos()
    points = points.reshape(POINTS, model.latent_dim).to(parameter)
    found = torch.stack([torch.autograd.functional.jacobian(mean, z).double() for z in points])
    if (found - found[0]).abs().max() > LEAST_CURVATURE * found.abs().max():
        raise ValueError(
            "E[x given z] is not linear in z, so there are no loadings: use networks.Linear as "
            "decoder and a Gaussian likelihood"
        )
    return found[0].cpu().numpy()


def _lower(loadings: np.ndarray) -> np.ndarray:
    """L of W = L Q, (J, D) also where there are more factors than features."""
    lower = np.linalg.qr(loadings.T, mode="complete")[1].T
    signs = np.ones(lower.shape[1])
    signs[: len(lower)][np.diag(lower) < 0] = -1.0
    return lower * signs


def _varimax(loadings: np.ndarray) -> np.ndarray:
    """Kaiser's rotation in the plane of each pair of factors, until no pair changes."""
    lengths = np.linalg.norm(loadings, axis=1, keepdims=True)
    rows = loadings / np.where(lengths > 0, lengths, 1.0)
    for _ in range(MOST_SWEEPS):
        pairs = itertools.combinations(range(rows.shape[1]), 2)
        if max((_turn(rows, list(pair)) for pair in pairs), default=0.0) < SMALLEST_ANGLE:
            break
    rotated = rows * lengths
    order = np.argsort(-np.square(rotated).sum(0))
    return rotated[:, order] * np.where(rotated[:, order].sum(0) < 0, -1.0, 1.0)


def _turn(rows: np.ndarray, pair: list[int]) -> float:
    """Turn two columns in place, by the angle that is best for them; returns its size."""
    # Twice the angle of a row is that of its square as a complex number.
    squares = (rows[:, pair[0]] + 1j * rows[:, pair[1]]) ** 2
    angle = float(np.angle(np.square(squares).mean() - squares.mean() ** 2)) / 4
    cosine, sine = np.cos(angle), np.sin(angle)
    rows[:, pair] = rows[:, pair] @ np.array([[cosine, -sine], [sine, cosine]])
    return abs(angle)
