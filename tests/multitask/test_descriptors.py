"""Descriptors: bins of equal mass, histograms, and their symmetric Kullback-Leibler distance."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tlcourse.models import SmallResNet
from tlcourse.multitask import (
    BinEdges,
    ConvBank,
    GaborBank,
    describe,
    fit_bin_edges,
    histogram_distance,
)
from tlcourse.multitask.descriptors import EPSILON


class Pixels:
    """A bank of two filters: the image itself, and three times it."""

    n_filters, key = 2, "pixels"

    def __call__(self, images):
        from tlcourse.multitask import Responses

        return Responses((images, 3 * images), self.key)


def histograms(n, filters=3, bins=6, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    raw = torch.rand(n, filters, bins, dtype=torch.float64, generator=generator) ** 3
    return raw / raw.sum(-1, keepdim=True)


@pytest.mark.equation("eq-bin-edges")
def test_edges_are_numpy_s_quantiles():
    maps = [torch.randn(5, 2, 6, 6), torch.randn(5, 3, 4, 4)]
    edges = fit_bin_edges(maps, bins=10)
    assert edges.bins == 10
    assert edges.values.shape == (5, 9)
    levels = np.arange(1, 10) / 10
    expected = [np.quantile(m[:, f].numpy(), levels) for m in maps for f in range(m.shape[1])]
    np.testing.assert_allclose(edges.values.numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.equation("eq-bin-edges")
def test_every_bin_has_the_same_mass_on_the_source():
    images = torch.randn(50, 1, 8, 8).exp()  # a long tail, which equally wide bins would not cut
    phi = describe(images, Pixels(), fit_bin_edges(Pixels()(images), bins=16))
    torch.testing.assert_close(phi.mean(0), torch.full((2, 16), 1 / 16), rtol=0, atol=2e-3)


@pytest.mark.equation("eq-descriptor")
def test_a_histogram_counts_and_is_divided_by_the_positions():
    images = torch.tensor([[0.1, 0.2, 0.6, 0.9], [0.6, 0.6, 0.6, 0.6]]).view(2, 1, 2, 2)
    edges = BinEdges(torch.tensor([[0.15, 0.5], [0.5, 2.0]]))
    phi = describe(images, Pixels(), edges)
    expected = torch.tensor(
        [
            [[1, 1, 2], [1, 2, 1]],  # 0.3, 0.6, 1.8, 2.7 for the second filter
            [[0, 0, 4], [0, 4, 0]],
        ]
    )
    torch.testing.assert_close(phi, expected / 4)


def test_outliers_fall_into_the_bins_at_the_ends():
    source = torch.rand(20, 1, 4, 4)
    edges = fit_bin_edges(Pixels()(source), bins=5)
    phi = describe(torch.tensor([-1e6, 1e6]).view(2, 1, 1, 1), Pixels(), edges)
    assert phi[:, 0].tolist() == [[1, 0, 0, 0, 0], [0, 0, 0, 0, 1]]


def test_equal_responses_share_a_bin():
    images = torch.zeros(4, 1, 4, 4)
    phi = describe(images, Pixels(), fit_bin_edges(Pixels()(images), bins=4))
    assert (phi.max(-1).values == 1).all()
    assert torch.equal(phi[0], phi[3])


def test_batches_change_nothing():
    bank = ConvBank(SmallResNet(10), ["backbone.stem.0", "backbone.stage2.conv1"])
    images = torch.rand(11, 1, 32, 32)
    edges = fit_bin_edges(bank(images), bins=12)
    phi = describe(images, bank, edges)
    assert phi.shape == (11, 48, 12)
    torch.testing.assert_close(phi.sum(-1), torch.ones(11, 48))
    assert torch.equal(phi, describe(images, bank, edges, batch_size=4))


def test_trap_a_mirrored_image_has_another_descriptor():
    """A diagonal edge mirrored is another orientation: the image would not find itself."""
    edge = torch.triu(torch.ones(24, 24)).view(1, 1, 24, 24)
    bank = GaborBank(orientations=4, wavelengths=(5.0,))
    edges = fit_bin_edges(bank(torch.rand(20, 1, 24, 24)), bins=10)
    once, again = describe(edge, bank, edges), describe(edge, bank, edges)
    assert torch.equal(once, again)
    mirrored = describe(edge.flip(-1), bank, edges)
    assert histogram_distance(once, again).item() < 1e-6
    assert histogram_distance(once, mirrored).item() > 0.1


@pytest.mark.equation("eq-histogram-distance")
def test_the_distance_written_out():
    a, b = histograms(3), histograms(4, seed=1)
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    d = histogram_distance(a, b, w, epsilon=1e-3)
    smooth = [(x + 1e-3) / (x + 1e-3).sum(-1, keepdim=True) for x in (a, b)]
    for i in range(3):
        for j in range(4):
            expected = 0.0
            for f in range(3):
                p, q = smooth[0][i, f], smooth[1][j, f]
                kl = (p * (p / q).log()).sum() + (q * (q / p).log()).sum()
                expected += w[f].item() * 0.5 * kl.item()
            assert d[i, j].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.equation("eq-histogram-distance")
def test_the_distance_against_torch_s_divergence():
    a, b = histograms(1), histograms(1, seed=1)
    p, q = ((x + EPSILON) / (1 + 6 * EPSILON) for x in (a, b))
    kl = torch.nn.functional.kl_div
    both = kl(q.log(), p, reduction="none") + kl(p.log(), q, reduction="none")
    expected = 0.5 * both.sum(-1).mean()  # weights of 1 / F unless given
    assert histogram_distance(a, b).item() == pytest.approx(expected.item(), rel=1e-10)


def test_the_distance_is_symmetric_and_0_only_to_itself():
    a = histograms(8)
    d = histogram_distance(a, a)
    torch.testing.assert_close(d, d.mT)
    assert d.diagonal().max() < 1e-12
    assert (d + torch.eye(8)).min() > 1e-3


def test_an_empty_bin_is_finite_and_counts_more_for_a_smaller_epsilon():
    a = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    b = torch.tensor([[[0.5, 0.5]]], dtype=torch.float64)
    d = [histogram_distance(a, b, epsilon=e).item() for e in (1e-2, 1e-4, 1e-8)]
    assert d[0] < d[1] < d[2] < 100
    assert histogram_distance(a, b, epsilon=1e6).item() == pytest.approx(0, abs=1e-6)


def test_a_weight_of_0_leaves_a_filter_out():
    a, b = histograms(2), histograms(2, seed=1)
    w = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        histogram_distance(a, b, w), histogram_distance(a[:, :1], b[:, :1], w[:1])
    )


@pytest.mark.parametrize(
    ("responses", "bins", "error", "message"),
    [
        (torch.rand(2, 1, 2, 2), 1, ValueError, "bins must be at least 2"),
        (torch.rand(2, 1, 2, 2), 9, ValueError, "has 8 values for 9 bins: take fewer"),
        (torch.rand(2, 2, 2), 4, ValueError, r"responses\[0\] must have shape \(N, F, H, W\)"),
        ([], 4, ValueError, "responses is empty"),
        (torch.full((2, 1, 4, 4), float("nan")), 4, ValueError, r"responses\[0\] contains NaN"),
    ],
)
def test_bad_responses(responses, bins, error, message):
    with pytest.raises(error, match=message):
        fit_bin_edges(responses, bins=bins)


def test_edges_of_another_bank():
    images = torch.rand(8, 1, 32, 32)
    conv, gabor = ConvBank(SmallResNet(10), ["backbone.stem.0"]), GaborBank()
    with pytest.raises(ValueError, match="edges are those of another bank .* fit them on its own"):
        describe(images, conv, fit_bin_edges(gabor(images), bins=8))
    # As many filters, but other weights.
    other = ConvBank(SmallResNet(10), ["backbone.stem.0"])
    with pytest.raises(ValueError, match="edges are those of another bank"):
        describe(images, conv, fit_bin_edges(other(images), bins=8))
    # The same network, trained further.
    edges = fit_bin_edges(conv(images), bins=8)
    conv.model.backbone.stem[0].weight.data.mul_(1.1)
    with pytest.raises(ValueError, match="edges are those of another bank"):
        describe(images, conv, edges)
    with pytest.raises(TypeError, match="edges must come from fit_bin_edges, got Tensor"):
        describe(images, conv, torch.rand(16, 7))


def test_trap_descriptors_of_another_bank_with_as_many_filters_and_bins():
    images, layers = torch.rand(6, 1, 32, 32), ["backbone.stem.0"]
    bank, other = ConvBank(SmallResNet(10), layers), ConvBank(SmallResNet(10), layers)
    edges = fit_bin_edges(bank(images), bins=8)
    a = describe(images, bank, edges)
    again = describe(images[:2], bank, edges)
    assert histogram_distance(a, again).shape == (6, 2)
    b = describe(images, other, fit_bin_edges(other(images), bins=8))
    with pytest.raises(ValueError, match="a and b are descriptors of different banks, .*conv "):
        histogram_distance(a, b)
    c = describe(images, bank, fit_bin_edges(bank(images[:3]), bins=8))
    with pytest.raises(ValueError, match="or of one with different edges"):
        histogram_distance(a, c)
    # A slice has no mark, and is taken; so is a tensor from elsewhere.
    assert histogram_distance(a[:2], b).shape == (2, 6)
    assert histogram_distance(a, b.clone()).shape == (6, 6)


def test_the_mark_is_in_nobody_s_way(tmp_path):
    images, bank = torch.rand(4, 1, 16, 16), GaborBank(orientations=2, wavelengths=(4.0,))
    edges = fit_bin_edges(bank(images), bins=8)
    phi = describe(images, bank, edges)
    assert type(phi) is torch.Tensor
    torch.save(phi, tmp_path / "phi.pt")
    kept = torch.load(tmp_path / "phi.pt")
    assert torch.equal(kept, phi)
    assert kept.bank_key == phi.bank_key
    for other in (phi[1:], phi.double().float(), torch.cat([phi, phi]), torch.stack([*phi])):
        assert not hasattr(other, "bank_key")
        assert histogram_distance(phi, other).isfinite().all()


def test_epsilon_may_be_as_small_as_the_dtype_allows():
    a = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    assert histogram_distance(a, a.flip(-1), epsilon=1e-50).isfinite().all()
    with pytest.raises(ValueError, match="epsilon must be at least 1.17549e-38, got 1e-50"):
        histogram_distance(a.float(), a.float().flip(-1), epsilon=1e-50)
    assert histogram_distance(a.float(), a.float().flip(-1), epsilon=1.2e-38).isfinite().all()


def test_bad_images():
    bank = GaborBank()
    edges = fit_bin_edges(bank(torch.rand(8, 1, 32, 32)), bins=8)
    with pytest.raises(TypeError, match="neither mirrored nor cropped"):
        describe([torch.rand(1, 32, 32)], bank, edges)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        describe(torch.rand(1, 1, 32, 32), bank, edges, batch_size=0)


@pytest.mark.parametrize(
    ("b", "weights", "epsilon", "error", "message"),
    [
        (
            histograms(2, filters=4),
            None,
            1e-4,
            ValueError,
            "different banks: 3 filters with 6 bins",
        ),
        (histograms(2, bins=5), None, 1e-4, ValueError, "3 with 5"),
        (histograms(2).float(), None, 1e-4, TypeError, "a and b must have the same dtype"),
        (histograms(2) * 2, None, 1e-4, ValueError, "b must hold histograms that sum to 1"),
        (histograms(2) * float("nan"), None, 1e-4, ValueError, "b contains NaN"),
        (histograms(2)[0], None, 1e-4, ValueError, r"b must have shape \(N, F, bins\)"),
        (histograms(2), torch.ones(2), 1e-4, ValueError, "weights must be 3 numbers"),
        (histograms(2), -torch.ones(3), 1e-4, ValueError, "of at least 0"),
        (histograms(2), None, 0.0, ValueError, "epsilon must be greater than 0"),
    ],
)
def test_bad_descriptors(b, weights, epsilon, error, message):
    with pytest.raises(error, match=message):
        histogram_distance(histograms(2), b, weights, epsilon=epsilon)


def test_a_response_on_an_edge_belongs_to_the_bin_above():
    edges = BinEdges(torch.tensor([[0.25, 0.5], [0.75, 1.5]]))  # the second filter sees 3 x
    phi = describe(torch.tensor([0.25, 0.5]).view(2, 1, 1, 1), Pixels(), edges)
    assert phi.tolist() == [[[0, 1, 0], [0, 1, 0]], [[0, 0, 1], [0, 0, 1]]]


def test_descriptors_need_not_be_contiguous():
    phi = torch.rand(5, 4, 3).softmax(-1)
    turned = phi.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(histogram_distance(turned, turned), histogram_distance(phi, phi))
