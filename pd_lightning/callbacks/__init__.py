"""What a run does beside learning: it keeps its weights, plays for scores, and is filmed."""

from pd_lightning.callbacks.filming import Film
from pd_lightning.callbacks.keeping import Checkpoint
from pd_lightning.callbacks.rollouts import SEEDS, Rollouts, fire_rule, rollout_metrics

__all__ = ["SEEDS", "Checkpoint", "Film", "Rollouts", "fire_rule", "rollout_metrics"]
