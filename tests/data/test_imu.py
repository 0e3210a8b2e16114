from __future__ import annotations

import dataclasses
import importlib

import numpy as np
import pytest
import torch

from tlcourse.data import few_per_class, imu
from tlcourse.data.windows import G, resample

module = importlib.import_module("tlcourse.data.imu")


@pytest.fixture(scope="module")
def pair():
    return imu(people=6, windows=4)


@pytest.fixture(scope="module")
def matched():
    return imu(people=6, windows=4, matched=True)


class Still:
    """A person who wears a device straight, by its axes alone."""

    def __init__(self, at=(0.0, 0.0, 0.0), mount=None):
        self.at = np.array(at)
        self.mount = np.eye(3) if mount is None else mount


def turning(roll, pitch, yaw):
    return module._rotation(roll, pitch, yaw)[None]


def test_the_form(pair):
    source, target = pair
    assert source.windows.shape == target.windows.shape == (144, 125, 6)
    assert (source.rate, source.units[0]) == (25, "m/s^2")
    assert (target.rate, target.units[0]) == (50, "g")
    assert source.units[3] == target.units[3] == "rad/s"
    assert set(source.classes) & set(target.classes) == {"walking", "lying"}
    assert source.people == (1, 2, 3, 4, 5, 6)
    assert target.people == (101, 102, 103, 104, 105, 106)
    for data in pair:
        assert data.n_classes == 6
        for person in data.people:
            assert data.labels[data.persons == person].bincount().tolist() == [4] * 6


