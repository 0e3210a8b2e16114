import math

import numpy as np
import pytest
import torch

from tlcourse.adaptation import difference_loss, scale_invariant_error


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
