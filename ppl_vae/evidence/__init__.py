"""log p(x) of each row, with measures of its reliability."""

from ppl_vae.evidence.annealing.ais import AIS
from ppl_vae.evidence.annealing.bidirectional import BDMC, BDMCSummary, bdmc
from ppl_vae.evidence.annealing.upper_bounds import ChiUpperBound, ReverseAIS
from ppl_vae.evidence.defensive import Defensive
from ppl_vae.evidence.estimate import log_evidence, pooled
from ppl_vae.evidence.gaps import GapsSummary, InferenceGaps, inference_gaps
from ppl_vae.evidence.importance_sampling import ImportanceSampling
from ppl_vae.evidence.interval import EvidenceInterval, IntervalSummary
from ppl_vae.evidence.pareto import pareto_k
from ppl_vae.evidence.result import Evidence, EvidenceSummary
from ppl_vae.evidence.sandwich import Sandwich, evidence_interval
from ppl_vae.evidence.weights import reduce_log_weights

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
    "ImportanceSampling",
    "InferenceGaps",
    "IntervalSummary",
    "ReverseAIS",
    "Sandwich",
    "bdmc",
    "evidence_interval",
    "inference_gaps",
    "log_evidence",
    "pooled",
    "pareto_k",
    "reduce_log_weights",
]