def test_a_turntable_feels_its_own_gravity_and_the_pull_inwards():
    t = np.arange(300) / module.FINE
    omega, radius = 3.0, 0.4
    orientation = turning(0 * t, 0 * t, omega * t)
    nothing = np.zeros((1, 300, 3))
    force, spin = module._feel(Still(at=(radius, 0, 0)), orientation, nothing, nothing)
    inner = slice(3, -3)
    want = [-(omega**2) * radius, 0, G]
    np.testing.assert_allclose(force[0, inner], np.tile(want, (294, 1)), rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(spin[0, inner], np.tile([0, 0, omega], (294, 1)), atol=2e-3)


def test_free_fall_weighs_nothing_and_a_lift_adds():
    t = np.arange(200) / module.FINE
    still = turning(0 * t, 0 * t, 0 * t)
    fall = np.stack([0 * t, 0 * t, -G * t**2 / 2], axis=1)[None]
    force, spin = module._feel(Still(), still, fall, np.zeros_like(fall))
    np.testing.assert_allclose(force[0, 3:-3], 0, atol=1e-6)
    np.testing.assert_allclose(spin, 0)
    shocks = np.zeros_like(fall)
    shocks[:, :, 2] = 1.5
    force, _ = module._feel(Still(), still, np.zeros_like(fall), shocks)
    np.testing.assert_allclose(force[0], np.tile([0, 0, G + 1.5], (200, 1)))


@pytest.mark.parametrize(
    ("roll", "pitch", "want"),
    [
        (0, 90, (-G, 0, 0)),  # on the face: forwards points down
        (0, -90, (G, 0, 0)),  # on the back
        (90, 0, (0, G, 0)),  # on the right side: left points up
        (30, 0, (0, G / 2, G * np.sqrt(3) / 2)),
    ],
)
def test_gravity_in_the_axes_of_the_trunk(roll, pitch, want):
    n = np.ones(20)
    orientation = turning(np.radians(roll) * n, np.radians(pitch) * n, 0.7 * n)
    nothing = np.zeros((1, 20, 3))
    force, _ = module._feel(Still(), orientation, nothing, nothing)
    np.testing.assert_allclose(force[0], np.tile(want, (20, 1)), atol=1e-9)


def test_a_device_that_sits_otherwise_reads_other_axes():
    n = np.ones(20)
    orientation, nothing = turning(0 * n, 0 * n, 0 * n), np.zeros((1, 20, 3))
    for device, out in ((module.CHEST, (1, 0, 0)), (module.WAIST, (0, 1, 0))):
        axes = np.array(device.axes, dtype=float)
        assert np.linalg.det(axes) == pytest.approx(1)  # right-handed
        force, _ = module._feel(Still(mount=axes.T), orientation, nothing, nothing)
        np.testing.assert_allclose(force[0, 5], (G, 0, 0))
        assert tuple(axes[2]) == out  # z points out of the body: to the front, to the left


@pytest.mark.parametrize("device", [module.CHEST, module.WAIST], ids=lambda d: d.name)
def test_the_gyroscope_integrates_to_the_orientation(device):
    person = module.Person([0, 0, 0], device)
    person.mount = np.eye(3)
    for motion in device.activities.values():
        draws = [np.random.default_rng(3)]
        orientation, *rest = module._move(motion, person, np.zeros(12), draws)
        _, omega = module._feel(person, orientation, *rest)
        now, dt = orientation[0, 0], 1 / module.FINE
        for w in (omega[0, :-1] + omega[0, 1:]) / 2:
            angle = np.linalg.norm(w) * dt
            x, y, z = w / np.linalg.norm(w)
            k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
            now = now @ (np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k)
        assert np.abs(now - orientation[0, -1]).max() < 0.02


def test_gait_has_its_harmonics():
    person = module.Person([0, 0, 0], module.WAIST)
    person.uneven = 0.0
    draws = [np.random.default_rng(i) for i in range(5)]
    orientation, position, _ = module._move(module.WALKING, person, np.zeros(12), draws)

    def peak(signal):
        power = np.abs(np.fft.rfft(signal - signal.mean(), n=8192))
        return np.fft.rfftfreq(8192, 1 / module.FINE)[power.argmax()]

    for i in range(5):
        stride = peak(position[i, :, 1])  # sideways
        assert 0.7 < stride < 1.2
        assert peak(position[i, :, 2]) == pytest.approx(2 * stride, rel=0.1)
        assert peak(np.arctan2(orientation[i, :, 2, 1], orientation[i, :, 2, 2])) == pytest.approx(
            stride, rel=0.1
        )
    assert np.ptp(position[:, :, 2]) < 0.2


def test_at_rest_the_reading_is_gravity_along_the_axis_that_points_up(pair):
    source, target = pair

    def reading(data, name):
        chosen = data.windows[data.labels == data.classes.index(name)][:, :, :3]
        return chosen.mean((0, 1)), chosen.norm(dim=2)

    for data, name, axis, g in (
        (source, "lying", 2, G),
        (source, "standing in a lift", 0, G),
        (target, "standing", 0, 1),
        (target, "sitting", 0, 1),
    ):
        mean, norm = reading(data, name)
        assert mean.abs().argmax() == axis
        assert mean[axis] > 0.8 * g
        assert float(norm.mean()) == pytest.approx(g, rel=0.02)
    mean, _ = reading(target, "lying")
    assert mean[1] > 0.5  # forwards points up
    lying, walking = (
        data.windows[data.labels == data.classes.index(name)][:, :, :3].norm(dim=2).std(1).mean()
        for data, name in ((target, "lying"), (target, "walking"))
    )
    assert walking > 10 * lying


def test_downstairs_strikes_harder_than_upstairs(matched):
    _, target = matched

    def rough(name):
        chosen = target.windows[target.labels == target.classes.index(name)]
        return float(chosen[:, :, :3].norm(dim=2).std(1).mean())

    assert rough("walking downstairs") > 1.2 * rough("walking upstairs")


def test_the_sensor_ends_somewhere_and_has_an_offset(pair):
    source, target = pair
    assert target.windows[:, :, :3].abs().max() <= 2
    assert source.windows[:, :, :3].abs().max() <= 5 * G
    at_rest = target.subset((target.labels == 3) | (target.labels == 4))
    offsets = torch.stack(
        [at_rest.windows[at_rest.persons == p][:, :, 3:].mean((0, 1)) for p in at_rest.people]
    )
    assert 0.005 < offsets.std() < 0.05  # rad/s, between people
    noise = at_rest.windows[:, 1:] - at_rest.windows[:, :-1]
    assert noise.abs().amin((0, 1)).max() < noise.abs().mean()
    assert (noise[:, :, :3].std() / 2**0.5).item() == pytest.approx(0.08 / G, rel=0.3)


def test_what_the_sensor_does_to_the_signal():
    clean = dataclasses.replace(module.WAIST, acc_noise=0.0, gyro_noise=0.0, range=99 * G)

    def read(device=clean, **faults):
        person = module.Person([0, 1, 0], device)
        person.acc_offset = person.gyro_offset = np.zeros(3)
        person.scale = np.ones(3)
        vars(person).update(faults)
        return module._measure(device, person, module.WALKING, [0, 1, 0, 0], 2, 50)

    exact = read()
    np.testing.assert_allclose(read(scale=np.array([1.1, 1, 1]))[:, :, 0], 1.1 * exact[:, :, 0])
    np.testing.assert_allclose(read(acc_offset=np.array([0, 0.5, 0]))[..., 1], exact[..., 1] + 0.5)
    np.testing.assert_allclose(read(gyro_offset=np.array([0, 0, 0.1]))[..., 5], exact[..., 5] + 0.1)
    narrow = read(dataclasses.replace(clean, range=0.5 * G))
    np.testing.assert_allclose(narrow[..., :3], exact[..., :3].clip(-0.5 * G, 0.5 * G))
    np.testing.assert_allclose(narrow[..., 3:], exact[..., 3:])
    noisy = read(dataclasses.replace(clean, acc_noise=0.3, gyro_noise=0.1)) - exact
    np.testing.assert_allclose(noisy.std((0, 1)), [0.3] * 3 + [0.1] * 3, rtol=0.2)


def test_who_lies_turns_about_the_long_axis(matched):
    for data, side, spread in ((matched[0], 1, 0.1), (matched[1], 2, 0.3)):
        lying = data.windows[data.labels == data.classes.index("lying")].mean(1)  # (n, 6)
        assert lying[:, side].std() > spread  # gravity goes to the side
        assert lying[:, 0].abs().mean() < 0.3  # and not to the head


def test_long_legs_swing_slowly():
    people = [module.Person([0, 0, i], module.WAIST) for i in range(20)]
    assert len({person.size for person in people}) == 20
    for person in people:
        assert person.tempo == pytest.approx(person.size**-0.5)
        assert 0.85 < person.size < 1.2


def test_who_limps_strikes_harder_on_one_side():
    person = module.Person([0, 0, 0], module.WAIST)
    draws = [np.random.default_rng(0)]
    peaks = {}
    for person.uneven in (0.0, 0.5):
        draws = [np.random.default_rng(0)]
        *_, shocks = module._move(module.WALKING, person, np.zeros(12), draws)
        up = shocks[0, :, 2]
        tops = up[1:-1][(up[1:-1] > up[:-2]) & (up[1:-1] > up[2:]) & (up[1:-1] > 0.5)]
        peaks[person.uneven] = tops.max() / np.median(tops)
    assert peaks[0.5] > peaks[0.0] + 0.2


def test_matched_is_the_same_movement(pair, matched):
    a, b = pair
    c, d = matched
    assert (c.rate, d.rate, c.units, d.units) == (25, 25, b.units, b.units)
    torch.testing.assert_close(c.windows[:, :, :3] * G, a.windows[:, :, :3], rtol=1e-5, atol=1e-5)
    assert torch.equal(c.windows[:, :, 3:], a.windows[:, :, 3:])
    half = torch.from_numpy(resample(b.windows.numpy(), 50, 25, axis=1))
    inner = slice(12, 50)  # away from the ends, which see other samples
    torch.testing.assert_close(half[:, inner], d.windows[:, inner], atol=2e-3, rtol=1e-3)
    assert d.windows.shape == (144, 125, 6)


def test_seeded_and_the_beginning_of_a_larger_draw(pair):
    source, target = pair
    again = imu(people=6, windows=4)
    assert [one.fingerprint() for one in again] == [one.fingerprint() for one in pair]
    small, few = imu(people=2, windows=2)
    first = torch.arange(144).view(6, 6, 4)[:2, :, :2].flatten()
    # Not bit for bit: sums of other lengths may be added in another order.
    torch.testing.assert_close(small.windows, source.windows[first], atol=1e-5, rtol=0)
    torch.testing.assert_close(few.windows, target.windows[first], atol=1e-5, rtol=0)
    other, _ = imu(people=2, windows=2, seed=1)
    assert not torch.allclose(other.windows, small.windows, atol=0.1)
    assert not torch.allclose(source.windows[0], source.windows[1], atol=0.1)


def test_few_labels_leave_room_and_many_do_not():
    """By person: neither hopeless nor saturated, so that transfer has something to add."""
    from sklearn.ensemble import RandomForestClassifier

    def features(data):
        x = data.windows
        spectrum = torch.fft.rfft(x - x.mean(1, keepdim=True), dim=1).abs()[:, 1:25]
        return torch.cat([x.mean(1), x.std(1), spectrum.flatten(1)], dim=1).numpy()

    _, target = imu(people=16, windows=6)
    train, test = target.by_person(target.people[-5:])
    accuracy = {}
    for n in (2, 60):
        few = few_per_class(train, n, seed=0)
        forest = RandomForestClassifier(100, random_state=0).fit(features(few), few.labels)
        accuracy[n] = (forest.predict(features(test)) == test.labels.numpy()).mean()
    assert 0.3 < accuracy[2] < 0.75
    assert 0.75 < accuracy[60] < 0.99
    assert accuracy[60] > accuracy[2] + 0.1


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"people": 0}, ValueError, r"people must be in \[1, 100\]"),
        ({"people": 101}, ValueError, r"people must be in \[1, 100\]"),
        ({"people": 2.0}, TypeError, "people must be an integer"),
        ({"windows": 0}, ValueError, "windows must be at least 1"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": "x"}, TypeError, "seed must be an integer"),
    ],
)
def test_refuses(given, error, match):
    with pytest.raises(error, match=match):
        imu(**given)
