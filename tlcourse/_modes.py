"""Training and evaluation mode for a while: every module gets its own mode back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def kept_modes(model: object) -> Iterator[None]:
    """Give each layer its own mode back at the end; ``model.train(mode)`` knows one for all.

    What is no module, such as a plain function, has no modes and is left alone.
    """
    layers = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [layer.training for layer in layers]
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.training = mode


@contextlib.contextmanager
def evaluating(model: object) -> Iterator[None]:
    """Put a model into evaluation mode for a while, then every module back into its own mode.

    Examples
    --------
    >>> model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    >>> with evaluating(model):
    ...     model[0].training
    False
    >>> model[0].training, model[1].training
    (True, False)
    """
    with kept_modes(model):
        if isinstance(model, nn.Module):
            model.eval()
        yield
