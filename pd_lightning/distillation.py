"""The student while it learns from a teacher's Q-values. No emulator in sight."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from lightning_utilities.core.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric

from pd_lightning.agent import Agent, adam
from pd_lightning.bounds import check_at_least
from pd_lightning.checkpoints import student_weights
from pd_lightning.losses import LOSSES, kl
from pd_lightning.networks import SIZES, Student
from pd_lightning.resuming import datamodule_of, to_python
from pd_lightning.streaming import Batch
from pd_lightning.temperature import calibrate, check

METRICS = ("agreement", "kl", "loss")


def share_of_rate(update: int, warmup: int, total: float) -> float:
    """What the learning rate is, of the highest: it rises for `warmup` updates and falls to zero after `total`."""
    rise = (update + 1) / (warmup + 1)
    fall = (total - update) / max(1, total - warmup)
    return max(0.0, min(1.0, rise, fall))


class PolicyDistillation(Agent):
    """A student, a loss and an optimizer (Rusu et al., ICLR 2016).

    Args:
        games: number of actions of each game, taken from the data.
        size: the student's size: dqn (the teacher's own), net1 (25% of its parameters), net2 (7%), net3 (4%), multi3
            or multi10.
        loss: kl (the teacher's sharpened policy), nll (its best action) or mse (its Q-values).
        temperature: divides the teacher's Q-values in kl, and only there; less than 1 sharpens. Auto is what gives the
            perplexity below on the recording, as games and teachers differ in the scale of their Q-values; or a number
            (0.01 in the paper); or one of both for each game, as {pong: 0.01, breakout: auto}.
        perplexity: between how many actions the sharpened teacher hesitates, on average, where the temperature is auto.
        learning_rate: the highest; it rises during the warm-up and then falls linearly to zero at the end of the run.
        warmup: updates until the learning rate is at its highest.
        weights: begin with another student's, a checkpoint or a run's folder, instead of with nothing: for other
            recordings, another loss or another learning rate. Size and games must be the same. The input stays centred
            as that student is used to.

    Raises:
        ValueError: a setting makes no sense.
        CheckpointError: the weights are missing, broken, or of another network.
    """

    def __init__(
        self,
        games: dict[str, int],
        size: str = "net1",
        loss: str = "kl",
        temperature: float | Literal["auto"] | dict[str, float | Literal["auto"]] = "auto",
        perplexity: float = 2.0,
        learning_rate: float = 3e-3,
        warmup: int = 100,
        weights: str | None = None,
        _class_path: str = "",  # of a checkpoint: see `name_class`; a subclass that takes anything hands it on
    ) -> None:
        super().__init__()
        if not isinstance(games, Mapping):
            raise ValueError(f"games is {games!r}: give the number of actions of each, a data module's `actions`")
        if size not in SIZES:
            raise ValueError(f"unknown size {size!r}: choose --model.size from {', '.join(SIZES)}")
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}: choose --model.loss from {', '.join(LOSSES)}")
        if not learning_rate > 0:
            raise ValueError(f"learning_rate is {learning_rate}: choose --model.learning_rate above 0")
        check_at_least(0, "--model.", warmup=warmup)
        games, temperature = to_python(games), to_python(temperature)
        self.given = check(temperature, games)  # a number or "auto" for each game
        self.temperatures = dict(self.given)
        perplexity, learning_rate, warmup = to_python(perplexity), to_python(learning_rate), to_python(warmup)
        self.save_hyperparameters(ignore=["weights", "_class_path"])  # a checkpoint has weights of its own
        seed = int(torch.randint(2**62, ()))
        with torch.random.fork_rng(devices=[]):  # else a teacher of its size and seed has begun with the same weights
            torch.manual_seed(seed)
            self.student: Any = self.build(games, size)
        if weights is not None:
            self.student.load_state_dict(student_weights(weights, self.student))
            self.begun = True
        self.loss, self.perplexity = loss, perplexity
        self.outputs = "q" if loss == "mse" else "logits"
        self.learning_rate, self.warmup = learning_rate, warmup
        self.validated_at = -1  # updates before the newest validation
        self._losses: dict[str, Tensor] = {}  # each game's newest: not every batch need hold every game
        self.metrics = nn.ModuleDict({game: nn.ModuleDict({name: MeanMetric() for name in METRICS}) for game in games})

    def build(self, games: dict[str, int], size: str) -> nn.Module:
        """The student. A subclass may build another.

        The constructor calls it: what a subclass needs here must be set before `super().__init__()`.

        It has `games`; `centre(game, mean, deviation)`, which takes the statistics of what it is going to see, as
        `Student.centre` does; and `forward({game: states})`, which gives {game: outputs}, floats [B, A].
        """
        return Student(games, size)

    def loss_of(self, game: str, outputs: Tensor, part: Batch) -> Tensor:
        """The loss of one game's states: a scalar, the mean over them. A subclass may compute another.

        If the outputs become something else by it, it also sets `self.outputs`: to "q", if they become Q-values, to
        "logits", if they become those of a policy.

        Args:
            game: the game.
            outputs: the student's, [B, A].
            part: what the teacher thought of the same states.
        """
        return LOSSES[self.loss](outputs, part.teacher_q, self.temperature(game))

    def setup(self, stage: str) -> None:
        """As of all agents, by the recordings.

        Raises:
            ValueError: numbers are too coarse to learn with, there is no data module, or only weights would come back.
        """
        if stage == "fit" and self.trainer.precision == "16-true":
            raise ValueError(
                "precision is 16-true, in which Adam divides by nothing: choose --trainer.precision 16-mixed, "
                "bf16-mixed or 32-true"
            )
        super().setup(stage)

    def on_fit_start(self) -> None:
        """A checkpoint, if there is one, is loaded by now: what it does not know comes from the data.

        Raises:
            ValueError: the loss makes no sense of what was recorded.
        """
        data = datamodule_of(self)
        self._heed(data)
        for game, outputs in data.outputs.items() if self.sharpens else ():
            aim = f", perplexity {self.perplexity:g}" if outputs == "q" and self.given[game] == "auto" else ""
            rank_zero_info(f"{game}: temperature {self.temperatures[game]:.4g}{aim}")

    def _heed(self, data: Any) -> None:
        """Takes the data's rules of play, and calibrates temperatures that are not known."""
        self.fire = data.fire_rules()
        for game, outputs in data.outputs.items():
            if outputs == "logits":
                self._accept_logits(game)
            elif self.given[game] == "auto" and self.temperatures[game] in ("auto", 1.0):  # 1: it learned logits before
                self.temperatures[game] = calibrate(data.teacher_q(game), self.perplexity, game)
        # Ranks that play live have seen different states, and must have one loss.
        self.temperatures = self.trainer.strategy.broadcast(self.temperatures)

    def _accept_logits(self, game: str) -> None:
        """Logits are a policy already: they are neither Q-values to repeat nor to be sharpened once more."""
        if self.outputs == "q":
            mine = f"loss is {self.loss}" if self.loss == "mse" else f"{type(self).__name__} learns Q-values"
            raise ValueError(
                f"{mine}, but the teacher of {game} was recorded with logits, not Q-values (PPO, A2C or a student): "
                "choose PolicyDistillation's --model.loss kl, with --model.temperature 1 or auto, or --model.loss nll"
            )
        if self.sharpens and self.given[game] not in (1, "auto"):
            raise ValueError(
                f"temperature is {self.given[game]}, but the teacher of {game} was recorded with logits, whose "
                "policy is that at 1 (smaller ones are for Q-values): choose --model.temperature 1 or auto, or "
                "--model.loss nll"
            )
        self.temperatures[game] = 1.0

    def on_train_start(self) -> None:
        """Logs the temperatures."""
        super().on_train_start()
        if "auto" in self.temperatures.values():  # Lightning's LearningRateFinder learns before a fit starts
            self._heed(datamodule_of(self))
        used = {game: value for game, value in self.temperatures.items() if value != "auto" and self.sharpens}
        for logger in self.loggers if used else ():
            logger.log_metrics({f"temperature/{game}": value for game, value in used.items()}, self.global_step)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the temperatures, which a test could not calibrate again, and what the outputs are, and whose."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["temperatures"], network = dict(self.temperatures), type(self.student)
        checkpoint["outputs"], checkpoint["network"] = self.outputs, f"{network.__module__}.{network.__qualname__}"

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As it was saved, but for temperatures that were given."""
        super().on_load_checkpoint(checkpoint)
        known = {game: value for game, value in checkpoint["temperatures"].items() if self.given.get(game) == "auto"}
        self.temperatures = {**self.given, **known}

    @property
    def sharpens(self) -> bool:
        """Whether what is learned depends on the temperature: a loss of one's own, of Q-values, leaves `loss` at kl."""
        return self.loss == "kl" and self.outputs != "q"

    def temperature(self, game: str) -> float:
        """What divides the Q-values of a game's teacher.

        Raises:
            ValueError: it is auto, and there was no recording yet to calibrate it on.
        """
        value = self.temperatures[game]
        if value == "auto":
            raise ValueError(
                f"the temperature of {game} is auto: it is calibrated on the recording when a fit begins; to validate "
                "before that, give --model.temperature a number"
            )
        return value

    def forward(self, states: Tensor | Mapping[str, Tensor]) -> dict[str, Tensor]:
        """States uint8 [B, 4, 84, 84] of each game, or the same for all of them, to outputs float32 [B, A] of each."""
        every = dict.fromkeys(self.student.games, states) if isinstance(states, Tensor) else states
        return self.student(every)

    def training_step(self, batch: dict[str, Batch], batch_idx: int) -> Tensor:
        """The mean over all states of the batch, of whichever games they are."""
        outputs = self.student({game: part.states for game, part in batch.items()})
        losses = {game: self.loss_of(game, outputs[game], part) for game, part in batch.items()}
        self._losses |= {game: loss.detach() for game, loss in losses.items()}
        counts = [len(part.states) for part in batch.values()]
        parts = [loss * (count / sum(counts)) for loss, count in zip(losses.values(), counts, strict=True)]
        mean = torch.stack(parts).sum()
        every = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if every and (self.global_step + 1) % every == 0:  # to log what is not written costs small students 2%
            for game, loss in self._losses.items():
                self.log(f"train/{game}/loss", loss, batch_size=1)
            self.log("train/loss", mean.detach(), prog_bar=True, batch_size=1)
        return mean

    def on_validation_start(self) -> None:
        """Means of many states are beyond bfloat16, which `bf16-true` makes of all that a module holds."""
        for metric in self.metrics.modules():
            if isinstance(metric, MeanMetric):
                metric.set_dtype(torch.float32)

    on_test_start = on_validation_start

    def validation_step(self, batch: dict[str, Batch], batch_idx: int) -> None:
        """Agreement with the teacher, divergence from it, and the loss, on held-out states."""
        outputs = self.student({game: part.states for game, part in batch.items()})
        for game, part in batch.items():
            out, metrics, temperature = outputs[game], self.metrics[game], self.temperature(game)
            # It takes the teacher's temperature to read Q-values as a policy.
            logits = out / temperature if self.outputs == "q" else out
            values = {
                "agreement": (out.argmax(1) == part.teacher_q.argmax(1)).float().mean(),
                "kl": kl(logits, part.teacher_q, temperature),
                "loss": self.loss_of(game, out, part),
            }
            for name, value in values.items():
                metrics[name].update(value, weight=len(out))  # pyright: ignore
                shown = name == "agreement"
                self.log(f"val/{game}/{name}", metrics[name], shown, on_step=False, on_epoch=True, batch_size=1)  # pyright: ignore

    def on_validation_end(self) -> None:
        """Notes that these weights need not be validated again."""
        self.validated_at = self.global_step

    def test_step(self, batch: dict[str, Batch] | int, batch_idx: int) -> None:
        """As in validation: the states are the held-out ones, and so are the keys; of nothing, nothing."""
        if isinstance(batch, dict):
            self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> dict[str, Any]:
        """Adam with a warm-up and a linear decay; `--optimizer` on the command line takes its place."""
        share = partial(share_of_rate, warmup=self.warmup, total=self.trainer.estimated_stepping_batches)
        return self.scheduled(adam(self.parameters(), self.learning_rate), share)
