from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from tlcourse.data import LabelledImages
from tlcourse.metrics import accuracy, confusion, error_rate, interval, predict


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(
        torch.randn(50, 4, generator=generator), torch.randint(3, (50,), generator=generator)
    )


class Pairs(Dataset):
    """The same samples one at a time, without ``.tensors``."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data[i]


@pytest.mark.parametrize("batch_size", [1, 7, 50, 512])
def test_predictions_are_in_order_and_do_not_depend_on_the_batch(data, batch_size):
    model = nn.Linear(4, 3)
    expected = model(data.tensors[0]).detach()
    for dataset in (data, Pairs(data), TensorDataset(data.tensors[0])):
        logits = predict(model, dataset, batch_size=batch_size)
        torch.testing.assert_close(logits, expected)
        assert not logits.requires_grad


def test_a_model_is_evaluated_and_every_module_put_back(data):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model.train()
    model[1].eval()  # frozen while the rest trains
    before = model[1].running_mean.clone()
    assert torch.equal(predict(model, data), predict(model, data))
    assert [m.training for m in model] == [True, False, True, True]
    assert torch.equal(model[1].running_mean, before)


def test_a_model_is_put_back_after_an_error_too():
    model = nn.Linear(4, 3)
    with pytest.raises(RuntimeError):
        predict(model, TensorDataset(torch.rand(2, 5)))
    assert model.training


def test_the_measures_agree_with_a_count_by_hand(data):
    model = nn.Linear(4, 3)
    guesses = model(data.tensors[0]).argmax(1).tolist()
    labels = data.tensors[1].tolist()
    right = sum(g == y for g, y in zip(guesses, labels, strict=True))
    assert 0 < right < 50
    assert accuracy(model, data) == right / 50
    assert error_rate(model, data) == (50 - right) / 50
    counts = confusion(model, data)
    for y in range(3):
        for g in range(3):
            assert counts[y, g] == list(zip(labels, guesses, strict=True)).count((y, g))


def test_a_set_without_labels_is_refused():
    with pytest.raises(ValueError, match="The dataset has no labels"):
        accuracy(nn.Linear(4, 3), TensorDataset(torch.rand(5, 4)))


def test_labels_must_be_classes_of_the_model():
    data = TensorDataset(torch.rand(3, 4), torch.tensor([0, 1, 7]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\] for 3 classes"):
        accuracy(nn.Linear(4, 3), data)


def test_logits_must_be_finite():
    data = TensorDataset(torch.tensor([[1.0, math.nan]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="The model's output contains NaN"):
        accuracy(nn.Identity(), data)


def test_logits_must_be_a_table():
    data = TensorDataset(torch.rand(3, 2, 2), torch.tensor([0, 1, 1]))
    with pytest.raises(ValueError, match=r"The model's output must have shape \(N, K\)"):
        confusion(nn.Identity(), data)


def test_other_wrong_arguments(data):
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got function"):
        predict(lambda x: x, data)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        predict(nn.Identity(), data, batch_size=0)
    with pytest.raises(ValueError, match="The data is empty"):
        predict(nn.Identity(), TensorDataset(torch.rand(0, 2)))


def test_what_cannot_be_a_prediction_or_a_label_is_named(data):
    class Sample(Pairs):
        def __init__(self, sample):
            super().__init__([sample] * 3)

    image = torch.rand(4)
    with pytest.raises(TypeError, match="samples must be tuples.*of type dict, with the keys 'x'"):
        predict(nn.Linear(4, 3), Sample({"x": image}))
    with pytest.raises(TypeError, match="The label must be a tensor, got tuple"):
        accuracy(nn.Linear(4, 3), Sample((image, "cat")))
    model = nn.LSTM(4, 3)
    with pytest.raises(TypeError, match="The model's output must be a tensor, got tuple"):
        predict(model, Sample((image, 0)))


def test_measuring_leaves_every_generator_alone(data):
    before = torch.get_rng_state()
    model = nn.Linear(4, 3)
    torch.set_rng_state(before)
    for measure in (predict, accuracy, error_rate, confusion):
        measure(model, data)
        measure(model, Pairs(data))
    assert torch.equal(torch.get_rng_state(), before)


def test_interval_against_a_table_of_student_s_t():
    # t of 4 degrees of freedom is 2.776 at 95 % and 4.604 at 99 %.
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    found = interval(values)
    assert (found.mean, found.n) == (3.0, 5)
    assert found.margin == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=1e-3)
    assert (found.low + found.high) / 2 == pytest.approx(3)
    wide = interval(values, confidence=0.99)
    assert wide.margin / found.margin == pytest.approx(4.604 / 2.776, rel=1e-3)


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covered = [i.low <= 0 <= i.high for i in map(interval, draws.tolist())]
    assert sum(covered) / 2000 == pytest.approx(0.95, abs=0.015)


def test_interval_of_equal_values_has_no_width():
    found = interval([0.5, 0.5, 0.5])
    assert (found.low, found.high) == (0.5, 0.5)


def test_one_value_has_no_interval():
    found = interval([0.7])
    assert found.mean == 0.7
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_interval_takes_tensors():
    assert interval(torch.tensor([1.0, 2.0])) == interval([1.0, 2.0])


def test_wrong_values():
    with pytest.raises(ValueError, match="values is empty"):
        interval([])
    with pytest.raises(ValueError, match=r"values\[1\] must be finite, got nan"):
        interval([1.0, math.nan])
    with pytest.raises(TypeError, match=r"values\[0\] must be a number"):
        interval(["a"])


@pytest.mark.parametrize("confidence", [0, 1, 95, -1])
def test_wrong_confidence(confidence):
    with pytest.raises(ValueError, match="confidence must be"):
        interval([1.0, 2.0], confidence=confidence)


def test_a_set_of_named_classes_is_compared_with_the_outputs():
    labels = torch.tensor([0, 1])
    pets = LabelledImages(torch.rand(2, 1, 8, 8), labels, ("apple", "plum"), "test")
    three = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for measure in (accuracy, error_rate, confusion):
        with pytest.raises(
            ValueError, match=r"tells 3 classes apart, the dataset has 2: apple, pl"
        ):
            measure(three, pets)
    assert confusion(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), pets).shape == (2, 2)
    # A subset keeps its classes, and unnamed labels say nothing of their number.
    assert confusion(three, TensorDataset(*pets.tensors)).shape == (3, 3)
