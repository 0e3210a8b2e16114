"""The networks of the course, one file each.

Every classifier is a `Classifier`: a ``backbone`` that turns images (or windows of readings) into
features, x -> (N, D), and a linear ``head`` that turns features into logits, (N, D) -> (N, K).
"""

from tlcourse.models.classifier import Classifier
from tlcourse.models.dense import DenseNetwork
from tlcourse.models.lstm import LSTMClassifier
from tlcourse.models.mlp import MLP
from tlcourse.models.nin import NetworkInNetwork
from tlcourse.models.pretrained import Backbone, pretrained_backbone
from tlcourse.models.small_resnet import SmallResNet
from tlcourse.models.wide_resnet import WideResNet

__all__ = [
    "MLP",
    "Backbone",
    "Classifier",
    "DenseNetwork",
    "LSTMClassifier",
    "NetworkInNetwork",
    "SmallResNet",
    "WideResNet",
    "pretrained_backbone",
]
