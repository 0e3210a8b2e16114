r"""Learning to transfer: what to share between two domains, learnt from transfers of the past.

A past transfer is an experience: a source, a target, the subspace W that was shared, and by how
much that helped. From many of them a function f is fitted that predicts the improvement. For a new
pair, the W is looked for that f says helps most (Wei, Zhang and Yang, 2017). This is not "L2T-ww"
(Jang et al., 2019), which learns what and where to transfer between the layers of two networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from tlcourse._checks import check_float_tensor, check_int, check_number, shape_of

N_KERNELS = 33
BANDWIDTHS = 2.0 ** torch.linspace(-8, 8, N_KERNELS, dtype=torch.float64)  # times a scale
LEAST = 1e-2  # b is not below it, so f is at most 100
TINY = 1e-12


@dataclass(frozen=True)
class Experience:
    """One transfer of the past.

    Attributes
    ----------
    source, target
        Shape (n_s, D) and (n_t, D): the samples of both domains, without labels.
    W
        Shape (D, r): what was shared, X -> X W, with orthonormal columns.
    improvement
        l, above 0: the target's performance with the transfer over that without. 1 is no gain.
    """

    source: Tensor
    target: Tensor
    W: Tensor
    improvement: float


class LearningToTransfer:
    r"""Predict by how much sharing a subspace W improves a target, and find the best W.

    .. math::

        \frac{1}{f(W)} = \beta^\top d_W + \lambda\, \beta^\top Q_W\, \beta
            + \frac{\mu}{\beta^\top \tau_W} + b

    With :math:`k_m(u, v) = \exp(-\|u - v\|^2 / w_m)`, kernels of K bandwidths, and samples mapped
    by :math:`z = x W`,

    .. math::

        d_m = \frac{1}{n^2} \sum_{i, j} h_m(i, j), \qquad
        Q_{m m'} = \frac{1}{n^2} \sum_{i, j} (h_m(i, j) - d_m) (h_{m'}(i, j) - d_{m'})

    .. math::

        h_m(i, j) = k_m(z^s_i, z^s_j) + k_m(z^t_i, z^t_j) - k_m(z^s_i, z^t_j) - k_m(z^s_j, z^t_i)

    .. math::

        \tau_m = \frac{\mathrm{tr}(W^\top S^N_m W)}{\mathrm{tr}(W^\top S^L_m W)}, \qquad
        S^L_m = \sum_{(i, j) \in L} k_m(z^t_i, z^t_j) (x^t_i - x^t_j)(x^t_i - x^t_j)^\top

    where

    - :math:`W`, shape (D, r): the shared subspace; only its span matters;
    - :math:`d`, shape (K,): the squared maximum mean discrepancy of the two domains, for each
      kernel; at least 0. The nearer the domains, the larger f;
    - :math:`Q`, shape (K, K): the covariance of its terms, taken over the *same* pairs (i, j) for
      all kernels: how unsure the difference is;
    - :math:`\tau`, shape (K,): how far apart distant target samples are, beside near ones. L holds
      the pairs that are among each other's nearest neighbours, and :math:`S^N` has the form of
      :math:`S^L` over all other pairs. The better the target falls into groups, the larger f;
    - :math:`\beta \ge 0`, shape (K,), :math:`\lambda, \mu \ge 0` and :math:`b > 0`: what is learnt.

    No term on the right is negative, so that f is finite and at most 1 / b. Without that a search
    for the best W would find places where the right side is near 0, and f means nothing.

    The parameters minimise

    .. math::

        \frac{1}{E} \sum_{e=1}^{E} \mathrm{Huber}\Big(\frac{1}{f(W_e)} - \frac{1}{l_e}\Big)
            + \gamma \big(\|\beta\|^2 + \lambda^2 + \mu^2\big)

    over E experiences with improvements :math:`l_e`.

    Parameters
    ----------
    n_samples
        n: of each domain at most so many samples are used, drawn once and for all. Time and memory
        grow with its square.
    neighbours
        How many nearest neighbours a sample has, in L; they are found among the x, so that they do
        not depend on W.
    regularisation
        :math:`\gamma`, at least 0.

    Attributes
    ----------
    beta : Tensor
        Shape (K,); after ``fit``, like ``lam``, ``mu``, ``b`` and ``scale``.
    scale : float
        The median squared distance between mapped samples of the experiences. The bandwidths
        :math:`w_m` are :math:`2^{-8}, 2^{-7.5}, \dots, 2^8` times it.

    References
    ----------
    Wei, Zhang and Yang, Learning to Transfer, 2017 (arXiv 1708.05629).

    Examples
    --------
    >>> def experience(shift, improvement, seed):
    ...     x = torch.randn(60, 3, generator=torch.Generator().manual_seed(seed))
    ...     return Experience(x[:30], x[30:] + shift, torch.eye(3)[:, :2], improvement)
    >>> past = [experience(i / 4, 1.5 - i / 10, i) for i in range(8)]
    >>> l2t = LearningToTransfer().fit(past)
    >>> near, far = past[0], past[-1]
    >>> [bool(l2t.improvement(e.W, e.source, e.target) > 1) for e in (near, far)]
    [True, False]
    >>> l2t.infer(near.source, near.target).shape
    torch.Size([3, 2])
    """

    def __init__(
        self, *, n_samples: int = 100, neighbours: int = 5, regularisation: float = 1e-3
    ) -> None:
        check_int("n_samples", n_samples, low=2)
        check_int("neighbours", neighbours, low=1)
        check_number("regularisation", regularisation, low=0)
        self.n_samples, self.neighbours = n_samples, neighbours
        self.regularisation = regularisation
        self.beta: Tensor | None = None

    def fit(self, experiences: Sequence[Experience]) -> LearningToTransfer:
        """Learn f from past transfers; return the object itself.

        Raises
        ------
        TypeError, ValueError
            If there are fewer than 2 experiences, shapes do not go together, there is NaN, or an
            improvement is not above 0.
        """
        if len(experiences) < 2:
            raise ValueError(
                f"fit needs at least 2 experiences to compare, got {len(experiences)}: transfer "
                "between more pairs, or with several W for a pair."
            )
        pairs = []
        for e, experience in enumerate(experiences):
            check_number(f"experiences[{e}].improvement", experience.improvement, above=0)
            pairs.append(self._pair(experience.source, experience.target, experience.W))
        distances = [_squared_distances(torch.cat([s @ W, t @ W])) for s, t, W in pairs]
        self.scale = float(torch.cat([d[d > 0] for d in distances]).median())
        traits = [_traits(*pair, self.scale, self.neighbours) for pair in pairs]
        d, Q, tau = (torch.stack(part) for part in zip(*traits, strict=True))
        wanted = torch.tensor([1 / e.improvement for e in experiences], dtype=torch.float64)

        def loss(parameters: Tensor) -> Tensor:
            beta, (lam, mu, b) = parameters[:-3], parameters[-3:]
            penalty = self.regularisation * parameters[:-1].square().sum()
            return huber_loss(_inverse_f(d, Q, tau, beta, lam, mu, b), wanted) + penalty

        start = torch.full((N_KERNELS + 3,), 1 / N_KERNELS, dtype=torch.float64)
        start[-1] = wanted.mean()
        bounds = [(TINY, None)] * N_KERNELS + [(0, None)] * 2 + [(LEAST, None)]
        found = _minimise(loss, start, bounds)
        self.beta = found[:-3]
        self.lam, self.mu, self.b = found[-3:]
        self._width = experiences[0].W.shape[1]
        return self

    def improvement(self, W: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """Return f(W), a scalar of float64, differentiable in W.

        Raises
        ------
        RuntimeError
            Before ``fit``.
        TypeError, ValueError
            If the shapes do not go together, or there is NaN.
        """
        return 1 / self._inverse(*self._pair(source, target, W))

    def infer(
        self,
        source: Tensor,
        target: Tensor,
        *,
        n_components: int | None = None,
        starts: Sequence[Tensor] = (),
    ) -> Tensor:
        r"""Return the W, (D, r), with orthonormal columns, for which f is largest.

        W is searched for as the Q of :math:`A = QR`, from the first principal components of both
        domains, from ``starts``, and from two random places; the best end is returned.

        Parameters
        ----------
        source, target
            Shape (n_s, D) and (n_t, D).
        n_components
            r; by default that of the first experience.
        starts
            Further W to begin from, such as those of other algorithms.
        """
        r = self._fitted() if n_components is None else n_components
        n_features = source.shape[-1] if isinstance(source, Tensor) and source.ndim else r
        check_int("n_components", r, low=1, high=n_features)
        source, target, first = self._pair(source, target, torch.eye(n_features)[:, :r])
        pooled = torch.cat([source, target])
        components = torch.linalg.svd(pooled - pooled.mean(0)).Vh.T[:, :r]  # (D, r)
        generator = torch.Generator().manual_seed(0)
        begin = [components, *(self._pair(source, target, W)[2] for W in starts)]
        begin += [torch.randn(n_features, r, generator=generator).to(first) for _ in range(2)]

        def orthonormal(A: Tensor) -> Tensor:
            return torch.linalg.qr(A.view(n_features, r)).Q

        def inverse(A: Tensor) -> Tensor:
            return self._inverse(source, target, orthonormal(A))

        ends = [_minimise(inverse, A.flatten()) for A in begin]
        return orthonormal(min(ends, key=lambda A: float(inverse(A))))

    def _fitted(self) -> int:
        if self.beta is None:
            raise RuntimeError("Call fit(experiences) first: f has not been learnt.")
        return self._width

    def _inverse(self, source: Tensor, target: Tensor, W: Tensor) -> Tensor:
        self._fitted()
        assert self.beta is not None
        traits = _traits(source, target, W, self.scale, self.neighbours)
        return _inverse_f(*traits, self.beta, self.lam, self.mu, self.b)

    def _pair(self, source: Tensor, target: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Check a pair and W, thin the domains to the same number of samples, make all float64."""
        for name, x in {"source": source, "target": target, "W": W}.items():
            check_float_tensor(name, x)
            if x.ndim != 2:
                raise ValueError(f"{name} must have two dimensions, got shape {shape_of(x)}.")
        if not source.shape[1] == target.shape[1] == W.shape[0] or not 0 < W.shape[1] <= len(W):
            raise ValueError(
                "source (n_s, D), target (n_t, D) and W (D, r) must go together, with r from 1 to "
                f"D; got {shape_of(source)}, {shape_of(target)} and {shape_of(W)}."
            )
        n = min(len(source), len(target), self.n_samples)
        if n < 2:
            raise ValueError(
                f"source and target must have at least 2 samples, got {len(source)} and "
                f"{len(target)}."
            )
        generator = torch.Generator().manual_seed(0)
        source, target = (
            x[torch.randperm(len(x), generator=generator)[:n].to(x.device)]
            for x in (source, target)
        )
        return source.double(), target.double(), W.double()


def _inverse_f(
    d: Tensor, Q: Tensor, tau: Tensor, beta: Tensor, lam: Tensor, mu: Tensor, b: Tensor
) -> Tensor:
    return d @ beta + lam * (Q @ beta) @ beta + mu / (tau @ beta) + b


def _traits(
    source: Tensor, target: Tensor, W: Tensor, scale: float, neighbours: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return d (K,), Q (K, K) and tau (K,) of domains with n samples each."""
    zs, zt, n = source @ W, target @ W, len(source)
    bandwidths = scale * BANDWIDTHS.to(W.device)

    def kernels(distances: Tensor) -> Tensor:
        return torch.exp(-distances[..., None] / bandwidths)  # (n, n) -> (n, n, K)

    across, within = _squared_distances(zs, zt), _squared_distances(zt)
    k_across, k_within = kernels(across), kernels(within)
    h = kernels(_squared_distances(zs)) + k_within - k_across - k_across.transpose(0, 1)
    h = h.flatten(0, 1)  # (n^2, K): a row for each pair, the same for all kernels
    d = h.mean(0)
    Q = (h - d).T @ (h - d) / n**2

    # tr(W' (x_i - x_j)(x_i - x_j)' W) is the squared distance of z_i and z_j.
    scatter = k_within * within[..., None]
    local = _mutual_neighbours(target, neighbours)
    total, near = scatter.sum((0, 1)), scatter[local].sum(0)
    tau = (total - near + TINY * scale) / (near + TINY * scale)  # all samples may be one point
    return d, Q, tau


def _mutual_neighbours(x: Tensor, neighbours: int) -> Tensor:
    """Return which pairs, (n, n), are among each other's nearest neighbours."""
    distances = _squared_distances(x).fill_diagonal_(torch.inf)
    nearest = distances.topk(min(neighbours, len(x) - 1), largest=False).indices
    among = torch.zeros_like(distances, dtype=torch.bool).scatter_(1, nearest, True)
    return among & among.T


def _squared_distances(a: Tensor, b: Tensor | None = None) -> Tensor:
    return (a[:, None] - (a if b is None else b)).square().sum(-1)


def _minimise(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    bounds: Sequence[tuple[float | None, float | None]] | None = None,
) -> Tensor:
    """Return where SciPy's L-BFGS-B, with autograd's gradient, ends."""
    from scipy.optimize import minimize

    def value_and_gradient(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        at = torch.from_numpy(parameters).to(start).requires_grad_()
        value = loss(at)
        (gradient,) = torch.autograd.grad(value, at)
        return value.item(), gradient.cpu().numpy()

    x0 = start.detach().cpu().numpy()
    found = minimize(value_and_gradient, x0, jac=True, method="L-BFGS-B", bounds=bounds)
    return torch.from_numpy(found.x).to(start)
