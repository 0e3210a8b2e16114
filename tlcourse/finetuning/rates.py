r"""Layer-wise learning rates: the earlier a layer, the smaller its steps.

Early layers hold what every image needs, late layers what the old task needed, and the head is new.
One rate cannot suit them all: each group learns some 3 to 10 times slower than the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from tlcourse._checks import check_number
from tlcourse.finetuning._parts import Part, head_name, parameters_of, part_names


def layerwise_parameter_groups(
    model: nn.Module, groups: Sequence[Part], lr: float, decay: float
) -> list[dict[str, Any]]:
    r"""Return parameter groups for an optimiser, with a learning rate for each group of layers.

    .. math:: \eta_i = \frac{\eta}{d^{\,L - i}}, \qquad i = 0, \dots, L

    where

    - :math:`\eta`, ``lr``: the rate of the last group, the head;
    - :math:`d`, ``decay``: how much slower each group is than the next; 1 is one rate for all;
    - :math:`i` counts the groups as given, the earliest layers first, and :math:`L` is the last.

    Frozen parameters are left out, and so is a group that has no other. A group's rate hangs on its
    place in ``groups`` alone, so it is the same before and after another group is unfrozen.

    Parameters
    ----------
    model
        The network.
    groups
        Names of submodules, the earliest first: a name, or a list of names, for each group. A
        parameter that lies in no submodule goes by its own name.
    lr
        Above 0.
    decay
        At least 1. Protopapas's range is 3 to 10.

    Returns
    -------
    list of dict
        Each with ``"params"``, ``"lr"`` and ``"name"`` (the names, joined by ``", "``), as every
        optimiser of torch takes them.

    Raises
    ------
    TypeError, ValueError
        If a name is not in the model, a parameter in two groups, or a trainable one in none; if all
        is frozen; if ``lr`` or ``decay`` is out of range.

    References
    ----------
    Protopapas (AC295), *Differential Learning Rates*; Howard and Ruder (2018), section 3.2, with d
    = 2.6. In the chapter: ``eq-layerwise-rates``.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    >>> groups = layerwise_parameter_groups(model, ["0", "2", "3"], lr=0.1, decay=10)
    >>> [(group["name"], group["lr"]) for group in groups]
    [('0', 0.001), ('2', 0.01), ('3', 0.1)]
    >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
    """
    check_number("lr", lr, above=0)
    check_number("decay", decay, low=1)
    group_names = part_names("groups", groups)
    members = [parameters_of(model, f"groups[{i}]", names) for i, names in enumerate(group_names)]
    names_of = {parameter: name for name, parameter in model.named_parameters()}

    place: dict[nn.Parameter, int] = {}
    for i, parameters in enumerate(members):
        for parameter in parameters:
            if parameter in place:
                raise ValueError(
                    f"groups[{place[parameter]}] and groups[{i}] both hold the parameter "
                    f"{names_of[parameter]!r}; it can have one learning rate. Name each layer "
                    "once, and layers that share weights in one group."
                )
            place[parameter] = i
    trainable = [parameter for parameter in names_of if parameter.requires_grad]
    if not trainable:
        raise ValueError(
            "every parameter of the model is frozen: there is nothing to train. Unfreeze the head "
            f"at least, unfreeze(model.get_submodule({head_name(model)!r}))."
        )
    forgotten = [names_of[parameter] for parameter in trainable if parameter not in place]
    if forgotten:
        raise ValueError(
            f"groups leave out {len(forgotten)} trainable parameters, which would never move: "
            f"{', '.join(forgotten[:5])}{', ...' if len(forgotten) > 5 else ''}. "
            "Put their layers in a group, or freeze them."
        )

    result = []
    for i, (names, parameters) in enumerate(zip(group_names, members, strict=True)):
        params = [parameter for parameter in parameters if parameter.requires_grad]
        if params:
            rate = lr / decay ** (len(members) - 1 - i)
            result.append({"params": params, "lr": rate, "name": ", ".join(names)})
    return result
