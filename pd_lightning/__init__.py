"""pd_lightning: policy distillation (Rusu et al., ICLR 2016, arXiv 1511.06295) with PyTorch Lightning.

A teacher (a trained Q-learning agent) plays, its states and Q-values are recorded, and a student learns to play from
them.

Shapes, used in every docstring of the package:

===========  =========================  =========================================================================
letter       meaning                    remark
===========  =========================  =========================================================================
B            batch                      states that are trained on, or played, together
A            actions of a game          its minimal action set: 3 (Freeway) to 18 (Riverraid, Seaquest)
states       uint8 [B, 4, 84, 84]       four gray frames, newest last; they become floats only inside `networks`
Q-values     float32 [B, A]             the teacher's value of each action, in the units that it was trained with
logits       float [B, A]               the student's outputs; softmax over A makes them its policy
===========  =========================  =========================================================================

Units, one word each:

===========  ====================================================================================================
word         meaning
===========  ====================================================================================================
frames       emulator frames, 60 a second: 108,000 are 30 minutes
steps        decisions of the agent: one per 4 frames, so 15 a second and 54,000 an hour
updates      optimizer steps: one per batch (of all ranks together)
episodes     whole games, from reset to game over or to the limit of frames; a lost life ends none
return       the score of one episode: the sum of its rewards, never clipped and never discounted
===========  ====================================================================================================

The rooms, each importing only from those before it (the command lines, `__main__`, from all):

1. `atari`, `losses`, `temperature`, `scores`: the game, the paper's formulas; `blocks`: recordings as files;
   `bounds`, `files`, `machine`, `messages`, `trainers`: what any program needs;
2. `centring`, `networks`: students and teachers; `emulators`, `episodes`, `rollout`: how they play; `servers`,
   `remote`: recordings that lie elsewhere;
3. `checkpoints`, `teacher`, `streaming`: weights from files, batches from recordings; `recorded`, `tryout`, `resuming`,
   `cluster`;
4. `agent`, `distillation`, `pqn`: what learns; `recording`, `datamodule`, `live`: what it learns from;
5. `callbacks`, `folder`, `summary`, `ending`: what a run leaves; `commands`, `parser`, `refusals`,
   `cli`: how it is asked for; `score`, `film`, `export`, `report`, `reproduce`: what becomes of it.

The modules are imported one by one (`from pd_lightning import losses`): this file imports none of them, so that asking
for the version is instant.
"""

__version__ = "0.1.0"
