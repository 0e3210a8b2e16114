"""Windows of sensor recordings: who moved how, measured by what, in which units and how often.

A window is (L, C): L samples in time of C channels, the layout in which a recurrent network with
``batch_first=True`` reads it. Two sets go together only if their rates and units do, so the set
carries both, and persons, because neighbouring windows of one recording are all but copies: a test
on people who were seen in training measures memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Self

import numpy as np
import torch
from torch import Tensor

from tlcourse._checks import check_int, check_number, shape_of
from tlcourse.data.labelled import Labelled, check_names, fingerprint

G = 9.80665  # m/s^2
MATCHED_RATE = 25.0  # Hz, of every set that is asked for as ``matched=True``
LENGTH = 125  # samples
AXES = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")
IN_G = ("g", "g", "g", "rad/s", "rad/s", "rad/s")
IN_SI = ("m/s^2", "m/s^2", "m/s^2", "rad/s", "rad/s", "rad/s")


class Windows(Labelled):
    """Windows of recordings with the activity and, where it is known, the person of each.

    ``dataset[i]`` is ``(window, label)``; ``dataset[indices]`` is a batch of both.

    Parameters
    ----------
    windows
        (N, L, C), float32, finite: N windows of L samples in time of C channels.
    labels
        (N,), int64, values in [0, K): the activities.
    persons
        (N,), int64, who moved, or None where nobody wrote it down.
    classes
        K different names, in the order of the labels.
    channels
        C different names.
    units
        C units, one for each channel.
    rate
        Samples a second, in Hz.
    name
        What plots and result files call the set.

    Raises
    ------
    TypeError, ValueError
        If a shape, a dtype, a value or a name is wrong, or the set is empty. A window that holds
        NaN is named, with its channel.

    Examples
    --------
    >>> data = Windows(torch.zeros(4, 125, 6), torch.tensor([0, 1, 0, 1]),
    ...                torch.tensor([1, 1, 2, 2]), classes=("walk", "sit"), channels=AXES,
    ...                units=IN_G, rate=50.0, name="phone")
    >>> data
    Windows('phone', 4 windows of 125 x 6 at 50 Hz, 2 classes, 2 people)
    >>> train, test = data.by_person([2])
    >>> train.people, test.people
    ((1,), (2,))
    """

    def __init__(
        self,
        windows: Tensor,
        labels: Tensor,
        persons: Tensor | None,
        *,
        classes: Sequence[str],
        channels: Sequence[str],
        units: Sequence[str],
        rate: float,
        name: str,
    ) -> None:
        check_names("channels", channels)
        _check_windows(windows, channels)
        super().__init__(windows, labels, classes, name)
        _check_persons(persons, len(windows))
        check_number("rate", rate, above=0)
        if isinstance(units, str) or len(units) != len(channels):
            raise ValueError(
                f"units must name one unit for each of the {len(channels)} channels, got {units!r}."
            )
        self.persons = None if persons is None else persons.to(labels.device)
        self.channels = tuple(channels)
        self.units = tuple(units)
        self.rate = float(rate)

    @property
    def windows(self) -> Tensor:
        """The windows, (N, L, C), float32."""
        return self.tensors[0]

    @property
    def people(self) -> tuple[int, ...]:
        """The numbers of the people in the set, in order; empty where nobody wrote them down."""
        return () if self.persons is None else tuple(torch.unique(self.persons).tolist())

    def by_person(self, held_out: Iterable[int]) -> tuple[Self, Self]:
        """Return the windows of everybody else, and those of the people who are held out.

        Raises
        ------
        TypeError
            If ``held_out`` holds anything but integers.
        ValueError
            If nobody knows who moved, a person is not in the set, or one of the two would be empty.
        """
        people = self._known_people()
        if isinstance(held_out, str) or not isinstance(held_out, Iterable):
            raise TypeError(f"held_out must be the numbers of people, got {held_out!r}.")
        chosen = set(held_out)
        for person in chosen:
            check_int("held_out", person)
        if unknown := sorted(chosen.difference(people.tolist())):
            there = ", ".join(map(str, self.people))
            raise ValueError(f"held_out names {unknown}; the people of {self.name!r} are {there}.")
        if not chosen or len(chosen) == len(self.people):
            raise ValueError(
                f"held_out names {len(chosen)} of {len(self.people)} people; both parts need at "
                "least one."
            )
        apart = torch.isin(people, torch.tensor(sorted(chosen), device=people.device))
        return self.subset(~apart), self.subset(apart)

    def draw_people(self, n: int, *, seed: int) -> tuple[int, ...]:
        """Return ``n`` people drawn without replacement, in order: whom to hold out.

        Raises
        ------
        TypeError, ValueError
            If ``n`` or ``seed`` is no integer or out of range, or nobody knows who moved.

        Examples
        --------
        >>> from tlcourse.data import imu
        >>> source, target = imu(people=5, windows=1)
        >>> source.draw_people(2, seed=0)
        (1, 5)
        """
        self._known_people()
        check_int("n", n, low=1, high=len(self.people) - 1)
        check_int("seed", seed, low=0)
        order = torch.randperm(len(self.people), generator=torch.Generator().manual_seed(seed))
        return tuple(sorted(self.people[i] for i in order[:n].tolist()))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any value, label, person, name or unit."""
        facts = (self.name, self.classes, self.channels, self.units, self.rate)
        who = () if self.persons is None else (self.persons,)
        return fingerprint(facts, (*self.tensors, *who))

    def _with(self, windows: Tensor, units: Sequence[str]) -> Self:
        return type(self)(
            windows,
            self.labels,
            self.persons,
            classes=self.classes,
            channels=self.channels,
            units=units,
            rate=self.rate,
            name=self.name,
        )

    def _take(self, chosen: Tensor) -> Self:
        return type(self)(
            self.windows[chosen],
            self.labels[chosen],
            None if self.persons is None else self.persons[chosen],
            classes=self.classes,
            channels=self.channels,
            units=self.units,
            rate=self.rate,
            name=self.name,
        )

    def _known_people(self) -> Tensor:
        if self.persons is None:
            raise ValueError(
                f"{self.name!r} does not say who moved, so it cannot be split by person. "
                "Take the parts that its loader gives."
            )
        return self.persons

    def __repr__(self) -> str:
        n, length, channels = self.windows.shape
        people = f", {len(self.people)} people" if self.people else ""
        return (
            f"Windows({self.name!r}, {n:,} windows of {length} x {channels} at {self.rate:g} Hz, "
            f"{self.n_classes} classes{people})"
        )


