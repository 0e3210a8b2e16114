r"""Less-forgetting learning: the last hidden features of new images must stay where they were.

Where learning without forgetting holds on to the old *answers*, this holds on to the *features*
that lead to them: if they do not move and the old head is kept, no old answer changes (Jung, Ju,
Jung and Kim, 2016).
"""

from __future__ import annotations

from torch import Tensor

from tlcourse._checks import at_least_float32, check_dtype, check_finite, shape_of


def less_forgetting_loss(features: Tensor, recorded_features: Tensor) -> Tensor:
    r"""Return how far the last hidden features have moved from the recorded ones.

    .. math:: \mathcal{L}_e = \frac{1}{2N} \sum_{n=1}^{N}
              \left\| \phi_\theta(x_n) - \phi_{\theta^{(o)}}(x_n) \right\|_2^2

    where

    - :math:`\phi_\theta(x)`, ``features``, shape (N, D): of the network as it learns;
    - :math:`\phi_{\theta^{(o)}}(x)`, ``recorded_features``, shape (N, D): of the network before,
      for the same new inputs. No gradient reaches them.

    The method adds it to the new task's loss with a weight :math:`\lambda_e`, and keeps the old
    head as it is. The sum goes over D features, so the weight that suits depends on their number
    and scale: the paper's are 0.0016 and the like.

    Parameters
    ----------
    features, recorded_features
        Shape (N, D), one dtype; row n of both comes from the same input. Half precision counts as
        float32, and is computed in it.

    Returns
    -------
    Tensor
        A scalar, at least 0.

    Raises
    ------
    TypeError, ValueError
        If shapes or dtypes differ, there is no sample, or a feature is NaN or infinite.

    References
    ----------
    Jung, Ju, Jung and Kim (2016), Less-forgetting Learning in Deep Neural Networks, section III. In
    the chapter: ``eq-less-forgetting``.

    Examples
    --------
    >>> import torch
    >>> less_forgetting_loss(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(12.5000)
    """
    check_dtype("features", features)
    check_dtype("recorded_features", recorded_features)
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(
            f"features must have shape (N, D), N at least 1; got {shape_of(features)}. "
            "Pool or flatten feature maps first."
        )
    features, recorded_features = at_least_float32(
        "features", features, "recorded_features", recorded_features
    )
    moved = features - recorded_features.detach()  # (N, D)
    loss = moved.square().sum() / (2 * len(moved))
    check_finite(loss, features=features, recorded_features=recorded_features)
    return loss
