"""SpotTune on residual networks, the form of the paper."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from tlcourse.adaptive.policy import policy_network
from tlcourse.adaptive.spottune import RoutedBlock, SpotTune
from tlcourse.models import Classifier, SmallResNet, WideResNet
from tlcourse.models.classifier import check_images


class SpotTuneResNet(SpotTune):
    r"""Route each image through tuned or frozen residual blocks.

    .. math:: x_l = I_l(x)\, F_l^{tuned}(x_{l-1}) + (1 - I_l(x))\, F_l^{frozen}(x_{l-1}) + x_{l-1}

    where

    - :math:`x_l`, shape (N, C, H, W): the maps after block l; :math:`I_l(x)`, shape (N, 1): the
      decision for it; :math:`F_l`: what stands beside the block's shortcut.

    The two copies are mixed *after* their sums with the shortcut. In a :class:`WideResNet`, whose
    block ends with that sum, this is the equation. The block of a :class:`SmallResNet` ends with
    a ReLU, and :math:`I\,\mathrm{relu}(a) + (1 - I)\,\mathrm{relu}(b)` is mixed, as in the
    authors' code: the same as the ReLU of the mixture for decisions of 0 and 1, another for a soft
    one. Where a block changes the shape, its shortcut has weights, and belongs to both copies.

    The stem is a routed block as well, and so is the last BatchNorm of a wide residual net. Without
    that, all decisions 0 would not be a head on frozen features.

    Parameters
    ----------
    source
        A trained :class:`~tlcourse.models.SmallResNet` or :class:`~tlcourse.models.WideResNet`;
        it is copied, and stays as it is.
    n_classes
        K, the classes of the target, at least 2.
    agent
        A :func:`policy_network` with a decision for each block. By default on a SmallResNet of
        width 4 with random weights: one block for each resolution, as in the paper.
    temperature
        Of :func:`gumbel_policy`.

    Raises
    ------
    TypeError, ValueError
        If the source is another network or is frozen, the agent fits another number of blocks, or a
        setting is out of range.

    References
    ----------
    Guo et al., SpotTune: Transfer Learning through Adaptive Fine-tuning, 2019, equation 1.

    Examples
    --------
    >>> import torch
    >>> model = SpotTuneResNet.from_pretrained(SmallResNet(62), 10)
    >>> log_probs, decisions = model(torch.rand(5, 1, 32, 32))
    >>> log_probs.shape, decisions.shape
    (torch.Size([5, 10]), torch.Size([5, 4]))
    """

    @classmethod
    def from_pretrained(
        cls,
        source: SmallResNet | WideResNet,
        n_classes: int,
        *,
        agent: Classifier | None = None,
        temperature: float = 5.0,
    ) -> SpotTuneResNet:
        """Copy a trained network; see the class."""
        if not isinstance(source, (SmallResNet, WideResNet)):
            raise TypeError(
                f"source must be a SmallResNet or a WideResNet, got {type(source).__name__}."
            )
        backbone: Any = source.backbone
        parts: list[nn.Module] = []
        for name in backbone.layers:
            part = backbone.get_submodule(name)
            a_group = name.startswith("stage") and isinstance(part, nn.Sequential)
            parts += part if a_group else [part]
        if agent is None:
            narrow = SmallResNet(2, in_channels=backbone.in_channels, width=4)
            agent = policy_network(narrow.backbone, len(parts))
        rest = _Ends(backbone.in_channels, backbone.n_features)
        blocks = [RoutedBlock(part) for part in parts]
        return cls(blocks, rest, n_classes, agent, temperature=temperature)


class _Ends(nn.Module):
    def __init__(self, in_channels: int, n_features: int) -> None:
        super().__init__()
        self.in_channels, self.n_features = in_channels, n_features

    def read(self, x: Tensor) -> Tensor:
        check_images(x, self.in_channels, smallest=8)
        return x

    def features(self, h: Tensor) -> Tensor:
        # A SmallResNet's maps have been through a ReLU: a second one changes nothing.
        return relu(h).mean((2, 3))  # (N, C, H, W) -> (N, C)
