"""What a run does beside learning: it keeps its weights, plays for scores, is filmed, and says how far it is."""

from pd_lightning.callbacks.filming import Film
from pd_lightning.callbacks.keeping import Checkpoint
from pd_lightning.callbacks.progress import UpdatesBar
from pd_lightning.callbacks.rollouts import Rollouts
from pd_lightning.callbacks.stopping import StopTogether

__all__ = ["Checkpoint", "Film", "Rollouts", "StopTogether", "UpdatesBar"]
