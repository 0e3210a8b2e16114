"""Where to start: small or large, similar or different.

How much of a pre-trained network to keep hangs on two things: how many target images there are,
and how near they are to those that the network has seen. The recommendations are data here, so
that a chapter can run each of the four and measure it against training from scratch.
"""

from __future__ import annotations

from dataclasses import dataclass

from tlcourse._checks import check_choice, check_int

SMALL_TARGET = 1_000
"""Fewer target images than this, in total, are few. The sources give no number, but that Protopapas
calls a "few hundred images" too few to train a VGG16; the round figure above is our convention."""


@dataclass(frozen=True)
class Strategy:
    """A recommendation of :func:`strategy`.

    Attributes
    ----------
    case
        Such as ``"small and similar"``.
    freeze
        What to keep as it is, from the input on.
    train
        What to train.
    learning_rate
        Advice on the learning rate.
    why
        The reason.
    source
        Who recommends it.
    """

    case: str
    freeze: str
    train: str
    learning_rate: str
    why: str
    source: str


_STRATEGIES = {
    ("small", "similar"): Strategy(
        case="small and similar",
        freeze="the whole backbone",
        train="a new head",
        learning_rate="the head's own usual rate; features can be cached",
        why="The late features fit the new images already, and few images would overfit the rest.",
        source="Zhitomirskiy, section 1.5; CS231n, case 1",
    ),
    ("small", "different"): Strategy(
        case="small and different",
        freeze="the early layers",
        train="new layers put on an early layer's features, in place of the later layers",
        learning_rate="low for any pre-trained layer that is trained, few epochs",
        why="Late features belong to the old images; early ones (edges, colours) serve any image.",
        source="Zhitomirskiy, section 1.5; CS231n, case 3",
    ),
    ("large", "similar"): Strategy(
        case="large and similar",
        freeze="nothing, once the head is trained",
        train="the head first, then the whole network, later layers before earlier ones",
        learning_rate="low, and 3 to 10 times lower for each earlier group of layers",
        why="There is enough data to adapt every layer without overfitting, from a good start.",
        source="Protopapas, fine-tuning and differential learning rates; Fayiz et al. (2022), "
        "methods 1b; CS231n, case 2",
    ),
    ("large", "different"): Strategy(
        case="large and different",
        freeze="nothing, once the head is trained",
        train="the whole network from the pre-trained weights; compare it with one from scratch",
        learning_rate="nearer to that of training from scratch, one rate or a small decay",
        why="The more data and the larger the difference, the more layers must change; "
        "the pre-trained weights help less, as a start.",
        source="Fayiz et al. (2022), methods 1b; Protopapas, basic idea; CS231n, case 4",
    ),
}


def strategy(n_target: int, similarity: str) -> Strategy:
    """Return the usual recommendation for a target set of some size and similarity.

    A place to start, not a law: what holds for your images, a run says. The chapter *fine-tuning*
    measures the cases against training from scratch.

    Parameters
    ----------
    n_target
        How many labelled target images there are in total, not for each class. Fewer than
        ``SMALL_TARGET`` (1,000, our convention) are "small".
    similarity
        ``"similar"`` or ``"different"``: the target images against those of the pre-training.

    Raises
    ------
    TypeError, ValueError
        If ``n_target`` is no integer of at least 1, or ``similarity`` neither of the two.

    References
    ----------
    Zhitomirskiy, *What is Transfer Learning?*, section 1.5, gives the two small cases and the low
    rate; Fayiz et al. (2022), methods 1b, that more data and more difference ask for more trained
    layers; Protopapas (AC295) the rates.
    CS231n, *Transfer learning: when and how to fine-tune*, gives all four.

    Examples
    --------
    >>> strategy(200, "similar").train
    'a new head'
    >>> strategy(50_000, "similar").freeze
    'nothing, once the head is trained'
    """
    check_int("n_target", n_target, low=1)
    check_choice("similarity", similarity, ("similar", "different"))
    return _STRATEGIES["small" if n_target < SMALL_TARGET else "large", similarity]
