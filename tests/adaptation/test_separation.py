import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tlcourse.adaptation import (
    DSN,
    difference_loss,
    mmd2,
    reversal_schedule,
    scale_invariant_error,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.equation("eq-simse")
def test_the_error_is_its_formula_and_the_variance_of_the_differences():
    image, made = draw(3, 2, 4), draw(3, 2, 4, seed=1)
    d = (made - image).flatten(1).numpy()
    k = d.shape[1]
    by_hand = [(row**2).sum() / k - row.sum() ** 2 / k**2 for row in d]
    assert scale_invariant_error(made, image).item() == pytest.approx(np.mean(by_hand))
    assert scale_invariant_error(made, image).item() == pytest.approx(d.var(1).mean())


def test_a_common_offset_costs_nothing_where_the_other_sign_doubles_it():
    image = draw(4, 9)
    offset = torch.tensor([[1.0], [-2.0], [0.5], [3.0]], dtype=torch.float64)
    assert scale_invariant_error(image + offset, image).item() == pytest.approx(0, abs=1e-14)
    wrong_sign = 2 * offset.square().mean()  # |d|^2 / k + (sum d)^2 / k^2
    assert wrong_sign > 1


@pytest.mark.equation("eq-difference")
def test_the_difference_is_the_frobenius_norm_of_centred_rows_of_length_1():
    shared, private = draw(6, 3), draw(6, 4, seed=1)

    def rows(codes):
        centred = codes.numpy() - codes.numpy().mean(0)
        return centred / np.linalg.norm(centred, axis=1, keepdims=True)

    want = np.linalg.norm(rows(shared).T @ rows(private), "fro") ** 2
    assert difference_loss(shared, private).item() == pytest.approx(want)


def test_constant_codes_are_not_alike_and_have_a_gradient_of_0():
    shared = torch.ones(4, 3, requires_grad=True)
    private = torch.full((4, 2), 5.0, requires_grad=True)
    loss = difference_loss(shared, private)
    assert loss.item() == 0
    for slope in torch.autograd.grad(loss, (shared, private)):
        assert torch.equal(slope, torch.zeros_like(slope))


def test_the_gradient_goes_through_the_length_of_a_row():
    pair = draw(4, 3).requires_grad_(), draw(4, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(difference_loss, pair)
    assert torch.autograd.gradcheck(
        scale_invariant_error, (draw(3, 4).requires_grad_(), draw(3, 4, seed=1).requires_grad_())
    )


def test_scaling_a_code_of_mean_0_changes_nothing():
    shared, private = draw(6, 3), draw(6, 3, seed=1)
    assert difference_loss(5 * shared, private).item() == pytest.approx(
        difference_loss(shared, private).item()
    )


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: scale_invariant_error(draw(2, 3), draw(2, 4)), ValueError, "same shape"),
        (lambda: scale_invariant_error(draw(3), draw(3)), ValueError, r"shape \(N, \.\.\.\)"),
        (lambda: scale_invariant_error(draw(2, 3), draw(2, 3).int()), TypeError, "image must hold"),
        (
            lambda: scale_invariant_error(draw(2, 3), draw(2, 3) * math.nan),
            ValueError,
            "image contains NaN",
        ),
        (lambda: difference_loss(draw(1, 3), draw(1, 3)), ValueError, "at least 2 samples"),
        (lambda: difference_loss(draw(4, 3), draw(5, 3)), ValueError, "the same samples"),
        (lambda: difference_loss(draw(4, 3) * math.nan, draw(4, 3)), ValueError, "shared contains"),
    ],
)
def test_bad_input_is_named(call, error, said):
    with pytest.raises(error, match=said):
        call()


# --- the network ----------------------------------------------------------------------------------


def encoder(n_features=3):
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, n_features))
    net.n_features = n_features
    return net


def network(seed=0, private_features=3, **settings):
    torch.manual_seed(seed)
    return DSN(
        encoder(),
        2,
        torch.rand(20, 1, 2, 2),
        private=(encoder(private_features), encoder(private_features)),
        decoder=nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (1, 2, 2))),
        **{"steps": 100} | settings,
    )


X, Y = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(5)), torch.arange(8) % 2


