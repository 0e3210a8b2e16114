from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tlcourse.data import LabelledImages, Windows, few_per_class, standardise
from tlcourse.data.windows import AXES, IN_G, IN_SI, resample


def make(n: int = 12, people: int = 4, **given) -> Windows:
    generator = torch.Generator().manual_seed(0)
    arguments = {
        "windows": torch.randn(n, 10, 6, generator=generator),
        "labels": torch.arange(n) % 3,
        "persons": torch.arange(n) // 3 % people + 7,
        "classes": ("walk", "sit", "lie"),
        "channels": AXES,
        "units": IN_G,
        "rate": 50,
        "name": "toy",
    } | given
    return Windows(
        arguments.pop("windows"), arguments.pop("labels"), arguments.pop("persons"), **arguments
    )


def test_a_window_and_a_batch():
    data = make()
    window, label = data[4]
    assert window.shape == (10, 6)
    assert label == 1
    windows, labels = data[[4, 8]]
    assert torch.equal(windows, data.windows[[4, 8]])
    assert labels.tolist() == [1, 2]
    assert (data.people, data.rate, data.n_classes) == ((7, 8, 9, 10), 50.0, 3)
    assert repr(data) == "Windows('toy', 12 windows of 10 x 6 at 50 Hz, 3 classes, 4 people)"
    assert repr(make(persons=None)) == "Windows('toy', 12 windows of 10 x 6 at 50 Hz, 3 classes)"


def test_a_split_by_person_shares_nobody_and_loses_nothing():
    data = make()
    train, test = data.by_person([8, 10])
    assert (train.people, test.people) == ((7, 9), (8, 10))
    assert torch.equal(train.windows, data.windows[[0, 1, 2, 6, 7, 8]])
    assert torch.equal(test.windows, data.windows[[3, 4, 5, 9, 10, 11]])
    assert test.labels.tolist() == [0, 1, 2, 0, 1, 2]
    for part in (train, test):
        assert (part.classes, part.channels, part.units, part.rate, part.name) == (
            data.classes,
            data.channels,
            data.units,
            data.rate,
            data.name,
        )
    assert data.by_person(range(8, 9))[1].people == (8,)


@pytest.mark.parametrize(
    ("held_out", "error", "match"),
    [
        ([11], ValueError, r"names \[11\]; the people of 'toy' are 7, 8, 9, 10"),
        ([], ValueError, "names 0 of 4 people"),
        ([7, 8, 9, 10], ValueError, "names 4 of 4 people"),
        ("7", TypeError, "must be the numbers of people"),
        (7, TypeError, "must be the numbers of people, got 7"),
        ([7.0], TypeError, "must be an integer"),
        (["7"], TypeError, "must be an integer"),
    ],
)
def test_by_person_refuses(held_out, error, match):
    with pytest.raises(error, match=match):
        make().by_person(held_out)


def test_nobody_knows_who_moved():
    data = make(persons=None)
    assert data.people == ()
    with pytest.raises(ValueError, match="'toy' does not say who moved"):
        data.by_person([1])
    with pytest.raises(ValueError, match="'toy' does not say who moved"):
        data.draw_people(1, seed=0)
    assert data.subset([2, 1]).persons is None


def test_people_are_drawn_by_the_seed():
    data = make(n=60, people=20)
    drawn = [data.draw_people(5, seed=seed) for seed in range(20)]
    assert drawn[3] == data.draw_people(5, seed=3)
    assert len(set(drawn)) > 15
    assert all(list(d) == sorted(set(d)) and set(d) < set(data.people) for d in drawn)
    assert {p for d in drawn for p in d} == set(data.people)
    for n in (0, 20, 21):
        with pytest.raises(ValueError, match=r"n must be in \[1, 19\]"):
            data.draw_people(n, seed=0)


def test_few_labels_keep_the_kind():
    data = make()
    few = few_per_class(data, 2, seed=1)
    assert isinstance(few, Windows)
    assert few.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert few.persons.shape == (6,)
    with pytest.raises(ValueError, match="'walk' has 4"):
        few_per_class(data, 5, seed=0)
    only = data.subset(data.labels == 1)
    with pytest.raises(ValueError, match="'walk' has 0, 'lie' has 0"):
        few_per_class(only, 1, seed=0)


