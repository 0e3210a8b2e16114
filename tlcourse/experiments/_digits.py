"""What experiments from printed characters to handwritten digits share, in several families."""

from __future__ import annotations

import torch
from torch import nn

from tlcourse.data import LabelledImages
from tlcourse.models import SmallResNet
from tlcourse.source import glyph_network


def digit_reader(n_classes: int = 10) -> SmallResNet:
    """Return the source network, its head cut down to the first classes: these are the digits."""
    model = glyph_network(progress=False)
    head = nn.Linear(model.head.in_features, n_classes)
    with torch.no_grad():
        head.weight.copy_(model.head.weight[:n_classes])
        head.bias.copy_(model.head.bias[:n_classes])
    model.head = head
    return model


def on_pixels(few: LabelledImages, test: LabelledImages, strength: float) -> float:
    """Return the accuracy of logistic regression on the pixels, in per cent."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=strength, max_iter=5_000)
    model.fit(few.images.flatten(1).numpy(), few.labels.numpy())
    return 100 * float(model.score(test.images.flatten(1).numpy(), test.labels.numpy()))
