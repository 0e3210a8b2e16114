"""LwF: the loss against its definition, the three steps, and the mistakes made in public."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from tlcourse.continual import LearningWithoutForgetting, lwf_old_task_loss
from tlcourse.distillation import distillation_loss
from tlcourse.models import MLP, SmallResNet
from tlcourse.training import fit

N, K = 7, 5


@pytest.fixture
def logits():
    generator = torch.Generator().manual_seed(0)
    now = 3 * torch.randn(N, K, dtype=torch.float64, generator=generator)
    recorded = 4 * torch.randn(N, K, dtype=torch.float64, generator=generator)
    return now.requires_grad_(), recorded


@pytest.fixture
def new_data():
    generator = torch.Generator().manual_seed(1)
    return TensorDataset(
        torch.rand(20, 6, generator=generator), torch.randint(2, (20,), generator=generator)
    )


def network(n_old=3):
    torch.manual_seed(0)
    return LearningWithoutForgetting(MLP((6, 8, n_old)))


def gradient(loss, of):
    return torch.autograd.grad(loss, of)[0]


# --- the old task's loss -----------------------------------------------------------------------


@pytest.mark.equation("eq-lwf-soft-targets")
@pytest.mark.equation("eq-lwf-old-loss")
@pytest.mark.parametrize("T", [1.0, 2.0, 5.0])
def test_the_loss_is_the_paper_s_on_probabilities(logits, T):
    """The paper's form, y^(1/T) normalised, in Python floats: equal where nothing underflows."""
    z_hat, z = logits
    expected = 0.0
    for now, before in zip(z_hat.tolist(), z.tolist(), strict=True):
        y, y_hat = [[math.exp(v) / sum(map(math.exp, row)) for v in row] for row in (before, now)]
        soft, soft_hat = [[v ** (1 / T) / sum(w ** (1 / T) for w in p) for v in p]
                          for p in (y, y_hat)]  # fmt: skip
        expected -= sum(a * math.log(b) for a, b in zip(soft, soft_hat, strict=True)) / N
    found = lwf_old_task_loss(z_hat, z, temperature=T)
    assert found.shape == ()
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.equation("eq-lwf-distillation")
@pytest.mark.parametrize("T", [1.0, 2.0, 5.0])
def test_it_is_distillation_s_soft_term_without_t_squared(logits, T):
    z_hat, z = logits
    ours = lwf_old_task_loss(z_hat, z, temperature=T)
    theirs = distillation_loss(z_hat, z, temperature=T)
    assert torch.isclose(T**2 * ours, theirs, rtol=1e-12)
    p, q = torch.softmax(z / T, 1), torch.softmax(z_hat / T, 1)
    assert torch.allclose(gradient(ours, z_hat), (q - p) / T / N, rtol=1e-12)


def test_the_default_temperature_is_the_paper_s(logits):
    assert torch.equal(lwf_old_task_loss(*logits), lwf_old_task_loss(*logits, temperature=2.0))


def test_agreement_has_the_entropy_as_loss_and_no_gradient(logits):
    _, z = logits
    now = z.clone().requires_grad_()
    loss = lwf_old_task_loss(now, z)
    entropy = torch.special.entr(torch.softmax(z / 2, 1)).sum(1).mean()
    assert torch.isclose(loss, entropy)
    assert gradient(loss, now).abs().max() < 1e-12


def test_the_record_gets_no_gradient_and_the_head_does(logits):
    z_hat, z = logits
    z = z.clone().requires_grad_()
    lwf_old_task_loss(z_hat, z).backward()
    assert z.grad is None
    assert bool((z_hat.grad != 0).all())


def test_mistake_power_of_probabilities():
    """y^(1/T) of a float32 probability that has become 0: its derivative is infinite."""
    now = torch.tensor([[120.0, 0.0, 1.0]], requires_grad=True)
    recorded = torch.tensor([[0.0, 120.0, 1.0]])

    def roots(z):
        y = torch.softmax(z, 1) ** 0.5
        return y / y.sum(1, keepdim=True)

    by_hand = -(roots(recorded) * roots(now).log()).sum()
    assert not math.isfinite(by_hand.item())
    assert not bool(torch.isfinite(gradient(by_hand, now)).all())
    ours = lwf_old_task_loss(now, recorded)
    assert ours.item() == pytest.approx(60.0, rel=1e-5)
    assert torch.allclose(gradient(ours, now), torch.tensor([[0.5, -0.5, 0.0]]), atol=1e-5)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(logits, half):
    now, recorded = (t.detach().to(half) for t in logits)
    expected = lwf_old_task_loss(now.float(), recorded.float())
    assert expected.dtype == torch.float32
    assert torch.equal(lwf_old_task_loss(now, recorded), expected)
    assert torch.equal(lwf_old_task_loss(now, recorded.float()), expected)
    assert torch.equal(lwf_old_task_loss(now.float(), recorded), expected)


