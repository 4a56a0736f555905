"""The losses against scipy in float64, and against what the paper's formulas promise."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax

from pd_lightning.losses import LOSSES, kl, mse, nll

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def batch(scale=1.0, states=8, actions=6, seed=0):
    """Random student outputs and teacher Q-values; the gaps between the Q-values are a few hundredths times `scale`."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(states, actions))
    q = 0.8 + 0.02 * scale * rng.normal(size=(states, actions))
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(q, dtype=torch.float32)


def float64(*tensors):
    return [tensor.double().numpy() for tensor in tensors]


def kl_by_scipy(logits, q, temperature):
    z, q = float64(logits, q)
    return rel_entr(softmax(q / temperature, axis=1), softmax(z, axis=1)).sum(axis=1).mean()


@pytest.mark.parametrize("temperature", [0.01, 0.1, 1.0, 10.0])
def test_kl_is_scipys_relative_entropy_of_the_sharpened_teacher_to_the_student(temperature):
    logits, q = batch()
    assert kl(logits, q, temperature).item() == pytest.approx(kl_by_scipy(logits, q, temperature), rel=1e-5)


def test_nll_is_scipys_log_softmax_at_the_teachers_best_action():
    logits, q = batch()
    z, q64 = float64(logits, q)
    expected = -log_softmax(z, axis=1)[np.arange(len(z)), q64.argmax(axis=1)].mean()
    assert nll(logits, q).item() == pytest.approx(expected, rel=1e-6)


def test_mse_is_the_squared_distance_summed_over_actions_and_averaged_over_the_batch():
    logits, q = batch()
    z, q64 = float64(logits, q)
    assert mse(logits, q).item() == pytest.approx((np.linalg.norm(z - q64, axis=1) ** 2).mean(), rel=1e-6)


def test_the_default_temperature_is_the_papers():
    logits, q = batch()
    assert kl(logits, q) == kl(logits, q, temperature=0.01)


def test_kl_is_zero_when_the_policies_agree():
    _, q = batch()
    assert kl(q / 0.01 - 3.0, q, 0.01).item() == pytest.approx(0.0, abs=1e-5)


def test_nll_is_zero_when_the_student_is_sure_of_the_best_action():
    _, q = batch()
    sure = 100.0 * torch.nn.functional.one_hot(q.argmax(1), q.shape[1])
    assert nll(sure, q).item() == 0.0


def test_mse_is_zero_when_the_outputs_are_the_q_values():
    _, q = batch()
    assert mse(q, q).item() == 0.0


def test_the_temperature_divides_the_teachers_side_alone():
    logits, q = batch()
    divided_by_hand = kl(logits, q / 0.05, temperature=1.0).item()
    assert kl(logits, q, temperature=0.05).item() == pytest.approx(divided_by_hand, rel=1e-4)
    assert kl(logits / 0.05, q, temperature=0.05).item() != pytest.approx(divided_by_hand, rel=0.1)


@pytest.mark.parametrize("loss", [nll, mse])
def test_nll_and_mse_do_not_depend_on_the_temperature(loss):
    logits, q = batch()
    assert loss(logits, q, temperature=0.01) == loss(logits, q, temperature=7.0)


@every_loss
def test_duplicating_the_batch_changes_nothing(loss):
    logits, q = batch()
    assert loss(logits.repeat(3, 1), q.repeat(3, 1)).item() == pytest.approx(loss(logits, q).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [kl, nll])
def test_a_constant_added_to_either_side_changes_no_policy(loss):
    logits, q = batch()
    assert loss(logits + 5.0, q + 0.25).item() == pytest.approx(loss(logits, q).item(), rel=1e-4)


def test_kl_tends_to_nll_as_the_temperature_falls_to_zero():
    logits, _ = batch()
    rng = np.random.default_rng(1)
    q = torch.tensor(rng.permuted(np.tile(np.arange(6) * 0.02, (8, 1)), axis=1), dtype=torch.float32)  # gaps of 0.02
    differences = [abs(kl(logits, q, t).item() - nll(logits, q).item()) for t in (0.1, 0.02, 0.005, 0.001)]
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 1e-6


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_loss_and_gradient_are_finite_with_q_values_in_the_hundreds_at_the_papers_temperature(loss, dtype):
    logits, q = batch(scale=1e4)  # Q-values of some hundreds, so differences of tens of thousands after the division
    logits = (100.0 * logits).to(dtype).requires_grad_()
    value = loss(logits, q)
    value.backward()
    assert torch.isfinite(value)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_small_gaps_between_large_q_values_are_not_rounded_away():
    logits, gaps = batch()
    q = 300.0 + gaps
    assert kl(logits, q).item() == pytest.approx(kl_by_scipy(logits, q, 0.01), rel=1e-5)
    divided_first = kl(logits, q / 0.01, temperature=1.0).item()  # the shortcut that this test is here to refuse
    assert divided_first != pytest.approx(kl_by_scipy(logits, q, 0.01), rel=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_a_float32_scalar_computed_in_float32_from_any_dtype(loss, dtype):
    logits, q = batch()
    logits = logits.to(dtype)
    value = loss(logits, q)
    assert (value.dtype, value.shape) == (torch.float32, torch.Size([]))
    assert value == loss(logits.float(), q)


@every_loss
def test_autocast_does_not_lower_the_precision(loss):
    logits, q = batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = loss(logits, q)
    assert under_autocast.dtype == torch.float32
    assert under_autocast == loss(logits, q)


def gradient_by_hand(name, logits, q, temperature):
    z, q = float64(logits, q)
    if name == "mse":
        return 2 * (z - q) / len(z)
    target = softmax(q / temperature, axis=1) if name == "kl" else np.eye(q.shape[1])[q.argmax(axis=1)]
    return (softmax(z, axis=1) - target) / len(z)


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_formulas_and_none_reaches_the_teacher(name):
    logits, q = batch()
    expected = gradient_by_hand(name, logits, q, 0.01)
    logits.requires_grad_()
    q.requires_grad_()
    LOSSES[name](logits, q, temperature=0.01).backward()
    assert logits.grad is not None
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-6)
    assert q.grad is None


@every_loss
def test_no_value_leaves_the_device(loss):
    """Tensors of the meta device have no values: reading one (a wait for the GPU) would raise."""
    value = loss(torch.empty(4, 6, device="meta"), torch.empty(4, 6, device="meta"))
    assert value.device.type == "meta"


@every_loss
@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 6), (4, 3)), ((4, 6), (1, 6)), ((4, 6), (6,)), ((6,), (6,)), ((0, 6), (0, 6))]
)
def test_shapes_that_would_broadcast_or_average_nothing_are_refused_by_name(loss, student, teacher):
    with pytest.raises(ValueError, match=r"student_logits and teacher_q must both have the shape \[B, A\].*got \["):
        loss(torch.zeros(student), torch.zeros(teacher))


@every_loss
@pytest.mark.parametrize("temperature", [0.0, -0.01, float("nan")])
def test_a_temperature_that_is_not_positive_is_refused_by_every_loss(loss, temperature):
    logits, q = batch()
    with pytest.raises(ValueError, match="temperature must be positive, got"):
        loss(logits, q, temperature=temperature)


def test_the_table_names_the_papers_three_losses():
    assert list(LOSSES.items()) == [("kl", kl), ("nll", nll), ("mse", mse)]
