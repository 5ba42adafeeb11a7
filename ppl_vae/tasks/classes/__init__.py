"""Class probabilities of rows, and whether they can be believed."""

from ppl_vae.tasks.classes.calibration import ClassCalibration
from ppl_vae.tasks.classes.probabilities import ClassProbabilities, class_probabilities

__all__ = ["ClassCalibration", "ClassProbabilities", "class_probabilities"]
