"""Gradient estimators: the coefficients of each particle's log p, path and log q.

With l_k = log p(x given z_k) + beta (log p(z_k) - log q(z_k)), where beta is the weight of the KL,
every estimator of the gradient of a bound f(l) is three coefficients per particle and row, (K, B):

    sum_k  model_k d m_k/d theta  +  path_k dl_k/dz_k dz_k/d phi  +  log_q_k d log q(z_k)/d phi

where m_k = log p(x given z_k) + beta log p(z_k), and the first and last derivatives hold z fixed.
With the slopes c_k = df/dl_k and curvatures c'_k = d^2f/dl_k^2 of the bound:

    estimator              model   path           log q
    Reparameterized        c       c              - beta c
    StickingTheLanding     c       c              0
    DoublyReparameterized  c       c - beta c'    0
    ScoreFunction, VIMCO   c       0              signal - beta c
    PathAndScore           c       c              signal - beta c of discrete latents, else - beta c
                                                  (of the ELBO: signal of discrete latents)

The draws z_k depend on phi through log q itself, which has no factor beta. So beta multiplies only
what comes from l.
"""

from ppl_vae.objectives.gradients.mixed import PathAndScore
from ppl_vae.objectives.gradients.pathwise import (
    DoublyReparameterized,
    Gradient,
    Reparameterized,
    StickingTheLanding,
)
from ppl_vae.objectives.gradients.score import VIMCO, ScoreFunction

__all__ = [
    "VIMCO",
    "DoublyReparameterized",
    "Gradient",
    "PathAndScore",
    "Reparameterized",
    "ScoreFunction",
    "StickingTheLanding",
]
