"""log p(x), per datum, with what says whether to believe it."""

from ppl_vae.evidence.annealed import AIS
from ppl_vae.evidence.bdmc import BDMC, BDMCSummary, bdmc
from ppl_vae.evidence.estimate import log_evidence
from ppl_vae.evidence.evidence import Evidence, EvidenceSummary, reduce_log_weights
from ppl_vae.evidence.gaps import GapsSummary, InferenceGaps, inference_gaps
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.interval import EvidenceInterval, IntervalSummary
from ppl_vae.evidence.pareto import pareto_k
from ppl_vae.evidence.proposals import Defensive
from ppl_vae.evidence.refine import GradientRefinement, SampledRefinement, refine
from ppl_vae.evidence.refined_guide import RefinedGuide
from ppl_vae.evidence.sandwich import Sandwich, evidence_interval
from ppl_vae.evidence.simulation import simulate
from ppl_vae.evidence.upper import ChiUpperBound, ReverseAIS

__all__ = [
    "AIS",
    "BDMC",
    "BDMCSummary",
    "ChiUpperBound",
    "Defensive",
    "Evidence",
    "EvidenceInterval",
    "EvidenceSummary",
    "GapsSummary",
    "GradientRefinement",
    "ImportanceSampling",
    "InferenceGaps",
    "IntervalSummary",
    "RefinedGuide",
    "ReverseAIS",
    "SampledRefinement",
    "Sandwich",
    "bdmc",
    "evidence_interval",
    "inference_gaps",
    "log_evidence",
    "pareto_k",
    "reduce_log_weights",
    "refine",
    "simulate",
]
