r"""Which kind of transfer is this? The survey's settings and approaches, as tables to ask.

Pan and Yang (2010) sort transfer by where there are labels, and approaches by what is carried over.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Given:
    """What there is of one side.

    Attributes
    ----------
    domain
        Where the inputs come from, by any name: equal names, equal domains.
    task
        What is to be told of them, by any name.
    labelled
        Whether any of the samples have labels.
    """

    domain: str
    task: str
    labelled: bool


@dataclass(frozen=True)
class Setting:
    """A row of :data:`SETTINGS`.

    Attributes
    ----------
    name
        ``"inductive"``, ``"transductive"`` or ``"unsupervised"``.
    source_labels, target_labels
        Whether there are any.
    areas
        The neighbouring fields.
    tasks
        What is learnt.
    """

    name: str
    source_labels: bool
    target_labels: bool
    areas: tuple[str, ...]
    tasks: tuple[str, ...]

    @property
    def approaches(self) -> tuple[Approach, ...]:
        """The approaches that apply in this setting."""
        return tuple(approach for approach in APPROACHES if self.name in approach.settings)


@dataclass(frozen=True)
class Approach:
    """A row of :data:`APPROACHES`: what is carried over, and in which settings."""

    name: str
    carries: str
    settings: tuple[str, ...]
    example: str


_TASKS = ("regression", "classification")
SETTINGS = (
    Setting("inductive", True, True, ("multi-task learning",), _TASKS),
    Setting("inductive", False, True, ("self-taught learning",), _TASKS),
    Setting(
        "transductive",
        True,
        False,
        ("domain adaptation", "sample selection bias", "covariate shift"),
        _TASKS,
    ),
    Setting("unsupervised", False, False, (), ("clustering", "dimensionality reduction")),
)
APPROACHES = (
    Approach(
        "instances",
        "samples of the source, each with a weight",
        ("inductive", "transductive"),
        "TrAdaBoost",
    ),
    Approach(
        "feature representation",
        "features that serve both sides",
        ("inductive", "transductive", "unsupervised"),
        "feature extraction, DAN",
    ),
    Approach(
        "parameters",
        "weights, or what is believed of them beforehand",
        ("inductive",),
        "fine-tuning, weights towards the source",
    ),
    Approach(
        "relational knowledge",
        "how things of one side are related, where samples are not independent",
        ("inductive",),
        "predicates of one logic program mapped to another's",
    ),
)


def settings_of(source: Given, target: Given) -> Setting:
    """Return the setting that a source and a target make; its ``approaches`` are those that apply.

    With labels in the target it is inductive, with labels in the source alone transductive, and
    without any unsupervised. That is the survey's decision tree (its figure 2). Its first table
    sorts by what differs: there, inductive transfer has another task, transductive transfer another
    domain. TrAdaBoost, of one task in two domains with labels in both, is inductive by the tree.

    Raises
    ------
    TypeError
        If an argument is no :class:`Given`.
    ValueError
        If domain and task are the same, so that there is nothing to transfer; or if only the source
        has labels, and of another task: they say nothing of the target's.

    References
    ----------
    Pan and Yang, A Survey on Transfer Learning, 2010, tables 1 to 4 and figure 2.

    Examples
    --------
    >>> of_here = settings_of(Given("MNIST", "digit", True), Given("USPS", "digit", False))
    >>> of_here.name, [approach.name for approach in of_here.approaches]
    ('transductive', ['instances', 'feature representation'])
    """
    for name, side in (("source", source), ("target", target)):
        if not isinstance(side, Given):
            raise TypeError(
                f"{name} must be Given(domain, task, labelled), got {type(side).__name__}."
            )
    if (source.domain, source.task) == (target.domain, target.task):
        raise ValueError(
            "source and target have the same domain and task: that is ordinary machine learning, "
            "with nothing to transfer. Put their samples together."
        )
    if source.labelled and not target.labelled and source.task != target.task:
        raise ValueError(
            f"Only the source has labels, and they are of {source.task!r}, not of {target.task!r}: "
            "no setting has a way from one to the other. Label a few target samples (inductive), "
            "or leave the source's labels aside (unsupervised)."
        )
    return next(
        setting
        for setting in SETTINGS
        if (setting.source_labels, setting.target_labels) == (source.labelled, target.labelled)
    )
