"""Sobolev training: fit a function's derivatives beside its values.

Where a teacher can be differentiated, each point tells not one number but one more for each input
dimension: how the number changes there (Czarnecki et al., 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tlcourse._checks import check_finite, check_int, check_number, check_same_shape, shape_of
from tlcourse._modes import evaluating
from tlcourse.matching._parts import Function, check_batch, input_gradient, module_of


def sobolev_loss(
    student: Function, teacher: Function, x: Tensor, *, weight: float, order: int = 1
) -> Tensor:
    r"""Return the squared error of values and derivatives, averaged over the samples.

    .. math::

        \mathcal{L}_{sob} = \| f_S(x) - f_T(x) \|^2
            + \lambda \sum_{m=1}^{M} \| D^m f_S(x) - D^m f_T(x) \|^2

    where

    - :math:`f_S, f_T`, ``student`` and ``teacher``: x -> (N,) or (N, K);
    - :math:`D^m f`, the derivatives of order m by the D numbers of a sample: (N, K, D) gradients,
      (N, K, D, D) second derivatives; the norms run over all of them;
    - :math:`\lambda`, ``weight``, in units of x to the power 2m;
    - :math:`M`, ``order``: 0 is plain regression.

    It computes K D^(M-1) backward passes of each network: exact, and meant for few outputs and
    inputs. For many, `jacobian_matching_loss` draws one random projection. The samples must not
    see one another. The teacher gets no gradient. A module, or a method of one, runs as the teacher
    in eval mode; a plain function runs as it is: put the networks in it into eval mode first.
    Second derivatives of a network of ReLUs are 0 everywhere: use a smooth activation for
    ``order=2``.

    Parameters
    ----------
    student, teacher
        Modules or functions of x alone, of one output shape.
    x
        Inputs (N, ...). They get no gradient.
    weight
        At least 0.
    order
        0, 1 or 2.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If an output has another shape than (N,) or (N, K), the shapes differ, one does not depend
        on x for autograd, x is empty or holds NaN, or a setting is wrong.

    References
    ----------
    Czarnecki et al. (2017), equations 1 and 2. In the chapter: ``eq-sobolev``.

    Examples
    --------
    >>> x = torch.tensor([[0.0], [1.0]])
    >>> loss = sobolev_loss(lambda x: 2 * x, torch.square, x, weight=1.0)
    >>> loss.item()  # values (0, 2) and (0, 1), slopes (2, 2) and (0, 2): (1 + 4) / 2
    2.5
    """
    check_number("weight", weight, low=0)
    check_int("order", order, low=0, high=2)
    check_batch(x)
    graph = torch.is_grad_enabled()
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        f_S = _output("student(x)", student(x), x)  # (N, K)
        with evaluating(module_of(teacher)):
            f_T = _output("teacher(x)", teacher(x), x)  # (N, K)
        check_same_shape("student(x)", f_S, "teacher(x)", f_T)
        loss = (f_S - f_T.detach()).square().sum() / len(x)
        D_S, D_T = f_S, f_T
        for m in range(1, order + 1):
            # (N, K) -> (N, K, D) -> (N, K, D, D)
            D_S = _derivative("student(x)", D_S, x, m, keep_graph=graph or m < order)
            D_T = _derivative("teacher(x)", D_T, x, m, keep_graph=m < order)
            loss = loss + weight * (D_S - D_T.detach()).square().sum() / len(x)
    check_finite(loss, **{"student(x)": f_S, "teacher(x)": f_T})
    return loss


def _output(name: str, value: Tensor, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}.")
    if value.ndim not in (1, 2) or len(value) != len(x) or value.numel() == 0:
        raise ValueError(
            f"{name} must have shape ({len(x)},) or ({len(x)}, K), got {shape_of(value)}."
        )
    return value.reshape(len(x), -1)


def _derivative(name: str, y: Tensor, x: Tensor, m: int, *, keep_graph: bool) -> Tensor:
    """Return the derivatives of each number of y (N, ...) by its sample of x, (N, ..., D).

    y holds those of order m - 1. A network that does not depend on x is a mistake, but one whose
    gradient does not is a linear function, and its second derivatives are 0.
    """
    columns = y.flatten(1).unbind(1)  # of (N,) each
    gradients = []
    for column in columns:
        if m == 1:
            gradient = input_gradient(name, column.sum(), x, keep_graph=keep_graph)
        elif column.requires_grad:
            (gradient,) = torch.autograd.grad(
                column.sum(), x, create_graph=keep_graph, retain_graph=True, materialize_grads=True
            )
        else:
            gradient = torch.zeros_like(x)
        gradients.append(gradient.flatten(1))
    return torch.stack(gradients, 1).reshape(*y.shape, -1)
