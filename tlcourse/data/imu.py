"""Simulated motion sensors, embedded: two devices, other people, other activities.

A sensor on the body measures two things in its own axes. The accelerometer measures the specific
force, that is acceleration less gravity: lying still on a table it reads +g along whatever axis
points up. The gyroscope measures the angular velocity. Both follow from how the trunk moves, so the
trunk is what is simulated, at 100 Hz, and the sensors read it::

    position of the device   p = p_trunk + R r        r: from the trunk's centre to the device
    accelerometer            f = M' R' (p'' + g z)    R: trunk to world, M: device to trunk
    gyroscope                w = M' vee(R' R')        where R' is here the derivative of R

The trunk moves as in gait: what both legs do alike comes twice a stride (up and down, forwards and
back, pitch), what they do in turn comes once (sideways, roll, yaw), and each heel sends a short
shock up the body. People differ in size, which sets their cadence, in vigour, in habits, in how
even their steps are, and in how crooked they wear the device. The sensor low-passes, samples, and
adds an offset, an error of scale, noise, and the end of its range.

The magnitudes are those of the literature on gait and of consumer sensors, rounded. They are no
substitute for recordings: :func:`~tlcourse.data.dsa` and :func:`~tlcourse.data.hapt` are those,
and the two devices are made in their image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tlcourse._checks import check_int
from tlcourse.data.windows import AXES, IN_G, IN_SI, LENGTH, MATCHED_RATE, G, Windows, resample

FINE = 100.0  # Hz, of the simulation
SECONDS = 5.0  # of every simulated window: 125 samples at 25 Hz
MARGIN = 0.5  # seconds at either end that only the filters see


@dataclass(frozen=True)
class Motion:
    """How the trunk moves. Angles in degrees, lengths in m, accelerations in m/s^2."""

    lean: float = 0.0  # forward positive: -90 is lying on the back
    lean_sd: float = 4.0  # between people
    turned: float = 0.0  # how far about its long axis a lying body may be turned, at most
    stride: float = 0.0  # Hz; 0 is at rest
    bob: float = 0.0  # up and down, twice a stride
    surge: float = 0.0  # forwards and back, twice a stride
    sway: float = 0.0  # sideways, once a stride
    pitch: float = 0.0  # twice a stride
    roll: float = 0.0  # once a stride
    yaw: float = 0.0  # once a stride
    heel: float = 0.0  # peak of the shock at each step
    lift: float = 0.0  # acceleration of a lift that starts or stops
    fidget: float = 0.5  # degrees of slow posture changes


WALKING = Motion(
    lean=3, stride=0.92, bob=0.022, surge=0.012, sway=0.022, pitch=1.5, roll=3, yaw=6, heel=2.0
)


@dataclass(frozen=True)
class Device:
    """Where a device sits, how it is turned, how it samples and how well."""

    name: str
    number: int
    at: tuple[float, float, float]  # m from the trunk's centre: forwards, left, up
    axes: tuple[tuple[float, float, float], ...]  # the device's x, y, z in those directions
    crooked: float  # degrees, between people
    rate: float  # Hz
    in_g: bool
    range: float  # m/s^2
    acc_noise: float  # m/s^2
    gyro_noise: float  # rad/s
    activities: dict[str, Motion]


CHEST = Device(
    name="device A",
    number=0,
    at=(0.11, 0.0, 0.28),
    axes=((0, 0, 1), (0, -1, 0), (1, 0, 0)),  # up, right, forwards
    crooked=8,
    rate=25,
    in_g=False,
    range=5 * G,
    acc_noise=0.05,
    gyro_noise=0.01,
    activities={
        "lying": Motion(lean=-84, lean_sd=5, turned=25, fidget=0.4),
        "standing in a lift": Motion(lift=0.9, fidget=1.0),
        "walking": WALKING,
        "stepper": Motion(
            lean=8, stride=0.85, bob=0.03, surge=0.008, sway=0.03, pitch=2, roll=6, yaw=4, heel=0.6
        ),
        "cross trainer": Motion(
            lean=5, stride=0.85, bob=0.022, surge=0.025, sway=0.02, pitch=3, roll=3, yaw=11
        ),
        "exercise bike": Motion(
            lean=-28, stride=1.1, bob=0.003, surge=0.004, sway=0.008, pitch=1, roll=2.5, yaw=2
        ),
    },
)
WAIST = Device(
    name="device B",
    number=1,
    at=(0.05, 0.15, -0.08),
    axes=((0, 0, 1), (1, 0, 0), (0, 1, 0)),  # up, forwards, left
    crooked=10,
    rate=50,
    in_g=True,
    range=2 * G,
    acc_noise=0.08,
    gyro_noise=0.015,
    activities={
        "walking": WALKING,
        "walking upstairs": Motion(
            lean=10,
            stride=0.78,
            bob=0.025,
            surge=0.018,
            sway=0.026,
            pitch=2,
            roll=5,
            yaw=5,
            heel=1.0,
        ),
        "walking downstairs": Motion(
            lean=-1,
            stride=1.0,
            bob=0.026,
            surge=0.010,
            sway=0.024,
            pitch=2,
            roll=4,
            yaw=5,
            heel=4.5,
        ),
        "sitting": Motion(lean=-18, lean_sd=8, fidget=0.5),
        "standing": Motion(lean=0, lean_sd=4, fidget=0.7),
        "lying": Motion(lean=-84, lean_sd=5, turned=70, fidget=0.4),
    },
)


def imu(
    people: int = 24, windows: int = 10, *, matched: bool = False, seed: int = 0
) -> tuple[Windows, Windows]:
    """Return simulated windows of two devices: a source and a target.

    Device A is worn on the chest, samples at 25 Hz and gives m/s^2; its activities are those of a
    gym. Device B is a phone at the waist, samples at 50 Hz and gives g; its activities are those of
    a day. Only walking and lying are common to both. Other people wear it, turned another way.

    One seed gives the same windows every time, and fewer people or windows are the beginning of
    more.

    Parameters
    ----------
    people
        How many wear each device, at least 1.
    windows
        How many windows of every person and activity, at least 1.
    matched
        Whether both come at 25 Hz and in g, so that a window lasts 5 s for both. Without it, each
        device has its own rate and unit, and 125 samples of device B last 2.5 s.
    seed
        Which draw, 0 or more.

    Returns
    -------
    (Windows, Windows)
        Source (device A) and target (device B): (6 people windows, 125, 6), accelerometer and
        gyroscope; 6 activities each; persons from 1 for A and from 101 for B.

    Raises
    ------
    TypeError, ValueError
        If an argument is no integer or out of range.

    Examples
    --------
    >>> source, target = imu(people=2, windows=3)
    >>> target
    Windows('imu, device B', 36 windows of 125 x 6 at 50 Hz, 6 classes, 2 people)
    >>> target.classes[3:]
    ('sitting', 'standing', 'lying')
    """
    check_int("people", people, low=1, high=100)
    check_int("windows", windows, low=1)
    check_int("seed", seed, low=0)
    source, target = (_wear(device, people, windows, matched, seed) for device in (CHEST, WAIST))
    return source, target


def _wear(device: Device, people: int, n: int, matched: bool, seed: int) -> Windows:
    """Return ``n`` windows of every person and activity, one person after the other."""
    rate, in_g = (MATCHED_RATE, True) if matched else (device.rate, device.in_g)
    readings = []
    for person in range(people):
        wearer = Person([seed, device.number, person], device)
        for k, motion in enumerate(device.activities.values()):
            source = [seed, device.number, person, k]
            readings.append(_measure(device, wearer, motion, source, n, rate))
    values = np.concatenate(readings)  # (N, 125, 6)
    if in_g:
        values[:, :, :3] /= G
    each = len(device.activities) * n
    return Windows(
        torch.from_numpy(values.astype(np.float32)),
        torch.arange(len(device.activities)).repeat_interleave(n).repeat(people),
        (torch.arange(people) + 1 + 100 * device.number).repeat_interleave(each),
        classes=list(device.activities),
        channels=AXES,
        units=IN_G if in_g else IN_SI,
        rate=rate,
        name=f"imu, {device.name}",
    )


class Person:
    """What stays the same about one person and the device that this person wears."""

    def __init__(self, source: Sequence[int], device: Device) -> None:
        draw = np.random.default_rng(source)
        height = np.clip(draw.normal(1.72, 0.09), 1.5, 1.98)  # m
        self.tempo = np.sqrt(1.72 / height)  # long legs swing slowly, as pendulums do
        self.size = height / 1.72
        self.vigour = draw.lognormal(0, 0.2)
        self.uneven = draw.normal(0, 0.25)  # how much harder one heel strikes
        crooked = np.radians(device.crooked) * draw.normal(size=3)
        self.mount = np.array(device.axes, dtype=float).T @ _rotation(*crooked)  # device to trunk
        self.at = np.array(device.at) * self.size
        self.acc_offset = draw.normal(0, 0.15, size=3)  # m/s^2
        self.gyro_offset = draw.normal(0, 0.02, size=3)  # rad/s
        self.scale = draw.normal(1, 0.01, size=3)  # of the accelerometer


def _measure(
    device: Device, person: Person, motion: Motion, source: list[int], n: int, rate: float
) -> np.ndarray:
    """Return what the device reads in ``n`` windows of one activity, (n, 125, 6), SI units."""
    habits = np.random.default_rng([*source, 0]).normal(size=12)
    # A generator for every window, so that a window does not depend on how many there are.
    draws = [np.random.default_rng([*source, 1 + w]) for w in range(n)]
    force, omega = _feel(person, *_move(motion, person, habits, draws))
    steps = int(SECONDS * device.rate)
    noise = np.stack([draw.normal(size=(steps, 6)) for draw in draws])
    # The device's own filter and sampling come first; the matched rate is made from its samples.
    force = person.scale * _sample(force, device.rate) + person.acc_offset
    force = np.clip(force + device.acc_noise * noise[:, :, :3], -device.range, device.range)
    omega = _sample(omega, device.rate) + person.gyro_offset
    omega = omega + device.gyro_noise * noise[:, :, 3:]
    readings = np.concatenate([force, omega], axis=2)
    return resample(readings, device.rate, rate, axis=1)[:, :LENGTH]


def _sample(signal: np.ndarray, rate: float) -> np.ndarray:
    """Return the samples of a sensor at ``rate``, without the margins: (n, steps, 3)."""
    slow = resample(signal, FINE, rate, axis=1)
    start = int(np.ceil(MARGIN * rate))
    return slow[:, start : start + int(SECONDS * rate)]


def _move(
    motion: Motion, person: Person, habits: np.ndarray, draws: list[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the trunk's orientation (n, T, 3, 3), position and shocks (n, T, 3), in the world.

    Forwards is x, left is y, up is z.
    """

    def each(low: float, high: float) -> np.ndarray:  # a number for every window, (n, 1)
        return np.array([[draw.uniform(low, high)] for draw in draws])

    def about(value: float, sd: float) -> np.ndarray:  # the same, from a normal distribution
        return value + sd * np.array([[draw.normal()] for draw in draws])

    t = np.arange(int((SECONDS + 2 * MARGIN) * FINE)) / FINE  # (T,)
    # Once round for every stride, at a pace that wanders by a few per cent.
    stride = motion.stride * person.tempo * np.exp(about(0.06 * habits[0], 0.05))
    phase = 2 * np.pi * (stride * t + each(0, 1)) + _wander(t, draws, 0.3, fastest=0.5)
    twice = 2 * phase
    strength = person.vigour * np.exp(about(0, 0.15))
    angle = np.pi * habits[7:12] / 4  # when in the stride, as is this person's habit

    def amplitude(value: float, habit: float) -> np.ndarray:
        return value * strength * np.exp(0.2 * habit)

    # Uneven steps put a little of the stride's own rhythm into what comes twice a stride.
    limp = 0.3 * person.uneven * np.sin(phase + angle[0])
    bob = amplitude(motion.bob, habits[1]) * (np.cos(twice) + limp)
    surge = amplitude(motion.surge, habits[2]) * (np.sin(twice + angle[1]) + limp)
    sway = amplitude(motion.sway, habits[3]) * np.sin(phase + angle[2])
    position = np.stack([surge, sway, bob], axis=2)
    breath = 0.003 * np.sin(2 * np.pi * (each(0.2, 0.35) * t + each(0, 1)))
    still = 0.002 * np.stack([_wander(t, draws, 1, fastest=1.0) for _ in range(3)], axis=2)
    position = position + still + breath[:, :, None] * np.array([1.0, 0.0, 0.3])

    lean = about(motion.lean + motion.lean_sd * habits[4], 2)
    pitch = lean + amplitude(motion.pitch, habits[5]) * np.sin(twice + angle[3])
    roll = amplitude(motion.roll, habits[6]) * np.sin(phase + angle[4])
    yaw = amplitude(motion.yaw, habits[3]) * np.sin(phase)
    fidgets = [motion.fidget * _wander(t, draws, 1, fastest=0.6) for _ in range(3)]
    pitch, roll, yaw = (a + b for a, b in zip((pitch, roll, yaw), fidgets, strict=True))
    turned = motion.turned * each(-1, 1)
    heading = _wander(t, draws, 3, fastest=0.1) if motion.stride else np.zeros_like(yaw)
    upright = _rotation(*np.radians([np.zeros_like(yaw), np.zeros_like(yaw), yaw + turned]))
    tilted = _rotation(*np.radians([roll, pitch, heading]))
    orientation = tilted @ upright  # the trunk turns about its own long axis first

    shocks = np.zeros_like(position)
    since = np.mod(twice / (2 * np.pi), 1) / np.maximum(2 * stride, 1e-9)  # s since the last step
    side = 1 + person.uneven * np.sign(np.sin(phase))
    ring = np.exp(-since / 0.035) * np.sin(2 * np.pi * each(9, 14) * since)
    shock = amplitude(motion.heel, habits[2]) * side * ring
    shocks[:, :, 2] = 2 * shock  # the peak of the ringing is about half its factor
    shocks[:, :, 0] = -0.7 * shock
    # A lift speeds up or slows down within a second or two, at some time in or about the window.
    at, lasts, way = each(-3, 9), each(0.8, 2.0), np.sign(each(-1, 1))
    bump = np.clip(2 - np.abs(t - at) / lasts * 2, 0, 1)
    shocks[:, :, 2] += way * motion.lift * np.exp(about(0, 0.2)) * bump
    return orientation, position, shocks


