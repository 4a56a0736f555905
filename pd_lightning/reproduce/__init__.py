"""The paper's experiments by one command: `python -m pd_lightning.reproduce losses` (or another of `EXPERIMENTS`).

The rooms: `tasks` (one run, wherever it is done) <- `plans` (what is run), `workers` (who does it) <- `results` (what
is written about it).
"""

from pd_lightning.reproduce.plans import EXPERIMENTS, Plan, plan
from pd_lightning.reproduce.tasks import Task, TaskError, execute

__all__ = ["EXPERIMENTS", "Plan", "Task", "TaskError", "execute", "plan"]