def standardise(train: Windows, *others: Windows) -> tuple[Windows, ...]:
    """Return the sets with every channel centred and scaled as ``train`` says.

    The mean and the standard deviation of a channel come from ``train`` alone: those of the test
    set would tell the network about the test. A channel that never changes is only centred.

    Returns
    -------
    tuple of Windows
        ``train`` and the others, in units of ``train``'s standard deviations ("sd").

    Raises
    ------
    TypeError, ValueError
        If one is no ``Windows``, or has other channels or units than ``train``.

    Examples
    --------
    >>> from tlcourse.data import imu
    >>> source, _ = imu(people=3, windows=2)
    >>> train, test = standardise(*source.by_person([3]))
    >>> bool(train.windows.mean((0, 1)).abs().max() < 1e-3), train.units[0]
    (True, 'sd')
    """
    for one in (train, *others):
        if not isinstance(one, Windows):
            raise TypeError(f"standardise takes Windows, got {type(one).__name__}.")
        if (one.channels, one.units) != (train.channels, train.units):
            raise ValueError(
                f"{one.name!r} has channels {one.channels} in {one.units}, but {train.name!r} has "
                f"{train.channels} in {train.units}: one scale cannot serve both. Load both with "
                "matched=True, or standardise each by its own training set."
            )
    flat = train.windows.flatten(0, 1).double()  # (N L, C)
    mean, sd = flat.mean(0), flat.std(0, correction=0)
    sd[sd == 0] = 1
    units = ("sd",) * len(train.units)
    return tuple(
        one._with(((one.windows.double() - mean) / sd).float(), units) for one in (train, *others)
    )