@pytest.mark.parametrize(
    ("what", "error", "match"),
    [
        ({"old_logits": torch.zeros(3)}, ValueError, r"old_logits must have shape \(N, K\)"),
        ({"recorded_logits": torch.zeros(4, 2)}, ValueError, "must have the same shape"),
        ({"recorded_logits": torch.zeros(3, 2).double()}, TypeError, "the same dtype"),
        ({"old_logits": torch.zeros(3, 2).double()}, TypeError, "float64 and torch.float32"),
        ({"recorded_logits": torch.zeros(3, 2).double(), "old_logits": torch.zeros(3, 2).half()},
         TypeError, "float16 and torch.float64"),
        ({"old_logits": torch.zeros(3, 2).long()}, TypeError, "old_logits must hold floating"),
        ({"recorded_logits": None}, TypeError, "recorded_logits must be a torch.Tensor"),
        ({"recorded_logits": torch.zeros(3, 2).long()}, TypeError, "recorded_logits must hold fl"),
        ({"old_logits": torch.full((3, 2), torch.nan)}, ValueError, "old_logits contains NaN"),
        ({"recorded_logits": torch.full((3, 2), torch.nan)}, ValueError, "recorded_logits con"),
        ({"temperature": 0.0}, ValueError, "temperature must be greater than 0"),
        ({"temperature": "2"}, TypeError, "temperature must be a number"),
    ],
)  # fmt: skip
def test_bad_input_of_the_loss(what, error, match):
    arguments = {"old_logits": torch.zeros(3, 2), "recorded_logits": torch.zeros(3, 2)} | what
    with pytest.raises(error, match=match):
        lwf_old_task_loss(
            arguments.pop("old_logits"), arguments.pop("recorded_logits"), **arguments
        )


# --- recording ---------------------------------------------------------------------------------


def test_the_record_is_of_the_old_heads_before_the_new_one(new_data):
    lwf = network()
    x, y = new_data.tensors
    with torch.no_grad():
        before, features = lwf(x), lwf.backbone(x)
    recording = lwf.new_task(new_data, 2)
    assert [head.out_features for head in lwf.heads] == [3, 2]
    inputs, labels, answers = recording.answers.tensors
    assert torch.equal(inputs, x)
    assert torch.equal(labels, y)
    torch.testing.assert_close(answers, before)
    torch.testing.assert_close(recording.features.tensors[0], features)
    assert torch.equal(recording.features.tensors[1], y)
    assert not answers.requires_grad


