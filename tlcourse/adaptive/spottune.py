r"""SpotTune: an agent decides for each sample which layers are the tuned ones.

Fine-tuning changes a layer for all samples. SpotTune keeps two copies of each block, one frozen and
one tuned, and a small network, the agent, sends each sample through one of the two, block by block
(Guo et al., 2019). Here is what recurrent and residual networks share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax, nll_loss

from tlcourse._checks import check_int, check_temperature, shape_of, widened
from tlcourse.adaptive.policy import gumbel_policy
from tlcourse.models import Classifier


class RoutedBlock(nn.Module):
    r"""Two copies of a block, and a decision for each sample which one it goes through.

    .. math:: x_l = I_l(x)\, F_l^{tuned}(x_{l-1}) + (1 - I_l(x))\, F_l^{frozen}(x_{l-1})

    where

    - :math:`x_{l-1}, x_l`, shape (N, ...): the block's input and output;
    - :math:`I_l(x)`, shape (N, 1): 1 for the samples that take the tuned copy, else 0;
    - :math:`F^{tuned}`: the copy that is trained; :math:`F^{frozen}`: the copy that stays, with all
      its buffers. They begin alike and share no memory, with each other or with the source.

    In training both copies are computed for all samples (:meth:`mixed`), since the decision's
    gradient is their difference. At evaluation each sample goes through one copy (:meth:`routed`).

    Raises
    ------
    ValueError
        If a parameter of the block is frozen: its tuned copy could not learn.
    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for name, parameter in block.named_parameters():
            if not parameter.requires_grad:
                raise ValueError(
                    f"The source's {name} is frozen, so that no copy of it could be tuned. Pass a "
                    "source that is not frozen (unfreeze(source)): SpotTune freezes its own copy."
                )
        self.tuned, self.frozen = copy.deepcopy(block), copy.deepcopy(block)
        self.frozen.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> RoutedBlock:
        """Set the tuned copy's mode; the frozen one stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()  # no gradient is not enough: BatchNorm would go on counting
        return self

    def mixed(self, x: Tensor, decisions: Tensor) -> Tensor:
        """Compute both copies for all samples and weigh them by the decisions, shape (N, 1)."""
        y_tuned: Tensor = self.tuned(x)
        y_frozen: Tensor = self.frozen(x)
        I = decisions.view(-1, *(1,) * (y_tuned.ndim - 1))  # noqa: E741  (N, 1) -> (N, 1, ...)
        return I * y_tuned + (1 - I) * y_frozen

    def routed(self, x: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor]:
        """Compute each sample along its own path: one call for all of the same decisions.

        Returns the outputs, in the order in which they were computed, and that order: row i belongs
        to sample ``order[i]`` of x. Putting them back for every block would cost a copy each.
        """
        rows, row_of = decisions.unique(dim=0, return_inverse=True)  # (R, G), (N,)
        if len(rows) == 1:
            return self.path(rows[0])(x), torch.arange(len(x), device=x.device)
        members = [(row_of == r).nonzero()[:, 0] for r in range(len(rows))]
        parts = [self.path(row)(x.index_select(0, n)) for row, n in zip(rows, members, strict=True)]
        return torch.cat(parts), torch.cat(members)

    def path(self, decisions: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what computes the samples of one row of decisions, shape (1,)."""
        return self.tuned if decisions.item() == 1 else self.frozen


class SpotTune(nn.Module):
    """Blocks with two copies each, an agent that chooses, and a head that is always trained.

    Made by ``SpotTuneLSTM.from_pretrained`` or ``SpotTuneResNet.from_pretrained``.

    Parameters
    ----------
    blocks
        The earliest first.
    rest
        What is not routed: ``rest.read(x)`` returns what the first block gets, and
        ``rest.features(h)`` makes (N, ``rest.n_features``) of what the last one returns.
    n_classes
        K, at least 2.
    agent
        x -> (N, 2 D) logits for D decisions; taken as it is, not copied.
    groups
        The decisions of each block.
    temperature
        Of :func:`gumbel_policy`.
    """

    def __init__(
        self,
        blocks: Sequence[RoutedBlock],
        rest: Any,
        n_classes: int,
        agent: Classifier,
        *,
        groups: int = 1,
        temperature: float,
    ) -> None:
        super().__init__()
        check_int("n_classes", n_classes, low=2)
        check_temperature(temperature)
        self.n_decisions, self.temperature = groups * len(blocks), temperature
        if not isinstance(agent, Classifier):
            raise TypeError(
                f"agent must be a Classifier, such as policy_network makes; got "
                f"{type(agent).__name__}."
            )
        if agent.head.out_features != 2 * self.n_decisions:
            raise ValueError(
                f"agent has {agent.head.out_features} outputs, but {len(blocks)} blocks with "
                f"{groups} decision(s) each need two for every one, {2 * self.n_decisions}. Make "
                f"it with policy_network(backbone, {self.n_decisions})."
            )
        self.blocks: Any = nn.ModuleList(blocks)
        self.rest, self.agent = rest, agent
        self.head = nn.Linear(rest.n_features, n_classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probabilities of the classes, (N, K), and the decisions, (N, D)."""
        decisions = self.decide(x)
        return self.classify(x, decisions), decisions

    def decide(self, x: Tensor) -> Tensor:
        """Return the agent's decisions, (N, D): drawn in training, the likelier at evaluation."""
        logits = self.agent(x).unflatten(1, (-1, 2))  # (N, 2 D) -> (N, D, 2)
        return gumbel_policy(logits, temperature=self.temperature, training=self.training)

    def classify(self, x: Tensor, decisions: Tensor) -> Tensor:
        """Return the log-probabilities, (N, K), that given decisions, (N, D), lead to."""
        if decisions.shape != (len(x), self.n_decisions):
            raise ValueError(
                f"decisions must have shape {(len(x), self.n_decisions)}, got "
                f"{shape_of(decisions)}."
            )
        h = self.rest.read(x)
        of_block = decisions.unflatten(1, (len(self.blocks), -1)).unbind(1)  # (N, G) each
        if self.training:
            for block, chosen in zip(self.blocks, of_block, strict=True):
                h = block.mixed(h, chosen)
            features = self.rest.features(h)
        else:
            if not bool(((decisions == 0) | (decisions == 1)).all()):
                raise ValueError(
                    "decisions must be 0 or 1 at evaluation, where a sample takes one path; got "
                    f"{decisions.min():g} to {decisions.max():g}. Soft ones are mixed in training."
                )
            order = torch.arange(len(x), device=x.device)  # h's row i belongs to sample order[i]
            for block, chosen in zip(self.blocks, of_block, strict=True):
                h, moved = block.routed(h, chosen[order])
                order = order[moved]
            features = self.rest.features(h)[order.argsort()]
        return log_softmax(widened(self.head(features)), dim=1)

    def loss(self, batch: Sequence[Tensor]) -> Tensor:
        """Return the negative log-likelihood of the labels: an objective for ``fit``."""
        x, y = batch
        return nll_loss(self(x)[0], y)

    def classifier(self) -> nn.Module:
        """Return the network whose output is the log-probabilities alone, as a measure wants."""
        return _AsClassifier(self)

    def learners(self) -> list[nn.Parameter]:
        """Return the parameters that are trained, but for the agent's."""
        agents = {id(p) for p in self.agent.parameters()}
        return [p for p in self.parameters() if p.requires_grad and id(p) not in agents]


class _AsClassifier(nn.Module):
    def __init__(self, model: SpotTune) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Any:
        return self.model(x)[0]
