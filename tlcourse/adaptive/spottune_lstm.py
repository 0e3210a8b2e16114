r"""SpotTune on LSTM layers, with decisions as coarse as a layer or finer.

A whole LSTM layer is a large thing to freeze: four gates and two memories. The finer forms choose
inside it. They are one formula: each row of the layer's weights belongs to a group, and a decision
says for each group whether its rows are the tuned or the frozen ones.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import linear

from tlcourse._checks import check_choice
from tlcourse.adaptive.policy import policy_network
from tlcourse.adaptive.spottune import RoutedBlock, SpotTune
from tlcourse.models import Classifier, LSTMClassifier
from tlcourse.models.lstm import LSTMLayer

GROUPS = {"layer": 1, "states": 2, "gates": 4, "units": 4}


class SpotTuneLSTM(SpotTune):
    r"""Route each window through tuned or frozen LSTM layers.

    The source's LSTM layers get a frozen and a tuned copy each; its ``hidden`` layer is copied and
    trained, and so is a fresh head. With all decisions 1 this is fine-tuning, with all of them 0 it
    is a head on frozen features, in each case to the last bit (for ``choose="layer"``).

    Parameters
    ----------
    source
        A trained :class:`~tlcourse.models.LSTMClassifier`; it is copied, and stays as it is.
    n_classes
        K, the classes of the target, at least 2.
    choose
        What a decision is about, see :class:`GatedLSTM`: ``"layer"`` (one decision a layer, the
        form of the paper), ``"states"`` (2), ``"gates"`` (4) or ``"units"`` (4).
    agent
        A :func:`policy_network` of as many decisions. By default one of two narrow LSTM layers and
        two linear ones with random weights, on means of 5 steps.
    temperature
        Of :func:`gumbel_policy`.

    Raises
    ------
    TypeError, ValueError
        If the source is no LSTM classifier or is frozen, the agent fits another number of
        decisions, or a setting is out of range. In ``forward``, if x has another shape than the
        source was made for or, on a CPU, holds NaN.

    References
    ----------
    Guo et al., SpotTune: Transfer Learning through Adaptive Fine-tuning, 2019, section 3; on LSTM
    layers after the project report of Chen, Guo and Konti.

    Examples
    --------
    >>> source = LSTMClassifier(6, width=8)
    >>> model = SpotTuneLSTM.from_pretrained(source, 4)
    >>> log_probs, decisions = model(torch.randn(5, 125, 6))
    >>> log_probs.shape, decisions.shape
    (torch.Size([5, 4]), torch.Size([5, 3]))
    """

    @classmethod
    def from_pretrained(
        cls,
        source: LSTMClassifier,
        n_classes: int,
        *,
        choose: str = "layer",
        agent: Classifier | None = None,
        temperature: float = 5.0,
    ) -> SpotTuneLSTM:
        """Copy a trained network; see the class."""
        if not isinstance(source, LSTMClassifier):
            raise TypeError(f"source must be an LSTMClassifier, got {type(source).__name__}.")
        check_choice("choose", choose, GROUPS)
        rest = copy.deepcopy(source.backbone)
        blocks: list[RoutedBlock] = []
        for name, layer in list(rest.named_children()):
            if isinstance(layer, LSTMLayer):
                blocks += [RoutedBlock(layer) if choose == "layer" else GatedLSTM(layer, choose)]
                delattr(rest, name)  # what remains reads the windows and makes features
        groups = GROUPS[choose]
        if agent is None:
            narrow = LSTMClassifier(
                n_classes=2,
                n_channels=rest.n_channels,
                n_steps=rest.n_steps,
                width=16,
                n_layers=2,
                pool=5 if rest.n_steps % 5 == 0 else 1,
            )
            agent = policy_network(narrow.backbone, groups * len(blocks))
        return cls(blocks, rest, n_classes, agent, groups=groups, temperature=temperature)


class GatedLSTM(RoutedBlock):
    r"""An LSTM layer whose decisions choose rows of its weights.

    .. math::

        W_n = I_{\gamma}(x_n) \odot W^{tuned} + (1 - I_{\gamma}(x_n)) \odot W^{frozen}

    and so for U and b, where

    - :math:`W_n`, shape (4H, C): the layer's input weights for sample n, see
      :class:`~tlcourse.models.lstm.LSTMLayer`;
    - :math:`\gamma`, shape (4H,): the group of each row, from 0 to G - 1;
    - :math:`I_g(x_n)`, 0 or 1: the decision of sample n for group g.

    ===========  =  ============================================================================
    ``choose``   G  groups
    ===========  =  ============================================================================
    ``"states"`` 2  the rows that make the cell state (input, forget, candidate), and those of
                    the output gate, which makes the hidden state of it
    ``"gates"``  4  input gate, forget gate, candidate, output gate
    ``"units"``  4  a quarter of the units each, with all their gates
    ===========  =  ============================================================================
    """

    tuned: LSTMLayer
    frozen: LSTMLayer
    group: Tensor

    def __init__(self, layer: LSTMLayer, choose: str) -> None:
        super().__init__(layer)
        width, rows = layer.hidden_size, torch.arange(4 * layer.hidden_size)
        gate, unit = rows // width, rows % width
        group = {"states": gate // 3, "gates": gate, "units": 4 * unit // width}[choose]
        self.register_buffer("group", group, persistent=False)  # (4H,)

    def mixed(self, x: Tensor, decisions: Tensor) -> Tensor:
        """Choose each sample's rows; W x is mixed in the place of W, which is the same."""
        I = decisions[:, self.group]  # noqa: E741  (N, G) -> (N, 4H)
        t, f = self.tuned, self.frozen
        from_input = torch.lerp(
            linear(x, f.weight_ih_l0, f.bias_ih_l0 + f.bias_hh_l0),
            linear(x, t.weight_ih_l0, t.bias_ih_l0 + t.bias_hh_l0),
            I[:, None],
        )  # (N, T, C) -> (N, T, 4H); lerp(a, b, I) is (1 - I) a + I b
        h = c = x.new_zeros(len(x), self.tuned.hidden_size)
        states = []
        for z in from_input.unbind(1):
            z = z + torch.lerp(linear(h, f.weight_hh_l0), linear(h, t.weight_hh_l0), I)
            i, forget, g, o = z.chunk(4, dim=1)  # (N, H) each
            c = torch.sigmoid(forget) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            states.append(h)
        return torch.stack(states, dim=1)  # (N, T, H)

    def path(self, decisions: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the layer with the rows of one row of decisions, shape (G,)."""
        is_tuned = decisions[self.group] == 1  # (G,) -> (4H,)
        frozen = dict(self.frozen.named_parameters())
        rows = {
            name: torch.where(is_tuned.view(-1, *(1,) * (tuned.ndim - 1)), tuned, frozen[name])
            for name, tuned in self.tuned.named_parameters()
        }
        return lambda x: functional_call(self.tuned, rows, x)
