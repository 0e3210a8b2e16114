r"""The maximum mean discrepancy: how far apart two samples are, seen through a kernel.

Two distributions are equal if every function has the same mean under both. The discrepancy takes
the function, of those that a kernel makes smooth, whose means differ most (Gretton et al., 2012).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tlcourse._checks import (
    check_choice,
    check_finite,
    check_float_tensor,
    check_number,
    readable,
    shape_of,
)
from tlcourse.adaptation._parts import check_features, product

ESTIMATORS = ("unbiased", "biased", "linear")
TINY = 1e-12


def gaussian_kernel(x: Tensor, y: Tensor, bandwidth: float | Tensor) -> Tensor:
    r"""Return the kernel of every pair, :math:`k(x, y) = \exp(-\|x - y\|^2 / w)`.

    Parameters
    ----------
    x, y
        Shape (n, D) and (m, D).
    bandwidth
        :math:`w`, above 0, in squared units of x.

    Returns
    -------
    Tensor
        Shape (n, m), from 0 to 1.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, there is NaN, or the bandwidth is not above 0.

    References
    ----------
    In the chapter: ``eq-gaussian-kernel``.

    Examples
    --------
    >>> gaussian_kernel(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0]]), 1.0)
    tensor([[1.0000],
            [0.3679]])
    """
    x, y = check_features(x=x, y=y, at_least=1)
    width = _check_bandwidths([bandwidth], x)
    kernel = torch.exp(-_squared_distances(x, y) / width)
    check_finite(kernel.sum(), x=x, y=y)
    return kernel


def median_bandwidth(x: Tensor, y: Tensor) -> float:
    """Return the median squared distance of two samples in the pool of x (n, D) and y (m, D).

    A sample's distance to itself is 0 and none of them.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, there is NaN, or the median is 0, as where more than half
        of the pairs are equal.

    Examples
    --------
    >>> median_bandwidth(torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0]]))
    4.0
    """
    x, y = check_features(x=x, y=y, at_least=1)
    for name, z in {"x": x, "y": y}.items():
        check_float_tensor(name, z)
    distances = torch.nn.functional.pdist(torch.cat([x, y]).double()).square()
    median = float(distances.median())
    if median <= 0:
        raise ValueError(
            "median_bandwidth is 0: more than half of the pairs are equal, as where features are "
            "constant. Give bandwidths yourself, or leave the constant features out."
        )
    return median


def mmd2(
    x: Tensor,
    y: Tensor,
    bandwidths: float | Sequence[float] | Tensor,
    *,
    weights: Tensor | Sequence[float] | None = None,
    estimator: str = "unbiased",
) -> Tensor:
    r"""Return the squared maximum mean discrepancy of two samples, for a sum of kernels.

    .. math:: k(u, v) = \sum_{b} \beta_b \exp(-\|u - v\|^2 / w_b)

    .. math::

        \mathrm{MMD}^2 = \frac{1}{n (n - 1)} \sum_{i \ne j} k(x_i, x_j)
            + \frac{1}{m (m - 1)} \sum_{i \ne j} k(y_i, y_j)
            - \frac{2}{n m} \sum_{i, j} k(x_i, y_j)

    where

    - :math:`x_i`, shape (n, D), and :math:`y_j`, shape (m, D): the samples;
    - :math:`w`, ``bandwidths``, shape (B,), in squared units of x;
    - :math:`\beta`, ``weights``, shape (B,), at least 0, by default 1 / B each.

    This is the ``"unbiased"`` form: its mean is the discrepancy of the distributions, so it is
    below 0 about half the time where they are equal. ``"biased"`` takes the sums over all pairs, i
    = j too, with :math:`1 / n^2` and :math:`1 / m^2`; it is at least 0, and too large by about
    :math:`1/n + 1/m`. ``"linear"`` looks at each sample once, in disjoint quadruples,

    .. math::

        \mathrm{MMD}^2 = \frac{2}{n} \sum_{i=1}^{n / 2} h_i, \qquad
        h_i = k(x_{2i-1}, x_{2i}) + k(y_{2i-1}, y_{2i}) - k(x_{2i-1}, y_{2i}) - k(x_{2i}, y_{2i-1})

    in time and memory that grow with n alone; it is unbiased, and varies more.

    Parameters
    ----------
    x, y
        Shape (n, D) and (m, D), n and m at least 4; for ``"linear"`` n = m, of which a last odd one
        is left out. Half precision is computed in float32.
    bandwidths
        One or more, above 0.
    weights
        At least 0 and not all 0.
    estimator
        ``"unbiased"``, ``"biased"`` or ``"linear"``.

    Returns
    -------
    Tensor
        A scalar, differentiable in x and y.

    Raises
    ------
    TypeError, ValueError
        If the shapes do not go together, there is NaN, a bandwidth is not above 0, or a weight is
        below 0.

    References
    ----------
    Gretton et al., A Kernel Two-Sample Test, 2012, lemma 6 and section 6. In the chapter:
    ``eq-mmd``, ``eq-mmd-biased``, ``eq-mmd-linear``, ``eq-mmd-gaussians``, ``eq-multi-kernel``.

    Examples
    --------
    >>> x = torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    >>> y = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    >>> bool(mmd2(x, y + 1, 4.0) > 0.1), bool(mmd2(x, y, 4.0).abs() < 0.01)
    (True, True)
    """
    check_choice("estimator", estimator, ESTIMATORS)
    x, y = check_features(x=x, y=y, at_least=4)
    if isinstance(bandwidths, Tensor):
        one = bandwidths.ndim == 0
    else:
        one = isinstance(bandwidths, (int, float)) or getattr(bandwidths, "ndim", 1) == 0
    widths = _check_bandwidths([bandwidths] if one else bandwidths, x)  # type: ignore[list-item, arg-type]
    beta = _check_weights(weights, widths)
    if estimator == "linear":
        value = (_linear_terms(x, y, widths).mean(0) * beta).sum()
    else:
        value = _means(x, y, widths, beta, off_diagonal=estimator == "unbiased")
    check_finite(value, x=x, y=y)
    return value


def optimal_kernel_weights(
    x: Tensor, y: Tensor, bandwidths: Sequence[float], *, eps: float = 1e-3
) -> Tensor:
    r"""Return the weights of the kernels with which a test would see the difference best.

    The power of a test of large samples grows with the discrepancy over its deviation. It is
    largest for

    .. math::

        \min_{\beta \ge 0} \; \beta^\top (Q + \varepsilon I) \beta
            \quad \text{with} \quad d^\top \beta = 1

    where

    - :math:`d`, shape (B,): the linear estimate for each kernel, the mean of its :math:`h_i`;
    - :math:`Q`, shape (B, B): the covariance of the :math:`h_i`, over the same quadruples for all;
    - :math:`\varepsilon`, ``eps``, above 0: keeps the problem solvable where kernels are alike.

    The result is scaled to a sum of 1, which changes no ratio. Where no kernel has an estimate
    above 0, the programme has no solution: the single kernel with the largest
    :math:`d_b / \sqrt{Q_{bb} + \varepsilon}` gets all weight, with a warning.

    Parameters
    ----------
    x, y
        Shape (n, D) each, n at least 4.
    bandwidths
        B of them, above 0.
    eps
        Above 0.

    Returns
    -------
    Tensor
        Shape (B,), at least 0, of sum 1, without a gradient.

    References
    ----------
    Gretton et al., Optimal Kernel Choice for Large-Scale Two-Sample Tests, 2012. In the chapter:
    ``eq-kernel-choice``.

    Examples
    --------
    >>> x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    >>> y = torch.randn(400, 1, generator=torch.Generator().manual_seed(1)) + 1
    >>> weights = optimal_kernel_weights(x, y, [1e-4, 4.0])
    >>> bool(weights[1] > 0.9)
    True
    """
    check_number("eps", eps, above=0)
    x, y = check_features(x=x.detach(), y=y.detach(), at_least=4)
    for name, z in {"x": x, "y": y}.items():
        check_float_tensor(name, z)
    widths = _check_bandwidths(bandwidths, x).double()
    h = _linear_terms(x.double(), y.double(), widths)  # (n / 2, B)
    d = h.mean(0)
    Q = (h - d).T @ (h - d) / len(h) + eps * torch.eye(len(d), dtype=h.dtype, device=h.device)
    if bool((d <= 0).all()):
        best = int((d / Q.diagonal().sqrt()).argmax())
        warnings.warn(
            "No kernel sees a difference between these samples; the single best one, of bandwidth "
            f"{float(widths[best]):g}, gets all weight. Take more samples or other bandwidths.",
            stacklevel=2,
        )
        beta = torch.zeros_like(d)
        beta[best] = 1
    else:
        beta = _least_quadratic(Q, d)
    return (beta / beta.sum()).to(x.dtype)


def _least_quadratic(Q: Tensor, d: Tensor) -> Tensor:
    """Return the b >= 0 with d'b = 1 and least b'Qb, but for its scale.

    Its conditions are those of least |R b - R^-T d|^2 for b >= 0, Q = R'R: a problem that SciPy's
    solver of non-negative least squares has as it stands.
    """
    from scipy.optimize import nnls

    R = torch.linalg.cholesky(Q).T
    right = torch.linalg.solve_triangular(R.T, d[:, None], upper=False)[:, 0]
    found, _ = nnls(R.cpu().numpy(), right.cpu().numpy())
    return torch.from_numpy(found).to(d)


def _means(x: Tensor, y: Tensor, widths: Tensor, beta: Tensor, *, off_diagonal: bool) -> Tensor:
    n, m = len(x), len(y)
    rates = (-1 / widths).unbind()
    across = _sum_of_kernels(_squared_distances(x, y), rates, beta, off_diagonal=False)
    within_x, within_y = (
        _sum_of_kernels(_squared_distances(z, z), rates, beta, off_diagonal=off_diagonal)
        for z in (x, y)
    )
    own = int(off_diagonal)
    return within_x / (n * (n - own)) + within_y / (m * (m - own)) - 2 * across / (n * m)


def _sum_of_kernels(
    distances: Tensor, rates: Sequence[Tensor], beta: Tensor, *, off_diagonal: bool
) -> Tensor:
    """Return the weighted sum of all kernels of (n, m) squared distances, a scalar.

    One kernel is held at a time, and its exponential taken in place. A sample's kernel with itself
    is left out as it came, whatever rounding says.
    """
    sums = []
    for rate in rates:  # -1 / w
        kernel = (distances * rate).exp_()
        sums.append(kernel.sum() - kernel.trace() if off_diagonal else kernel.sum())
    return torch.stack(sums) @ beta


def _linear_terms(x: Tensor, y: Tensor, widths: Tensor) -> Tensor:
    """Return the h of every disjoint quadruple and kernel, (n // 2, B)."""
    if len(x) != len(y):
        raise ValueError(
            "The linear estimator pairs the samples: x and y must have equally many, got "
            f"{len(x)} and {len(y)}. Leave some out, or take estimator='unbiased'."
        )
    even = len(x) - len(x) % 2
    (x1, x2), (y1, y2) = (z[:even].view(-1, 2, z.shape[1]).unbind(1) for z in (x, y))

    def kernel(u: Tensor, v: Tensor) -> Tensor:
        return torch.exp(-(u - v).square().sum(1, keepdim=True) / widths)

    return kernel(x1, x2) + kernel(y1, y2) - kernel(x1, y2) - kernel(x2, y1)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2, (n, m), without a tensor of n x m x D.

    Both are taken from one centre first: far from 0 the squares would be large and their
    difference nothing but rounding.
    """
    centre = x.detach().mean(0)
    same = x is y
    x = x - centre
    y = x if same else y - centre
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return (squares - product(2 * x, y.T)).clamp_min(0)


def _check_bandwidths(bandwidths: Iterable[float | Tensor], x: Tensor) -> Tensor:
    """Return the bandwidths as a tensor (B,) like x; raise unless all are above 0."""
    given = list(bandwidths)
    if not given:
        raise ValueError("bandwidths is empty; give one or more, such as median_bandwidth(x, y).")
    widths = torch.stack([torch.as_tensor(w, dtype=x.dtype, device=x.device) for w in given])
    if readable(widths) and not bool((torch.isfinite(widths) & (widths > 0)).all()):
        raise ValueError(
            f"bandwidths must be finite and above 0, got {widths.tolist()}. "
            "median_bandwidth(x, y) gives one."
        )
    return widths


def _check_weights(weights: Tensor | Sequence[float] | None, widths: Tensor) -> Tensor:
    if weights is None:
        return torch.full_like(widths, 1 / len(widths))
    beta = torch.as_tensor(weights, dtype=widths.dtype, device=widths.device)
    if beta.shape != widths.shape:
        raise ValueError(
            f"weights must have one entry for each of the {len(widths)} bandwidths, "
            f"got shape {shape_of(beta)}."
        )
    if readable(beta) and not (bool((beta >= 0).all()) and 0 < float(beta.sum()) < torch.inf):
        raise ValueError(f"weights must be finite, at least 0 and not all 0, got {beta.tolist()}.")
    return beta
