r"""Deep adaptation networks: no discrepancy in the last layers (Long et al., 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tlcourse._checks import check_choice, check_int, widened
from tlcourse._modes import evaluating
from tlcourse.adaptation.aligned import Aligned
from tlcourse.adaptation.mmd import ESTIMATORS, TINY, mmd2, optimal_kernel_weights


class DAN(Aligned):
    r"""Align the features and the logits by their discrepancies.

    .. math:: \mathcal{A} = \sum_{l} \mathrm{MMD}^2(z_l(x), z_l(x'))

    where :math:`z_l` are the last layers, which are the most specific to a task: here the features
    and the logits. Each is seen by ``n_kernels`` kernels whose bandwidths are :math:`2^{-2}, \dots,
    2^{2}` times the median squared distance within the batch, the weights of which are equal until
    :meth:`choose_kernels` is called.

    Parameters
    ----------
    backbone, n_classes, target, weight
        As of :class:`~tlcourse.adaptation.aligned.Aligned`.
    n_kernels
        At least 1.
    estimator
        As of :func:`~tlcourse.adaptation.mmd2`; the paper takes ``"linear"``.

    References
    ----------
    Long, Cao, Wang and Jordan, Learning Transferable Features with Deep Adaptation Networks, 2015,
    equation 4. In the chapter: ``eq-dan``.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> model = DAN(SmallResNet(45).backbone, source.n_classes, target.images)
    >>> model.loss(source[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        target: Tensor,
        *,
        weight: float = 1.0,
        n_kernels: int = 5,
        estimator: str = "unbiased",
    ) -> None:
        super().__init__(backbone, n_classes, target, weight=weight)
        check_int("n_kernels", n_kernels, low=1)
        check_choice("estimator", estimator, ESTIMATORS)
        self.estimator = estimator
        self.kernel_weights: Tensor
        self.scales: Tensor
        steps = torch.linspace(-2, 2, n_kernels) if n_kernels > 1 else torch.zeros(1)
        self.register_buffer("scales", 2.0**steps)  # (B,)
        # For the features, and for the logits.
        self.register_buffer("kernel_weights", torch.full((2, n_kernels), 1 / n_kernels))

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return the sum of the layers' discrepancies."""
        apart = [
            mmd2(s, t, self._bandwidths(s, t), weights=weights, estimator=self.estimator)
            for s, t, weights in zip(source, target, self.kernel_weights, strict=True)
        ]
        return torch.stack(apart).sum()

    def choose_kernels(self, images: Tensor) -> None:
        """Give the kernels the weights with which a test would see best what is left between them.

        The paper does so in turn with the training. ``images``, (N, C, H, W), are the source's; as
        many of the target's are drawn.
        """
        with evaluating(self), torch.no_grad():
            layers = zip(*self.outputs(images), strict=True)
            for row, (s, t) in enumerate(layers):
                widths = self._bandwidths(s, t).tolist()
                self.kernel_weights[row] = optimal_kernel_weights(s, t, widths)

    def _bandwidths(self, s: Tensor, t: Tensor) -> Tensor:
        pool = widened(torch.cat([s, t]).detach())
        median = torch.nn.functional.pdist(pool).square().median()
        return median.clamp_min(TINY) * self.scales
