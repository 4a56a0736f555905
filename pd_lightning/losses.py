"""The paper's three distillation losses, as functions that can be checked on paper.

For one state let q be the teacher's Q-values and z the student's outputs, both over the game's A actions.

========  ================================================================  ============================================
name      per state                                                         the student's outputs become
========  ================================================================  ============================================
`kl`      sum_a p_a log(p_a / softmax(z)_a),  p = softmax(q / temperature)  logits of the teacher's sharpened policy
`nll`     -log softmax(z)_b,  b = argmax(q)                                 logits of the teacher's best action
`mse`     sum_a (q_a - z_a)^2                                               Q-values, on the teacher's scale
========  ================================================================  ============================================

All have one signature and one result, a scalar: **the mean over the batch of the sum over actions**. They compute in
float32 whatever comes in (under autocast too), never send a gradient to the teacher, and look at shapes only: no value
leaves the device.

Source: Rusu et al., *Policy Distillation*, ICLR 2016 (arXiv 1511.06295), the three losses of single-game distillation.
Read there as sums over the dataset; here they are means over the batch, so the learning rate does not depend on its
size.
"""

from typing import Protocol

from torch import Tensor
from torch.nn import functional as F


class Loss(Protocol):
    """The signature that every loss has."""

    def __call__(self, student_logits: Tensor, teacher_q: Tensor, temperature: float = ...) -> Tensor:
        """Return the loss of a batch: a float32 scalar."""
        ...


def kl(student_logits: Tensor, teacher_q: Tensor, temperature: float = 0.01) -> Tensor:
    """Divergence of the student's policy from the teacher's sharpened one: KL(softmax(q / temperature) || softmax(z)).

    The temperature divides **the teacher's side alone**. Below 1 it sharpens: Q-values of one state lie close
    together, and at 1 their softmax would be nearly uniform. As it falls to 0 the loss becomes `nll` (where one action
    is strictly the best). The divergence is not symmetric: the teacher is the first distribution, the one that the
    expectation is under.

    Args:
        student_logits: the student's outputs, [B, A], any float dtype.
        teacher_q: the teacher's Q-values, float32 [B, A].
        temperature: what the teacher's Q-values are divided by; 0.01 in the paper.

    Returns:
        Mean over B of the sum over A: a float32 scalar, in nats; 0, to rounding, when the two policies agree.

    Raises:
        ValueError: the two are not of one shape [B, A], there is nothing in them, or the temperature is not positive.

    >>> from torch import tensor
    >>> q = tensor([[0.81, 0.80]])  # a gap of one temperature: p = softmax([1, 0]) = [0.731, 0.269]
    >>> print(f"{kl(tensor([[0.0, 0.0]]), q):.4f}")  # ln 2 less the entropy of p
    0.1109
    >>> print(f"{kl(tensor([[2.0, 0.0]]), q):.4f}")
    0.0826
    """
    student, teacher = _checked(student_logits, teacher_q, temperature)
    # The largest Q is taken off before the division: float32 keeps small gaps between large Q-values (300.00 and
    # 300.02), but not those between their hundredfold.
    advantages = teacher - teacher.amax(dim=1, keepdim=True)  # [B, A], at most 0
    log_p = F.log_softmax(advantages / temperature, dim=1)
    return F.kl_div(F.log_softmax(student, dim=1), log_p, reduction="batchmean", log_target=True)


def nll(student_logits: Tensor, teacher_q: Tensor, temperature: float = 0.01) -> Tensor:
    """Negative log-likelihood of the teacher's best action under the student's policy: -log softmax(z)[argmax q].

    A classifier's loss with the teacher's choice as the label: how much better that action is does not count, so a
    noisy choice between two nearly equal actions is learnt as if it were certain.

    Args:
        student_logits: the student's outputs, [B, A], any float dtype.
        teacher_q: the teacher's Q-values, float32 [B, A]; of several largest, one is the label.
        temperature: **not used** (a positive scale does not move the best action); here so that losses can be swapped.

    Returns:
        Mean over B: a float32 scalar, in nats.

    Raises:
        ValueError: the two are not of one shape [B, A], there is nothing in them, or the temperature is not positive.

    >>> from torch import tensor
    >>> print(f"{nll(tensor([[0.0, 0.0]]), tensor([[0.81, 0.80]])):.4f}")  # ln 2
    0.6931
    """
    student, teacher = _checked(student_logits, teacher_q, temperature)
    return F.cross_entropy(student, teacher.argmax(dim=1))


def mse(student_logits: Tensor, teacher_q: Tensor, temperature: float = 0.01) -> Tensor:
    """Squared distance between the student's outputs and the teacher's Q-values: ||q - z||^2.

    The name is the paper's: it is summed over the actions, not averaged, so A times `torch.nn.functional.mse_loss`. It
    keeps the scale of Q, and gives the small gaps that decide the action little weight.

    Args:
        student_logits: the student's outputs, here Q-values rather than logits, [B, A], any float dtype.
        teacher_q: the teacher's Q-values, float32 [B, A].
        temperature: **not used** (Q-values are compared as they are); here so that losses can be swapped.

    Returns:
        Mean over B of the sum over A: a float32 scalar, in squared units of Q.

    Raises:
        ValueError: the two are not of one shape [B, A], there is nothing in them, or the temperature is not positive.

    >>> from torch import tensor
    >>> mse(tensor([[1.0, 2.0], [0.0, 0.0]]), tensor([[1.0, 5.0], [0.0, 1.0]]))  # (9 + 1) / 2
    tensor(5.)
    """
    student, teacher = _checked(student_logits, teacher_q, temperature)
    return (teacher - student).square().sum(dim=1).mean()


LOSSES: dict[str, Loss] = {"kl": kl, "nll": nll, "mse": mse}
"""The losses by the names that `--model.loss` takes."""


def _checked(student_logits: Tensor, teacher_q: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Both sides in float32, the teacher without its history; refuses what would broadcast or be nan in silence."""
    if student_logits.ndim != 2 or student_logits.shape != teacher_q.shape or student_logits.numel() == 0:
        raise ValueError(
            "student_logits and teacher_q must both have the shape [B, A], with at least one state and one action, "
            f"got {list(student_logits.shape)} and {list(teacher_q.shape)}"
        )
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return student_logits.float(), teacher_q.detach().float()
