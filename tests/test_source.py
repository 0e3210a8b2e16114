from __future__ import annotations

import errno
import os

import pytest
import torch

from tlcourse import source
from tlcourse.data import glyphs
from tlcourse.metrics import predict

SMALL = {**source.SETTINGS, "n_train": 90, "epochs": 1, "width": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def test_set():
    return glyphs(1, 45)[1]


def network(**changes):
    return source._network({**SMALL, **changes}, progress=False)


def refuse(*_arguments, **_settings):
    raise AssertionError("trained again")


def test_it_is_trained_once_and_then_read(cache, monkeypatch, test_set):
    first = network()
    assert [p.name for p in cache.iterdir()] == [f"glyph-network-{source._key(SMALL)}.safetensors"]
    monkeypatch.setattr(source, "_train", refuse)
    second = network()
    assert second is not first
    assert not second.training
    assert torch.equal(predict(first, test_set), predict(second, test_set))


def test_it_has_a_class_for_every_glyph_the_digits_first(test_set):
    model = network()
    assert model.head.out_features == test_set.n_classes
    assert test_set.classes[:10] == tuple("0123456789")


def test_it_was_trained(test_set):
    generator_before = torch.get_rng_state()
    model = network()
    assert torch.equal(torch.get_rng_state(), generator_before)
    fresh = source._untrained(test_set.n_classes, SMALL)
    assert not torch.equal(model.backbone.stem[0].weight, fresh.backbone.stem[0].weight)


def test_the_key_holds_settings_code_and_data(monkeypatch):
    key = source._key(SMALL)
    assert source._key(dict(reversed(SMALL.items()))) == key
    assert source._key({**SMALL, "rate": 0.1}) != key
    code = source.code_of("tlcourse.source")
    assert {
        "tlcourse.source",
        "tlcourse.training.loop",
        "tlcourse.training.batches",
        "tlcourse.models.classifier",
        "tlcourse.models.small_resnet",
        "tlcourse.data.augment",
        "tlcourse.data.glyphs",
    } <= set(code)
    for changed in code:
        monkeypatch.setattr(source, "code_of", lambda _, c=changed: code | {c: "another"})
        assert source._key(SMALL) != key
    monkeypatch.setattr(source, "code_of", lambda _: code)
    monkeypatch.setattr(source, "version", lambda _: "another")
    assert source._key(SMALL) != key


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_a_damaged_file_is_made_again(cache, content, test_set):
    first = network()
    (path,) = cache.iterdir()
    path.write_bytes(content)
    again = network()
    assert torch.equal(predict(first, test_set), predict(again, test_set))
    assert path.stat().st_size > 1000


def test_without_space_the_network_is_still_returned(cache, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="not kept for the next time.*No space left"):
        assert not network().training
    assert list(cache.iterdir()) == []


def test_two_that_want_it_at_once_get_the_same(cache, monkeypatch, test_set):
    train = source._train
    others = []

    def another_process_is_quicker(*arguments, **settings):
        monkeypatch.setattr(source, "_train", train)
        others.append(network())
        return train(*arguments, **settings)

    monkeypatch.setattr(source, "_train", another_process_is_quicker)
    mine = network()
    outputs = [predict(model, test_set) for model in (mine, others[0], network())]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert len(list(cache.iterdir())) == 1
