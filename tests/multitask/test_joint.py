"""Joint fine-tuning: two heads on one backbone, the selected source, and who asks for more."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.data import LabelledImages
from tlcourse.metrics import accuracy
from tlcourse.models import SmallResNet
from tlcourse.multitask import (
    JointFineTuning,
    Retrieval,
    SelectiveJointFineTuning,
    next_neighbours,
    retrieve,
)
from tlcourse.training import fit


def images(n, n_classes, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % n_classes
    pixels = 0.5 * torch.rand(n, 1, 16, 16, generator=generator)
    pixels = pixels + 0.5 * labels[:, None, None, None] / n_classes
    return LabelledImages(pixels, labels, tuple("abcdefgh"[:n_classes]), "noise")


SOURCE, TARGET = images(40, 4), images(6, 3, seed=1)


def neighbours(k=12, n=6):
    generator = torch.Generator().manual_seed(3)
    indices = torch.stack([torch.randperm(40, generator=generator)[:k] for _ in range(n)])
    return Retrieval(indices, torch.arange(k).float().expand(n, k))


def selective(**settings):
    torch.manual_seed(0)
    backbone = SmallResNet(4, width=4).backbone
    settings = {"start": 2, "if_wrong": 4} | settings
    return SelectiveJointFineTuning(backbone, SOURCE, TARGET, neighbours(), **settings)


@pytest.mark.equation("eq-joint-loss")
def test_the_loss_is_the_sum_of_both_cross_entropies():
    model = JointFineTuning(
        SmallResNet(4, width=4).backbone, SOURCE, 3, selected=[5], source_weight=0.3
    ).eval()
    x, y = TARGET[:]
    target = -torch.log_softmax(model(x), 1)[torch.arange(6), y].mean()
    source_x, source_y = SOURCE[5]
    source = -torch.log_softmax(model.source_logits(source_x[None]), 1)[0, source_y]
    torch.testing.assert_close(model.loss((x, y)), target + 0.3 * source)


def test_both_halves_go_through_the_backbone_at_once():
    """Two passes would give batch normalisation each domain alone, and evaluation a mixture."""
    model = JointFineTuning(SmallResNet(4, width=4).backbone, SOURCE, 3, selected=[5]).train()
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, y = TARGET[:]
    model.loss((x, y))
    (images,) = seen
    assert torch.equal(images, torch.cat([x, SOURCE.images[[5] * 6]]))


def test_a_source_weight_of_0_has_no_gradient_for_the_source_head():
    model = JointFineTuning(SmallResNet(4, width=4).backbone, SOURCE, 3, source_weight=0.0)
    model.loss(TARGET[:]).backward()
    assert not model.source_head.weight.grad.any()
    assert model.head.weight.grad.any()


def test_the_heads_learn_their_own_task_and_the_backbone_both():
    model = JointFineTuning(SmallResNet(4, width=4).backbone, SOURCE, 3).eval()
    x, y = TARGET[:]
    source_loss = F.cross_entropy(model.source_logits(SOURCE.images), SOURCE.labels)
    grads = torch.autograd.grad(
        source_loss, [model.head.weight, model.backbone.stem[0].weight], allow_unused=True
    )
    assert grads[0] is None
    assert grads[1].any()
    grads = torch.autograd.grad(
        F.cross_entropy(model(x), y), [model.source_head.weight], allow_unused=True
    )
    assert grads[0] is None


def test_only_selected_images_are_drawn_and_all_of_them():
    model = JointFineTuning(SmallResNet(4, width=4).backbone, SOURCE, 3, selected=[3, 17, 8, 3])
    assert model.selected.tolist() == [3, 8, 17]
    drawn = set()

    def spy(backbone, inputs):
        for image in inputs[0][len(TARGET) :]:
            drawn.add(int((SOURCE.images == image).flatten(1).all(1).nonzero()))

    model.backbone.register_forward_pre_hook(spy)
    batch = tuple(TARGET.tensors)
    for _ in range(20):
        model.loss(batch)
    assert drawn == {3, 8, 17}


def test_it_trains_in_the_loop_and_one_seed_gives_one_result():
    def trained():
        torch.manual_seed(0)
        backbone = SmallResNet(4, width=4).backbone
        model = JointFineTuning(backbone, SOURCE, 3, source_head=nn.Linear(16, 4))
        fit(
            model,
            JointFineTuning.loss,
            TARGET,
            optimizer=torch.optim.AdamW(model.parameters(), lr=1e-2),
            epochs=40,
            batch_size=6,
            progress=False,
        )
        return model

    one, two = trained(), trained()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name]), name
    assert accuracy(one, TARGET) == 1
    source = F.cross_entropy(one.eval().source_logits(SOURCE.images), SOURCE.labels)
    assert source < 1  # log 4 = 1.39 for one that knows nothing


def test_the_source_head_is_copied():
    head = nn.Linear(16, 4)
    before = copy.deepcopy(head)
    model = JointFineTuning(SmallResNet(4, width=4).backbone, SOURCE, 3, source_head=head)
    torch.testing.assert_close(model.source_head.weight, head.weight)
    model.source_head.weight.data.zero_()
    assert torch.equal(head.weight, before.weight)


def test_it_starts_with_the_nearest_of_every_target_image():
    model = selective(start=3)
    assert model.selected.tolist() == sorted(set(neighbours().indices[:, :3].flatten().tolist()))
    assert model.counts.tolist() == [3] * 6


@pytest.mark.equation("eq-hard-samples")
def test_the_rule_for_wrong_uncertain_and_certain_images():
    logits = torch.tensor([[0.0, 9.0, 0.0], [0.3, 0.0, 0.0], [9.0, 0.0, 0.0], [0.0, 0.2, 0.0]])
    labels, counts = torch.tensor([0, 0, 0, 0]), torch.tensor([5, 6, 7, 8])
    after = next_neighbours(
        logits, labels, counts, if_wrong=10, if_uncertain=4, entropy_threshold=0.1
    )
    assert after.tolist() == [15, 10, 7, 18]
    assert counts.tolist() == [5, 6, 7, 8]


@pytest.mark.equation("eq-hard-samples")
def test_the_entropy_decides_at_the_threshold():
    logits = torch.tensor([[1.3, 0.0, -0.4]])
    p = torch.softmax(logits, 1)
    H = -(p * p.log()).sum().item()
    rule = {"if_wrong": 9, "if_uncertain": 2}
    labels, counts = torch.tensor([0]), torch.tensor([1])
    for threshold, expected in ((H - 1e-4, 3), (H + 1e-4, 1)):
        after = next_neighbours(logits, labels, counts, entropy_threshold=threshold, **rule)
        assert after.item() == expected


def test_hard_images_ask_for_more_and_the_selection_grows():
    model = selective(if_wrong=4, if_uncertain=1, entropy_threshold=0.5).train()
    with torch.no_grad():  # the answers: always class 1, and certain of it
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    before = set(model.selected.tolist())
    assert model.ask_for_more() == 4
    assert model.counts.tolist() == [6, 2, 6, 6, 2, 6]
    indices = neighbours().indices
    expected = {int(j) for i, k in enumerate(model.counts) for j in indices[i, :k]}
    assert set(model.selected.tolist()) == expected
    assert before < expected
    assert model.training
    assert model.backbone.training


def test_one_cannot_ask_for_more_than_was_retrieved():
    model = selective(if_wrong=100)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    model.ask_for_more()
    assert model.counts.max() == 12
    model.ask_for_more()
    assert model.counts.max() == 12


def test_a_round_that_fails_leaves_all_as_it_was():
    model = selective(if_wrong=100)
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    indices = model.neighbours.indices.clone()
    indices[:, -1] = 40  # the source has 40 images
    model.neighbours = Retrieval(indices, model.neighbours.distances)
    counts, selected = model.counts.clone(), model.selected.clone()
    with pytest.raises(ValueError, match=r"selected must lie in \[0, 39\]"):
        model.ask_for_more()
    assert torch.equal(model.counts, counts)
    assert torch.equal(model.selected, selected)


def test_certain_and_right_images_ask_for_nothing():
    model = selective()
    model.target = TARGET.subset([1, 4])
    model.counts = model.counts[:2]
    model.neighbours = Retrieval(model.neighbours.indices[:2], model.neighbours.distances[:2])
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 20.0, 0.0]))
    assert model.ask_for_more() == 0


def test_asking_changes_no_weight_and_no_running_statistic():
    model = selective().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    model.ask_for_more()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_neighbours_from_real_descriptors():
    from tlcourse.multitask import GaborBank, describe, fit_bin_edges

    bank = GaborBank(orientations=3, wavelengths=(4.0,))
    edges = fit_bin_edges(bank(SOURCE.images), bins=8)
    phi = [describe(d.images, bank, edges) for d in (SOURCE, TARGET)]
    found = retrieve(*phi, k=10, weights=bank.weights)
    model = SelectiveJointFineTuning(
        SmallResNet(4, width=4).backbone, SOURCE, TARGET, found, start=2, if_wrong=2
    )
    assert 2 <= len(model.selected) <= 12


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"start": 0}, ValueError, r"start must be in \[1, 12\], got 0"),
        ({"start": 13}, ValueError, r"start must be in \[1, 12\], got 13"),
        ({"if_wrong": 0}, ValueError, "if_wrong must be at least 1"),
        ({"if_uncertain": 4}, ValueError, r"if_uncertain must be in \[0, 3\], got 4"),
        ({"entropy_threshold": -1.0}, ValueError, "entropy_threshold must be at least 0"),
        ({"source_weight": -1.0}, ValueError, "source_weight must be at least 0"),
        ({"source_head": nn.Linear(16, 9)}, ValueError, "of 16 features and 4 classes"),
    ],
)
def test_bad_settings(settings, error, message):
    with pytest.raises(error, match=message):
        selective(**settings)


def test_an_uncertain_image_asks_for_half_as_many_unless_told():
    for if_wrong, half in ((1, 0), (2, 1), (5, 2), (6, 3)):
        assert selective(if_wrong=if_wrong).if_uncertain == half


def test_a_network_that_works_in_place_leaves_the_targets_images_as_they_are():
    class Halve(nn.Module):
        n_features = 256

        def forward(self, x):
            return x.mul_(0.5).flatten(1)

    before = TARGET.images.clone()
    model = SelectiveJointFineTuning(Halve(), SOURCE, TARGET, neighbours(), start=2)
    model.ask_for_more()
    model.loss(tuple(TARGET.tensors))
    assert torch.equal(TARGET.images, before)


def test_bad_data():
    backbone = SmallResNet(4, width=4).backbone
    with pytest.raises(TypeError, match="source must be a LabelledImages, got Tensor"):
        JointFineTuning(backbone, SOURCE.images, 3)
    with pytest.raises(TypeError, match="target must be a LabelledImages, got tuple"):
        SelectiveJointFineTuning(backbone, SOURCE, TARGET.tensors, neighbours())
    with pytest.raises(TypeError, match="neighbours must be what retrieve returns, got Tensor"):
        SelectiveJointFineTuning(backbone, SOURCE, TARGET, neighbours().indices)
    with pytest.raises(ValueError, match="neighbours are of 5 target images, and target has 6"):
        SelectiveJointFineTuning(backbone, SOURCE, TARGET, neighbours(n=5), start=2)
    far = neighbours()
    far.indices[3, -1] = 40  # beyond the first ones, asked for in a later round
    with pytest.raises(
        ValueError, match="neighbours name source images .* to 40, and source has 40"
    ):
        SelectiveJointFineTuning(backbone, SOURCE, TARGET, far, start=2)
    with pytest.raises(
        ValueError, match=r"selected must lie in \[0, 39\], got values from 1 to 40"
    ):
        JointFineTuning(backbone, SOURCE, 3, selected=[1, 40])
    with pytest.raises(ValueError, match="selected must hold one or more positions"):
        JointFineTuning(backbone, SOURCE, 3, selected=[])
    with pytest.raises(ValueError, match="selected must hold one or more positions .*float32"):
        JointFineTuning(backbone, SOURCE, 3, selected=[0.5])


def test_images_of_another_shape():
    backbone = SmallResNet(4, width=4).backbone
    small = LabelledImages(TARGET.images[..., :12].clone(), TARGET.labels, TARGET.classes, "small")
    message = (
        r"source images have shape \(1, 16, 16\) and target images \(1, 16, 12\): .* one shape"
    )
    with pytest.raises(ValueError, match=message):
        SelectiveJointFineTuning(backbone, SOURCE, small, neighbours(), start=2)
    with pytest.raises(ValueError, match=message):
        JointFineTuning(backbone, SOURCE, 3).loss(small[:])


def test_bad_arguments_of_the_rule():
    logits, labels, counts = torch.rand(2, 3), torch.tensor([0, 1]), torch.tensor([1, 1])
    rule = {"if_wrong": 2, "if_uncertain": 1, "entropy_threshold": 0.1}
    with pytest.raises(ValueError, match="logits contains NaN"):
        next_neighbours(logits * float("nan"), labels, counts, **rule)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]"):
        next_neighbours(logits, labels + 5, counts, **rule)
    with pytest.raises(ValueError, match=r"counts must be 2 numbers of dtype int64, got \(3,\)"):
        next_neighbours(logits, labels, torch.ones(3).long(), **rule)
    with pytest.raises(TypeError, match="counts must be a torch.Tensor, got list"):
        next_neighbours(logits, labels, [1, 1], **rule)
    with pytest.raises(ValueError, match=r"if_uncertain must be in \[0, 1\], got 2"):
        next_neighbours(logits, labels, counts, **(rule | {"if_uncertain": 2}))
