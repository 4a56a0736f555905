"""A teacher that is asked live: online distillation, and distillation on the student's own play.

Two choices: who acts (the teacher, the student as in DAgger, Ross et al., 2011, but that only the newest states are
kept, or a mixture that shifts from one to the other; Czarnecki et al., 2019, arXiv 1902.02186, on why it matters), and
whether the teacher learns meanwhile (Rusu et al., 2016, section 4.4).

The rooms: `replay` <- `play` <- `learner`, `recorder` <- `settings` <- `collector` <- `parts`, `batches` <-
`datamodule`; each imports only from those to its left.
"""

from pd_lightning.live.datamodule import LiveTeacher
from pd_lightning.live.learner import Lessons

__all__ = ["Lessons", "LiveTeacher"]
