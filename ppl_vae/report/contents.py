"""The diagnoses of a report in the order of the page."""

from ppl_vae.report.diagnoses.baselines import BASELINES
from ppl_vae.report.diagnoses.calibration import CALIBRATION, WEIGHTED_CALIBRATION
from ppl_vae.report.diagnoses.evidence import FEW_PARTICLES, IMPORTANCE
from ppl_vae.report.diagnoses.latent_space import LATENT_SPACE
from ppl_vae.report.diagnoses.latents import ACTIVE_UNITS, COLLAPSE, RATE_DISTORTION
from ppl_vae.report.diagnoses.missing import MISSING, OVERIMPUTATION
from ppl_vae.report.diagnoses.predictive import BITS, CONDITIONAL_PIT, MARGINAL_PIT, STATISTICS
from ppl_vae.report.diagnoses.run import (
    ARCHITECTURE,
    CONFIGURATION,
    DATA,
    GRAPH,
    PROVENANCE,
    SCALE,
)
from ppl_vae.report.diagnoses.samples import RECONSTRUCTIONS, SAMPLES
from ppl_vae.report.diagnoses.training import TRAINING
from ppl_vae.report.diagnoses.uses.classes import CLASSES
from ppl_vae.report.diagnoses.uses.compression import COMPRESSION
from ppl_vae.report.diagnoses.uses.contrasts import CONTRASTS
from ppl_vae.report.diagnoses.uses.denoising import DENOISING
from ppl_vae.report.diagnoses.worst import WORST
from ppl_vae.report.diagnosis import Diagnosis

__all__ = ["DIAGNOSES"]

DIAGNOSES: tuple[Diagnosis, ...] = (
    CONFIGURATION,
    DATA,
    MISSING,
    PROVENANCE,
    GRAPH,
    ARCHITECTURE,
    TRAINING,
    RECONSTRUCTIONS,
    SAMPLES,
    LATENT_SPACE,
    FEW_PARTICLES,
    BASELINES,
    IMPORTANCE,
    WORST,
    CALIBRATION,
    WEIGHTED_CALIBRATION,
    STATISTICS,
    MARGINAL_PIT,
    CONDITIONAL_PIT,
    BITS,
    OVERIMPUTATION,
    ACTIVE_UNITS,
    COLLAPSE,
    RATE_DISTORTION,
    SCALE,
    CLASSES,
    CONTRASTS,
    DENOISING,
    COMPRESSION,
)
