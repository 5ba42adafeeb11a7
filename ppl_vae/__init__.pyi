"""The public names of ppl_vae; __init__.py imports each when it is first used."""

from . import data as data
from . import diagnostics as diagnostics
from . import evidence as evidence
from . import experiment as experiment
from . import families as families
from . import objectives as objectives
from . import training as training
from .data import Dataset as Dataset
from .data import beds as beds
from .data import load as load
from .data import read as read
from .diagnostics import active_units as active_units
from .diagnostics import compare_estimators as compare_estimators
from .diagnostics import compare_models as compare_models
from .diagnostics import rate_distortion as rate_distortion
from .diagnostics import to_datatree as to_datatree
from .evidence import AIS as AIS
from .evidence import Defensive as Defensive
from .evidence import Evidence as Evidence
from .evidence import GradientRefinement as GradientRefinement
from .evidence import ImportanceSampling as ImportanceSampling
from .evidence import InferenceGaps as InferenceGaps
from .evidence import SampledRefinement as SampledRefinement
from .evidence import bdmc as bdmc
from .evidence import inference_gaps as inference_gaps
from .evidence import log_evidence as log_evidence
from .evidence import refine as refine
from .experiment import load_run as load_run
from .families import likelihoods as likelihoods
from .families import networks as networks
from .families import posteriors as posteriors
from .families import priors as priors
from .guide import Guide as Guide
from .hmc import HMC as HMC
from .hmc import sample_posterior as sample_posterior
from .importance import log_weights as log_weights
from .model import Model as Model
from .seeding import seeded as seeded
from .training import FitResult as FitResult
from .training import NonFiniteLossError as NonFiniteLossError
from .training import Training as Training
from .training import fit as fit
from .training import load_weights as load_weights
from .training import save_weights as save_weights

__version__: str
