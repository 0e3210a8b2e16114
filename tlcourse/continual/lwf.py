r"""Learning without forgetting: the network's own earlier answers stand in for the old data.

The old data is gone. Before the first step on the new task, the old heads are asked about the *new*
images, and their answers are written down. Then all is trained together: the new head on the new
labels, the old heads on what they used to say (Li and Hoiem, 2016). Nothing that is kept grows with
the old data, and one pass through the shared layers serves all heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from tlcourse._checks import (
    at_least_float32,
    check_finite,
    check_float_tensor,
    check_int,
    check_logits_shape,
    check_number,
    check_samples,
    check_targets,
    check_temperature,
    widened,
)
from tlcourse._recorded import WithRecorded, run_once


def lwf_old_task_loss(
    old_logits: Tensor, recorded_logits: Tensor, *, temperature: float = 2.0
) -> Tensor:
    r"""Return how far an old head has moved from its recorded answers.

    .. math::

        \mathcal{L}_{old} = -\frac{1}{N} \sum_{n=1}^{N} \sum_{i=1}^{K} y'_{ni} \log \hat y'_{ni},
        \qquad y' = \mathrm{softmax}(z / T), \quad \hat y' = \mathrm{softmax}(\hat z / T)

    where

    - :math:`\hat z`, ``old_logits``, shape (N, K): the old head's logits now;
    - :math:`z`, ``recorded_logits``, shape (N, K): its logits before the new task, for the same
      inputs. No gradient reaches them;
    - :math:`T`, ``temperature``, above 0.

    The paper writes :math:`y'` as :math:`(y^{(i)})^{1/T} / \sum_j (y^{(j)})^{1/T}` of the
    probabilities :math:`y = \mathrm{softmax}(z)`. That is the same number, but not in float32:
    a probability that has become 0 has an infinite derivative. From the logits nothing is lost.

    It is the soft term of distillation without the factor :math:`T^2`. Distillation mixes it with
    the labels' loss at any T, and wants the mixture to stay; here T is fixed, and its weight
    :math:`\lambda_o = 1` was chosen with it. At T = 2 the factor would be 4.

    Parameters
    ----------
    old_logits, recorded_logits
        Shape (N, K), one dtype; row n of both comes from the same input. Half precision counts as
        float32, and is computed in it.
    temperature
        The paper takes 2.

    Returns
    -------
    Tensor
        A scalar, at least the entropy of :math:`y'`; its gradient is 0 where both agree.

    Raises
    ------
    TypeError, ValueError
        If shapes, dtypes or the temperature do not fit, or a logit is NaN or infinite.

    References
    ----------
    Li and Hoiem (2016), equations 2 and 3. In the chapter: ``eq-lwf-soft-targets``,
    ``eq-lwf-old-loss``, ``eq-lwf-distillation``.

    Examples
    --------
    >>> recorded = torch.tensor([[4.0, 0.0]])
    >>> lwf_old_task_loss(torch.tensor([[0.0, 4.0]]), recorded).round(decimals=3)
    tensor(1.8890)
    """
    check_temperature(temperature)
    check_logits_shape("old_logits", old_logits)
    check_logits_shape("recorded_logits", recorded_logits)
    old_logits, recorded_logits = at_least_float32(
        "old_logits", old_logits, "recorded_logits", recorded_logits
    )
    y = torch.softmax(recorded_logits.detach() / temperature, dim=1)  # (N, K)
    loss = F.cross_entropy(old_logits / temperature, y)
    tensors = {"old_logits": old_logits, "recorded_logits": recorded_logits}
    check_finite(loss, unseen=[*tensors.values()], **tensors)
    return loss


@dataclass(frozen=True)
class Recording:
    """What :meth:`LearningWithoutForgetting.new_task` wrote down about the new data.

    Attributes
    ----------
    features
        Features (N, D) of the shared layers, and labels (N,): to warm up the new head.
    answers
        The new data, each sample with the logits of every old head at its end: to train jointly.
    """

    features: TensorDataset
    answers: WithRecorded


class LearningWithoutForgetting(nn.Module):
    r"""Shared layers with a head for each task, and the loss that keeps the old heads' answers.

    .. math::

        \mathcal{L} = \lambda_o \sum_{o} \mathcal{L}_{old}(y_o, \hat y_o)
                      + \mathcal{L}_{new}(y_n, \hat y_n) + \mathcal{R}(\theta)

    where

    - :math:`\mathcal{L}_{old}`: :func:`lwf_old_task_loss` of each old head, on new inputs;
    - :math:`\mathcal{L}_{new}`: the cross-entropy of the new head with the new labels;
    - :math:`\lambda_o`, ``old_weight``: 1 in the paper; larger holds on to the old tasks, 0 is
      plain fine-tuning, in which the old heads stay as they are;
    - :math:`\mathcal{R}(\theta) = \frac{\mu}{2} \|\theta\|^2`: the optimiser's weight decay
      :math:`\mu`, 0.0005 in the paper.

    A task is learnt in three steps, of which the last two are calls of
    :func:`tlcourse.training.fit`:

    1. :meth:`new_task` records the old heads' answers on the new data, then adds a head;
    2. warm-up: train ``heads[-1]`` alone on the recorded features;
    3. joint training: minimise :meth:`loss` over all parameters, on the recorded answers.

    Parameters
    ----------
    model
        A trained classifier: its ``backbone`` becomes the shared layers, its ``head`` the head of
        task 0. They are taken as they are, not copied.
    temperature
        T of the old tasks' loss.
    old_weight
        :math:`\lambda_o`, at least 0.

    Attributes
    ----------
    heads : torch.nn.ModuleList
        A linear head a task, in the order of learning.

    Raises
    ------
    TypeError, ValueError
        If the model has no backbone and linear head, or a setting is out of range.

    Notes
    -----
    Memory: beyond the network, the recorded logits alone, N times the old classes, N new samples.
    The old data is no argument of any function here.

    References
    ----------
    Li and Hoiem, Learning without Forgetting, 2016, section 3 and figure 3. In the chapter:
    ``eq-lwf-loss``, ``eq-weight-decay``.

    Examples
    --------
    >>> from tlcourse.models import MLP
    >>> from tlcourse.training import fit
    >>> lwf = LearningWithoutForgetting(MLP((4, 8, 3)))
    >>> new_data = TensorDataset(torch.rand(20, 4), torch.arange(20) % 2)
    >>> recording = lwf.new_task(new_data, n_classes=2)
    >>> history = fit(
    ...     lwf,
    ...     LearningWithoutForgetting.loss,
    ...     recording.answers,
    ...     optimizer=torch.optim.SGD(lwf.parameters(), lr=0.1, weight_decay=5e-4),
    ...     epochs=1,
    ...     progress=False,
    ... )
    >>> [tuple(logits.shape) for logits in lwf.logits(torch.rand(5, 4))]
    [(5, 3), (5, 2)]
    """

    def __init__(
        self, model: nn.Module, *, temperature: float = 2.0, old_weight: float = 1.0
    ) -> None:
        backbone, head = getattr(model, "backbone", None), getattr(model, "head", None)
        if not isinstance(backbone, nn.Module) or not isinstance(head, nn.Linear):
            raise TypeError(
                "model must be a classifier with a .backbone and a linear .head, such as those of "
                f"tlcourse.models; got {type(model).__name__}."
            )
        check_temperature(temperature)
        check_number("old_weight", old_weight, low=0)
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleList([head])
        self.temperature, self.old_weight = temperature, old_weight

    def new_task(
        self, dataset: Dataset[tuple[Tensor, ...]], n_classes: int, *, batch_size: int = 512
    ) -> Recording:
        """Record the old heads' answers on the new data, then add a head for it.

        The two are one step, so that no answer of an untrained head can be recorded, and none of a
        network that has begun to change.

        Parameters
        ----------
        dataset
            The new task's: of (input, label). Augmentation is refused: an answer belongs to one
            picture.
        n_classes
            Classes of the new head, at least 2.
        batch_size
            Samples at a time in the one pass, which runs in evaluation mode without gradients.

        Raises
        ------
        TypeError, ValueError
            If the data set is empty or random, a label is no class of the new head, or the network
            answers with NaN.
        """
        check_int("n_classes", n_classes, low=2)
        check_int("batch_size", batch_size, low=1)
        check_samples(dataset)
        if len(dataset[0]) != 2:
            raise ValueError(f"dataset must give (input, label), got tuples of {len(dataset[0])}.")
        features, labels = run_once(  # (N, D), (N,)
            "backbone", self.backbone, dataset, gives="features", batch_size=batch_size
        )
        check_targets("labels", labels, n_samples=len(features), n_classes=n_classes)
        weight = self._head(0).weight
        with torch.inference_mode(False), torch.no_grad():
            answers = [head(features.to(weight.device)).cpu() for head in self.heads]
        for o, logits in enumerate(answers):  # (N, K_o) each
            check_float_tensor(f"the answers of head {o}", logits)
        with torch.inference_mode(False):
            new = nn.Linear(features.shape[1], n_classes, device=weight.device, dtype=weight.dtype)
        self.heads.append(new)
        return Recording(TensorDataset(features, labels), WithRecorded(dataset, answers))

    def logits(self, inputs: Tensor) -> list[Tensor]:
        """Return every head's logits, (N, K_o) each, from one pass through the shared layers."""
        features = self.backbone(inputs)  # (N, ...) -> (N, D)
        return [head(features) for head in self.heads]

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        r"""Return :math:`\lambda_o \sum_o \mathcal{L}_{old} + \mathcal{L}_{new}` of a batch.

        :math:`\mathcal{R}(\theta)` is the optimiser's weight decay.

        Parameters
        ----------
        batch
            Inputs (N, ...), labels (N,), and the recorded logits of every head but the newest, as
            ``Recording.answers`` gives them.

        Raises
        ------
        TypeError, ValueError
            If there is not one recorded tensor for each old head, of its number of classes.
        """
        inputs, labels, *recorded = batch
        if len(recorded) != len(self.heads) - 1:
            raise ValueError(
                f"The batch has recorded answers of {len(recorded)} heads, the network has "
                f"{len(self.heads) - 1} old heads. Train on the answers of the latest new_task."
            )
        *old, new = self.logits(inputs.clone())  # a layer may work in place
        loss = F.cross_entropy(widened(new), labels)
        if self.old_weight > 0:
            for z_hat, z in zip(old, recorded, strict=True):
                loss = loss + self.old_weight * lwf_old_task_loss(
                    z_hat, z, temperature=self.temperature
                )
        return loss

    def forward(self, inputs: Tensor, task: int = -1) -> Tensor:
        """Return one task's logits, (N, K_task); the newest task's unless another is named."""
        logits: Tensor = self._head(task)(self.backbone(inputs))  # (N, ...) -> (N, D) -> (N, K)
        return logits

    def classifier(self, task: int) -> nn.Sequential:
        """Return one task's own network, made of the shared layers and its head, not copies."""
        return nn.Sequential(self.backbone, self._head(task))

    def _head(self, task: int) -> nn.Linear:
        n = len(self.heads)
        if isinstance(task, bool) or not isinstance(task, int):
            raise TypeError(f"task must be an integer, got {task!r} ({type(task).__name__}).")
        if not -n <= task < n:
            raise ValueError(
                f"task is {task}; there are {n} tasks, 0 to {n - 1} (or -1 for the newest)."
            )
        head = self.heads[task]
        assert isinstance(head, nn.Linear)
        return head
