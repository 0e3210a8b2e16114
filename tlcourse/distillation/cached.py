"""A teacher that runs once: its logits, kept by sample index."""

from __future__ import annotations

from collections.abc import Sized

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tlcourse._checks import check_float_tensor, check_int, refuse_random_augmentation
from tlcourse.training.files import digest


class CachedTeacher(Dataset[tuple[Tensor, ...]]):
    """A data set that also hands out the teacher's logits for each sample.

    The teacher sees every sample once, in the order of the data set; afterwards sample i comes with
    row i of its logits, whatever order a loader draws. A list of logits in the order of *loading*
    would go out of step with the first shuffle.

    It assumes that sample i is the same at every epoch. A data set with random augmentation is
    refused: the teacher's answer would belong to another picture.

    Parameters
    ----------
    teacher
        Maps inputs (N, ...) to logits (N, K). It is run in eval mode without gradients, and is
        left in the mode that it was in.
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
    ValueError
        If the data set is empty, or gives two different answers for one sample; if the teacher's
        output is no (N, K) tensor or holds NaN.

    Examples
    --------
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
        check_int("batch_size", batch_size, low=1)
        n_samples = len(dataset) if isinstance(dataset, Sized) else 0
        if n_samples == 0:
            raise ValueError("dataset is empty or has no length: there is nothing to cache.")
        refuse_random_augmentation(dataset)
        self.dataset = dataset
        self.logits = _run_once(teacher, dataset, n_samples, batch_size)  # (N, K)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The data set's tensors and the logits, where the data set has them in memory."""
        return (*self.dataset.tensors, self.logits)  # type: ignore[attr-defined]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with the data set and with any logit."""
        own = getattr(self.dataset, "fingerprint", str)()  # names and classes, or an empty text
        tensors = (*getattr(self.dataset, "tensors", ()), self.logits)
        return digest((f"{own} {i}", tensor) for i, tensor in enumerate(tensors))[:16]

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return (*self.dataset[index], self.logits[index])


def _run_once(
    teacher: nn.Module, dataset: Dataset[tuple[Tensor, ...]], n_samples: int, batch_size: int
) -> Tensor:
    was_training = teacher.training
    device = next((p.device for p in teacher.parameters()), torch.device("cpu"))
    teacher.eval()
    rows = []
    try:
        with torch.no_grad():
            for inputs, *_ in DataLoader(dataset, batch_size=batch_size, shuffle=False):
                rows.append(teacher(inputs.to(device)).cpu())
    finally:
        teacher.train(was_training)
    logits = torch.cat(rows)
    if logits.ndim != 2 or len(logits) != n_samples:
        raise ValueError(
            f"teacher must map {n_samples} samples to logits of shape ({n_samples}, K), "
            f"got {tuple(logits.shape)}."
        )
    check_float_tensor("the teacher's logits", logits)
    return logits
