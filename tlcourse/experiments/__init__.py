"""Named, resumable experiments and their result files: ``tlcourse list | run | compare``."""

from __future__ import annotations

from tlcourse._checks import check_choice
from tlcourse.experiments._engine.experiment import Experiment, Row
from tlcourse.experiments._engine.merge import merge
from tlcourse.experiments._engine.results import Result, ResultRow, load_result, results_dir
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptation.adapt import (
    ADAPT_DIGITS,
    ADAPT_GLYPHS_DIGITS,
    ADAPT_MNIST,
    ADAPT_SENSORS,
)
from tlcourse.experiments.adaptation.ccsa_replayed import CCSA_REPLAYED
from tlcourse.experiments.adaptive.l2t_pairs import L2T_PAIRS
from tlcourse.experiments.adaptive.spottune import SPOTTUNE_HAR, SPOTTUNE_IMU
from tlcourse.experiments.adaptive.spottune_digits import SPOTTUNE_DIGITS
from tlcourse.experiments.continual.forgetting import FORGETTING_CIFAR10, FORGETTING_DIGITS
from tlcourse.experiments.continual.lwf import LWF, LWF_MNIST
from tlcourse.experiments.continual.progressive import PROGRESSIVE
from tlcourse.experiments.distillation.kd import KD_DIGITS, KD_MNIST
from tlcourse.experiments.distillation.kd_mnist_jitter import KD_MNIST_JITTER
from tlcourse.experiments.finetuning.adapters_averages import ADAPTERS_AVERAGES
from tlcourse.experiments.finetuning.finetune_cases import FINETUNE_CASES
from tlcourse.experiments.finetuning.finetune_digits import FINETUNE_DIGITS
from tlcourse.experiments.finetuning.pixels_cifar10 import PIXELS_CIFAR10
from tlcourse.experiments.finetuning.probe_cifar10 import PROBE_CIFAR10
from tlcourse.experiments.finetuning.unfreeze_cifar10 import UNFREEZE_CIFAR10
from tlcourse.experiments.introduction.scratch_digits import SCRATCH_DIGITS
from tlcourse.experiments.matching.at import AT_CIFAR10, AT_CIFAR10_NIN, AT_DIGITS
from tlcourse.experiments.matching.at_transfer import AT_TRANSFER, AT_TRANSFER_MNIST
from tlcourse.experiments.matching.jacobian_few_data import JACOBIAN_FEW_DATA
from tlcourse.experiments.matching.jacobian_transfer import JACOBIAN_TRANSFER
from tlcourse.experiments.multitask.selective_joint import SELECTIVE_JOINT, SELECTIVE_JOINT_CIFAR10
from tlcourse.experiments.multitask.selective_joint_why import SELECTIVE_JOINT_WHY
from tlcourse.experiments.multitask.uncertainty_scenes import UNCERTAINTY_SCENES

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        KD_MNIST,
        KD_MNIST_JITTER,
        KD_DIGITS,
        PROBE_CIFAR10,
        UNFREEZE_CIFAR10,
        FINETUNE_DIGITS,
        FINETUNE_CASES,
        ADAPTERS_AVERAGES,
        FORGETTING_DIGITS,
        FORGETTING_CIFAR10,
        LWF,
        LWF_MNIST,
        PROGRESSIVE,
        UNCERTAINTY_SCENES,
        SELECTIVE_JOINT,
        SELECTIVE_JOINT_CIFAR10,
        SELECTIVE_JOINT_WHY,
        AT_DIGITS,
        AT_CIFAR10,
        AT_CIFAR10_NIN,
        AT_TRANSFER,
        AT_TRANSFER_MNIST,
        JACOBIAN_FEW_DATA,
        JACOBIAN_TRANSFER,
        SPOTTUNE_IMU,
        SPOTTUNE_HAR,
        L2T_PAIRS,
        SPOTTUNE_DIGITS,
        SCRATCH_DIGITS,
        PIXELS_CIFAR10,
        ADAPT_DIGITS,
        ADAPT_GLYPHS_DIGITS,
        ADAPT_MNIST,
        ADAPT_SENSORS,
        CCSA_REPLAYED,
    )
}


def get(name: str) -> Experiment:
    """Return an experiment by name.

    Raises
    ------
    ValueError
        If there is none of that name; the message lists them all.
    """
    check_choice("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]


__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Result",
    "ResultRow",
    "Row",
    "get",
    "load_result",
    "merge",
    "results_dir",
    "run",
]
