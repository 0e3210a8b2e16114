r"""Weigh the losses of several tasks by the noise of each (Kendall, Gal and Cipolla, 2018).

A sum of losses in different units needs weights. Read each loss as a negative log likelihood with
one unknown noise level per task, and the weights follow: a task with much noise counts little. The
levels are learnt with the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tlcourse._checks import near, readable, shape_of, widened

KINDS = ("regression", "classification")


class UncertaintyWeighting(nn.Module):
    r"""Sum the losses of several tasks, each weighed by a learnt noise level.

    .. math::

        \mathcal{L} = \sum_{i \in \mathrm{reg}} \left( \tfrac{1}{2} e^{-s_i} L_i
                      + \tfrac{1}{2} s_i \right)
                    + \sum_{i \in \mathrm{cls}} \left( e^{-s_i} L_i + \tfrac{1}{2} s_i \right),
        \qquad s_i = \log \sigma_i^2

    where

    - :math:`L_i`, the loss of task i, a scalar: for regression the squared error, the mean over
      samples **and** dimensions, in squared units of the target; for classification the
      cross-entropy, a mean over samples, in nats;
    - :math:`\sigma_i`: for regression the standard deviation of the noise of each dimension, in
      units of the target; for classification the square root of a softmax temperature;
    - :math:`s_i`, ``log_variances[i]``: learnt, 0 at the start. At the optimum it is
      :math:`\log L_i` for regression, :math:`\log 2 L_i` for classification.

    The total is a negative log *density*: it falls below 0 as soon as the noise is small, and that
    is right. Give :attr:`log_variances` to the optimiser beside the network's parameters, without
    weight decay, which would pull every level to 1.

    Parameters
    ----------
    kinds
        ``"regression"`` or ``"classification"`` for every task, in the order of the losses.

    Raises
    ------
    TypeError, ValueError
        If ``kinds`` is empty, a single text, or holds another word.

    References
    ----------
    Kendall, Gal and Cipolla (2018), equations 7 and 10 and section 3.2. In the chapter:
    ``eq-uncertainty-loss`` and ``eq-optimal-log-variance``. The classification term rests on the
    approximation of equation 10; :func:`~tlcourse.multitask.check_likelihood` shows its error. The
    paper's experiments put L1 losses into the regression term; there s is no log variance.

    Examples
    --------
    >>> weighting = UncertaintyWeighting(["regression", "classification"])
    >>> losses = [torch.tensor(0.04), torch.tensor(1.5)]
    >>> weighting(losses).item()  # 0.04 / 2 + 1.5
    1.5199...
    >>> _ = weighting.log_variances.data.copy_(torch.tensor([0.04, 3.0]).log())
    >>> [round(w, 3) for w in weighting.weights.tolist()]
    [12.5, 0.333]
    """

    _factors: Tensor

    def __init__(self, kinds: Sequence[str]) -> None:
        if isinstance(kinds, str) or not isinstance(kinds, Sequence):
            raise TypeError(
                f"kinds must be a list with 'regression' or 'classification' for every task, "
                f"got {kinds!r}."
            )
        if not kinds:
            raise ValueError("kinds is empty: it takes the kind of every task.")
        for i, kind in enumerate(kinds):
            if kind not in KINDS:
                raise ValueError(
                    f"kinds[{i}] is {kind!r}; it takes 'regression' or 'classification'."
                    f"{near(kind, KINDS)}"
                )
        super().__init__()
        self.kinds = tuple(kinds)
        self.log_variances = nn.Parameter(torch.zeros(len(kinds)))  # s
        halves = [0.5 if kind == "regression" else 1.0 for kind in kinds]
        self.register_buffer("_factors", torch.tensor(halves), persistent=False)

    def forward(self, losses: Sequence[Tensor]) -> Tensor:
        """Return the weighted sum, a scalar.

        Parameters
        ----------
        losses
            A scalar tensor of at least 0 for every task, in the order of ``kinds``.

        Raises
        ------
        TypeError, ValueError
            If there are more or fewer losses than kinds, or one is no scalar, no floating-point
            number, NaN, infinite or below 0.
        """
        if isinstance(losses, (int, float)) or (isinstance(losses, Tensor) and losses.ndim == 0):
            raise TypeError(
                "losses must be a list with a scalar tensor for every task, got one number: put it "
                "into a list."
            )
        if len(losses) != len(self.kinds):
            raise ValueError(
                f"losses must be one for each of the {len(self.kinds)} tasks "
                f"({', '.join(self.kinds)}), got {len(losses)}."
            )
        for i, loss in enumerate(losses):
            _check_scalar(f"losses[{i}]", loss)
        L = torch.stack([loss.reshape(()) for loss in losses])  # (tasks,)
        s = widened(self.log_variances).to(L.device)
        total = (self._factors.to(s) * torch.exp(-s) * L + 0.5 * s).sum()
        if readable(L):
            self._check_values(L.tolist(), total.item())
        return total

    def _check_values(self, losses: list[float], total: float) -> None:
        for kind, (i, loss) in zip(self.kinds, enumerate(losses), strict=True):
            if not math.isfinite(loss):
                raise ValueError(
                    f"losses[{i}] ({kind}) is {loss}. Look at the learning rate, and at the data "
                    "and outputs that made it."
                )
            if loss < 0:
                raise ValueError(
                    f"losses[{i}] ({kind}) is {loss}: a squared error or a cross-entropy is never "
                    "below 0, and below 0 no noise level is best. A total of this class may be: "
                    "give it the losses themselves."
                )
        if not math.isfinite(total):
            raise ValueError(
                f"log_variances are {self.log_variances.tolist()}: the weighted sum is not finite. "
                "Give them a lower learning rate."
            )

    @property
    def weights(self) -> Tensor:
        """What each loss is multiplied by now, (tasks,): e^-s, and half of it for regression."""
        return (self._factors * torch.exp(-self.log_variances)).detach()

    @property
    def deviations(self) -> Tensor:
        """The noise levels sigma = e^(s/2), (tasks,), in units of the targets for regression."""
        return torch.exp(0.5 * self.log_variances).detach()

    def extra_repr(self) -> str:
        """Return the kinds, for printing."""
        return f"kinds={list(self.kinds)}"


def optimal_log_variances(losses: Sequence[float], kinds: Sequence[str]) -> list[float]:
    r"""Return the log variances at which the weighted sum is least, for losses that stay fixed.

    .. math:: s_i = \log L_i \;\text{(regression)}, \qquad
              s_i = \log 2 L_i \;\text{(classification)}

    where :math:`L_i` > 0 is the loss of task i: set the derivative of
    :class:`UncertaintyWeighting`'s sum with respect to :math:`s_i` to 0.

    Raises
    ------
    TypeError, ValueError
        As :class:`UncertaintyWeighting`; if a loss is not a positive finite number, or there is
        not one for every kind.

    References
    ----------
    In the chapter: ``eq-optimal-log-variance``.

    Examples
    --------
    >>> [round(s, 3) for s in optimal_log_variances([0.04, 1.5], ["regression", "classification"])]
    [-3.219, 1.099]
    """
    kinds = UncertaintyWeighting(kinds).kinds
    if len(losses) != len(kinds):
        raise ValueError(f"losses must be one for each of {len(kinds)} kinds, got {len(losses)}.")
    for i, loss in enumerate(losses):
        if not (math.isfinite(loss) and loss > 0):
            raise ValueError(f"losses[{i}] must be finite and greater than 0, got {loss}.")
    return [
        math.log(loss if kind == "regression" else 2 * loss)
        for loss, kind in zip(losses, kinds, strict=True)
    ]


def _check_scalar(name: str, loss: Tensor) -> None:
    if not isinstance(loss, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(loss).__name__}.")
    if loss.numel() != 1:
        raise ValueError(
            f"{name} must be a scalar, got shape {shape_of(loss)}. Take the mean over samples and "
            "dimensions: losses with reduction='none' have one value for each."
        )
    if not loss.is_floating_point():
        raise TypeError(f"{name} must be a floating-point number, got dtype {loss.dtype}.")
