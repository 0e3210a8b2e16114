"""Small sources, inputs and training for the tests of SpotTune."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import TensorDataset

from tlcourse.adaptive import SpotTuneLSTM, SpotTuneResNet
from tlcourse.models import Classifier, LSTMClassifier, SmallResNet, WideResNet
from tlcourse.training import fit


class Case:
    """A source network, the SpotTune that is made of it, and inputs for it."""

    def __init__(self, name):
        torch.manual_seed(0)
        self.name = name
        if name == "lstm":
            self.source = LSTMClassifier(4, n_steps=20, width=6)
            self.shape = (20, 6)
        elif name == "small resnet":
            self.source = SmallResNet(4, width=4)
            self.shape = (1, 16, 16)
        else:
            self.source = WideResNet(10, 1, 4, in_channels=1)
            self.shape = (1, 16, 16)
        if name != "lstm":  # statistics that a network has which was trained
            for _ in range(3):
                self.source(2 + 3 * self.inputs(16))
        self.source.eval()

    def inputs(self, n=32, seed=0):
        return torch.randn(n, *self.shape, generator=torch.Generator().manual_seed(seed))

    def model(self, n_classes=3, **settings):
        torch.manual_seed(1)
        kind = SpotTuneLSTM if self.name == "lstm" else SpotTuneResNet
        return kind.from_pretrained(self.source, n_classes, **settings)

    def fine_tuning(self, model):
        """Return plain fine-tuning from where the model is: the source and the model's head."""
        plain = Classifier(copy.deepcopy(self.source.backbone), model.head.out_features)
        plain.head.load_state_dict(model.head.state_dict())
        return plain

    def data(self, n=48):
        return TensorDataset(self.inputs(n), torch.arange(n) % 3)

    def trained(self, model, epochs=2, lr=0.1):
        groups = [
            {"params": model.agent.parameters(), "lr": lr},
            {"params": model.learners()},
        ]
        optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9, weight_decay=0.01)
        fit(
            model,
            type(model).loss,
            self.data(),
            optimizer=optimizer,
            epochs=epochs,
            batch_size=16,
            progress=False,
        )
        return model


@pytest.fixture(params=["lstm", "small resnet", "wide resnet"])
def case(request):
    return Case(request.param)


@pytest.fixture
def lstm():
    return Case("lstm")
