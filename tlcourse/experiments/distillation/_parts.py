"""What the experiments on distillation share: a measure, and the settings on MNIST."""

from __future__ import annotations

from torch import Tensor


def error(logits: Tensor, labels: Tensor) -> float:
    """Return the error in per cent."""
    return 100.0 * float((logits.argmax(1) != labels).double().mean())


MNIST_FULL = {
    "teacher": "perceptron",
    "teacher_width": 1200,
    "teacher_dropout": 0.5,
    "teacher_jitter": 2,
    "teacher_epochs": 80,
    "student_width": 800,
    "student_epochs": 50,
    "distilled_epochs": 50,
    "without_3_epochs": 50,
    "temperature": 20.0,
    "alpha": 0.9,
    "batch_size": 256,
    "learning_rate": 1e-3,
}
MNIST_QUICK = MNIST_FULL | dict.fromkeys(
    ("teacher_epochs", "student_epochs", "distilled_epochs", "without_3_epochs"), 2
)