def test_the_third_task_has_the_answers_of_both_old_heads(new_data):
    lwf = network()
    lwf.new_task(new_data, 2)
    recording = lwf.new_task(new_data, 4)
    with torch.no_grad():
        expected = [lwf(new_data.tensors[0], task) for task in (0, 1)]
    _, _, *answers = recording.answers.tensors
    assert [tuple(a.shape) for a in answers] == [(20, 3), (20, 2)]
    for found, wanted in zip(answers, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_shuffled_loader_keeps_sample_and_answer_together(new_data):
    lwf = network()
    recording = lwf.new_task(new_data, 2)
    shuffled = DataLoader(
        recording.answers, 7, shuffle=True, generator=torch.Generator().manual_seed(2)
    )
    for x, _, answer in shuffled:
        torch.testing.assert_close(answer, lwf(x, 0).detach())
    for index in (13, 2):
        x, _, answer = recording.answers[index]
        torch.testing.assert_close(answer, lwf(x[None], 0)[0].detach())
    x, _, answer = recording.answers[[5, 1]]
    torch.testing.assert_close(answer, lwf(x, 0).detach())


def test_recording_leaves_statistics_and_modes_alone():
    torch.manual_seed(0)
    lwf = LearningWithoutForgetting(SmallResNet(4, width=2))
    data = TensorDataset(torch.rand(9, 1, 16, 16), torch.arange(9) % 3)
    before = {name: tensor.clone() for name, tensor in lwf.state_dict().items()}
    lwf.train()
    lwf.backbone.stage1.eval()
    recording = lwf.new_task(data, 3, batch_size=2)
    assert all(torch.equal(lwf.state_dict()[name], before[name]) for name in before)
    assert lwf.training
    assert lwf.backbone.stem.training
    assert not lwf.backbone.stage1.training
    lwf.eval()
    torch.testing.assert_close(
        recording.answers.tensors[2], lwf(data.tensors[0], 0).detach(), rtol=1e-4, atol=1e-5
    )


def test_what_is_kept_grows_with_the_new_data_alone(new_data):
    """The old data is no argument: the answers are N_new x K_old numbers, however it was made."""
    for n_old in (3, 30):
        recording = network(n_old).new_task(new_data, 2)
        assert recording.answers.tensors[2].numel() == len(new_data) * n_old
        assert recording.answers.tensors[0] is new_data.tensors[0]  # no copy of the images


def test_a_checkpoint_of_other_answers_is_refused(new_data, tmp_path):
    """One data set, two networks: what the old head said is part of the data."""

    def train(scale):
        lwf = network()
        with torch.no_grad():
            lwf.heads[0].weight.mul_(scale)
        fit(lwf, LearningWithoutForgetting.loss, lwf.new_task(new_data, 2).answers, epochs=1,
            optimizer=torch.optim.SGD(lwf.parameters(), lr=0.1), progress=False,
            checkpoint=tmp_path / "joint.safetensors")  # fmt: skip

    train(1.0)
    train(1.0)
    with pytest.raises(ValueError, match="checkpoint of another run: data was"):
        train(2.0)


class Named(TensorDataset):
    """Images with a fingerprint of their own, which sees more than the tensors."""

    name = "a"

    def fingerprint(self):
        return self.name


def test_the_fingerprint_sees_the_data_and_every_answer(new_data):
    x, y = new_data.tensors
    lwf = network()
    lwf.new_task(new_data, 2)  # the third task has two answers

    def fingerprint(data, change=None):
        recorded = copy.deepcopy(lwf).new_task(data, 2).answers
        if change is not None:
            recorded.recorded[change][7, 1] += 1
        return recorded.fingerprint()

    named, other = Named(x, y), Named(x, y)
    other.name = "b"
    listed = [(a, b) for a, b in zip(x, y, strict=True)]  # neither tensors nor a fingerprint
    found = [
        fingerprint(new_data),
        fingerprint(new_data, change=0),
        fingerprint(new_data, change=1),
        fingerprint(TensorDataset(x, 1 - y)),
        fingerprint(TensorDataset(x + 1, y)),
        fingerprint(named),
        fingerprint(other),
        fingerprint(listed),
        fingerprint(Subset(TensorDataset(x + 1, y), range(20))),
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{16}", f) for f in found)
    assert fingerprint(TensorDataset(x.clone(), y.clone())) == found[0]


# --- the joint loss ----------------------------------------------------------------------------


@pytest.mark.equation("eq-lwf-loss")
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 10.0])
def test_the_loss_is_the_weighted_sum_over_the_old_heads(new_data, weight):
    lwf = network()
    lwf.new_task(new_data, 2)
    answers = lwf.new_task(new_data, 2).answers
    lwf.old_weight = weight
    with torch.no_grad():
        for parameter in lwf.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    x, y, *recorded = answers.tensors
    expected = F.cross_entropy(lwf(x, 2), y)
    for task, z in enumerate(recorded):
        expected = expected + weight * lwf_old_task_loss(lwf(x, task), z, temperature=2.0)
    torch.testing.assert_close(lwf.loss(answers.tensors), expected)


