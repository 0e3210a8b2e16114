r"""Classification and contrastive semantic alignment, where a few target labels are there.

Pairs of one class, one sample from each domain, are drawn together; pairs of different classes are
pushed apart, up to a margin (Motiian et al., 2017).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import check_choice, check_finite, check_number, check_targets, widened
from tlcourse.adaptation._parts import check_features
from tlcourse.data import LabelledImages, Windows
from tlcourse.models import Classifier

MODES = ("paper", "code")


def ccsa_loss(
    source: Tensor,
    source_labels: Tensor,
    target: Tensor,
    target_labels: Tensor,
    *,
    margin: float = 1.0,
    mode: str = "paper",
) -> Tensor:
    r"""Return the contrastive loss over all pairs of a source and a target sample.

    .. math::

        \mathcal{L} = \frac{1}{|P|} \sum_{(i, j) \in P} \tfrac12\, d_{ij}^2
            + \frac{1}{|Q|} \sum_{(i, j) \in Q} \tfrac12 \max(0, m - d_{ij})^2

    where

    - :math:`d_{ij} = \|z^S_i - z^T_j\|`, of features (n, D) and (m, D);
    - :math:`P`: the pairs of one class, which are to lie together; :math:`Q`: all others, which are
      to lie at least the ``margin`` :math:`m` apart. A set without a pair adds nothing.

    This is ``mode="paper"``. With ``"code"`` the halves are left out and one mean is taken over all
    pairs, as the authors' program does, which draws three pairs of Q for one of P.

    The gradient at distance 0 is 0 for both terms, not NaN.

    Parameters
    ----------
    source, target
        Features of both batches. Half precision is computed in float32.
    source_labels, target_labels
        Shape (n,) and (m,), int64.
    margin
        Above 0.
    mode
        ``"paper"`` or ``"code"``.

    Returns
    -------
    Tensor
        A scalar, at least 0, to be added to the classification loss.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, there is NaN, or the margin is not above 0.

    References
    ----------
    Motiian et al., Unified Deep Supervised Domain Adaptation and Generalization, 2017, equations 4
    to 7. In the chapter: ``eq-ccsa``.

    Examples
    --------
    >>> import torch
    >>> source, target = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.6, 0.0]])
    >>> one, other = torch.tensor([1]), torch.tensor([2])
    >>> ccsa_loss(source, one, target, one).item()  # 0.6^2 / 2
    0.18...
    >>> ccsa_loss(source, one, target, other).item()  # (1 - 0.6)^2 / 2
    0.07...
    """
    check_choice("mode", mode, MODES)
    check_number("margin", margin, above=0)
    source, target = check_features(source=source, target=target, at_least=1)
    for name, labels, features in (
        ("source_labels", source_labels, source),
        ("target_labels", target_labels, target),
    ):
        check_targets(name, labels, n_samples=len(features), n_classes=2**62)
    squares = (source[:, None] - target).square().sum(2)  # (n, m)
    same = source_labels[:, None] == target_labels  # (n, m)
    # The root's slope at 0 is infinite; there the distance is put to 0 by hand.
    apart = squares.where(squares > 0, 1).sqrt() * (squares > 0)
    together, separate = squares * same, (margin - apart).clamp_min(0).square() * ~same
    if mode == "code":
        loss = (together + separate).mean()
    else:
        n_same, n_other = same.sum().clamp_min(1), (~same).sum().clamp_min(1)
        loss = together.sum() / (2 * n_same) + separate.sum() / (2 * n_other)
    check_finite(loss, unseen=[source, target], source=source, target=target)
    return loss


class CCSA(Classifier):
    r"""Learn the source's labels, and align both domains class by class.

    .. math:: \mathcal{L} = (1 - \alpha)\, \mathcal{L}_{ce}(y, h(\phi(x)))
              + \alpha\, \mathcal{L}_{csa}\big(\phi(x), y, \phi(x'), y'\big)

    where

    - :math:`x, y`: a batch of N source samples;
    - :math:`x', y'`: as many of the few labelled target samples, drawn anew for every batch;
    - :math:`\mathcal{L}_{csa}`: :func:`ccsa_loss` over all N x N pairs, in the form of the paper,
      where the pairs of one class and the others count alike, however many there are of each.

    Unlike the methods without labels, it cannot align the wrong classes. The cross-entropy is of
    the source alone, as in the paper; the authors' program gives every batch twice with the domains
    exchanged, and so learns the target's labels by cross-entropy, too.

    Parameters
    ----------
    backbone, n_classes
        As of :class:`~tlcourse.models.Classifier`.
    target
        The labelled target samples, with the same classes.
    alpha
        From 0 to 1.
    margin
        As of :func:`ccsa_loss`.

    Raises
    ------
    TypeError, ValueError
        If a setting is wrong, or the target has no labels or more classes.

    References
    ----------
    Motiian et al. (2017), section 3; ``alpha`` is that of the authors' program.

    Examples
    --------
    >>> from tlcourse.data import digits, few_per_class
    >>> from tlcourse.models import SmallResNet
    >>> train, _ = digits()
    >>> few = few_per_class(train, 1, seed=0)
    >>> model = CCSA(SmallResNet(10, width=2).backbone, 10, few)
    >>> model.loss(train[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        target: LabelledImages | Windows,
        *,
        alpha: float = 0.25,
        margin: float = 1.0,
    ) -> None:
        super().__init__(backbone, n_classes)
        if not isinstance(target, LabelledImages | Windows):
            raise TypeError(
                "target must be a LabelledImages or Windows: CCSA pairs samples by their labels; "
                f"got {type(target).__name__}. Without labels of the target there are DAN, DANN, "
                "DeepCORAL, RTN and DSN."
            )
        if target.n_classes != n_classes:
            raise ValueError(
                f"target has {target.n_classes} classes, the model {n_classes}; pairs need the "
                "same classes in both domains."
            )
        check_number("alpha", alpha, low=0, high=1)
        check_number("margin", margin, above=0)
        self.target, self.target_labels = target.tensors
        self.alpha, self.margin = alpha, margin

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a source batch and as many target samples, drawn by torch's generator.

        It is an objective for :func:`tlcourse.training.fit`.
        """
        x, y = batch
        at = torch.randint(len(self.target), (len(x),))
        x_, y_ = self.target[at].to(x), self.target_labels[at].to(y)
        features = self.backbone(torch.cat([x, x_]))  # (2 N, D)
        source, target = features[: len(x)], features[len(x) :]
        loss = (1 - self.alpha) * F.cross_entropy(widened(self.head(source)), y)
        return loss + self.alpha * ccsa_loss(source, y, target, y_, margin=self.margin)
