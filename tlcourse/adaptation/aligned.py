r"""A classifier that learns from a labelled source while its features are aligned with a target's.

What the unsupervised methods of the family share. Each says in its own file what "aligned" is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_float_tensor, check_number, shape_of, widened
from tlcourse.models import Classifier

FEWEST = 4  # samples of which a discrepancy can be estimated


class Aligned(Classifier):
    r"""Learn the source's labels, and make source and target alike in what the network computes.

    .. math:: \mathcal{L} = \frac{1}{N} \sum_{n=1}^{N} \mathcal{L}_{ce}(y_n, h(\phi(x_n)))
              + \lambda\, \mathcal{A}(x, x')

    where

    - :math:`x, y`: a batch of N source images, (N, C, H, W), and their labels;
    - :math:`x'`: as many target images, drawn anew for every batch; they have no labels here, so
      that none can be used by mistake;
    - :math:`\phi, h`: backbone and head, the same for both domains;
    - :math:`\mathcal{A}`, :meth:`alignment`: what a subclass says;
    - :math:`\lambda`, ``weight``.

    Both halves of a batch go through the network at once, so that batch normalisation sees both
    domains. A batch of fewer than 4 samples, as the last of an epoch may be, is not aligned.

    Parameters
    ----------
    backbone, n_classes
        As of :class:`~tlcourse.models.Classifier`.
    target
        The target's images alone, (M, C, H, W).
    weight
        :math:`\lambda`, at least 0. With 0 batch normalisation still sees the target.

    Raises
    ------
    TypeError, ValueError
        If a setting is wrong, the target brings labels, or its images differ in shape.
    """

    def __init__(
        self, backbone: nn.Module, n_classes: int, target: Tensor, *, weight: float = 1.0
    ) -> None:
        super().__init__(backbone, n_classes)
        if not isinstance(target, Tensor):
            raise TypeError(
                "target must be a tensor of images: an unsupervised method may see no labels of "
                f"the target; got {type(target).__name__}. Give its images alone: target.images."
            )
        check_float_tensor("target", target)
        if target.ndim < 2 or len(target) == 0:
            raise ValueError(f"target must be one image or more, got shape {shape_of(target)}.")
        check_number("weight", weight, low=0)
        self.target, self.weight = target, weight

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return how far apart the domains are, a scalar; of each, features (N, D) and logits."""
        raise NotImplementedError

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a source batch and as many target images, drawn by torch's generator.

        It is an objective for :func:`tlcourse.training.fit`.
        """
        x, y = batch
        source, target = self.outputs(x)
        loss = F.cross_entropy(widened(source[1]), y)
        if len(x) < FEWEST:
            return loss
        return loss + self.weight * self.alignment(source, target)

    def outputs(self, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return features and logits of a source batch, and of as many target images."""
        return self.outputs_of(x, self.draw(x))

    def draw(self, x: Tensor) -> Tensor:
        """Return as many target images as there are source images, drawn with replacement."""
        at = torch.randint(len(self.target), (len(x),))
        target_x = self.target[at].to(x)
        if target_x.shape[1:] != x.shape[1:]:
            raise ValueError(
                f"Source and target images must have one shape, got {shape_of(x[0])} and "
                f"{shape_of(target_x[0])}. Resize one of them."
            )
        return target_x

    def outputs_of(
        self, x: Tensor, target_x: Tensor
    ) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Return features and logits of a source and a target batch, which go through at once."""
        features = self.backbone(torch.cat([x, target_x]))  # (2 N, D)
        logits = self.head(features)  # (2 N, K)
        n = len(x)
        return (features[:n], logits[:n]), (features[n:], logits[n:])
