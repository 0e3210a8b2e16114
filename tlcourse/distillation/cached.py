"""A teacher that runs once: its logits, kept by sample index."""

from __future__ import annotations

from torch import Tensor, nn
from torch.utils.data import Dataset

from tlcourse._checks import check_int
from tlcourse._recorded import WithRecorded, run_once


class CachedTeacher(WithRecorded):
    """A data set that also hands out the teacher's logits for each sample.

    The teacher sees every sample once, in the order of the data set; afterwards sample i comes with
    row i of its logits, whatever order a loader draws. A list of logits in the order of *loading*
    would go out of step with the first shuffle.

    It assumes that sample i is the same at every epoch. A data set with random augmentation is
    refused: the teacher's answer would belong to another picture.

    Parameters
    ----------
    teacher
        Maps inputs (N, ...) to logits (N, K). It is run in eval mode without gradients, where it
        is; afterwards each of its modules is in the mode that it was in.
    dataset
        Of (input, label) pairs, or longer tuples; the logits are put at the end.
    batch_size
        Samples at a time in the teacher's one pass.

    Attributes
    ----------
    logits : Tensor
        Shape (N, K): row i belongs to sample i.

    Raises
    ------
    TypeError, ValueError
        If the data set is empty, or gives two different answers for one sample; if the teacher is
        no module, or its output no (N, K) tensor or holds NaN.

    Examples
    --------
    >>> import torch
    >>> from torch.utils.data import TensorDataset
    >>> x, y = torch.eye(3), torch.tensor([0, 1, 2])
    >>> teacher = nn.Linear(3, 3)
    >>> cached = CachedTeacher(teacher, TensorDataset(x, y))
    >>> image, label, teacher_logits = cached[2]
    >>> torch.equal(teacher_logits, teacher(x)[2])
    True
    """

    def __init__(
        self, teacher: nn.Module, dataset: Dataset[tuple[Tensor, ...]], *, batch_size: int = 512
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise TypeError(f"teacher must be a torch.nn.Module, got {type(teacher).__name__}.")
        check_int("batch_size", batch_size, low=1)
        logits, *_ = run_once("teacher", teacher, dataset, gives="logits", batch_size=batch_size)
        super().__init__(dataset, [logits])
        self.logits = logits  # (N, K)
