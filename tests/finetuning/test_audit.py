"""The audit: Protopapas's count, the three statuses, and the comparison of bytes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from tlcourse.finetuning import audit, changed, freeze, snapshot


@pytest.fixture
def lecture_net():
    """Protopapas's example: 32x32x3 images, two convolutions, two dense layers."""
    model = nn.Module()
    model.conv1 = nn.Conv2d(3, 8, 3, stride=1, padding="same")
    model.conv2 = nn.Conv2d(8, 16, 5, stride=2, padding=2)
    model.flatten = nn.Flatten()
    model.dense1 = nn.Linear(16 * 16 * 16, 512)
    model.dense2 = nn.Linear(512, 4)
    return model


def test_the_lectures_parameter_counts(lecture_net):
    found = audit(lecture_net)
    assert found.n_parameters(under="conv1") == 224
    assert found.n_parameters(under="conv2") == 3216
    dense = found.n_parameters(under="dense1") + found.n_parameters(under="dense2")
    assert dense == 2_099_716
    assert found.n_parameters() == 224 + 3216 + 2_099_716
    x = torch.zeros(1, 3, 32, 32)
    for layer in lecture_net.children():
        x = layer(x)
    assert x.shape == (1, 4)


def test_the_lectures_counts_by_status(lecture_net):
    freeze(lecture_net.conv1)
    freeze(lecture_net.conv2)
    found = audit(lecture_net)
    assert found.n_parameters("frozen") == 224 + 3216
    assert found.n_parameters("trainable") == 2_099_716
    assert found.n_parameters("drifting") == 0
    assert found.n_parameters("trainable", under="conv1") == 0
    assert "2,103,156 parameters: 2,099,716 trainable, 3,440 frozen." in str(found)


def block(**settings):
    return nn.Sequential(
        nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4, **settings), nn.Flatten(), nn.Linear(4, 2)
    )


STATISTICS = ("1.running_mean", "1.running_var", "1.num_batches_tracked")


def test_rows_name_kind_shape_and_number():
    rows = {row.name: row for row in audit(block()).rows}
    assert list(rows) == ["0.weight", "1.weight", "1.bias", *STATISTICS, "3.weight", "3.bias"]
    assert (rows["0.weight"].kind, rows["0.weight"].shape) == ("weight", (4, 3, 1, 1))
    assert (rows["3.bias"].kind, rows["3.bias"].numel) == ("bias", 2)
    assert rows["1.running_var"].kind == "BatchNorm statistic"
    assert rows["1.num_batches_tracked"].shape == ()
    assert not rows["1.running_var"].is_parameter
    assert audit(block()).n_parameters() == 12 + 4 + 4 + 8 + 2  # buffers do not count


def test_kinds_of_other_layers():
    model = nn.Module()
    model.token = nn.Parameter(torch.ones(3))
    model.register_buffer("positions", torch.arange(3))
    model.norm = nn.InstanceNorm2d(2, track_running_stats=True)
    model.attention = nn.MultiheadAttention(4, 2)
    model.recurrent = nn.LSTM(2, 2)
    kinds = {row.name: row.kind for row in audit(model).rows}
    assert kinds["token"] == "parameter"
    assert kinds["positions"] == "buffer"
    assert kinds["norm.running_mean"] == "InstanceNorm statistic"
    assert kinds["attention.in_proj_weight"] == "weight"
    assert kinds["recurrent.bias_hh_l0"] == "bias"


def test_statistics_of_a_layer_that_learns_are_no_drift():
    assert set(STATISTICS) <= set(audit(block()).trainable)


@pytest.mark.parametrize("mode", [True, False])
def test_statistics_below_frozen_weights_drift_in_either_mode(mode):
    model = block().train(mode)  # in eval mode they will drift after the next model.train()
    model[:2].requires_grad_(False)
    assert audit(model).drifting == STATISTICS


def test_statistics_without_weights_of_their_own_belong_to_their_block():
    model = nn.Sequential(block(affine=False)[:2], nn.Linear(4, 2))
    assert audit(model).drifting == ()
    model[0].requires_grad_(False)
    assert audit(model).drifting == tuple(f"0.{name}" for name in STATISTICS)


def test_freeze_stops_the_drift():
    model = block()
    freeze(model[0])
    freeze(model[1])
    found = audit(model)
    assert found.drifting == ()
    assert found.frozen == ("0.weight", "1.weight", "1.bias", *STATISTICS)
    assert found.trainable == ("3.weight", "3.bias")


def test_a_model_that_keeps_its_batchnorm_in_eval_itself_is_believed():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2).requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.norm.eval()
            return self

    careful = Careful()
    assert "norm.running_mean" in audit(careful).drifting  # in train mode until train() is called
    assert audit(careful.train()).drifting == ()


def test_a_layer_set_to_train_mode_by_hand_drifts_though_frozen():
    model = block()
    freeze(model)
    model[1].training = True
    assert audit(model).drifting == STATISTICS


def test_the_audit_leaves_modes_and_bytes_alone():
    model = block()
    freeze(model[0])
    model[3].eval()
    modes = [layer.training for layer in model.modules()]
    before = snapshot(model)
    audit(model)
    assert [layer.training for layer in model.modules()] == modes
    assert changed(model, before) == ()


