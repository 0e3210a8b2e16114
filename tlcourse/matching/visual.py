r"""Two pictures of where a classifier finds its answer: Grad-CAM and guided backpropagation.

Grad-CAM weighs the maps of a layer by how much the class's score rises with each; guided
backpropagation follows the score back to the pixels along rising paths alone. Unlike an attention
map, both ask about one class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tlcourse._checks import (
    check_float_tensor,
    check_int,
    check_logits_shape,
    check_targets,
    shape_of,
)
from tlcourse._modes import evaluating
from tlcourse.matching._parts import check_batch, check_depends, independent, input_gradient
from tlcourse.matching.capture import capture


def grad_cam(model: nn.Module, layer: str, x: Tensor, target: int | Tensor) -> Tensor:
    r"""Return the maps of a layer, weighed by what each means for a class.

    .. math::

        L = \max\left(0, \sum_c \alpha_c A_c\right), \qquad
        \alpha_c = \frac{1}{H W} \sum_{h,w} \frac{\partial z_k}{\partial A_{c,h,w}}

    where

    - :math:`A`, shape (N, C, H, W): the output of ``layer``;
    - :math:`z_k`: the logit of the class ``target``;
    - :math:`L`, the result, shape (N, H, W): the size of the layer's maps, not of the image; at
      least 0, not normalised.

    The model runs in eval mode, and every module has its own mode back afterwards. No parameter
    gets a gradient.

    Parameters
    ----------
    model
        A module x -> (N, K) logits.
    layer
        The name of a convolutional submodule; the last one is the usual choice.
    x
        Inputs (N, C, H, W).
    target
        A class for all samples, or (N,) of int64.

    Raises
    ------
    TypeError, ValueError
        If the layer does not exist or has no (N, C, H, W) output, the logits have no derivative by
        it, are no (N, K) tensor or hold NaN, a class is out of range, or x is empty or holds NaN.

    References
    ----------
    Selvaraju et al. (2017), equations 1 and 2. In the chapter: ``eq-grad-cam``.

    Examples
    --------
    >>> from tlcourse.models import SmallResNet
    >>> maps = grad_cam(SmallResNet(10), "backbone.stage3", torch.rand(2, 1, 32, 32), target=7)
    >>> maps.shape, bool((maps >= 0).all())
    (torch.Size([2, 4, 4]), True)
    """
    check_batch(x)
    check_float_tensor("x", x)
    # The input asks for a gradient so that a graph is built in a frozen model too. The model gets
    # copies, of the input and of the layer's maps: it may go on with them in place.
    x = independent(x)
    with (
        capture(model, [layer], copy=True) as activations,
        evaluating(model),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        z = model(x.clone())  # (N, K)
        A = activations[layer]
        if A.ndim != 4:
            raise ValueError(
                f"The layer {layer!r} must return maps (N, C, H, W), got {shape_of(A)}. "
                "Name a convolutional layer."
            )
        if not A.requires_grad:
            raise ValueError(
                f"The output of the layer {layer!r} has no graph, so the logits have no derivative "
                "by it. Run the model without detach() and torch.no_grad(); to freeze a part of a "
                "network, use requires_grad_(False)."
            )
        z_k = _scores(z, target)  # (N,)
        (dA,) = torch.autograd.grad(z_k.sum(), A, allow_unused=True)  # (N, C, H, W)
        if dA is None:
            raise ValueError(
                f"The logits do not depend on the output of the layer {layer!r} for autograd. Name "
                "a layer on the way from x to the logits, with no detach() behind it."
            )
    alpha = dA.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
    return F.relu((alpha * A.detach()).sum(1))  # (N, H, W)


def guided_backprop(model: nn.Module, x: Tensor, target: int | Tensor) -> Tensor:
    r"""Return the gradient of a class's logit by the input, along rising paths alone.

    At every ReLU the gradient on its way back passes where both the input and the gradient are
    above 0:

    .. math:: R_{in} = \mathbb{1}[a > 0] \cdot \mathbb{1}[R_{out} > 0] \cdot R_{out}

    where :math:`a` is the input of the ReLU and :math:`R` the signal that comes back. The first
    factor alone is the usual gradient.

    Every ``nn.ReLU``, ``torch.relu``, ``torch.nn.functional.relu`` and ``Tensor.relu`` that the
    model runs is caught, with their in-place forms. Nothing in the model is replaced, so nothing
    needs to be restored. Other non-linearities keep their usual gradient. The model runs in eval
    mode, and every module has its own mode back afterwards. No parameter gets a gradient.

    Parameters
    ----------
    model
        A module x -> (N, K) logits, with ReLUs.
    x
        Inputs (N, ...).
    target
        A class for all samples, or (N,) of int64.

    Returns
    -------
    Tensor
        Like x, positive where more of the input raises the logit.

    Raises
    ------
    TypeError, ValueError
        If the model runs no ReLU, a class is out of range, x is empty or holds NaN, or the logits
        are no (N, K) tensor that depends on x, or hold NaN.

    References
    ----------
    Springenberg et al. (2015), section 3.4. In the chapter: ``eq-guided``.

    Examples
    --------
    >>> from tlcourse.models import SmallResNet
    >>> guided_backprop(SmallResNet(10), torch.rand(2, 1, 32, 32), target=7).shape
    torch.Size([2, 1, 32, 32])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    check_batch(x)
    check_float_tensor("x", x)
    x = independent(x)
    guide = _Guide()
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        with guide:
            z = model(x.clone())  # (N, K)
        if guide.count == 0:
            raise ValueError(
                f"{type(model).__name__} ran no ReLU (nn.ReLU, torch.relu, "
                "torch.nn.functional.relu or Tensor.relu), so nothing would be guided: the result "
                "would be the plain gradient."
            )
        z_k = _scores(z, target)  # (N,)
        return input_gradient("model(x)", z_k.sum(), x)


class _GuidedReLU(torch.autograd.Function):
    """max(0, a), whose gradient passes where both it and a are above 0."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        out = a.clamp(min=0)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (out,) = ctx.saved_tensors
        (R,) = gradients
        return R.clamp(min=0) * (out > 0)  # out > 0 exactly where a > 0


class _Guide(TorchFunctionMode):
    """Catch every ReLU that runs inside the block, wherever it is called."""

    PLAIN = frozenset({torch.relu, F.relu, Tensor.relu})
    IN_PLACE = frozenset({torch.relu_, F.relu_, Tensor.relu_})

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in self.PLAIN and func not in self.IN_PLACE:
            return func(*args, **kwargs)
        self.count += 1
        a = args[0] if args else kwargs["input"]
        in_place = func in self.IN_PLACE or kwargs.get("inplace", False) or args[1:2] == (True,)
        if in_place:  # what else reads a must find it changed
            return a.copy_(_GuidedReLU.apply(a.clone()))
        return _GuidedReLU.apply(a)


def _scores(z: Tensor, target: int | Tensor) -> Tensor:
    """Return each sample's logit of the class asked for, (N, K) -> (N,)."""
    check_logits_shape("model(x)", z)
    check_depends("model(x)", z)
    check_float_tensor("model(x)", z)  # NaN weights would give a picture of NaN
    n_samples, n_classes = z.shape
    if isinstance(target, Tensor):
        check_targets("target", target, n_samples=n_samples, n_classes=n_classes)
        return z.gather(1, target.to(z.device)[:, None])[:, 0]
    check_int("target", target, low=0, high=n_classes - 1)
    return z[:, target]
