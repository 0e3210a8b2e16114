"""The tables of results in the documents that the course follows, and how ours stand beside them.

How many figures a document gives is counted in the document; all else is read from the recorded
results. A figure is *within* when our 95 % interval holds it. A *comparison* is that of a row with
its table's reference row: it goes the same way, or the other way, when the interval of our
differences, seed by seed, leaves out 0, and is open otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tlcourse.experiments import Result, load_result


@dataclass(frozen=True)
class SourceTable:
    """A table of results in one of the documents.

    Attributes
    ----------
    title
        What it is of.
    work
        Whose figures they are.
    document
        Where they are quoted, by key in references.bib.
    figures
        How many the document gives.
    why
        What is other in our runs; or, where there are none, why.
    experiments
        The recorded ones whose rows stand beside it.
    rows
        The keys of those rows, where not every row with a figure of a source belongs here.
    reference
        From a row's key to that of the row which it is compared with.
    """

    title: str
    work: str
    document: str
    figures: int
    why: str
    experiments: Sequence[str] = ()
    rows: Sequence[str] | None = None
    reference: Callable[[str], str] = str


@dataclass(frozen=True)
class Standing:
    """How our figures stand beside a table's: numbers of figures, and of comparisons."""

    figures: int
    beside: int
    within: int
    same: int
    other: int
    open: int

    def __add__(self, more: Standing) -> Standing:
        """Add up, number by number."""
        return Standing(
            *(a + b for a, b in zip(vars(self).values(), vars(more).values(), strict=True))
        )


def _last(reference: str) -> Callable[[str], str]:
    """Return the row of the same group: ``ce+jac-5`` to ``ce-5``, for the reference ``ce``."""
    return lambda key: f"{reference}-{key.rpartition('-')[2]}"


TABLES = (
    SourceTable(
        "Distillation on MNIST",
        "Hinton, Vinyals and Dean (2015)",
        "parkslides",
        3,
        "The same data and sizes of network; the paper does not give its schedule.",
        ("kd-mnist",),
        ("teacher", "student", "distilled"),
        lambda key: "student",
    ),
    SourceTable(
        "Attention transfer on CIFAR-10",
        "Zagoruyko and Komodakis (2017)",
        "parkslides",
        24,
        "The same networks, but a schedule that a processor can run: a few epochs of a part of the "
        "images.",
        ("at-cifar10", "at-cifar10-nin"),
        None,
        lambda key: f"{key.rpartition('-')[0]}-student",
    ),
    SourceTable(
        "Attention transfer from ImageNet",
        "Zagoruyko and Komodakis (2017)",
        "parkslides",
        8,
        "Printed characters to handwritten digits instead of ImageNet to birds and rooms.",
        ("at-transfer", "at-transfer-mnist"),
        None,
        lambda key: "student",
    ),
    SourceTable(
        "Jacobian matching with few images, CIFAR-100",
        "Srinivas and Fleuret (2018)",
        "parkslides",
        36,
        "CIFAR-10 with ten classes, smaller networks.",
        ("jacobian-few-data",),
        None,
        _last("ce"),
    ),
    SourceTable(
        "Jacobian matching, ImageNet to MIT Scenes",
        "Srinivas and Fleuret (2018)",
        "parkslides",
        30,
        "Printed characters to handwritten digits instead of ImageNet to rooms.",
        ("jacobian-transfer",),
        None,
        _last("ce"),
    ),
    SourceTable(
        "Selective joint fine-tuning, Oxford Flowers",
        "Ge and Yu (2017)",
        "parkslides",
        15,
        "Printed characters to handwritten digits; five figures are of other people's methods.",
        ("selective-joint",),
        None,
        lambda key: "finetune",
    ),
    SourceTable(
        "Selective joint fine-tuning, Stanford Dogs",
        "Ge and Yu (2017)",
        "parkslides",
        14,
        "Six classes of CIFAR-10 and the other four; five figures are of other people's methods.",
        ("selective-joint-cifar10",),
        None,
        lambda key: "finetune",
    ),
    SourceTable(
        "Uncertainty as weight of losses, CityScapes",
        "Kendall, Gal and Cipolla (2018)",
        "parkslides",
        18,
        "Generated scenes instead of streets, and other units of depth.",
        ("uncertainty-scenes",),
        None,
        _last("unweighted"),
    ),
    SourceTable(
        "Learning without forgetting, ImageNet to MNIST",
        "Li and Hoiem (2016)",
        "parkslides",
        12,
        "The same new task, but 100 labels a digit, another old task and another network.",
        ("lwf-mnist",),
        None,
        _last("finetune"),
    ),
    SourceTable(
        "Learning without forgetting, all other pairs",
        "Li and Hoiem (2016)",
        "parkslides",
        104,
        "They need ImageNet or Places and days of a graphics card.",
    ),
    SourceTable(
        "Growing a brain, SUN-397: what is new, and what learns",
        "Wang, Ramanan and Hebert (2017)",
        "parkslides",
        24,
        "Handwritten digits and a perceptron in the place of scenes and AlexNet.",
        ("growing",),
        None,
        lambda key: f"finetune-{key.rpartition('-')[2]}",
    ),
    SourceTable(
        "Growing a brain, beside other methods on four data sets",
        "Wang, Ramanan and Hebert (2017)",
        "parkslides",
        32,
        "Those data sets are not here; most figures are of other authors' methods.",
    ),
    SourceTable(
        "Thawing layer by layer, CIFAR-10",
        "Fayiz et al. (2022)",
        "fayiz2022",
        2,
        "The same data, but smaller networks, fewer images and epochs.",
        ("unfreeze-cifar10",),
        ("lite0-head", "lite0-stage7"),
        lambda key: "lite0-head",
    ),
    SourceTable(
        "SpotTune on recordings of movement",
        "Chen, Guo and Konti (n.d.)",
        "chenreport",
        4,
        "The same kind of recordings and networks; the chapter asks where the difference is from.",
        ("spottune-har",),
        None,
        lambda key: "loss-scratch" if key.startswith("loss") else "scratch-report-short",
    ),
)


def rows_beside(table: SourceTable, result: Result) -> list[str]:
    """Return the keys of the rows that stand beside the table."""
    keys = [key for key, row in result.rows.items() if row.paper is not None]
    return [key for key in keys if table.rows is None or key in table.rows]


def standing(table: SourceTable) -> Standing:
    """Count a table's figures and comparisons, from the recorded results."""
    total = Standing(table.figures, 0, 0, 0, 0, 0)
    for name in table.experiments:
        result = load_result(name)
        for key in rows_beside(table, result):
            row, reference = result[key], result[table.reference(key)]
            assert row.paper is not None
            assert reference.paper is not None
            within = row.interval.low <= row.paper <= row.interval.high
            total += Standing(0, 1, int(within), 0, 0, 0)
            if row.key != reference.key:
                theirs = row.paper - reference.paper
                ours = result.paired(row.key, reference.key)
                way = int(ours.low > 0) - int(ours.high < 0)
                same, other = way * theirs > 0, way * theirs < 0
                total += Standing(0, 0, 0, int(same), int(other), int(not same and not other))
    return total
