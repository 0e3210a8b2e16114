r"""What domain separation networks add: codes that are shared, and codes that are a domain's own.

Each domain has a private encoder, both share one. The two codes of a sample are to tell different
things, and together everything: a decoder makes the image of their sum (Bousmalis et al., 2016).
"""

from __future__ import annotations

from torch import Tensor

from tlcourse._checks import at_least_float32, check_dtype, check_finite
from tlcourse.adaptation._parts import check_features, product


def scale_invariant_error(reconstruction: Tensor, image: Tensor) -> Tensor:
    r"""Return the error of a reconstruction, a common offset of its pixels left out.

    .. math:: \mathcal{L} = \frac{1}{k} \|d\|^2 - \frac{1}{k^2} \Big(\sum_{i=1}^{k} d_i\Big)^2

    where :math:`d`, shape (k,), is the difference of the k pixels of one image; the result is the
    mean over the images. It is the variance of the differences: a picture that is a little too
    bright everywhere costs nothing. Added in the place of subtracted, the second term would punish
    exactly that.

    Parameters
    ----------
    reconstruction, image
        Shape (N, ...), the same. Half precision is computed in float32.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ, or there is NaN.

    References
    ----------
    Bousmalis et al., Domain Separation Networks, 2016, equation 5. In the chapter: ``eq-simse``.

    Examples
    --------
    >>> import torch
    >>> image = torch.tensor([[0.0, 1.0, 2.0]])
    >>> scale_invariant_error(image + 3, image).item()
    0.0
    >>> scale_invariant_error(2 * image, image).item()  # 5 / 3 - 1
    0.666...
    """
    check_dtype("reconstruction", reconstruction)
    check_dtype("image", image)
    made, true = at_least_float32("reconstruction", reconstruction, "image", image)
    if made.ndim < 2 or made.numel() == 0:
        raise ValueError(
            f"reconstruction and image must have shape (N, ...), got {tuple(image.shape)}."
        )
    d = (made - true).flatten(1)  # (N, k)
    loss = (d.square().mean(1) - d.mean(1).square()).mean()
    check_finite(loss, reconstruction=reconstruction, image=image)
    return loss


def difference_loss(shared: Tensor, private: Tensor) -> Tensor:
    r"""Return how much the shared and the private codes of one domain tell alike.

    .. math:: \mathcal{L} = \big\| H_c^\top H_p \big\|_F^2

    where :math:`H_c, H_p`, shape (N, D) and (N, D'), are the codes of one batch, the mean over the
    batch taken out, each row then scaled to length 1. It is 0 where no code predicts the other
    linearly. Without centring, two constant codes would look alike.

    The paper writes the sum of squares, as here; the authors' program takes the mean, which is
    this over D D'.

    Parameters
    ----------
    shared, private
        Codes of the same samples, N at least 2. Half precision is computed in float32.

    Raises
    ------
    TypeError, ValueError
        If the batches differ, or there is NaN.

    References
    ----------
    Bousmalis et al. (2016), equation 6. In the chapter: ``eq-difference``.

    Examples
    --------
    >>> import torch
    >>> code = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    >>> other = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    >>> difference_loss(code, code).item(), difference_loss(code, other).item()
    (16.0, 0.0)
    """
    (shared,) = check_features(shared=shared, at_least=2)
    (private,) = check_features(private=private, at_least=2)
    if len(shared) != len(private) or shared.dtype != private.dtype:
        raise ValueError(
            "shared and private must be codes of the same samples, in one dtype; got "
            f"{tuple(shared.shape)} {shared.dtype} and {tuple(private.shape)} {private.dtype}."
        )
    loss = product(_rows(shared).T, _rows(private)).square().sum()
    check_finite(loss, unseen=[shared, private], shared=shared, private=private)
    return loss


def _rows(codes: Tensor) -> Tensor:
    """Return the codes centred over the batch, each row of length 1, or 0 where it has none."""
    centred = codes - codes.mean(0)
    squares = centred.square().sum(1, keepdim=True)
    # A row of zeros stays one, with a gradient of 0 and not NaN.
    return centred / squares.where(squares > 0, 1).sqrt()
