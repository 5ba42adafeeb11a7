"""Bounds per observation, and the estimators of their gradients."""

from ppl_vae.objectives.beta import BetaELBO
from ppl_vae.objectives.bound import Bound
from ppl_vae.objectives.elbo import TraceELBO
from ppl_vae.objectives.enumerated import EnumeratedELBO
from ppl_vae.objectives.gradients import (
    VIMCO,
    DoublyReparameterized,
    Gradient,
    PathAndScore,
    Reparameterized,
    ScoreFunction,
    StickingTheLanding,
)
from ppl_vae.objectives.importance_weighted import CIWAE, IWAE, MIWAE, PIWAE
from ppl_vae.objectives.info_vae import InfoVAE
from ppl_vae.objectives.mcem import MCEM
from ppl_vae.objectives.mean_field import MeanFieldELBO
from ppl_vae.objectives.renyi import CUBO, Renyi
from ppl_vae.objectives.thermodynamic import ThermodynamicELBO
from ppl_vae.objectives.wake_sleep import ReweightedWakeSleep, WakeSleep

__all__ = [
    "CIWAE",
    "CUBO",
    "IWAE",
    "MCEM",
    "MIWAE",
    "PIWAE",
    "VIMCO",
    "BetaELBO",
    "Bound",
    "DoublyReparameterized",
    "EnumeratedELBO",
    "Gradient",
    "InfoVAE",
    "MeanFieldELBO",
    "PathAndScore",
    "Renyi",
    "Reparameterized",
    "ReweightedWakeSleep",
    "ScoreFunction",
    "StickingTheLanding",
    "ThermodynamicELBO",
    "TraceELBO",
    "WakeSleep",
]