def test_the_loss_under_autocast_with_answers_in_float32(new_data):
    """Mixed precision: the heads answer in bfloat16 what was recorded in float32."""
    lwf = network()
    batch = lwf.new_task(new_data, 2).answers.tensors
    assert batch[2].dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        assert lwf(batch[0], 0).dtype == torch.bfloat16
        loss = lwf.loss(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(lwf.loss(batch).item(), rel=0.01)
    assert all(p.grad is not None for p in lwf.parameters())


def test_the_loss_uses_the_network_s_own_temperature(new_data):
    torch.manual_seed(0)
    lwf = LearningWithoutForgetting(MLP((6, 8, 3)), temperature=5.0, old_weight=1.0)
    x, y, z = lwf.new_task(new_data, 2).answers.tensors
    expected = F.cross_entropy(lwf(x), y) + lwf_old_task_loss(lwf(x, 0), z, temperature=5.0)
    torch.testing.assert_close(lwf.loss((x, y, z)), expected)


@pytest.mark.equation("eq-weight-decay")
def test_the_regulariser_is_the_optimiser_s_weight_decay(new_data):
    lwf, mu, rate = network(), 0.1, 0.5
    batch = lwf.new_task(new_data, 2).answers.tensors
    parameters = list(lwf.parameters())
    R = mu / 2 * sum(p.square().sum() for p in parameters)
    gradients = torch.autograd.grad(lwf.loss(batch) + R, parameters)
    expected = [p.detach() - rate * g for p, g in zip(parameters, gradients, strict=True)]
    optimizer = torch.optim.SGD(parameters, lr=rate, weight_decay=mu)
    lwf.loss(batch).backward()
    optimizer.step()
    for p, wanted in zip(parameters, expected, strict=True):
        torch.testing.assert_close(p.detach(), wanted)


def test_a_weight_of_0_is_plain_fine_tuning_with_the_old_head_untouched(new_data):
    lwf = network()
    lwf.old_weight = 0.0
    batch = lwf.new_task(new_data, 2).answers.tensors
    old = {name: t.clone() for name, t in lwf.heads[0].state_dict().items()}
    plain = nn.Sequential(lwf.backbone, lwf.heads[1])
    expected = torch.autograd.grad(
        F.cross_entropy(plain(batch[0]), batch[1]), list(plain.parameters())
    )
    optimizer = torch.optim.SGD(lwf.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        lwf.loss(batch).backward()
        if step == 0:
            for p, wanted in zip(plain.parameters(), expected, strict=True):
                torch.testing.assert_close(p.grad, wanted)
        optimizer.step()
    assert all(torch.equal(lwf.heads[0].state_dict()[name], t) for name, t in old.items())


def test_a_larger_weight_keeps_the_old_answers_closer(new_data):
    drift = []
    for weight in (0.0, 1.0, 100.0):
        lwf = network()
        lwf.old_weight = weight
        answers = lwf.new_task(new_data, 2).answers
        fit(lwf, LearningWithoutForgetting.loss, answers, epochs=30, batch_size=10, progress=False,
            optimizer=torch.optim.Adam(lwf.parameters(), lr=0.01))  # fmt: skip
        x, _, z = answers.tensors
        soft = [torch.softmax(logits, 1) for logits in (lwf(x, 0).detach(), z)]
        drift.append((soft[0] - soft[1]).abs().mean().item())
    assert drift[0] > 2 * drift[1] > 2 * drift[2]


def test_one_pass_through_the_shared_layers_serves_all_heads(new_data):
    lwf = network()
    lwf.new_task(new_data, 2)
    batch = lwf.new_task(new_data, 2).answers.tensors
    passes = []
    lwf.backbone.register_forward_hook(lambda *_: passes.append(1))
    lwf.loss(batch)
    assert len(passes) == 1
    assert len(lwf.logits(batch[0])) == 3
    assert len(passes) == 2


def test_all_parameters_get_a_gradient(new_data):
    lwf = network()
    answers = lwf.new_task(new_data, 2).answers
    with torch.no_grad():
        lwf.backbone.hidden1.linear.weight.mul_(1.5)  # the old answers have moved
    lwf.loss(answers.tensors).backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in lwf.parameters())


def test_mistake_the_record_compared_with_itself(new_data):
    """As a public implementation does: then the loss is a constant, and the old head gets none."""
    lwf = network()
    x, _, z = lwf.new_task(new_data, 2).answers.tensors
    with torch.no_grad():
        lwf.heads[0].weight.mul_(2)
    constant = F.cross_entropy(z / 2, torch.softmax(z / 2, 1))
    assert not constant.requires_grad
    right = lwf_old_task_loss(lwf(x, 0), z)
    assert right > constant + 1e-4
    assert bool((gradient(right, lwf.heads[0].bias) != 0).all())


def test_warm_up_moves_the_new_head_alone(new_data):
    lwf = network()
    recording = lwf.new_task(new_data, 2)
    before = {name: t.clone() for name, t in lwf.state_dict().items()}
    fit(lwf.heads[-1], lambda head, b: F.cross_entropy(head(b[0]), b[1]), recording.features,
        optimizer=torch.optim.SGD(lwf.heads[-1].parameters(), lr=0.5, momentum=0.9,
                                  weight_decay=0.1), epochs=3, progress=False)  # fmt: skip
    moved = {name for name, t in lwf.state_dict().items() if not torch.equal(t, before[name])}
    assert moved == {"heads.1.weight", "heads.1.bias"}


def test_a_task_s_classifier_shares_its_tensors(new_data):
    lwf = network()
    lwf.new_task(new_data, 2)
    x = new_data.tensors[0]
    assert torch.equal(lwf.classifier(0)(x), lwf(x, 0))
    assert torch.equal(lwf.classifier(-1)(x), lwf(x))
    assert lwf.classifier(1)[1] is lwf.heads[1]


# --- bad input ---------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [2, -3, 10])
def test_a_task_that_does_not_exist(new_data, task):
    lwf = network()
    lwf.new_task(new_data, 2)
    with pytest.raises(ValueError, match=rf"task is {task}; there are 2 tasks, 0 to 1"):
        lwf(new_data.tensors[0], task)
    with pytest.raises(ValueError, match=f"task is {task}"):
        lwf.classifier(task)


@pytest.mark.parametrize("task", [1.0, "1", True, None])
def test_a_task_that_is_no_integer(new_data, task):
    with pytest.raises(TypeError, match="task must be an integer"):
        network()(new_data.tensors[0], task)


def test_heads_of_unequal_numbers(new_data):
    lwf = network()
    first = lwf.new_task(new_data, 2).answers
    lwf.new_task(new_data, 2)
    with pytest.raises(ValueError, match="answers of 1 heads, the network has 2 old heads"):
        lwf.loss(first.tensors)
    with pytest.raises(ValueError, match="answers of 0 heads, the network has 2 old heads"):
        lwf.loss(new_data.tensors)
    x, y, z = first.tensors
    with pytest.raises(ValueError, match="must have the same shape"):
        lwf.loss((x, y, z, z))  # the second old head has 2 classes, not 3


@pytest.mark.parametrize(
    ("dataset", "n_classes", "error", "match"),
    [
        (TensorDataset(torch.rand(0, 6), torch.zeros(0).long()), 2, ValueError, "is empty"),
        (TensorDataset(torch.rand(3, 6), torch.arange(3)), 2, ValueError, r"labels must lie in"),
        (TensorDataset(torch.rand(3, 6), torch.arange(3.0)), 3, TypeError, "labels must hold cl"),
        (TensorDataset(torch.rand(3, 6)), 2, ValueError, r"must give \(input, label\)"),
        (TensorDataset(torch.full((3, 6), torch.nan), torch.zeros(3).long()), 2, ValueError,
         "features of samples 0 to 2 contains NaN"),
        (TensorDataset(torch.rand(3, 6), torch.zeros(3).long()), 1, ValueError, "n_classes"),
        (TensorDataset(torch.rand(3, 6), torch.zeros(3).long()), 2.0, TypeError, "n_classes"),
        (iter([]), 2, ValueError, "has no length"),
    ],
)  # fmt: skip
def test_bad_new_tasks(dataset, n_classes, error, match):
    lwf = network()
    with pytest.raises(error, match=match):
        lwf.new_task(dataset, n_classes)
    assert len(lwf.heads) == 1  # nothing half done


class Noisy(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return torch.rand(6), 0


def test_random_augmentation_is_refused():
    with pytest.raises(ValueError, match="random augmentation"):
        network().new_task(Noisy(), 2)


@pytest.mark.parametrize("model", [nn.Linear(6, 3), nn.Sequential(nn.Linear(6, 3)), None])
def test_a_model_without_backbone_and_head(model):
    with pytest.raises(TypeError, match=r"must be a classifier with a \.backbone"):
        LearningWithoutForgetting(model)


def test_what_is_recorded_in_inference_mode_can_be_trained_on(new_data):
    lwf = network()
    with torch.inference_mode():
        recording = lwf.new_task(new_data, 2)
    assert not any(t.is_inference() for t in recording.answers.recorded)
    lwf.loss(recording.answers.tensors).backward()
    assert lwf.heads[-1].weight.grad is not None
    features, labels = recording.features.tensors
    F.cross_entropy(lwf.heads[-1](features), labels).backward()


def test_feature_maps_are_refused(new_data):
    class Maps(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Unflatten(1, (2, 3)), nn.Linear(3, 2)

    with pytest.raises(ValueError, match=r"features of shape \(20, D\), got \(20, 2, 3\)"):
        LearningWithoutForgetting(Maps()).new_task(new_data, 2)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"temperature": 0.0}, ValueError),
        ({"temperature": math.nan}, ValueError),
        ({"old_weight": -1.0}, ValueError),
        ({"old_weight": math.inf}, ValueError),
        ({"old_weight": "1"}, TypeError),
    ],
)
def test_bad_settings(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        LearningWithoutForgetting(MLP((6, 8, 3)), **settings)
