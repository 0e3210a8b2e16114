r"""The derivation behind distillation, checked: by autograd, by rising temperature, by algebra.

Hinton, Vinyals and Dean (2015) derive the gradient of the soft term by hand and then approximate it
for a high temperature. Each step is a function here, in the symbols of the derivation: :math:`z`
the student's logits, :math:`v` the teacher's, :math:`q` and :math:`p` their softened probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_float_tensor, check_int, check_same_shape, check_temperature
from tlcourse.distillation.loss import soften

if TYPE_CHECKING:
    import pandas as pd
    import sympy


def logit_gradient(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    r"""Return the gradient of the soft cross-entropy with respect to the student's logits.

    .. math:: \frac{\partial C}{\partial z_i} = \frac{1}{T} (q_i - p_i),
              \qquad C = \mathcal{L}_{ce}(p_T, q_T)

    where

    - :math:`z` and :math:`v`, ``student_logits`` and ``teacher_logits``, shape (N, K);
    - :math:`q = \mathrm{softmax}(z / T)` and :math:`p = \mathrm{softmax}(v / T)`, shape (N, K);
    - :math:`T`, ``temperature``, above 0.

    It is the gradient of each sample's own C: of a mean over N samples, it is N times that.

    Raises
    ------
    TypeError, ValueError
        As :func:`~tlcourse.distillation.soften`, and if the two shapes or dtypes differ.

    References
    ----------
    Hinton, Vinyals and Dean (2015), equation 2. In the chapter: ``eq-soft-gradient``.

    Examples
    --------
    >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> logit_gradient(z, v, temperature=2.0).round(decimals=4)
    tensor([[-0.1155,  0.1155]])
    """
    check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    q = soften(student_logits, temperature)  # (N, K)
    p = soften(teacher_logits, temperature)  # (N, K)
    return (q - p) / temperature  # (N, K)


def high_temperature_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float
) -> Tensor:
    r"""Return what the gradient of the soft cross-entropy tends to at a high temperature.

    .. math:: \frac{\partial C}{\partial z_i} \approx \frac{1}{K T^2} (z_i - v_i),
              \qquad \sum_j z_j = \sum_j v_j = 0

    It assumes that T is high against the logits. The logits are zero-meaned here, row by row, as
    the derivation asks: a softmax does not see their mean.

    Parameters
    ----------
    student_logits, teacher_logits
        :math:`z` and :math:`v`, shape (N, K).
    temperature
        :math:`T`, above 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`logit_gradient`.

    References
    ----------
    Hinton, Vinyals and Dean (2015), equations 3 and 4. In the chapter: ``eq-high-temperature``.

    Examples
    --------
    >>> z, v = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    >>> high_temperature_gradient(z, v, temperature=2.0)
    tensor([[-0.1250,  0.1250]])
    """
    check_temperature(temperature)
    check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    check_float_tensor("student_logits", student_logits)
    check_float_tensor("teacher_logits", teacher_logits)
    z = student_logits - student_logits.mean(dim=1, keepdim=True)  # (N, K)
    v = teacher_logits - teacher_logits.mean(dim=1, keepdim=True)  # (N, K)
    n_classes = z.shape[1]
    return (z - v) / (n_classes * temperature**2)  # (N, K)


@dataclass(frozen=True)
class DerivationReport:
    """What :func:`check_derivation` found, a row per temperature.

    Attributes
    ----------
    temperatures
        The temperatures, as given.
    closed_form_error
        For each, the largest absolute difference between (q - p) / T and autograd's gradient.
    high_temperature_error
        For each, || high-temperature form - autograd || / || autograd ||.
    gradient_norm
        For each, || autograd ||: it falls as 1 / T^2.
    """

    temperatures: tuple[float, ...]
    closed_form_error: tuple[float, ...]
    high_temperature_error: tuple[float, ...]
    gradient_norm: tuple[float, ...]

    def frame(self) -> pd.DataFrame:
        """Return the report as a table."""
        import pandas as pd

        return pd.DataFrame(
            {
                "temperature": self.temperatures,
                "closed form, abs. error": self.closed_form_error,
                "high temperature, rel. error": self.high_temperature_error,
                "gradient norm": self.gradient_norm,
            }
        )


def check_derivation(
    student_logits: Tensor, teacher_logits: Tensor, temperatures: Sequence[float]
) -> DerivationReport:
    r"""Compare both gradients of the derivation with autograd's, in float64.

    Parameters
    ----------
    student_logits, teacher_logits
        :math:`z` and :math:`v`, shape (N, K), not equal (their gradient would be 0, and a relative
        error has no meaning).
    temperatures
        One or more, each above 0.

    Returns
    -------
    DerivationReport
        The derivation predicts a closed-form error at rounding level, and a high-temperature error
        that falls towards 0 as T grows.

    Raises
    ------
    TypeError, ValueError
        As :func:`logit_gradient`; if no temperature is given; if student and teacher agree.

    Examples
    --------
    >>> z, v = torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([[3.0, 0.0, -1.0]])
    >>> report = check_derivation(z, v, [1.0, 10.0, 100.0])
    >>> max(report.closed_form_error) < 1e-12
    True
    >>> [f"{error:.3f}" for error in report.high_temperature_error]
    ['1.127', '0.078', '0.008']
    """
    if len(temperatures) == 0:
        raise ValueError("temperatures is empty: give one or more numbers above 0.")
    check_same_shape("student_logits", student_logits, "teacher_logits", teacher_logits)
    v = teacher_logits.detach().double()
    closed_form_error, high_temperature_error, gradient_norm = [], [], []
    for temperature in temperatures:
        closed_form = logit_gradient(student_logits.detach().double(), v, temperature)
        z = student_logits.detach().double().requires_grad_()
        C = F.cross_entropy(z / temperature, soften(v, temperature), reduction="sum")
        (autograd,) = torch.autograd.grad(C, z)
        norm = autograd.norm().item()
        if norm < 1e-14:  # rounding alone
            raise ValueError(
                "student_logits and teacher_logits give the same probabilities, so the gradient "
                "is 0: compare a student with its teacher, not a network with itself."
            )
        approximation = high_temperature_gradient(z.detach(), v, temperature)
        closed_form_error.append((closed_form - autograd).abs().max().item())
        high_temperature_error.append((approximation - autograd).norm().item() / norm)
        gradient_norm.append(norm)
    return DerivationReport(
        tuple(temperatures),
        tuple(closed_form_error),
        tuple(high_temperature_error),
        tuple(gradient_norm),
    )


@dataclass(frozen=True)
class SymbolicGradient:
    """The derivation for K classes, as SymPy expressions.

    Attributes
    ----------
    z, v, T
        The symbols: the student's logits, the teacher's, the temperature.
    gradient
        dC/dz_i for i = 1..K, differentiated by SymPy from the definition of C.
    closed_form
        (q_i - p_i) / T for i = 1..K, written down.
    limit
        T^2 dC/dz_i for T to infinity, i = 1..K, computed by SymPy.
    """

    z: tuple[sympy.Symbol, ...]
    v: tuple[sympy.Symbol, ...]
    T: sympy.Symbol
    gradient: tuple[sympy.Expr, ...]
    closed_form: tuple[sympy.Expr, ...]
    limit: tuple[sympy.Expr, ...]


def symbolic_gradient(n_classes: int) -> SymbolicGradient:
    r"""Derive the gradient and its high-temperature limit by algebra alone.

    C is written from its definition and differentiated by SymPy. The limit is that of
    :math:`T^2 \partial C / \partial z_i`: with :math:`u = 1 / T` this is :math:`(q_i - p_i) / u`,
    whose value at :math:`u \to 0` is the derivative of :math:`q_i - p_i` there.

    Parameters
    ----------
    n_classes
        K, from 2 to 6: the expressions grow with its square.

    Raises
    ------
    TypeError, ValueError
        If ``n_classes`` is no integer from 2 to 6.

    Examples
    --------
    >>> derived = symbolic_gradient(2)
    >>> derived.limit[0]
    -v1/4 + v2/4 + z1/4 - z2/4
    """
    import sympy

    check_int("n_classes", n_classes, low=2, high=6)
    z = sympy.symbols(f"z1:{n_classes + 1}", real=True)
    v = sympy.symbols(f"v1:{n_classes + 1}", real=True)
    T = sympy.Symbol("T", positive=True)

    def softmax(logits: tuple[sympy.Symbol, ...]) -> list[sympy.Expr]:
        weights = [sympy.exp(logit / T) for logit in logits]
        return [weight / sum(weights) for weight in weights]

    q, p = softmax(z), softmax(v)
    C = -sum(p_i * sympy.log(q_i) for p_i, q_i in zip(p, q, strict=True))
    u = sympy.Symbol("u", positive=True)
    limit = [
        sympy.expand(sympy.diff((q_i - p_i).subs(T, 1 / u), u).subs(u, 0))
        for q_i, p_i in zip(q, p, strict=True)
    ]
    return SymbolicGradient(
        z=z,
        v=v,
        T=T,
        gradient=tuple(sympy.diff(C, z_i) for z_i in z),
        closed_form=tuple((q_i - p_i) / T for q_i, p_i in zip(q, p, strict=True)),
        limit=tuple(limit),
    )
