from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tlcourse._random import kept_random_state


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("error", [None, ValueError])
def test_what_is_drawn_inside_is_not_seen_outside(error):
    def seed():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seed()
    expected = draw()
    seed()
    try:
        with kept_random_state():
            assert draw() == expected
            torch.manual_seed(2)
            draw()
            if error:
                raise error
    except ValueError:
        pass
    assert draw() == expected


class Device:
    """A stand-in for torch.cuda, torch.xpu or torch.mps."""

    def __init__(self, n):
        self.states = list(range(n))

    def is_available(self):
        return True

    def get_rng_state_all(self):
        return list(self.states)

    def set_rng_state_all(self, states):
        self.states = states

    def get_rng_state(self):
        return self.states[0]

    def set_rng_state(self, state):
        self.states = [state]


def test_all_devices_are_put_back(monkeypatch):
    devices = {"cuda": Device(3), "xpu": Device(2), "mps": Device(1)}
    for name, device in devices.items():
        monkeypatch.setattr(torch, name, device)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with kept_random_state():
        for device in devices.values():
            device.states = [99] * len(device.states)
    assert [device.states for device in devices.values()] == [[0, 1, 2], [0, 1], [0]]
