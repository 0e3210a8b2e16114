r"""Jacobian matching: the student's outputs change with the input as the teacher's do.

Two functions can agree at every training point and differ everywhere else. Matching their
derivatives, too, fixes them in a neighbourhood of each point: it is what matching the outputs under
a little noise on the input does on average (Srinivas and Fleuret, 2018).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import check_choice, check_finite, check_logits_shape, check_same_shape
from tlcourse._modes import evaluating
from tlcourse.matching._parts import (
    Function,
    check_batch,
    independent,
    module_of,
    network,
    vjp,
)

OUTPUTS = ("argmax", "random")


def jacobian_matching_loss(
    student: Function,
    teacher: Function,
    x: Tensor,
    *,
    output: str = "argmax",
    normalize: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Return the squared distance of one row of both Jacobians, averaged over the samples.

    .. math::

        \mathcal{L}_{jac} = \left\| \frac{v^\top J_S}{\|v^\top J_S\|_2}
                            - \frac{v^\top J_T}{\|v^\top J_T\|_2} \right\|_2^2,
        \qquad J = \frac{\partial f(x)}{\partial x}

    where

    - :math:`f_S, f_T`, ``student`` and ``teacher``: x -> (N, K) outputs before the softmax;
    - :math:`J`, shape (N, K, D): the derivatives by the D numbers of a sample of x;
    - :math:`v`, shape (N, K): with ``output="argmax"`` the indicator of the teacher's largest
      output, for both networks, so that one row of each Jacobian is compared; with
      ``output="random"`` :math:`v \sim \mathcal{N}(0, I)`, drawn anew at every call.

    ``normalize=False`` leaves the two norms out. With ``output="random"`` the expectation is then
    the whole :math:`\|J_S - J_T\|_F^2`. Vectors v of length 1 would give that divided by K.

    It needs two backward passes through the student and one through the teacher. The samples must
    not see one another: a student with BatchNorm in training mode mixes them through the batch's
    statistics, and the rows are then those of the batch's sum. The teacher gets no gradient. A
    module, or a method of one, runs as the teacher in eval mode; a plain function runs as it is:
    put the networks in it into eval mode first. Both get copies of x, and run without PyTorch's
    fused forms that have no second derivative: attention by its formula, and the recurrent layers
    of a module without cuDNN. A student in half precision is compared in float32.

    Under ``torch.compile`` the derivatives are those of ``torch.func``, which does not run
    BatchNorm in training mode, and whether an output depends on x is not asked. The compiler of an
    old PyTorch, such as 2.4, does not take the loss as a whole.

    Parameters
    ----------
    student, teacher
        Modules or functions of x alone.
    x
        Inputs (N, ...). They get no gradient.
    output
        ``"argmax"`` or ``"random"``.
    normalize
        Whether to compare the directions alone, as the paper does.
    generator
        Where random v come from; torch's own by default.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    TypeError, ValueError
        If an output is no (N, K) tensor, does not depend on x for autograd or holds NaN; if the
        two outputs differ in shape; if x is empty or holds NaN; if a setting is wrong.

    References
    ----------
    Srinivas and Fleuret (2018), sections 3 and 4; Czarnecki et al. (2017), equation 3, for random
    projections. In the chapter: ``eq-jacobian-matching`` and ``eq-jacobian-random``.

    Examples
    --------
    >>> student = torch.nn.Linear(3, 2, bias=False)
    >>> teacher = torch.nn.Linear(3, 2, bias=False)
    >>> x = torch.ones(1, 3)
    >>> with torch.no_grad():
    ...     _ = student.weight.copy_(torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    ...     _ = teacher.weight.copy_(torch.tensor([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> jacobian_matching_loss(student, teacher, x).item()  # two directions at right angles
    2.0
    >>> jacobian_matching_loss(student, teacher, x, normalize=False).item()  # 2^2 + 3^2
    13.0
    """
    check_choice("output", output, OUTPUTS)
    if not isinstance(normalize, bool):
        raise TypeError(f"normalize must be True or False, got {normalize!r}.")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator or None, got {generator!r} "
            f"({type(generator).__name__}). Make one by torch.Generator().manual_seed(0)."
        )
    check_batch(x)
    graph = torch.is_grad_enabled()  # without it the loss is only looked at
    given, x = x, independent(x)
    f_S, f_T = network("student(x)", student), network("teacher(x)", teacher)
    with evaluating(module_of(teacher)):
        z_T, pull_T = vjp("teacher(x)", f_T, x, graph=False, retain=False)  # (N, K)
    check_logits_shape("teacher(x)", z_T)
    v = _directions(z_T.detach(), output, generator)  # (N, K)
    J_T = pull_T(v).detach().flatten(1)  # one row a sample, (N, ...) -> (N, D)
    z_S, pull_S = vjp("student(x)", f_S, x, graph=graph, retain=graph)  # (N, K)
    check_logits_shape("student(x)", z_S)
    check_same_shape("student(x)", z_S, "teacher(x)", z_T)
    J_S = pull_S(v).flatten(1)  # (N, D)
    if normalize:
        J_S, J_T = F.normalize(J_S), F.normalize(J_T)
    loss = (J_S - J_T).square().sum(1).mean()
    tensors = {"x": given, "student(x)": z_S, "teacher(x)": z_T}
    check_finite(loss, unseen=[*tensors.values()], **tensors)
    return loss


def _directions(f_T: Tensor, output: str, generator: torch.Generator | None) -> Tensor:
    if output == "argmax":
        return torch.zeros_like(f_T).scatter(1, f_T.argmax(1, keepdim=True), 1.0)
    device = f_T.device if generator is None else generator.device
    v = torch.randn(f_T.shape, generator=generator, dtype=f_T.dtype, device=device)
    return v.to(f_T.device)
