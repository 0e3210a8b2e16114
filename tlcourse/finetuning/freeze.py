r"""Freezing: a part of a network that keeps every byte while the rest of it learns.

Setting ``requires_grad = False`` stops the gradient and nothing else. Two things go on moving: the
running statistics of BatchNorm, which follow every batch that is seen in train mode, and weights
that an optimiser already holds momentum for. :func:`freeze` stops all three.
"""

from __future__ import annotations

from functools import partial

from torch import nn


def freeze(module: nn.Module) -> None:
    r"""Keep every tensor of a module as it is, whatever is trained around it.

    1. No parameter below the module takes a gradient.
    2. The gradients that are there are removed. An optimiser skips a parameter whose ``grad`` is
       None; one whose ``grad`` is zeros it moves on, by what is left of the momentum:

       .. math:: v_{t+1} = \mu v_t + g_t, \quad \theta_{t+1} = \theta_t - \eta v_{t+1},
                 \qquad g = 0: \quad
                 \theta_k - \theta_0 = -\eta\, \frac{\mu (1 - \mu^k)}{1 - \mu}\, v_0

    3. Every layer below the module stays in eval mode, also after ``model.train()``. Dropout is
       off there, and BatchNorm uses its statistics instead of updating them:

       .. math:: m_k = (1 - a)^k m_0 + a \sum_{j=1}^{k} (1 - a)^{k - j}\, \bar x_j

    where

    - :math:`\theta`, :math:`v`, :math:`g`: a parameter, its momentum, its gradient, of one shape;
    - :math:`\eta` the learning rate, :math:`\mu` the momentum in [0, 1), :math:`k` steps;
    - :math:`m_k`, shape (C,): the running mean of C channels after k batches;
    - :math:`\bar x_j`, shape (C,): the mean of batch j; :math:`a`, BatchNorm's ``momentum``.

    Point 3 needs more than ``module.eval()``, which the next ``model.train()`` undoes. Each layer
    gets a ``train`` of its own, as an attribute of that one object. Classes, hooks, parameter names
    and ``state_dict`` stay as they are; a copy or a pickle of the module is frozen too.

    Parameters
    ----------
    module
        A layer, a backbone, a whole network. Freezing twice is freezing once.

    Raises
    ------
    TypeError
        If ``module`` is no ``torch.nn.Module``.

    See Also
    --------
    tlcourse.finetuning.audit : says what is frozen, and what only looks so.

    Notes
    -----
    Call it between two steps, not between ``forward`` and ``backward``, and before a wrapper such
    as ``DistributedDataParallel``. A parameter that two modules share is frozen in both. A module
    put in later is not frozen: a new head, and the layers that
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` makes, so convert first. ``copy.deepcopy`` gives a
    frozen copy; ``copy.copy`` shares its layers with the original, and its ``train()`` is the
    original's. ``LBFGS`` alone does not skip parameters without a gradient: make a new one after
    freezing.

    References
    ----------
    Protopapas (AC295), *Representation Extraction*; Ioffe and Szegedy (2015), section 3.1, for the
    running statistics. In the chapter: ``eq-frozen-features``, ``eq-momentum-drift``,
    ``eq-batchnorm-drift``.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    >>> freeze(model)
    >>> unfreeze(model[2])
    >>> _ = model.train()
    >>> [layer.training for layer in model]
    [False, False, True]
    """
    _check_module(module)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    for layer in module.modules():
        layer.__dict__["train"] = partial(_train_frozen, layer)
        layer.training = False


def unfreeze(module: nn.Module) -> None:
    """Let a module learn again: the inverse of :func:`freeze`, for all that lies below it.

    It takes a part of a frozen network as well. Its layers follow the mode of the network again
    from the next ``model.train()`` on, which a training loop calls at the start of an epoch.

    Parameters
    ----------
    module
        Every floating-point parameter below it becomes trainable, whoever froze it.

    Raises
    ------
    TypeError
        If ``module`` is no ``torch.nn.Module``.

    Notes
    -----
    An optimiser that was made from the trainable parameters alone does not know the new ones: see
    :class:`~tlcourse.finetuning.UnfreezeSchedule`.

    Examples
    --------
    >>> model = nn.Linear(2, 2)
    >>> freeze(model)
    >>> unfreeze(model)
    >>> model.train().training, model.weight.requires_grad
    (True, True)
    """
    _check_module(module)
    for parameter in module.parameters():
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.requires_grad_(True)
    for layer in module.modules():
        if is_frozen(layer):
            del layer.__dict__["train"]


def is_frozen(layer: nn.Module) -> bool:
    """Return whether :func:`freeze` holds this very layer in eval mode."""
    return getattr(layer.__dict__.get("train"), "func", None) is _train_frozen


def _train_frozen(layer: nn.Module, mode: bool = True) -> nn.Module:
    # In the place of nn.Module.train. It still calls the layers below: one of them may have been
    # unfrozen. Then `layer` is a mere container and says that it trains, so that code which asks
    # model.training to restore the mode later does not switch the unfrozen part off. Buffers of its
    # own are statistics for all we know: they keep it in eval mode.
    for child in layer.children():
        child.train(mode)
    has_buffers = any(True for _ in layer.buffers(recurse=False))
    layer.training = not has_buffers and any(child.training for child in layer.children())
    return layer


def _check_module(module: nn.Module) -> None:
    if not isinstance(module, nn.Module):
        raise TypeError(
            f"module must be a torch.nn.Module, got {type(module).__name__}. "
            "Give the part itself, such as model.backbone, not its name or its parameters."
        )
