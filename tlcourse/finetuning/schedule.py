"""Staged unfreezing: the head first, then later layers, then earlier ones.

A new head starts from random weights, and its first gradients would spoil the layers below. So
these wait, frozen, until the head is of use; then the later ones join, whose features are the
most tied to the old task.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from tlcourse.finetuning._parts import Part, head_name, parameters_of, part_names
from tlcourse.finetuning.freeze import freeze, unfreeze


class UnfreezeSchedule:
    """The stages of fine-tuning: freezes all but the first, and unfreezes one more at a time.

    The head is ``model.head``, or, without one, the module that holds the model's last parameter in
    the order of registration (``fc`` of a ResNet, ``classifier.6`` of a VGG). It must be in the
    first stage.

    What no stage names stays frozen. A part whose every parameter is frozen is held in eval mode,
    Dropout and BatchNorm with it, as by :func:`~tlcourse.finetuning.freeze`; once all is unfrozen
    the model trains as if it had never been frozen. The schedule rules the whole model: every stage
    undoes what was frozen or unfrozen by hand.

    Parameters
    ----------
    model
        The network. All of it is frozen at once, but for the first stage.
    stages
        Names of submodules, the head first: a name, or a list of names, for each stage. ``groups``
        of :func:`~tlcourse.finetuning.layerwise_parameter_groups`, reversed. A later stage may
        hold an earlier one: ``["head", "backbone.stage3", "backbone"]``.

    Attributes
    ----------
    stage : int
        The stage that the model is in, from 0.
    done : bool
        Whether the last stage is reached.

    Raises
    ------
    TypeError, ValueError
        If a name is not in the model; if the first stage lacks the head, or a stage has nothing
        left to unfreeze. The model is then as it was.

    References
    ----------
    Protopapas (AC295), *Procedure for Fine-tuning*; Fayiz et al. (2022), *Results*; Howard and
    Ruder (2018), section 3.3.

    Examples
    --------
    The optimiser must be told of what :meth:`advance` unfroze. One that is made anew is the simple
    way; to keep the momentum of the other layers, add the groups that it does not have yet.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    >>> groups = ["0", "2", "3"]
    >>> schedule = UnfreezeSchedule(model, groups[::-1])
    >>> from tlcourse.finetuning import layerwise_parameter_groups
    >>> optimizer = torch.optim.SGD(layerwise_parameter_groups(model, groups, 0.1, 3))
    >>> while not schedule.done:  # train a few epochs before each stage
    ...     unfrozen = schedule.advance()
    ...     known = {group["name"] for group in optimizer.param_groups}
    ...     for group in layerwise_parameter_groups(model, groups, 0.1, 3):
    ...         if group["name"] not in known:
    ...             optimizer.add_param_group(group)
    >>> [group["name"] for group in optimizer.param_groups]
    ['3', '2', '0']
    """

    def __init__(self, model: nn.Module, stages: Sequence[Part]) -> None:
        self._names = part_names("stages", stages)
        self._parameters = [
            set(parameters_of(model, f"stages[{i}]", names)) for i, names in enumerate(self._names)
        ]
        self._check_head_comes_first(model)
        unfrozen = set(self._parameters[0])
        for i, parameters in enumerate(self._parameters[1:], start=1):
            if parameters <= unfrozen:
                raise ValueError(
                    f"stages[{i}] has nothing left to unfreeze: earlier stages hold all of "
                    f"{', '.join(map(repr, self._names[i]))}. Leave it out."
                )
            unfrozen |= parameters
        self.model = model
        self.stage = 0
        self._apply()

    @property
    def done(self) -> bool:
        """Whether the last stage is reached."""
        return self.stage == len(self._names) - 1

    def advance(self) -> tuple[str, ...]:
        """Unfreeze the next stage and return its names.

        Its layers enter train mode at the next ``model.train()``.

        Raises
        ------
        RuntimeError
            If the last stage was reached before.
        """
        if self.done:
            raise RuntimeError(
                f"all {len(self._names)} stages are unfrozen: there is no next one. "
                "Ask schedule.done before you advance."
            )
        self.stage += 1
        self._apply()
        return self._names[self.stage]

    def _apply(self) -> None:
        unfreeze(self.model)
        trainable = set().union(*self._parameters[: self.stage + 1])
        _freeze_all_but(self.model, trainable)

    def _check_head_comes_first(self, model: nn.Module) -> None:
        name = head_name(model)
        head = set(parameters_of(model, "the head", (name,)))
        if head <= self._parameters[0]:
            return
        if head <= set().union(*self._parameters):
            raise ValueError(
                f"stages[0] does not hold all of the head, {name!r}, which a later stage does. "
                "Stages go from the head to the earliest layers: is the list the wrong way round?"
            )
        raise ValueError(
            f"stages never unfreeze the head, {name!r}: the new classes could not be learnt. "
            "Put it in the first stage."
        )


def _freeze_all_but(module: nn.Module, trainable: set[nn.Parameter]) -> None:
    # The largest parts without a trainable parameter are frozen as a whole. What stands beside them
    # without parameters of its own, such as Dropout before the head, belongs to the part that
    # learns.
    parameters = list(module.parameters())
    if parameters and trainable.isdisjoint(parameters):
        freeze(module)
        return
    for parameter in module.parameters(recurse=False):
        if parameter not in trainable:
            parameter.requires_grad_(False)
            parameter.grad = None
    for child in module.children():
        _freeze_all_but(child, trainable)