def _feel(
    person: Person, orientation: np.ndarray, position: np.ndarray, shocks: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return specific force and angular velocity in the device's axes, (n, T, 3) each."""
    device = position + orientation @ person.at  # where it is, in the world
    acceleration = np.gradient(np.gradient(device, 1 / FINE, axis=1), 1 / FINE, axis=1) + shocks
    acceleration[:, :, 2] += G
    turning = np.gradient(orientation, 1 / FINE, axis=1)
    spin = np.swapaxes(orientation, 2, 3) @ turning  # skew-symmetric: the angular velocity
    omega = np.stack([spin[:, :, 2, 1], spin[:, :, 0, 2], spin[:, :, 1, 0]], axis=2)
    force = np.einsum("ntji,ntj->nti", orientation, acceleration)  # into the trunk's axes
    return force @ person.mount, omega @ person.mount


def _wander(
    t: np.ndarray, draws: list[np.random.Generator], size: float, *, fastest: float
) -> np.ndarray:
    """Return slow random movements of standard deviation ``size``, (n, T): a sum of 4 waves."""
    waves = np.stack([draw.uniform(size=(2, 4)) for draw in draws])  # (n, 2, 4)
    frequency, phase = fastest * waves[:, 0], 2 * np.pi * waves[:, 1]
    angles = 2 * np.pi * frequency[:, None] * t[:, None] + phase[:, None]  # (n, T, 4)
    return size * np.sin(angles).mean(axis=2) * np.sqrt(8)


def _rotation(roll: np.ndarray, pitch: np.ndarray, yaw: np.ndarray) -> np.ndarray:
    """Return the rotations by roll (about x), then pitch (about y), then yaw (about z).

    Angles (...) in radians; matrices (..., 3, 3), which turn the body's axes into the world's.
    """
    cr, sr, cp, sp, cy, sy = (f(a) for a in (roll, pitch, yaw) for f in (np.cos, np.sin))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