@pytest.mark.equation("eq-dsn")
@pytest.mark.parametrize("similarity", ["dann", "mmd"])
def test_the_loss_is_the_sum_of_its_terms(similarity):
    weights = {"reconstruction_weight": 0.3, "difference_weight": 0.2, "weight": 0.7}
    model = network(similarity=similarity, **weights)
    model.step.fill_(40)
    torch.manual_seed(1)
    loss = model.eval().loss((X, Y))
    torch.manual_seed(1)
    x_ = model.target[torch.randint(20, (8,))]
    c, c_ = model.backbone(X), model.backbone(x_)
    p, p_ = model.private_source(X), model.private_target(x_)
    by_hand = F.cross_entropy(model.head(c), Y)
    for made, image in ((c + p, X), (c_ + p_, x_)):  # one decoder, of the sum
        by_hand = by_hand + 0.3 * scale_invariant_error(model.decoder(made), image)
    by_hand = by_hand + 0.2 * (difference_loss(c, p) + difference_loss(c_, p_))
    if similarity == "mmd":
        median = torch.pdist(torch.cat([c, c_])).square().median().item()
        alike = mmd2(c, c_, [median * s for s in (0.25, 0.5, 1, 2, 4)])
    else:
        logits = model.domain(torch.cat([c, c_])).squeeze(1)
        alike = F.binary_cross_entropy_with_logits(logits, (torch.arange(16) < 8).float())
    assert loss.item() == pytest.approx((by_hand + 0.7 * alike).item(), rel=1e-5)


def test_all_three_terms_set_in_at_one_step():
    model = network(start=3, reconstruction_weight=1.0, weight=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    parts = {
        "private": [*model.private_source.parameters(), *model.private_target.parameters()],
        "decoder": [*model.decoder.parameters()],
        "domain": [*model.domain.parameters()],
    }
    begun = {}
    for step in range(5):
        optimizer.zero_grad()
        model.loss((X, Y)).backward()
        for name, its in parts.items():
            if any(p.grad.abs().sum() > 0 for p in its):
                begun.setdefault(name, step)
        optimizer.step()
    assert begun == dict.fromkeys(parts, 3)
    assert model.step.item() == 5


def test_the_strength_of_the_reversal_by_value():
    model = network(steps=100, start=20)
    for step, done in ((0, 0.0), (20, 0.0), (21, 1 / 80), (60, 0.5), (100, 1.0), (500, 1.0)):
        model.step.fill_(step)
        assert model.strength().item() == pytest.approx(reversal_schedule(done), abs=1e-6)
    model.step.fill_(21)
    assert model.strength().item() == pytest.approx(0.0624, abs=1e-4)  # not .9999, as once written


def test_only_training_counts_as_a_step():
    model = network()
    model.eval().loss((X, Y))
    assert model.step.item() == 0
    model.train().loss((X, Y))
    assert model.step.item() == 1


def test_the_similarity_reaches_the_shared_encoder_reversed():
    model = network(reconstruction_weight=0.0, difference_weight=0.0, weight=1.0)
    model.step.fill_(100)
    torch.manual_seed(1)
    x_ = model.draw(X)
    c, c_ = model.backbone(X), model.backbone(x_)
    (slope,) = torch.autograd.grad(model.alignment((c, c), (c_, c_)), c)
    d = c.detach().requires_grad_()
    logits = model.domain(torch.cat([d, c_.detach()])).squeeze(1)
    plain = F.binary_cross_entropy_with_logits(logits, (torch.arange(16) < 8).float())
    torch.testing.assert_close(slope, -torch.autograd.grad(plain, d)[0], rtol=1e-3, atol=1e-7)


def test_each_domain_has_an_encoder_of_its_own():
    model = network(weight=0.0)
    seen = []
    model.private_source.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    model.private_target.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    model.loss((X, Y))
    assert torch.equal(seen[0], X)
    assert all((row == model.target).flatten(1).all(1).any() for row in seen[1])
    shared = encoder()
    with pytest.raises(ValueError, match="neither one another nor the backbone"):
        DSN(shared, 2, X, private=(shared, encoder()), decoder=nn.Identity(), steps=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 0}, "steps"),
        ({"start": 100}, "start"),
        ({"similarity": "coral"}, "similarity"),
        ({"reconstruction_weight": -1.0}, "reconstruction_weight"),
        ({"difference_weight": -1.0}, "difference_weight"),
    ],
)
def test_what_the_network_refuses(settings, said):
    with pytest.raises(ValueError, match=said):
        network(**settings)


def test_codes_of_another_length_are_named():
    with pytest.raises(ValueError, match=r"codes like the backbone's, \(8, 3\), got \(8, 5\)"):
        network(private_features=5).loss((X, Y))
