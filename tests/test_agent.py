"""The fused optimizer and the clipping of its gradients, which Lightning refuses in mixed precision."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import Gauge, quiet_trainer

from pd_lightning.agent import Agent, adam
from pd_lightning.datamodule import TeacherDatasets
from pd_lightning.distillation import PolicyDistillation


def largest_of_norm(gradients):
    return gradients.norm().item()


def largest_of_value(gradients):
    return gradients.abs().max().item()


MEASURES = {"norm": largest_of_norm, "value": largest_of_value}


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize(("algorithm", "measure"), MEASURES.items())
def test_a_students_gradients_are_clipped_as_the_trainer_is_told_in_every_precision(
    algorithm, measure, precision, datasets
):
    gauge = Gauge(measure)
    data = TeacherDatasets(str(datasets), batch_size=64, threads=1)
    trainer = quiet_trainer(max_steps=3, callbacks=[gauge], precision=precision, gradient_clip_val=1e-6,
                            gradient_clip_algorithm=algorithm, limit_val_batches=0)  # fmt: skip
    trainer.fit(PolicyDistillation(data.actions, "net3"), datamodule=data)
    assert gauge.sizes
    assert max(gauge.sizes) == pytest.approx(1e-6, rel=1e-2)


class Line(Agent):
    """One weight, and as much of a trainer as clipping asks for."""

    trainer: Any = None

    def __init__(self, scaler):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.trainer = SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_that_were_scaled_for_float16_are_clipped_as_they_are_without_the_scale(algorithm, fused):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    line = Line(scaler)
    optimizer = adam(line.parameters(), 0.1) if fused else torch.optim.SGD(line.parameters(), 0.1)
    scaler.scale(3 * line.weight.sum()).backward()
    if not fused:  # as Lightning does, of those that cannot themselves
        scaler.unscale_(optimizer)
    line.configure_gradient_clipping(optimizer, 2.0, algorithm)
    assert line.weight.grad is not None
    assert line.weight.grad.item() == pytest.approx(2.0)
    scaler.step(optimizer)  # and the step does not unscale them again: Adam's second one would be as long as the first
    scaler.update()
    state = optimizer.state[line.weight]
    assert not fused or state["exp_avg"].item() == pytest.approx(0.2)


@pytest.mark.parametrize("most", [None, 0, 0.0])
def test_without_a_bound_gradients_stay_as_they_are(most):
    line = Line(None)
    (3 * line.weight).sum().backward()
    line.configure_gradient_clipping(adam(line.parameters(), 0.1), most, "norm")
    assert line.weight.grad is not None
    assert line.weight.grad.item() == 3


def test_the_usual_optimizer_takes_one_pass():
    module = PolicyDistillation({"pong": 6}, "net3")
    module.trainer = SimpleNamespace(estimated_stepping_batches=10)  # pyright: ignore[reportAttributeAccessIssue]
    assert module.configure_optimizers()["optimizer"].defaults["fused"] is True
