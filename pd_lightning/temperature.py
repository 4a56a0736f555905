"""How much a teacher's Q-values are sharpened: a number for each game, given or calibrated.

Games and teachers differ in the scale of their Q-values: the same temperature turns one teacher into a policy that is
nearly sure of itself and another into one that is nearly uniform. A perplexity says the same of all of them: the number
of actions between which a policy that hesitates evenly would be as undecided, exp of the mean entropy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

Temperature = float | Literal["auto"]
SAMPLE = 65_536
"""States that a temperature is calibrated on, spread evenly: more would not move its second digit."""


def perplexity(q_values: np.ndarray, temperature: float) -> float:
    """How undecided softmax(q / temperature) is: exp of its mean entropy.

    Args:
        q_values: float [N, A].
        temperature: above 0.

    >>> round(perplexity(np.array([[1.0, 1.0, -1e9]]), 0.01), 6)
    2.0
    """
    z = q_values.astype(np.float64) / temperature
    z -= z.max(1, keepdims=True)
    weights = np.exp(z)
    total = weights.sum(1)
    entropy = np.log(total) - (weights * z).sum(1) / total
    return float(np.exp(entropy.mean()))


def calibrate(q_values: np.ndarray, target: float, game: str = "the game") -> float:
    """The temperature at which the sharpened teacher has a perplexity, to four digits.

    Perplexity rises with the temperature, from the number of equally good actions to A; so it is found by halving.

    Args:
        q_values: the teacher's, float [N, A].
        target: perplexity, more than 1 and less than A.
        game: named in errors.

    Raises:
        ValueError: the target is out of reach for so many actions, or for these Q-values.

    >>> round(calibrate(np.array([[0.0, 1.0]]), 1.2), 3)
    0.326
    """
    actions = q_values.shape[1]
    if not 1 < target < actions:
        raise ValueError(
            f"perplexity is {target}, {game} has {actions} actions: choose a --model.perplexity between 1 and {actions}"
        )
    sample = q_values[:: -(-len(q_values) // SAMPLE)]
    scale = float(np.ptp(sample, axis=1).max())
    low, high = scale * 1e-7, scale * 1e7
    if scale == 0 or perplexity(sample, low) > target:
        raise ValueError(
            f"no temperature gives {game}'s teacher a perplexity of {target}: too many of its Q-values are equal; "
            "choose a larger --model.perplexity, or give --model.temperature a number"
        )
    while high / low > 1.0001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if perplexity(sample, middle) < target else (low, middle)
    return (low * high) ** 0.5


def check(temperature: Temperature | Mapping[str, Temperature], games: Mapping[str, int]) -> dict[str, Temperature]:
    """A temperature for each game.

    Args:
        temperature: one for all games, or one for each.
        games: of the student.

    Raises:
        ValueError: one is neither above 0 nor "auto"; a game has none, or there is one of a game that is not learned.
    """
    if isinstance(temperature, Mapping):
        if missing := games.keys() ^ temperature.keys():
            raise ValueError(
                f"temperature is of {', '.join(temperature)}, the student learns {', '.join(games)}: "
                f"--model.temperature must name the same games (see {', '.join(sorted(missing))}), or be one number"
            )
        each: dict[str, Temperature] = {game: temperature[game] for game in games}
    else:
        each = dict.fromkeys(games, temperature)
    for game, value in each.items():
        if value != "auto" and not (isinstance(value, (int, float)) and value > 0):
            raise ValueError(f"temperature is {value} ({game}): choose a --model.temperature above 0, or auto")
    return each
