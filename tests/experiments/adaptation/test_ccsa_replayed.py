"""ccsa-replayed on tiny data: the pairs, the loss, what is carried on and what is repaired."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from tlcourse.data import LabelledImages
from tlcourse.experiments import get, load_result
from tlcourse.experiments._engine.runner import run
from tlcourse.experiments.adaptation import ccsa_replayed as module

TINY = module.FULL | {
    "splits": "made", "repetitions": 2, "pairs": 24, "epochs": 2, "batch_size": 16,
}  # fmt: skip


def images(n, seed=0):
    pixels = torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return LabelledImages(pixels, torch.arange(n) % 10, tuple("0123456789"), "noise")


def data(labels=(1, 7), repetitions=2):
    return {
        f"{n}-{r}-{part}": images(20, i + 10 * r + n)
        for n in labels
        for r in range(repetitions)
        for i, part in enumerate(("source", "target", "test"))
    }


def test_a_run_fills_its_table(tmp_path, monkeypatch):
    monkeypatch.setenv("TLCOURSE_CACHE", str(tmp_path / "cache"))
    full = get("ccsa-replayed")
    experiment = dataclasses.replace(full, settings={"quick": TINY}, load=lambda _: data())
    result = run(experiment, profile="quick", seeds=[0], out=tmp_path, say=lambda _: None)
    assert list(result.rows) == [row.key for row in full.rows]
    for n in (1, 7):
        value = {bar: result.rows[f"{bar}-{n}"].values[0] for bar in module.BARS}
        assert value["last"] <= value["released"]  # the best of the epochs is not below the last


def test_one_model_is_carried_on_and_the_other_begun_anew(monkeypatch, tmp_path):
    given = []

    def learn(model, optimizer, parts, *_):
        given.append((model, optimizer, parts))
        return [
            {"all": 10.0 * len(given), "unleaked": 1.0 * len(given)},
            {"all": 5.0, "unleaked": 2.0},
        ]

    monkeypatch.setattr(module, "learn", learn)
    settings = TINY | {"labels_per_class": [1]}
    found = module.run_seed(data([1]), settings, 0, tmp_path)
    one, fresh = given[::2], given[1::2]
    assert one[0][0] is one[1][0]
    assert one[0][1] is one[1][1]  # its optimiser, too
    assert len({id(model) for model, *_ in (*fresh, one[0])}) == 3
    for a, b in zip(fresh[0][0].parameters(), fresh[1][0].parameters(), strict=True):
        assert torch.equal(a, b)
    assert found == {
        "released-1": 20.0,  # the best: 10 and 30
        "fresh-1": 30.0,  # 20 and 40
        "last-1": 5.0,
        "unleaked-1": 2.5,  # 2 and 3
        "repaired-1": 2.0,
    }


def test_pairs_a_quarter_of_one_digit_in_both_orders():
    source, target = images(40), images(20, 1)
    a, b, of_a, same = module.pairs(source, target, 40, 0).tensors
    assert len(a) == 80
    assert same.sum() == 20
    assert torch.equal(a[:40], b[40:])
    assert torch.equal(b[:40], a[40:])
    by_image = {bytes(x.numpy()): int(y) for s in (source, target) for x, y in s}
    labels = [[by_image[bytes(x.numpy())] for x in side] for side in (a, b)]
    assert labels[0] == of_a.tolist()
    assert [float(p == q) for p, q in zip(*labels, strict=True)] == same.tolist()
    known = {bytes(x.numpy()) for x in source.images}
    assert all(bytes(x.numpy()) in known for x in a[:40])
    assert not any(bytes(x.numpy()) in known for x in b[:40])
    again = module.pairs(source, target, 40, 1).tensors[0]
    assert not torch.equal(a, again)


def test_the_loss_is_the_programs():
    torch.manual_seed(0)
    model, _ = module.begun(module.FULL)
    model.eval()
    a, b, of_a, same = module.pairs(images(20), images(10, 1), 8, 0)[:]
    za, zb = model.backbone(a), model.backbone(b)
    contrastive = 0.0
    for u, v, alike in zip(za, zb, same, strict=True):
        d = (u - v).square().sum().sqrt().item()
        contrastive += d**2 if alike else max(0.0, 1 - d) ** 2
    by_hand = 0.75 * F.cross_entropy(model.head(za), of_a).item() + 0.25 * contrastive / len(a)
    loss = module.objective(0.25)(model, (a, b, of_a, same))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_a_pair_of_one_picture_gives_finite_gradients():
    torch.manual_seed(0)
    model, _ = module.begun(module.FULL)
    x = images(4).images
    batch = (x, x, torch.arange(4), torch.tensor([1.0, 0.0, 1.0, 0.0]))
    module.objective(0.25)(model.eval(), batch).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_what_leaks_is_found_and_left_out():
    target = images(10, 1)
    test = LabelledImages(
        torch.cat([images(5).images, target.images[[2, 7]]]),
        torch.arange(7),
        target.classes,
        "test",
    )
    assert module.leaked(test, target).tolist() == [False] * 5 + [True] * 2


def test_the_splits_that_are_made_leak_like_the_released_ones():
    found = module.load(TINY | {"labels_per_class": [7], "repetitions": 1})
    source, target, test = (found[f"7-0-{part}"] for part in ("source", "target", "test"))
    assert len(target) == 70
    assert int(module.leaked(test, target).sum()) == 18
    assert source.images.mean() > 0.5 > target.images.mean()


def test_the_recorded_result_is_whole():
    result = load_result("ccsa-replayed")
    assert list(result.rows) == [row.key for row in get("ccsa-replayed").rows]
    assert all(len(row.values) == 8 for row in result.rows.values())


# What the chapter says of the results


@pytest.fixture(scope="module")
def replayed():
    return load_result("ccsa-replayed")


@pytest.mark.claim("claim-ccsa-fresh")
def test_claim_a_fresh_model_each_time_reads_worse(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"fresh-{n}")


@pytest.mark.claim("claim-ccsa-last")
def test_claim_the_last_epoch_is_worse_than_the_best_on_the_test(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"last-{n}")


@pytest.mark.claim("claim-ccsa-leak")
def test_claim_leaks_lift_the_figure_by_less_than_a_tenth_of_a_point(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"unleaked-{n}")
        claim.no_difference(replayed, f"released-{n}", f"unleaked-{n}", within=0.1)


@pytest.mark.claim("claim-ccsa-repaired")
def test_claim_repaired_it_is_worse_than_as_released(claim, replayed):
    for n in (1, 7):
        claim.better(replayed, f"released-{n}", f"repaired-{n}")
