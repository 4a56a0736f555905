"""What a run does beside learning: it plays for scores, and is filmed."""

from pd_lightning.callbacks.filming import Film
from pd_lightning.callbacks.rollouts import SEEDS, Rollouts, fire_rule, rollout_metrics

__all__ = ["SEEDS", "Film", "Rollouts", "fire_rule", "rollout_metrics"]
