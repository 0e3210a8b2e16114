r"""Correlation alignment: give source and target features one covariance (Sun and Saenko, 2016)."""

from __future__ import annotations

from torch import Tensor

from tlcourse._checks import check_finite
from tlcourse.adaptation._parts import check_features, product
from tlcourse.adaptation.aligned import Aligned


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    r"""Return how far the covariances of two batches of features are apart.

    .. math:: \mathcal{L} = \frac{1}{4 D^2} \|C_S - C_T\|_F^2

    where

    - :math:`C_S, C_T`, shape (D, D): covariances of the features, over n - 1;
    - :math:`D`: the number of features.

    The means are not compared: a target that is shifted, and nothing else, costs nothing.

    Parameters
    ----------
    source, target
        Shape (n, D) and (m, D), n and m at least 2. Half precision is computed in float32.

    Returns
    -------
    Tensor
        A scalar, at least 0.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, or there is NaN.

    References
    ----------
    Sun and Saenko, Deep CORAL, 2016, equation 1. In the chapter: ``eq-coral``.

    Examples
    --------
    >>> import torch
    >>> source = torch.tensor([[1.0], [-1.0]])  # of variance 2
    >>> coral_loss(source, 2 * source).item(), coral_loss(source, source + 5).item()
    (9.0, 0.0)
    """
    source, target = check_features(source=source, target=target, at_least=2)
    apart = _covariance(source) - _covariance(target)
    loss = apart.square().sum() / (4 * source.shape[1] ** 2)
    check_finite(loss, source=source, target=target)
    return loss


def _covariance(z: Tensor) -> Tensor:
    centred = z - z.mean(0)
    return product(centred.T, centred) / (len(z) - 1)


class DeepCORAL(Aligned):
    """Align the logits by their covariances.

    Parameters
    ----------
    backbone, n_classes, target, weight
        As of :class:`~tlcourse.adaptation.aligned.Aligned`.

    References
    ----------
    Sun and Saenko (2016), section 3.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> model = DeepCORAL(SmallResNet(45).backbone, source.n_classes, target.images)
    >>> model.loss(source[:8]).shape
    torch.Size([])
    """

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the logits' correlation loss."""
        return coral_loss(source[1], target[1])