def resample(signal: np.ndarray, rate: float, to: float, *, axis: int = 0) -> np.ndarray:
    """Return a signal at another rate, without what the new rate cannot carry.

    To keep every second sample would fold what is faster than half the new rate onto slower
    movements. So a low-pass filter goes first (a windowed sinc of linear phase, which delays
    nothing). The line through the first and the last sample is taken out before and put back
    after, as the filter takes the signal to be zero beyond its ends, and gravity does not stop.

    Parameters
    ----------
    signal
        Samples along ``axis``, floating-point numbers.
    rate, to
        Its rate and the wanted one, in Hz.

    Returns
    -------
    array
        ceil(L to / rate) samples along ``axis``; sample i is at the time i / to.

    Raises
    ------
    TypeError, ValueError
        If a rate is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> t = np.arange(500) / 50
    >>> slow = np.sin(2 * np.pi * 2 * t)  # 2 Hz goes through
    >>> half = resample(slow + np.sin(2 * np.pi * 20 * t), 50, 25)  # 20 Hz would fold to 5 Hz
    >>> half.shape, bool(abs(half - slow[::2])[20:-20].max() < 0.01)
    ((250,), True)
    """
    from scipy.signal import resample_poly

    check_number("rate", rate, above=0)
    check_number("to", to, above=0)
    ratio = Fraction(to / rate).limit_denominator(1000)
    if ratio == 1:
        return signal
    values = np.moveaxis(signal.astype(np.float64), axis, -1)
    first, last = values[..., :1], values[..., -1:]
    steps = values.shape[-1]
    slope = (last - first) / max(1, steps - 1)  # per sample
    rest = values - first - slope * np.arange(steps)
    rest = resample_poly(rest, ratio.numerator, ratio.denominator, axis=-1)
    again = first + slope * (np.arange(rest.shape[-1]) / float(ratio)) + rest
    return np.moveaxis(again, -1, axis).astype(signal.dtype)


def _check_windows(windows: Tensor, channels: Sequence[str]) -> None:
    if not isinstance(windows, Tensor):
        raise TypeError(f"windows must be a torch.Tensor, got {type(windows).__name__}.")
    if windows.dtype != torch.float32:
        raise TypeError(f"windows must have dtype float32, got {windows.dtype}.")
    if windows.ndim != 3:
        raise ValueError(f"windows must have shape (N, L, C), got {shape_of(windows)}.")
    if windows.numel() == 0:
        raise ValueError(f"windows is empty: its shape is {shape_of(windows)}.")
    if windows.shape[2] != len(channels):
        turned = windows.shape[1] == len(channels)
        hint = " Time comes before channels: transpose the last two axes." if turned else ""
        raise ValueError(
            f"windows must have shape (N, L, {len(channels)}) for the channels "
            f"{', '.join(channels)}; got {shape_of(windows)}.{hint}"
        )
    if not bool(torch.isfinite(windows).all()):
        bad = ~torch.isfinite(windows)  # (N, L, C)
        n, _, c = bad.nonzero()[0].tolist()
        raise ValueError(
            f"windows must be finite, but {int(bad.flatten(1).any(1).sum()):,} of {len(windows):,} "
            f"hold NaN or infinite readings, the first in channel {channels[c]!r} of window {n}. "
            "Leave those windows out, or fill the gaps before windows are cut."
        )


def _check_persons(persons: Tensor | None, n: int) -> None:
    if persons is None:
        return
    if not isinstance(persons, Tensor):
        raise TypeError(f"persons must be a torch.Tensor or None, got {type(persons).__name__}.")
    if persons.dtype != torch.int64:
        raise TypeError(f"persons must hold numbers of dtype int64, got {persons.dtype}.")
    if persons.shape != (n,):
        raise ValueError(f"persons must have shape ({n},), got {shape_of(persons)}.")
