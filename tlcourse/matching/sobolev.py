"""Sobolev training: fit a function's derivatives beside its values.

Where a teacher can be differentiated, each point tells not one number but one more for each input
dimension: how the number changes there (Czarnecki et al., 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor

from tlcourse._checks import check_finite, check_int, check_number, check_same_shape, shape_of
from tlcourse._modes import evaluating
from tlcourse.matching._parts import (
    Function,
    check_batch,
    independent,
    module_of,
    network,
    vjp,
)


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
    ``order=2``. As in `jacobian_matching_loss`, networks get copies of x and run without the fused
    forms that have no second derivative, and half precision is compared in float32.

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
    given, x = x, independent(x)
    D_S = _derivatives("student(x)", student, x, order, graph=graph)
    with evaluating(module_of(teacher)):
        D_T = _derivatives("teacher(x)", teacher, x, order, graph=False)
    check_same_shape("student(x)", D_S[0], "teacher(x)", D_T[0])
    # (N, K), (N, K, D), (N, K, D, D)
    values, *errors = ((s - t.detach()).square().sum() for s, t in zip(D_S, D_T, strict=True))
    loss = (values + weight * sum(errors)) / len(x)
    tensors = {"x": given, "student(x)": D_S[0], "teacher(x)": D_T[0]}
    check_finite(loss, unseen=[*tensors.values()], **tensors)
    return loss


def _derivatives(
    name: str, function: Function, x: Tensor, order: int, *, graph: bool
) -> tuple[Tensor, ...]:
    """Return f, D f, D^2 f up to an order: (N, K), (N, K, D), (N, K, D, D).

    A network that does not depend on x is a mistake, but one whose gradient does not is a linear
    function, and its second derivatives are 0.
    """
    f = network(name, function)

    def up_to(m: int, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if m == 0:
            y = _output(name, f(x), x)
            return y, (y,)
        y, pull, lower = vjp(
            name,
            lambda x: up_to(m - 1, x),
            x,
            graph=graph or m < order,
            constant=m > 1,
            has_aux=True,
        )
        each = torch.eye(y[0].numel(), dtype=y.dtype, device=y.device)  # one number of y at a time
        rows = [pull(e.reshape(y.shape[1:]).expand_as(y)).flatten(1) for e in each]  # (N, D) each
        D = torch.stack(rows, 1).reshape(*y.shape, -1)
        return D, (*lower, D)

    return up_to(order, x)[1]


def _output(name: str, value: Tensor, x: Tensor) -> Tensor:
    if value.ndim not in (1, 2) or len(value) != len(x) or value.numel() == 0:
        raise ValueError(
            f"{name} must have shape ({len(x)},) or ({len(x)}, K), got {shape_of(value)}."
        )
    return value.reshape(len(x), -1)
