r"""What domain separation networks add: codes that are shared, and codes that are a domain's own.

Each domain has a private encoder, both share one. The two codes of a sample are to tell different
things, and together everything: a decoder makes the image of their sum (Bousmalis et al., 2016).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlcourse._checks import (
    at_least_float32,
    check_choice,
    check_dtype,
    check_finite,
    check_int,
    check_number,
    widened,
)
from tlcourse.adaptation._parts import check_features, product
from tlcourse.adaptation.adversarial import domain_classifier, domain_loss
from tlcourse.adaptation.aligned import FEWEST, Aligned
from tlcourse.adaptation.mmd import TINY, mmd2

SIMILARITIES = ("dann", "mmd")
SCALES = (0.25, 0.5, 1.0, 2.0, 4.0)  # of the median squared distance: the bandwidths of "mmd"


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


class DSN(Aligned):
    r"""Give each domain a code of its own, beside one that both share.

    .. math::

        \mathcal{L} = \mathcal{L}_{ce}(y, h(\phi_c(x))) + s \big(\alpha\, \mathcal{L}_{recon}
            + \beta\, \mathcal{L}_{difference} + \gamma\, \mathcal{L}_{similarity}\big)

    where

    - :math:`\phi_c`, ``backbone``: the shared encoder; with the head h it is the classifier that is
      asked. :math:`\phi_S, \phi_T`, ``private``: the encoders of the domains' own codes;
    - :math:`\mathcal{L}_{recon}`: :func:`scale_invariant_error` of the decoder's image of
      :math:`\phi_c(x) + \phi_S(x)`, one decoder for both domains, and the same for the target;
    - :math:`\mathcal{L}_{difference}`: :func:`difference_loss` of the shared and the own codes, of
      both domains;
    - :math:`\mathcal{L}_{similarity}`: what makes the shared codes of both domains alike, a domain
      classifier with its gradient reversed, or the discrepancy;
    - :math:`s`: 0 before the step ``start``, then 1, for the three terms alike: until then the
      classifier alone learns. The strength of the reversal follows
      :func:`~tlcourse.adaptation.reversal_schedule` of the part that is done of the steps since.

    Parameters
    ----------
    backbone, n_classes, target
        As of :class:`~tlcourse.adaptation.aligned.Aligned`.
    private
        Two encoders, images (N, C, H, W) to codes (N, D), D that of the backbone; the source's and
        the target's, neither the backbone itself.
    decoder
        Codes (N, D) to images (N, C, H, W).
    steps
        How many steps the training will have, at least 1.
    start
        The step, counted from 0, at which the three terms set in; below ``steps``.
    similarity
        ``"dann"`` or ``"mmd"``.
    reconstruction_weight, difference_weight, weight
        :math:`\alpha, \beta, \gamma`, at least 0.
    hidden
        Units of the domain classifier's first layer.

    Raises
    ------
    TypeError, ValueError
        If a setting is wrong, or the target brings labels; in :meth:`loss` if codes or images do
        not go together.

    References
    ----------
    Bousmalis et al. (2016), equation 1. In the chapter: ``eq-dsn``.

    Examples
    --------
    >>> from tlcourse.data import digits, glyphs
    >>> from tlcourse.models import SmallResNet
    >>> source, target = glyphs(90, 1)[0], digits()[0]
    >>> shared, *private = (SmallResNet(45, width=2).backbone for _ in range(3))
    >>> D = shared.n_features
    >>> decoder = nn.Sequential(nn.Linear(D, 32 * 32), nn.Unflatten(1, (1, 32, 32)))
    >>> model = DSN(
    ...     shared, 45, target.images, private=tuple(private), decoder=decoder, steps=100
    ... )
    >>> model.loss(source[:8]).shape
    torch.Size([])
    """

    def __init__(
        self,
        backbone: nn.Module,
        n_classes: int,
        target: Tensor,
        *,
        private: tuple[nn.Module, nn.Module],
        decoder: nn.Module,
        steps: int,
        start: int = 0,
        similarity: str = "dann",
        reconstruction_weight: float = 0.01,
        difference_weight: float = 0.075,
        weight: float = 0.25,
        hidden: int = 64,
    ) -> None:
        super().__init__(backbone, n_classes, target, weight=weight)
        check_int("steps", steps, low=1)
        check_int("start", start, low=0, high=steps - 1)
        check_choice("similarity", similarity, SIMILARITIES)
        check_number("reconstruction_weight", reconstruction_weight, low=0)
        check_number("difference_weight", difference_weight, low=0)
        check_int("hidden", hidden, low=1)
        if not isinstance(private, tuple) or len({id(net) for net in (*private, backbone)}) != 3:
            raise ValueError(
                "private must be a tuple of two encoders, the source's and the target's, that are "
                "neither one another nor the backbone: else no code is a domain's own."
            )
        self.private_source, self.private_target = private
        self.decoder = decoder
        self.domain = (
            domain_classifier(self.head.in_features, hidden) if similarity == "dann" else None
        )
        self.steps, self.start = steps, start
        self.reconstruction_weight = reconstruction_weight
        self.difference_weight = difference_weight
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))  # kept in checkpoints

    def alignment(self, source: tuple[Tensor, Tensor], target: tuple[Tensor, Tensor]) -> Tensor:
        """Return what the shared codes of both domains differ by: the similarity loss."""
        c, c_ = source[0], target[0]
        if self.domain is not None:
            return domain_loss(self.domain, c, c_, self.strength())
        pool = widened(torch.cat([c, c_]).detach())
        median = F.pdist(pool).square().median().clamp_min(TINY)
        return mmd2(c, c_, median * median.new_tensor(SCALES))

    def strength(self) -> Tensor:
        """Return the strength of the reversal at the present step, a scalar."""
        done = (self.step - self.start) / (self.steps - self.start)
        # As `reversal_schedule`, on the model's device: nothing waits for a count.
        return (5 * done.clamp(0, 1)).tanh()

    def loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Return the loss of a source batch and as many target images; in training, count a step.

        It is an objective for :func:`tlcourse.training.fit`.
        """
        x, y = batch
        x_ = self.draw(x)
        source, target = self.outputs_of(x, x_)
        loss = F.cross_entropy(widened(source[1]), y)
        if len(x) >= FEWEST:
            # A factor, and no branch on a count that may lie on another device.
            loss = loss + (self.step >= self.start) * self.separation(x, x_, source, target)
        self.step += self.training
        return loss

    def separation(
        self,
        x: Tensor,
        x_: Tensor,
        source: tuple[Tensor, Tensor],
        target: tuple[Tensor, Tensor],
    ) -> Tensor:
        """Return the three terms beside the classifier's, weighted and added."""
        reconstruction, difference = [], []
        for images, shared, private in (
            (x, source[0], self.private_source),
            (x_, target[0], self.private_target),
        ):
            own = private(images.clone())  # (N, D); it may work in place
            if own.shape != shared.shape:
                raise ValueError(
                    f"private encoders must return codes like the backbone's, "
                    f"{tuple(shared.shape)}, got {tuple(own.shape)}: the decoder takes their sum."
                )
            reconstruction.append(scale_invariant_error(self.decoder(shared + own), images))
            difference.append(difference_loss(shared, own))
        return (
            self.reconstruction_weight * torch.stack(reconstruction).sum()
            + self.difference_weight * torch.stack(difference).sum()
            + self.weight * self.alignment(source, target)
        )
