"""fit: settings, schedules, the loop, checkpoints."""

from ppl_vae.training import schedules
from ppl_vae.training.maximise import fit
from ppl_vae.training.record import FitResult, NonFiniteLossError, Tracker
from ppl_vae.training.settings import Training
from ppl_vae.training.state import load_weights, save_weights

__all__ = [
    "FitResult",
    "NonFiniteLossError",
    "Tracker",
    "Training",
    "fit",
    "load_weights",
    "save_weights",
    "schedules",
]
