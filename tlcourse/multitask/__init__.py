"""Several tasks at once: chapters *methods/multi-task* and *methods/selective-joint*."""

from tlcourse.multitask.dense import dense_losses
from tlcourse.multitask.derivation import (
    LikelihoodReport,
    SymbolicLikelihood,
    check_likelihood,
    classification_nll,
    regression_nll,
    remainder,
    symbolic_likelihood,
)
from tlcourse.multitask.descriptors import BinEdges, describe, fit_bin_edges, histogram_distance
from tlcourse.multitask.filters import ConvBank, GaborBank, Responses
from tlcourse.multitask.joint import JointFineTuning, SelectiveJointFineTuning, next_neighbours
from tlcourse.multitask.retrieval import DescriptorIndex, Retrieval, retrieve, root_embedding
from tlcourse.multitask.uncertainty import UncertaintyWeighting, optimal_log_variances

__all__ = [
    "BinEdges",
    "ConvBank",
    "DescriptorIndex",
    "GaborBank",
    "JointFineTuning",
    "LikelihoodReport",
    "Responses",
    "Retrieval",
    "SelectiveJointFineTuning",
    "SymbolicLikelihood",
    "UncertaintyWeighting",
    "check_likelihood",
    "classification_nll",
    "dense_losses",
    "describe",
    "fit_bin_edges",
    "histogram_distance",
    "next_neighbours",
    "optimal_log_variances",
    "regression_nll",
    "remainder",
    "retrieve",
    "root_embedding",
    "symbolic_likelihood",
]
