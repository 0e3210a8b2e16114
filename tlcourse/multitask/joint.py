r"""Learn a small target task together with the part of the source that looks like it.

The convolutions are shared, each task has a head of its own. Of the source, only images are used
whose low-level characteristics are near to a target image's; and a target image that the network
finds hard gets more of them, round by round (Ge and Yu, 2017).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import (
    check_float_tensor,
    check_int,
    check_logits_shape,
    check_number,
    check_targets,
    shape_of,
    widened,
)
from tlcourse._modes import evaluating
from tlcourse.data import LabelledImages
from tlcourse.models import Classifier
from tlcourse.multitask.retrieval import Retrieval


class JointFineTuning(Classifier):
    r"""Shared convolutions with a head for the target and one for the source.

    .. math:: \mathcal{L} = \frac{1}{N} \sum_{n=1}^{N} \mathcal{L}_{ce}(y_n, h_T(\phi(x_n)))
              + \frac{\lambda}{N} \sum_{n=1}^{N} \mathcal{L}_{ce}(y'_n, h_S(\phi(x'_n)))

    where

    - :math:`x, y`: a batch of N target images, (N, C, H, W), and their labels;
    - :math:`x', y'`: as many source images, drawn anew for every batch from the :attr:`selected`;
    - :math:`\phi`: the backbone; :math:`h_T, h_S`: the linear heads of target and source;
    - :math:`\lambda`, ``source_weight``.

    As a classifier it is the target's: ``model(images)`` are the target's logits. Both halves of a
    batch go through the backbone at once, so that batch normalisation sees in training what its
    running statistics hold in evaluation: both domains.

    Parameters
    ----------
    backbone
        As of :class:`~tlcourse.models.Classifier`. It is taken as it is: random weights train from
        scratch, those of a source network fine-tune it.
    source
        The source images to draw from.
    n_classes
        Classes of the target.
    selected
        Positions in the source, (M,); all of them unless given.
    source_head
        The head to begin with, copied; a fresh one unless given.
    source_weight
        :math:`\lambda`, at least 0. With 0 the source has no gradient, though batch normalisation
        still sees it.

    Raises
    ------
    TypeError, ValueError
        If a setting is wrong, a position is not in the source, or the head does not fit; in
        :meth:`loss`, if the target's images have another shape than the source's.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-joint-loss``.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> model = JointFineTuning(SmallResNet(45).backbone, source, 10)
    >>> model.loss(target[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        source: LabelledImages,
        n_classes: int,
        *,
        selected: Tensor | Sequence[int] | None = None,
        source_head: nn.Linear | None = None,
        source_weight: float = 1.0,
    ) -> None:
        super().__init__(backbone, n_classes)
        if not isinstance(source, LabelledImages):
            raise TypeError(f"source must be a LabelledImages, got {type(source).__name__}.")
        check_number("source_weight", source_weight, low=0)
        self.source, self.source_weight = source, source_weight
        self.selected = torch.arange(len(source)) if selected is None else selected
        wanted = (source.n_classes, self.head.in_features)
        if source_head is None:
            source_head = nn.Linear(self.head.in_features, source.n_classes)
        if not isinstance(source_head, nn.Linear) or source_head.weight.shape != wanted:
            raise ValueError(
                f"source_head must be a linear layer of {wanted[1]} features and {wanted[0]} "
                f"classes, got {source_head}."
            )
        self.source_head = copy.deepcopy(source_head)

    @property
    def selected(self) -> Tensor:
        """The positions of the source images in use, (M,), each once and in rising order."""
        return self._selected

    @selected.setter
    def selected(self, positions: Tensor | Sequence[int]) -> None:
        chosen = torch.as_tensor(positions)
        if chosen.ndim != 1 or chosen.numel() == 0 or chosen.dtype != torch.int64:
            raise ValueError(
                f"selected must hold one or more positions (M,), int64; got {shape_of(chosen)} of "
                f"{chosen.dtype}."
            )
        low, high = int(chosen.min()), int(chosen.max())
        if low < 0 or high >= len(self.source):
            raise ValueError(
                f"selected must lie in [0, {len(self.source) - 1}], got values from {low} to "
                f"{high}."
            )
        self._selected = chosen.unique()

    def source_logits(self, x: Tensor) -> Tensor:
        """Return the source head's logits, (N, K_S)."""
        logits: Tensor = self.source_head(self.backbone(x))
        return logits

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a target batch and as many source images, drawn by torch's generator.

        It is an objective for :func:`tlcourse.training.fit`: ``JointFineTuning.loss``.
        """
        x, y = batch
        at = self._selected[torch.randint(len(self._selected), (len(x),))]
        source_x, source_y = self.source.images[at].to(x), self.source.labels[at].to(x.device)
        _check_one_shape(source_x, x)
        features = self.backbone(torch.cat([x, source_x]))  # (2 N, D)
        target = F.cross_entropy(widened(self.head(features[: len(x)])), y)
        source = F.cross_entropy(widened(self.source_head(features[len(x) :])), source_y)
        return target + self.source_weight * source


class SelectiveJointFineTuning(JointFineTuning):
    r"""Joint training with the source images nearest to the target's, and more for the hard.

    Target image i brings its :math:`K_i` nearest source images; what is selected is all of them
    together. After a round of training,

    .. math::

        K_i \leftarrow K_i + \begin{cases}
            \sigma_0 & \hat y_i \ne y_i \\
            \sigma_1 & \hat y_i = y_i, \; H_i \ge \delta \\
            0        & \hat y_i = y_i, \; H_i < \delta
        \end{cases} \qquad \sigma_1 < \sigma_0

    where :math:`\hat y_i` is the network's answer to target image i, as it is, and :math:`H_i` the
    entropy of its probabilities, in nats.

    Parameters
    ----------
    backbone, source, source_head, source_weight
        As of :class:`JointFineTuning`.
    target
        The labelled target images.
    neighbours
        For each of them, in their order, its nearest source images: ``retrieve(...)`` with a k that
        is the most that one can ask for.
    start
        :math:`K_i` at the start, at least 1.
    if_wrong, if_uncertain
        :math:`\sigma_0` and :math:`\sigma_1`, 0 <= :math:`\sigma_1` < :math:`\sigma_0`.
    entropy_threshold
        :math:`\delta`, in nats, at least 0.

    Raises
    ------
    TypeError, ValueError
        If a setting is wrong, the neighbours are not those of this source and target, or the images
        of the two differ in shape.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-hard-samples``.

    Examples
    --------
    >>> from tlcourse.data import digits, few_per_class, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> from tlcourse.multitask import GaborBank, describe, fit_bin_edges, retrieve
    >>> source, target = glyphs(90, 1)[0], few_per_class(digits()[0], 1, seed=0)
    >>> bank = GaborBank(orientations=4, wavelengths=(4.0,))
    >>> edges = fit_bin_edges(bank(source.images), bins=20)
    >>> phi = [describe(data.images, bank, edges) for data in (source, target)]
    >>> model = SelectiveJointFineTuning(
    ...     SmallResNet(45).backbone, source, target, retrieve(*phi, k=20), start=2, if_wrong=4
    ... )
    >>> len(model.selected) <= 20, model.ask_for_more() > 0
    (True, True)
    """

    def __init__(
        self,
        backbone: nn.Module,
        source: LabelledImages,
        target: LabelledImages,
        neighbours: Retrieval,
        *,
        start: int = 10,
        if_wrong: int = 20,
        if_uncertain: int | None = None,
        entropy_threshold: float = 0.1,
        source_head: nn.Linear | None = None,
        source_weight: float = 1.0,
    ) -> None:
        if not isinstance(target, LabelledImages):
            raise TypeError(f"target must be a LabelledImages, got {type(target).__name__}.")
        if not isinstance(neighbours, Retrieval):
            raise TypeError(
                f"neighbours must be what retrieve returns, got {type(neighbours).__name__}."
            )
        n, most = neighbours.indices.shape
        if n != len(target):
            raise ValueError(
                f"neighbours are of {n} target images, and target has {len(target)}: retrieve for "
                "the descriptors of these images, in their order."
            )
        check_int("start", start, low=1, high=most)
        check_int("if_wrong", if_wrong, low=1)
        if_uncertain = if_wrong // 2 if if_uncertain is None else if_uncertain
        check_int("if_uncertain", if_uncertain, low=0, high=if_wrong - 1)
        check_number("entropy_threshold", entropy_threshold, low=0)
        super().__init__(
            backbone,
            source,
            target.n_classes,
            source_head=source_head,
            source_weight=source_weight,
        )
        _check_one_shape(source.images, target.images)
        low, high = (int(bound) for bound in neighbours.indices.aminmax())
        if low < 0 or high >= len(source):  # also those that are asked for in later rounds only
            raise ValueError(
                f"neighbours name source images from {low} to {high}, and source has "
                f"{len(source)}: retrieve among the descriptors of these images, in their order."
            )
        self.selected = neighbours.indices[:, :start].flatten()
        self.target, self.neighbours = target, neighbours
        self.counts = torch.full((n,), start)  # K_i
        self.if_wrong, self.if_uncertain = if_wrong, if_uncertain
        self.entropy_threshold = entropy_threshold

    def ask_for_more(self) -> int:
        """Let the hard target images ask for more neighbours: the end of a round.

        Returns
        -------
        int
            How many target images asked for more.
        """
        device = self.head.weight.device
        with evaluating(self), torch.no_grad():
            # Copies: a network may work in place.
            logits = [self(x.clone().to(device)).cpu() for x in self.target.images.split(512)]
        before = self.counts
        counts = next_neighbours(
            torch.cat(logits),
            self.target.labels,
            before,
            if_wrong=self.if_wrong,
            if_uncertain=self.if_uncertain,
            entropy_threshold=self.entropy_threshold,
        ).clamp(max=self.neighbours.indices.shape[1])
        place = torch.arange(self.neighbours.indices.shape[1])
        self.selected = self.neighbours.indices[place < counts[:, None]]
        self.counts = counts  # last: an error above leaves the round as it was
        return int((counts > before).sum())


def next_neighbours(
    logits: Tensor,
    labels: Tensor,
    counts: Tensor,
    *,
    if_wrong: int,
    if_uncertain: int,
    entropy_threshold: float,
) -> Tensor:
    r"""Return how many neighbours each target image asks for in the next round.

    The rule stands at :class:`SelectiveJointFineTuning`.

    Parameters
    ----------
    logits, labels
        Of the target images, (N, K) and (N,).
    counts
        :math:`K_i` of this round, (N,), int64.
    if_wrong, if_uncertain, entropy_threshold
        :math:`\sigma_0, \sigma_1, \delta`.

    Raises
    ------
    TypeError, ValueError
        If a shape, dtype or setting is wrong.

    References
    ----------
    Ge and Yu (2017), section 3. In the chapter: ``eq-hard-samples``.

    Examples
    --------
    >>> logits = torch.tensor([[9.0, 0.0], [0.1, 0.0], [0.0, 9.0]])
    >>> labels, counts = torch.tensor([0, 0, 0]), torch.tensor([10, 10, 10])
    >>> next_neighbours(
    ...     logits, labels, counts, if_wrong=8, if_uncertain=4, entropy_threshold=0.1
    ... )
    tensor([10, 14, 18])
    """
    check_int("if_wrong", if_wrong, low=1)
    check_int("if_uncertain", if_uncertain, low=0, high=if_wrong - 1)
    check_number("entropy_threshold", entropy_threshold, low=0)
    check_logits_shape("logits", logits)
    check_float_tensor("logits", logits)
    check_targets("labels", labels, n_samples=len(logits), n_classes=logits.shape[1])
    if not isinstance(counts, Tensor):
        raise TypeError(f"counts must be a torch.Tensor, got {type(counts).__name__}.")
    if counts.shape != labels.shape or counts.dtype != torch.int64:
        raise ValueError(
            f"counts must be {len(labels)} numbers of dtype int64, got {shape_of(counts)} of "
            f"{counts.dtype}."
        )
    log_p = torch.log_softmax(logits, dim=1)  # (N, K)
    entropy = -(log_p.exp() * log_p).sum(1)  # (N,), at most log K
    wrong = logits.argmax(1) != labels
    uncertain = ~wrong & (entropy >= entropy_threshold)
    return counts + if_wrong * wrong + if_uncertain * uncertain


def _check_one_shape(source: Tensor, target: Tensor) -> None:
    """Raise unless source and target images can share a batch."""
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"source images have shape {shape_of(source.shape[1:])} and target images "
            f"{shape_of(target.shape[1:])}: both go through the backbone in one batch, so bring "
            "them to one shape (C, H, W)."
        )
