"""Teachers: frozen networks that say what each action is worth, read from our files and from other libraries'.

=====================================  ================================================================  ==========
file                                   what is read                                                      it says
=====================================  ================================================================  ==========
teacher.safetensors                    `save_teacher` wrote it                                           Q
a Lightning checkpoint                 PQN; a student (one game of it) of mse; of kl or nll              Q, Q, logits
a zip of Stable-Baselines3             DQN; sb3-contrib's QR-DQN (mean of quantiles); PPO and A2C        Q, Q, logits
policy.pth                             the same, unpacked; as on the hub                                 as above
CleanRL's .cleanrl_model               dqn_atari; c51_atari (expectation over atoms)                     Q
a .gz of Atari Agents                  DQN and M-DQN; C51 (expectation over atoms)                       Q
=====================================  ================================================================  ==========

None of it needs the other library, and none of it runs what a file says: `archives` reads within limits.

The rooms: `fault` <- `archives`, `borrowed` <- `stable_baselines`, `cleanrl`, `atari_agents`, `zoo`, `hub`, `agent` <-
`own` <- `loading`; each imports only from those to its left.
"""

from pd_lightning.teacher.agent import Teacher, weights_sha256
from pd_lightning.teacher.fault import TeacherError
from pd_lightning.teacher.loading import load_teacher
from pd_lightning.teacher.own import save_teacher

__all__ = ["Teacher", "TeacherError", "load_teacher", "save_teacher", "weights_sha256"]
