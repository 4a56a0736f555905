"""What tests of the command line give to it, and look for in what it leaves."""

import torch

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
CALM = ["--rollouts.at_start=false", "--rollouts.at_end=false", "--film.enabled=false"]
TINY = ["--data.batch_size=64", "--data.threads=1", "--model.size=net3", "--trainer.max_steps=2", *CALM, *QUIET]


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]
