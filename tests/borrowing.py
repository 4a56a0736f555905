"""Makes the files of other libraries: by those libraries where they can be installed, else as their scripts do."""

import functools
import gzip
import io
import json
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import A2C, DQN, PPO
from torch import nn

ALGORITHMS = {"DQN": DQN, "QR-DQN": QRDQN, "PPO": PPO, "A2C": A2C}
OPTIONS = {"DQN": {"buffer_size": 1}, "QR-DQN": {"buffer_size": 1}, "PPO": {"n_steps": 8, "batch_size": 8}, "A2C": {}}
SMALL_TEXT = {"features_extractor_kwargs": '{"features_dim": 16}'}
ENVIRONMENT = "PongNoFrameskip-v4"


class Pixels(gym.Env):
    """Nothing but the spaces of an Atari game, as Stable-Baselines3's wrappers give them."""

    observation_space = gym.spaces.Box(0, 255, (84, 84, 4), np.uint8)

    def __init__(self, actions):
        self.action_space = gym.spaces.Discrete(actions)


def opinionated(module):
    """Makes outputs of the size of 1, where untrained networks say nearly 0 of everything."""
    torch.manual_seed(0)
    for name, parameter in module.named_parameters():
        if parameter.ndim == 2 and "linear" not in name and not name.endswith(("network.7.weight", "head.0.weight")):
            nn.init.normal_(parameter, std=10.0 if "quantile" in name else 0.2 if "action" in name else 1.0)
    return module


@functools.cache
def model(algorithm, actions=6, **policy):
    """A model of Stable-Baselines3 that was never trained; `policy` are its policy_kwargs, as JSON where nested."""
    settings = {key: json.loads(value) if isinstance(value, str) else value for key, value in policy.items()}
    made = ALGORITHMS[algorithm](
        "CnnPolicy", Pixels(actions), device="cpu", seed=0, policy_kwargs=settings, **OPTIONS[algorithm]
    )
    opinionated(made.policy)
    return made


def small_dqn(path):
    """Saves a DQN of Stable-Baselines3 that is as small as it may be."""
    model("DQN", **SMALL_TEXT).save(path)
    return path


def says(made, states):
    """What the library itself makes of states uint8 [B, 4, 84, 84]: Q-values or logits, float32 [B, A]."""
    policy = made.policy
    with torch.no_grad():
        seen, _ = policy.obs_to_tensor(states)
        if isinstance(made, DQN):
            return policy.q_net(seen)
        if isinstance(made, QRDQN):
            return policy.quantile_net(seen).mean(dim=1)
        features = policy.pi_features_extractor(policy_input(policy, seen))
        return policy.action_net(policy.mlp_extractor.forward_actor(features))


def policy_input(policy, seen):
    from stable_baselines3.common.preprocessing import preprocess_obs

    return preprocess_obs(seen, policy.observation_space, normalize_images=policy.normalize_images)


def rewrite(source, target, *, drop=(), data=None, weights=None, add=None, compression=zipfile.ZIP_STORED):
    """Copies a zip of Stable-Baselines3 with its settings, its weights or its members changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data" and data:
                content = json.dumps(data(json.loads(content))).encode()
            if name == "policy.pth" and weights:
                stream = io.BytesIO()
                torch.save(weights(torch.load(io.BytesIO(content), weights_only=True)), stream)
                content = stream.getvalue()
            if name not in drop:
                new.writestr(name, content)
        for name, content in (add or {}).items():
            new.writestr(name, content)
    return Path(target)


class CleanRL(nn.Module):
    """The network of CleanRL's dqn_atari and c51_atari: the same layers, under the names that their files have."""

    def __init__(self, actions, atoms=1, hidden=512):
        super().__init__()
        self.actions, self.n_atoms = actions, atoms
        self.register_buffer("atoms", torch.linspace(-10, 10, atoms), persistent=atoms > 1)
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
        last = [nn.ReLU(), nn.Flatten(), nn.Linear(3136, hidden), nn.ReLU(), nn.Linear(hidden, actions * atoms)]
        self.network = nn.Sequential(*convolutions, *last)
        opinionated(self)

    def forward(self, states):
        out = self.network(states / 255.0)
        if self.n_atoms == 1:
            return out
        chances = torch.softmax(out.view(len(states), self.actions, self.n_atoms), dim=2)
        return (chances * self.get_buffer("atoms")).sum(2)

    def save(self, path, env=ENVIRONMENT):
        """As the script does with --save-model."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = {"model_weights": self.state_dict(), "args": {"env_id": env, "seed": 1, "cuda": True, "v_max": 10.0}}
        torch.save(self.state_dict() if self.n_atoms == 1 else content, path)
        return Path(path)


class AtariNet(nn.Module):
    """The network of Atari Agents: the same layers once more, under the mangled names of a class's private parts."""

    def __init__(self, actions, atoms=1, hidden=512):
        super().__init__()
        self.actions, self.n_atoms = actions, atoms
        if atoms > 1:
            self.__support = nn.Parameter(torch.linspace(-10, 10, atoms), requires_grad=False)
        convolutions = [nn.Conv2d(4, 32, 8, 4), nn.ReLU(), nn.Conv2d(32, 64, 4, 2), nn.ReLU(), nn.Conv2d(64, 64, 3)]
        self.__features = nn.Sequential(*convolutions, nn.ReLU())
        self.__head = nn.Sequential(nn.Linear(3136, hidden), nn.ReLU(), nn.Linear(hidden, actions * atoms))
        opinionated(self)

    def forward(self, states):
        out = self.__head(self.__features(states / 255.0).flatten(1))
        if self.n_atoms == 1:
            return out
        chances = torch.softmax(out.view(len(states), self.actions, self.n_atoms), dim=2)
        return (chances * self.__support).sum(2)

    def save(self, path, **more):
        """As their checkpoints are written: what `torch.save` makes, packed."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        torch.save({"estimator_state": self.state_dict(), "step": 50_000_000, **more}, content)
        Path(path).write_bytes(gzip.compress(content.getvalue(), 1))
        return Path(path)
