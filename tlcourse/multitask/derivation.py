r"""The likelihood behind the learnt weights, checked: by algebra, and where it is approximate.

For regression the weighted squared error *is* a negative log likelihood. For classification one
step is an approximation, said to hold for :math:`\sigma \to 1`. Here is what it leaves out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from tlcourse._checks import (
    at_least_float32,
    check_dtype,
    check_finite,
    check_float_tensor,
    check_int,
    check_logits_shape,
    check_number,
    check_targets,
    readable,
    shape_of,
    sum_is_finite,
    widened,
)

if TYPE_CHECKING:
    import pandas as pd
    import sympy


def regression_nll(outputs: Tensor, targets: Tensor, sigma: float) -> Tensor:
    r"""Return the negative log density of the targets under Gaussian noise, without its constant.

    .. math:: -\log \mathcal{N}(y; f, \sigma^2) - \tfrac{1}{2} \log 2\pi
              = \frac{1}{2 \sigma^2} L + \log \sigma, \qquad L = \frac{1}{N D} \| y - f \|^2

    where

    - f, ``outputs``, and y, ``targets``: (N, ...) with N samples of D numbers each;
    - :math:`\sigma`: the noise's standard deviation, in units of the targets, above 0.

    The result is a mean per dimension, a scalar. A sum over D dimensions has :math:`D \log \sigma`:
    who puts a summed L beside one :math:`\log \sigma` finds a noise level :math:`\sqrt{D}` times
    too high.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes differ, there is no value or one is not finite, or sigma is not above 0.

    References
    ----------
    Kendall, Gal and Cipolla (2018), equation 5. In the chapter: ``eq-regression-nll``.

    Examples
    --------
    >>> regression_nll(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]), sigma=1.0)
    tensor(1.)
    """
    check_number("sigma", sigma, above=0)
    check_dtype("outputs", outputs)
    check_dtype("targets", targets)
    outputs, targets = at_least_float32("outputs", outputs, "targets", targets)
    if outputs.numel() == 0:
        raise ValueError(f"outputs and targets are empty, {shape_of(outputs)}: there is no mean.")
    nll = F.mse_loss(outputs, targets) / (2 * sigma**2) + math.log(sigma)
    check_finite(nll, outputs=outputs, targets=targets)
    return nll


def classification_nll(logits: Tensor, targets: Tensor, sigma: float) -> Tensor:
    r"""Return the negative log likelihood of a softmax whose logits are divided by sigma squared.

    .. math:: -\log \mathrm{Softmax}_c \left( \frac{f}{\sigma^2} \right)
              = \frac{1}{\sigma^2} L + R(\sigma), \qquad
              R(\sigma) = \log \frac{\sum_k e^{f_k / \sigma^2}}{(\sum_k e^{f_k})^{1 / \sigma^2}}

    where

    - f, ``logits``: (N, K); c, ``targets``: (N,) class indices;
    - :math:`L = -\log \mathrm{Softmax}_c(f)`, the cross-entropy as it is always computed;
    - :math:`R`: what the weighted sum replaces by :math:`\log \sigma`, see
      :func:`remainder`.

    It is exact, a mean over the samples. :math:`\sigma \to \infty` makes every class as likely.

    Raises
    ------
    TypeError, ValueError
        If the logits are no (N, K) floating-point tensor or not finite, the targets no classes of
        theirs, or sigma is not above 0 or so small that logits / sigma^2 overflows.

    References
    ----------
    Kendall, Gal and Cipolla (2018), equations 8 and 9. In the chapter: ``eq-classification-nll``.

    Examples
    --------
    >>> logits, targets = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    >>> [round(classification_nll(logits, targets, s).item(), 3) for s in (1.0, 2.0, 100.0)]
    [0.24, 0.794, 1.098]
    """
    divided = _divided(logits, sigma)
    check_targets("targets", targets, n_samples=len(logits), n_classes=logits.shape[1])
    return F.cross_entropy(divided, targets)


def remainder(logits: Tensor, sigma: float) -> Tensor:
    r"""Return R(sigma) of :func:`classification_nll`, the mean over the samples.

    .. math:: R(\sigma) = \log \sum_k e^{f_k / \sigma^2}
              - \frac{1}{\sigma^2} \log \sum_k e^{f_k}
              \approx \log \sigma \quad \text{as } \sigma \to 1

    Both sides are 0 at :math:`\sigma = 1`. Their slopes there are :math:`2 H` and 1, where H is the
    entropy of Softmax(f) in nats: the approximation is right to first order only where
    :math:`H = 1/2`. For a large :math:`\sigma`, R stops at :math:`\log K`; :math:`\log \sigma` does
    not.

    Raises
    ------
    TypeError, ValueError
        As :func:`classification_nll`.

    References
    ----------
    Kendall, Gal and Cipolla (2018), the step to equation 10. In the chapter:
    ``eq-sigma-approximation`` and ``eq-approximation-error``.

    Examples
    --------
    >>> remainder(torch.tensor([[2.0, 0.0, 0.0]]), sigma=1.0)
    tensor(0.)
    """
    divided = torch.logsumexp(_divided(logits, sigma), dim=1)  # (N,)
    return (divided - torch.logsumexp(widened(logits), dim=1) / sigma**2).mean()


def _divided(logits: Tensor, sigma: float) -> Tensor:
    """Return logits / sigma^2, after the checks that every use needs."""
    check_number("sigma", sigma, above=0)
    check_logits_shape("logits", logits)
    divided = widened(logits) / sigma**2
    if readable(divided) and not sum_is_finite(divided):
        check_float_tensor("logits", logits)
        raise ValueError(
            f"sigma is {sigma:g}: logits / sigma^2 overflows {divided.dtype}. Take a larger sigma."
        )
    return divided


@dataclass(frozen=True)
class LikelihoodReport:
    """What :func:`check_likelihood` found, a number per sigma.

    Attributes
    ----------
    sigmas
        As given.
    exact
        The negative log likelihood of the softmax at f / sigma^2.
    approximate
        L / sigma^2 + log sigma, which the weighted sum has in its place.
    error
        approximate - exact.
    first_order
        (1 - 2 H) (sigma - 1), which the error tends to at sigma = 1.
    entropy
        H, of Softmax(f), the mean over the samples, in nats.
    """

    sigmas: tuple[float, ...]
    exact: tuple[float, ...]
    approximate: tuple[float, ...]
    error: tuple[float, ...]
    first_order: tuple[float, ...]
    entropy: float

    def frame(self) -> pd.DataFrame:
        """Return the report as a table."""
        import pandas as pd

        return pd.DataFrame(
            {
                "sigma": self.sigmas,
                "exact": self.exact,
                "approximate": self.approximate,
                "error": self.error,
                "error, first order": self.first_order,
            }
        )


def check_likelihood(logits: Tensor, targets: Tensor, sigmas: Sequence[float]) -> LikelihoodReport:
    r"""Compare the exact likelihood of a classification task with its approximation, in float64.

    .. math:: \frac{L}{\sigma^2} + \log \sigma - \left( \frac{L}{\sigma^2} + R(\sigma) \right)
              = \log \sigma - R(\sigma) \approx (1 - 2 H) (\sigma - 1)

    Parameters
    ----------
    logits, targets
        f, (N, K), and c, (N,).
    sigmas
        One or more, each above 0.

    Raises
    ------
    TypeError, ValueError
        As :func:`classification_nll`; if no sigma is given.

    References
    ----------
    In the chapter: ``eq-approximation-error``.

    Examples
    --------
    >>> logits, targets = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([0])
    >>> report = check_likelihood(logits, targets, [1.0, 1.1, 3.0])
    >>> [f"{error:.3f}" for error in report.error]
    ['0.000', '-0.031', '0.169']
    """
    if isinstance(sigmas, (int, float)):
        raise TypeError(f"sigmas must be a list of numbers, got {sigmas}: write [{sigmas}].")
    if len(sigmas) == 0:
        raise ValueError("sigmas is empty: give one or more numbers above 0.")
    check_logits_shape("logits", logits)
    f = logits.detach().double()
    L = classification_nll(f, targets, 1.0).item()
    log_p = torch.log_softmax(f, dim=1)  # (N, K)
    H = -(log_p.exp() * log_p).sum(1).mean().item()
    exact = [classification_nll(f, targets, sigma).item() for sigma in sigmas]
    approximate = [L / sigma**2 + math.log(sigma) for sigma in sigmas]
    return LikelihoodReport(
        sigmas=tuple(sigmas),
        exact=tuple(exact),
        approximate=tuple(approximate),
        error=tuple(a - e for a, e in zip(approximate, exact, strict=True)),
        first_order=tuple((1 - 2 * H) * (sigma - 1) for sigma in sigmas),
        entropy=H,
    )


@dataclass(frozen=True)
class SymbolicLikelihood:
    """The derivation for one sample, as SymPy expressions.

    Attributes
    ----------
    f, sigma, L, s
        The symbols: K logits, the noise level, a loss, the log variance.
    regression
        -log of the Gaussian density of one number, less L / (2 sigma^2) + log sigma: a constant.
    classification
        -log Softmax_c(f / sigma^2) less L / sigma^2 + R(sigma), for c = 1..K: each 0.
    remainder
        R(sigma).
    remainder_at_one, slope_at_one, entropy
        R(1), dR/dsigma at 1, and the entropy H of Softmax(f). The slope is 2 H.
    remainder_far
        The limit of R for sigma to infinity.
    regression_optimum, classification_optimum
        The s at which 1/2 e^-s L + 1/2 s and e^-s L + 1/2 s are least.
    """

    f: tuple[sympy.Symbol, ...]
    sigma: sympy.Symbol
    L: sympy.Symbol
    s: sympy.Symbol
    regression: sympy.Expr
    classification: tuple[sympy.Expr, ...]
    remainder: sympy.Expr
    remainder_at_one: sympy.Expr
    slope_at_one: sympy.Expr
    entropy: sympy.Expr
    remainder_far: sympy.Expr
    regression_optimum: sympy.Expr
    classification_optimum: sympy.Expr


def symbolic_likelihood(n_classes: int) -> SymbolicLikelihood:
    """Derive the weighted losses from their likelihoods by algebra alone.

    Parameters
    ----------
    n_classes
        K, from 2 to 6.

    Raises
    ------
    TypeError, ValueError
        If ``n_classes`` is no integer from 2 to 6.

    References
    ----------
    In the chapter: ``eq-regression-nll``, ``eq-classification-nll``, ``eq-approximation-error`` and
    ``eq-optimal-log-variance``.

    Examples
    --------
    >>> derived = symbolic_likelihood(2)
    >>> derived.regression, derived.classification, derived.remainder_at_one
    (log(2)/2 + log(pi)/2, (0, 0), 0)
    >>> derived.regression_optimum, derived.classification_optimum, derived.remainder_far
    (log(L), log(2*L), log(2))
    """
    import sympy

    check_int("n_classes", n_classes, low=2, high=6)
    f = sympy.symbols(f"f1:{n_classes + 1}", real=True)
    sigma, L = sympy.symbols("sigma L", positive=True)
    y, mean, s = sympy.symbols("y mu s", real=True)

    density = sympy.exp(-((y - mean) ** 2) / (2 * sigma**2)) / sympy.sqrt(2 * sympy.pi * sigma**2)
    weighted = (y - mean) ** 2 / (2 * sigma**2) + sympy.log(sigma)
    regression = sympy.expand(sympy.expand_log(-sympy.log(density), force=True) - weighted)

    divided = sum(sympy.exp(f_k / sigma**2) for f_k in f)
    plain = sum(sympy.exp(f_k) for f_k in f)
    R = sympy.log(divided) - sympy.log(plain) / sigma**2
    classification = []
    for f_c in f:
        exact = -(f_c / sigma**2 - sympy.log(divided))  # -log softmax_c at f / sigma^2
        cross_entropy = -(f_c - sympy.log(plain))  # L, of the logits as they are
        classification.append(sympy.expand(exact - (cross_entropy / sigma**2 + R)))

    p = [sympy.exp(f_k) / plain for f_k in f]
    entropy = -sum(p_k * (f_k - sympy.log(plain)) for p_k, f_k in zip(p, f, strict=True))
    optimum = [
        sympy.solve(sympy.diff(factor * sympy.exp(-s) * L + s / 2, s), s)[0]
        for factor in (sympy.Rational(1, 2), 1)
    ]
    return SymbolicLikelihood(
        f=f,
        sigma=sigma,
        L=L,
        s=s,
        regression=regression,
        classification=tuple(classification),
        remainder=R,
        remainder_at_one=R.subs(sigma, 1),
        slope_at_one=sympy.diff(R, sigma).subs(sigma, 1),
        entropy=entropy,
        remainder_far=R.subs(sigma, 1 / s).subs(s, 0),  # s for 1 / sigma
        regression_optimum=optimum[0],
        classification_optimum=optimum[1],
    )
