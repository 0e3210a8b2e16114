"""SpotTune on residual networks: which blocks are routed, and where the two copies are mixed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import relu

from tlcourse.adaptive import SpotTuneResNet
from tlcourse.models import SmallResNet, WideResNet


def maps(n, channels, size=8):
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def apart(block):
    with torch.no_grad():
        for p in block.tuned.parameters():
            p += 0.3 * torch.randn_like(p)
    return block.eval()


def test_each_block_has_a_decision():
    small = SpotTuneResNet.from_pretrained(SmallResNet(4, width=4), 3)
    assert small.n_decisions == 4
    wide = SpotTuneResNet.from_pretrained(WideResNet(16, 1, 4), 3)
    kinds = [type(block.tuned).__name__ for block in wide.blocks]
    assert kinds == ["Conv2d", *["_Block"] * 6, "BatchNorm2d"]
    assert wide.agent.head.out_features == 16


@pytest.mark.equation("eq-spottune-residual")
def test_in_a_wide_resnet_the_block_is_the_papers_equation_for_soft_decisions_too():
    torch.manual_seed(0)
    block = apart(SpotTuneResNet.from_pretrained(WideResNet(16, 1, 4), 3).blocks[2])
    x, d = maps(5, 16), torch.rand(5, 1)
    assert block.tuned.shortcut is None
    i = d[..., None, None]
    expected = i * (block.tuned(x) - x) + (1 - i) * (block.frozen(x) - x) + x
    torch.testing.assert_close(block.mixed(x, d), expected)


def test_in_a_small_resnet_the_copies_are_mixed_after_the_relu():
    torch.manual_seed(0)
    block = apart(SpotTuneResNet.from_pretrained(SmallResNet(4, width=8), 3).blocks[1])
    x = maps(5, 8)

    def beside(copy):
        return copy.bn2(copy.conv2(relu(copy.bn1(copy.conv1(x)))))

    def before(i):
        return relu(i * beside(block.tuned) + (1 - i) * beside(block.frozen) + x)

    def after(i):
        return i * relu(beside(block.tuned) + x) + (1 - i) * relu(beside(block.frozen) + x)

    hard = torch.tensor([[1.0], [0.0], [0.0], [1.0], [1.0]])
    soft = torch.full((5, 1), 0.5)
    for d in (hard, soft):
        i = d[..., None, None]
        torch.testing.assert_close(block.mixed(x, d), after(i))
        same = torch.allclose(after(i), before(i), atol=1e-6)
        assert same == (d is hard)


def test_a_shortcut_with_weights_belongs_to_both_copies():
    for source in (SmallResNet(4, width=4), WideResNet(10, 1, 4)):
        model = SpotTuneResNet.from_pretrained(source, 3)
        names = {n for n, _ in model.blocks.named_parameters() if "shortcut" in n}
        assert len({n for n in names if ".frozen." in n}) == len(names) / 2 > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_the_agent_sees_the_sources_images(channels):
    model = SpotTuneResNet.from_pretrained(SmallResNet(4, in_channels=channels, width=4), 3)
    log_probs, decisions = model(torch.rand(2, channels, 32, 32))
    assert (log_probs.shape, decisions.shape) == ((2, 3), (2, 4))


def test_wrong_images():
    model = SpotTuneResNet.from_pretrained(SmallResNet(4, width=4), 3)
    for x, match in (
        (torch.rand(2, 3, 32, 32), r"\(N, 1, H, W\), got \(2, 3, 32, 32\)"),
        (torch.rand(2, 1, 4, 4), "at least 8 pixels"),
    ):
        with pytest.raises(ValueError, match=match):
            model(x)
        with pytest.raises(ValueError, match=match):
            model.classify(x, torch.ones(2, 4))


def test_a_training_step_compiles_as_one_graph():
    torch.manual_seed(0)
    model = SpotTuneResNet.from_pretrained(SmallResNet(4, width=2), 3).train()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    log_probs, decisions = compiled(torch.rand(4, 1, 16, 16))
    log_probs.sum().backward()
    assert decisions.shape == (4, 4)
    assert model.agent.head.weight.grad is not None