def test_the_fingerprint_follows_everything():
    data = make()
    others = [
        make(windows=data.windows + 1e-6),
        make(labels=data.labels.flip(0)),
        make(persons=data.persons + 1),
        make(persons=None),
        make(classes=("walk", "sit", "lie down")),
        make(channels=("a", *AXES[1:])),
        make(units=IN_SI),
        make(rate=25),
        make(name="other"),
    ]
    prints = {one.fingerprint() for one in (data, *others)}
    assert len(prints) == 10
    assert data.fingerprint() == make().fingerprint() == data.subset(range(12)).fingerprint()


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"windows": np.zeros((12, 10, 6))}, TypeError, "must be a torch.Tensor, got ndarray"),
        ({"windows": torch.zeros(12, 10, 6).double()}, TypeError, "float32, got torch.float64"),
        ({"windows": torch.zeros(12, 60)}, ValueError, r"\(N, L, C\), got \(12, 60\)"),
        ({"windows": torch.zeros(12, 0, 6)}, ValueError, "is empty"),
        ({"windows": torch.zeros(12, 10, 5)}, ValueError, r"\(N, L, 6\).*got \(12, 10, 5\)\.$"),
        ({"windows": torch.zeros(12, 6, 10)}, ValueError, "transpose the last two axes"),
        ({"labels": torch.arange(12)}, ValueError, "labels"),
        ({"labels": torch.zeros(12)}, TypeError, "labels"),
        ({"labels": torch.zeros(11, dtype=torch.int64)}, ValueError, "labels"),
        ({"persons": list(range(12))}, TypeError, "persons must be a torch.Tensor or None"),
        ({"persons": torch.zeros(12)}, TypeError, "persons must hold numbers of dtype int64"),
        ({"persons": torch.zeros(11, dtype=torch.int64)}, ValueError, r"persons.*\(12,\)"),
        ({"classes": ("walk", "sit", "sit")}, ValueError, "classes must be different"),
        ({"channels": ("x",) * 6}, ValueError, "channels must be different"),
        ({"channels": "abcdef"}, TypeError, "channels must be a sequence"),
        ({"units": ("g",) * 5}, ValueError, "one unit for each of the 6 channels"),
        ({"units": "gggrrr"}, ValueError, "one unit for each"),
        ({"rate": 0}, ValueError, "rate must be greater than 0"),
        ({"rate": "50"}, TypeError, "rate must be a number"),
        ({"name": ""}, TypeError, "name must be a text"),
    ],
)
def test_what_is_no_set_of_windows(given, error, match):
    with pytest.raises(error, match=match):
        make(**given)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_reading_that_is_none_is_named(value):
    windows = torch.zeros(12, 10, 6)
    windows[5, 3, 4] = value
    windows[8] = value
    with pytest.raises(ValueError, match="2 of 12 hold NaN .* channel 'gyro_y' of window 5"):
        make(windows=windows)


def test_standardised_by_the_training_set_alone():
    data = make()
    data.windows[:, :, 1] *= 5
    data.windows[:, :, 2] += 9.8
    data.windows[:, :, 3] = 0.125  # a channel that never changes
    train, test = data.by_person([7])
    a, b = standardise(train, test)
    flat = train.windows.flatten(0, 1)
    mean, sd = flat.mean(0), flat.std(0, correction=0)
    sd[3] = 1
    torch.testing.assert_close(a.windows, (train.windows - mean) / sd, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(b.windows, (test.windows - mean) / sd, atol=1e-5, rtol=1e-5)
    assert a.windows[:, :, 3].abs().max() == 0
    assert b.windows[:, :, 2].mean().abs() > 1e-3  # not centred by itself
    assert (a.units, a.rate, a.people, b.people) == (("sd",) * 6, 50.0, (8, 9, 10), (7,))
    assert train.units == IN_G


def test_standardise_refuses_what_does_not_go_together():
    with pytest.raises(ValueError, match="one scale cannot serve both.*matched=True"):
        standardise(make(), make(units=IN_SI))
    with pytest.raises(TypeError, match="takes Windows, got Tensor"):
        standardise(make(), torch.zeros(1))


def test_the_training_loop_and_a_cached_teacher_take_it():
    from tlcourse.distillation import CachedTeacher
    from tlcourse.metrics import predict
    from tlcourse.training import fit

    data = make()
    net = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    cached = CachedTeacher(net, data)
    assert torch.equal(cached[5][2], net(data.windows)[5].detach())
    before = net[1].weight.detach().clone()
    fit(
        net,
        lambda model, batch: nn.functional.cross_entropy(model(batch[0]), batch[1]),
        data,
        optimizer=torch.optim.SGD(net.parameters(), lr=0.1),
        epochs=1,
        batch_size=4,
        progress=False,
    )
    assert not torch.equal(before, net[1].weight)
    assert predict(net, data).shape == (12, 3)


def test_images_and_windows_are_both_labelled_sets():
    images = LabelledImages(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), ("a", "b"), "ab")
    assert type(images.subset([0])) is LabelledImages
    assert type(make().subset([0])) is Windows


@pytest.mark.parametrize(("rate", "to", "n"), [(50, 25, 50), (10, 25, 250), (50, 20, 40)])
def test_resampling_keeps_time_gravity_and_trend(rate, to, n):
    t = np.arange(100) / rate
    line = 9.8 + 0.5 * t
    again = resample(line, rate, to)
    assert len(again) == n
    np.testing.assert_allclose(again, 9.8 + 0.5 * np.arange(n) / to, atol=1e-6)


def test_resampling_filters_before_it_leaves_samples_out():
    t = np.arange(500) / 50
    for hertz, kept in ((1, 1.0), (5, 1.0), (8, 1.0), (15, 0.0), (18, 0.0), (24, 0.0)):
        wave = np.sin(2 * np.pi * hertz * t + 0.3)
        half = resample(wave, 50, 25)
        inner = slice(25, -25)
        np.testing.assert_allclose(half[inner], kept * wave[::2][inner], atol=0.03)


def test_resampling_works_along_an_axis_and_leaves_one_rate_alone():
    signal = np.random.default_rng(0).normal(size=(3, 80, 2))
    again = resample(signal, 50, 25, axis=1)
    assert again.shape == (3, 40, 2)
    np.testing.assert_allclose(again[1, :, 1], resample(signal[1, :, 1], 50, 25))
    assert resample(signal, 25, 25.0, axis=1) is signal
    with pytest.raises(ValueError, match="to must be greater than 0"):
        resample(signal, 50, 0)
