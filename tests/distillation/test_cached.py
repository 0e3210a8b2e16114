"""The cached teacher stays in step with its data set, whatever order a loader draws."""

import copy
import re

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from tlcourse.data import LabelledImages
from tlcourse.distillation import CachedTeacher, distillation_loss
from tlcourse.training import fit


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, 4, 4, generator=generator)
    return TensorDataset(x, torch.arange(50) % 3)


@pytest.fixture
def teacher():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Dropout(0.5),
                         nn.Linear(8, 3))  # fmt: skip


class Counted(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.samples = inner, 0

    def forward(self, x):
        self.samples += len(x)
        return self.inner(x)


def test_every_sample_comes_with_its_own_logits_in_any_order(data, teacher):
    cached = CachedTeacher(teacher, data, batch_size=16)
    teacher.eval()
    generator = torch.Generator().manual_seed(3)
    seen = 0
    for x, _, logits in DataLoader(cached, batch_size=7, shuffle=True, generator=generator):
        assert torch.allclose(logits, teacher(x), atol=1e-6)
        seen += len(x)
    assert seen == len(data) == len(cached)


def test_mistake_logits_cached_in_the_order_of_a_shuffled_loader(data, teacher):
    """Logits listed while a loader shuffles belong to other pictures at the next epoch."""
    teacher.eval()
    loader = DataLoader(
        data, batch_size=10, shuffle=True, generator=torch.Generator().manual_seed(0)
    )
    with torch.no_grad():
        listed = [teacher(x) for x, _ in loader]
        wrong = max((a - teacher(x)).abs().max() for a, (x, _) in zip(listed, loader, strict=True))
    cached = CachedTeacher(teacher, data)
    with torch.no_grad():
        right = max(
            (v - teacher(x)).abs().max() for x, _, v in DataLoader(cached, 10, shuffle=True)
        )
    assert wrong > 0.1
    assert right < 1e-5


def test_the_teacher_runs_once_without_gradient_and_keeps_its_mode(data, teacher):
    counted = Counted(teacher).train()
    before = {name: tensor.clone() for name, tensor in counted.state_dict().items()}
    cached = CachedTeacher(counted, data)
    for epoch in range(3):
        for _ in DataLoader(cached, batch_size=10, shuffle=epoch > 0):
            pass
    assert counted.samples == len(data)
    assert counted.training
    assert teacher.training
    assert not cached.logits.requires_grad
    after = counted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)  # BatchNorm did not drift


class Shifting(nn.Module):
    """A network whose first step works in place."""

    def forward(self, x):
        return x.sub_(0.5)


def test_modes_random_state_and_images_are_as_before(data, teacher):
    """A BatchNorm that is held in eval by hand is held afterwards; so is a Dropout that is on."""
    network = nn.Sequential(Shifting(), *teacher)
    network[3].eval()
    modes = [layer.training for layer in network.modules()]
    assert len(set(modes)) == 2
    images, random = data.tensors[0].clone(), torch.get_rng_state()
    for given in (data, list(zip(*data.tensors, strict=True))):
        cached = CachedTeacher(network, given)
        assert [layer.training for layer in network.modules()] == modes
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(data.tensors[0], images)
    network.eval()
    torch.testing.assert_close(cached.logits, network(images.clone()).detach())


def test_logits_are_plain_tensors_in_inference_mode_too(data, teacher):
    with torch.inference_mode():
        logits = CachedTeacher(teacher, data).logits
    student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    x, y = data.tensors
    distillation_loss(student(x), logits, y).backward()
    assert not logits.is_inference()


def test_tensors_are_offered_for_batched_indexing(data, teacher):
    cached = CachedTeacher(teacher, data)
    x, y, logits = cached.tensors
    assert torch.equal(x, data.tensors[0])
    assert torch.equal(y, data.tensors[1])
    assert torch.equal(logits, cached.logits)
    batch = cached[torch.tensor([4, 2])]
    assert torch.equal(batch[2], cached.logits[[4, 2]])


def test_the_fingerprint_sees_the_data_and_the_teacher(data, teacher):
    x, y = data.tensors
    cached = CachedTeacher(teacher, data)
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[-1].bias[0] += 1
    found = [
        cached.fingerprint(),
        CachedTeacher(other, data).fingerprint(),
        CachedTeacher(teacher, TensorDataset(x, (y + 1) % 3)).fingerprint(),
        CachedTeacher(teacher, list(zip(x, y, strict=True))).fingerprint(),  # no tensors at hand
        CachedTeacher(other, list(zip(x, y, strict=True))).fingerprint(),
        CachedTeacher(teacher, LabelledImages(x.sigmoid(), y, ("a", "b", "c"), "x")).fingerprint(),
        CachedTeacher(teacher, LabelledImages(x.sigmoid(), y, ("a", "b", "d"), "x")).fingerprint(),
    ]
    assert len(set(found)) == len(found)
    assert all(re.fullmatch("[0-9a-f]{16}", f) for f in found)
    assert CachedTeacher(copy.deepcopy(teacher), data).fingerprint() == found[0]


def test_a_checkpoint_of_another_teacher_is_refused(data, teacher, tmp_path):
    def train(teacher):
        torch.manual_seed(0)
        student = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        fit(student, lambda net, b: distillation_loss(net(b[0]), b[2], b[1]), epochs=1,
            data=CachedTeacher(teacher, data), progress=False,
            optimizer=torch.optim.SGD(student.parameters(), lr=0.1),
            checkpoint=tmp_path / "student.safetensors")  # fmt: skip

    train(teacher)
    train(teacher)
    with torch.no_grad():
        teacher[-1].bias[0] += 1
    with pytest.raises(ValueError, match="checkpoint of another run: data was"):
        train(teacher)


class Jittered(Dataset):
    """A data set whose pictures change by themselves, one time in five."""

    def __init__(self, inner):
        self.inner = inner

    def __len__(self):
        return len(self.inner)

    def __getitem__(self, index):
        x, y = self.inner[index]
        return (x.flip(-1) if torch.rand(()) < 0.2 else x), y


def test_random_augmentation_is_refused(data, teacher):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match="random augmentation.*Cache on the plain data set"):
        CachedTeacher(teacher, Jittered(data))


def test_bad_input(data, teacher):
    with pytest.raises(ValueError, match="dataset is empty"):
        CachedTeacher(teacher, TensorDataset(torch.zeros(0, 1, 4, 4), torch.zeros(0)))
    with pytest.raises(ValueError, match=r"logits of shape \(50, D\), got \(50, 2, 2, 2\)"):
        CachedTeacher(nn.Conv2d(1, 2, 3), data)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        CachedTeacher(teacher, data, batch_size=0)
    with pytest.raises(TypeError, match="teacher must be a torch.nn.Module, got function"):
        CachedTeacher(lambda x: x, data)
    with pytest.raises(TypeError, match="tuples with the input first"):
        CachedTeacher(teacher, list(data.tensors[0]))
    broken = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    nn.init.constant_(broken[1].bias, float("nan"))
    broken.train()
    with pytest.raises(ValueError, match="the teacher's logits of samples 0 to 49 contains NaN"):
        CachedTeacher(broken, data)
    assert broken.training