def test_an_old_gradient_counts_where_an_optimizer_can_use_it():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    model[0].requires_grad_(False)
    assert audit(model).drifting == ("0.weight", "0.bias")
    assert audit(model, optimizer).drifting == ("0.weight", "0.bias")
    assert audit(model, torch.optim.SGD(model[1].parameters(), lr=0.1)).drifting == ()
    optimizer.zero_grad(set_to_none=False)
    assert audit(model, optimizer).drifting == ("0.weight", "0.bias")
    optimizer.zero_grad(set_to_none=True)
    assert audit(model, optimizer).drifting == ()


def test_tied_tensors_have_one_row():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    found = audit(model)
    assert [row.name for row in found.rows] == ["0.weight", "0.bias", "1.bias"]
    assert found.n_parameters() == 9 + 3 + 3


def test_frame_has_a_row_per_tensor():
    frame = audit(block()).frame()
    assert list(frame.columns) == ["name", "kind", "shape", "numel", "status"]
    assert frame.set_index("name").loc["3.weight", "numel"] == 8
    assert len(frame) == 8


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_the_vectors_of_spectral_normalisation_drift_below_a_frozen_weight(norm):
    torch.manual_seed(0)
    model = nn.Sequential(norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    assert audit(model).drifting == ()  # they are of a layer that learns
    model[0].requires_grad_(False)
    said, before = audit(model).drifting, snapshot(model)
    for _ in range(3):
        model(torch.randn(5, 4))
    assert len(said) == 2
    assert changed(model, before) == said
    freeze(model[0])
    assert audit(model.train()).drifting == ()


class Centred(nn.Module):
    """A layer of one's own, with a statistic under a name of its own, and one of a usual name."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("middle", torch.zeros(4))
        self.register_buffer("running_scale", torch.ones(4))
        self.register_buffer("constant", torch.ones(4))

    def forward(self, x):
        if self.training:
            self.middle.lerp_(x.mean(0), 0.1)
            self.running_scale.lerp_(x.std(0), 0.1)
            torch.rand(1)
        x.mul_(1.0)  # in place: the caller's batch must not be it
        return self.weight * (x - self.middle) / self.running_scale


def test_with_a_batch_it_sees_whatever_moves_and_leaves_all_as_it_was():
    torch.manual_seed(0)
    model = nn.Sequential(Centred(), nn.Dropout(0.5), nn.BatchNorm1d(4)).eval()
    model[0].requires_grad_(False)
    assert audit(model).drifting == ("0.running_scale",)  # a name is all it has to go by
    x = torch.randn(8, 4)
    version, before, random = x._version, snapshot(model), torch.get_rng_state()
    found = audit(model, inputs=x)
    assert found.drifting == ("0.middle", "0.running_scale")
    assert "0.constant" in found.frozen
    assert "2.running_mean" in found.trainable
    assert changed(model, before) == ()
    assert torch.equal(torch.get_rng_state(), random)
    assert x._version == version
    assert not any(layer.training for layer in model.modules())
    with pytest.raises(RuntimeError):
        audit(model, inputs=torch.randn(8, 5))
    assert changed(model, before) == ()
    with pytest.raises(TypeError, match="inputs must be a torch.Tensor, a batch, got list"):
        audit(model, inputs=[x])


def test_a_parameter_that_the_forward_pass_moves_drifts():
    class Average(nn.Module):
        def __init__(self):
            super().__init__()
            self.mean = nn.Parameter(torch.zeros(4), requires_grad=False)

        def forward(self, x):
            self.mean.lerp_(x.mean(0), 0.1)
            return x - self.mean

    assert audit(Average()).drifting == ()
    assert audit(Average(), inputs=torch.randn(8, 4)).drifting == ("mean",)


def test_text_says_what_to_do_about_drift():
    model = block()
    assert "freeze(part)" not in str(audit(model))
    model.requires_grad_(False)
    assert "3 tensors look frozen and will move: tlcourse.finetuning.freeze" in str(audit(model))


def test_changed_sees_every_byte():
    model = nn.BatchNorm1d(3)
    model.register_buffer("constant", torch.tensor([0.0, float("nan")]), persistent=False)
    before = snapshot(model)
    assert changed(model, before) == ()
    with torch.no_grad():
        model.constant[0] = -0.0
        model.bias[1] = torch.nextafter(model.bias[1], torch.tensor(1.0))
    assert changed(model, before) == ("bias", "constant")
    assert changed(copy.deepcopy(model).half(), before) != ()


def test_changed_refuses_another_network():
    with pytest.raises(ValueError, match="another network: only one of the two has bias"):
        changed(nn.Linear(2, 2, bias=False), snapshot(nn.Linear(2, 2)))


def test_bad_input():
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got list"):
        audit([nn.Linear(1, 1)])
    model = nn.Linear(1, 1)
    with pytest.raises(TypeError, match="optimizer must be a torch.optim.Optimizer, got str"):
        audit(model, "SGD")
    with pytest.raises(ValueError, match="status is 'frosen'.*Did you mean 'frozen'"):
        audit(model).n_parameters("frosen")
    with pytest.raises(ValueError, match="under is 'head': no tensor lies there.*'weight', 'bias'"):
        audit(model).n_parameters(under="head")


def test_layers_that_libraries_freeze_are_known():
    from timm.utils import freeze as timm_freeze
    from torchvision.ops import FrozenBatchNorm2d

    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), FrozenBatchNorm2d(2))
    assert audit(model[2]).drifting == ()
    timm_freeze(model, ["0", "1"])
    before = snapshot(model)
    model.train()(torch.rand(4, 1, 5, 5))
    assert changed(model, before) == ()
    assert audit(model).drifting == ()
