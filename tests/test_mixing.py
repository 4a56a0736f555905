"""Several games: which of them an update learns from, how much of each, and that it is the same on any machine."""

import itertools

import numpy as np
import pytest

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.streaming import Blocks, Reach, held_out, memory_of
from pd_lightning.streaming.mixing import Mixture, build_streams, even_turns
from pd_lightning.streaming.shares import (
    MIXINGS,
    batch_sizes,
    check_devices,
    check_mixing,
    choose_reaches,
    memory_of_all,
)
from pd_lightning.streaming.window import slot_bytes

BOTH = ["pong", "breakout"]
WEIGHTS = [{}, {"pong": 2.0}, {"pong": 1.0, "breakout": 2.5}]
MIXED = pytest.mark.parametrize(("mixing", "weights"), list(itertools.product(MIXINGS, WEIGHTS)))


@pytest.fixture(scope="module")
def blocks(datasets):
    """All of pong, 600 states, and of breakout, 180."""
    found = {}
    for game in BOTH:
        shards = [Shard(path) for path in find_shards(datasets / game)]
        found[game] = Blocks(shards, held_out(shards, 0.0, seed=0)[0])
    return found


def mixture_of(blocks, mixing, weights, rank=0, ranks=1, batch_size=48, reaches=None, learned=None):
    every = check_mixing(BOTH, mixing, weights)
    sizes = batch_sizes(batch_size, mixing, every)
    reaches = reaches or {"pong": Reach(8, 20), "breakout": None}
    return Mixture(build_streams(blocks, sizes, reaches, 3, rank, ranks), mixing, every, learned)


def ids(mixture, number):
    """Game and states of a batch, without reading any."""
    return {game: mixture.streams[game].ids(own) for game, own in mixture.turn(number).items()}


@MIXED
def test_the_ranks_batches_joined_are_those_of_one_rank(blocks, mixing, weights):
    alone = mixture_of(blocks, mixing, weights)
    for ranks in (2, 3, 4, 8):
        every = [mixture_of(blocks, mixing, weights, rank, ranks) for rank in range(ranks)]
        assert {len(each) for each in every} == {len(alone)}
        for number in range(3 * len(alone)):
            expected, shares = ids(alone, number), [ids(each, number) for each in every]
            for game in expected:
                np.testing.assert_array_equal(np.concatenate([share[game] for share in shares]), expected[game])
            assert {tuple(share) for share in shares} == {tuple(expected)}  # all ranks train the same heads


@MIXED
def test_going_on_anywhere_gives_what_would_have_come(blocks, mixing, weights):
    through = mixture_of(blocks, mixing, weights)
    batches = [batch for _ in range(3) for batch in through]
    assert through.batches_given == len(batches) == 3 * len(through)
    for start in (0, 1, len(through) - 1, len(through), len(batches) - 2):
        again = mixture_of(blocks, mixing, weights, learned=lambda start=start: start)
        for have, expected in zip(again, batches[start:], strict=False):
            assert list(have) == list(expected)
            for game, part in have.items():
                np.testing.assert_array_equal(part.states, expected[game].states)
                np.testing.assert_array_equal(part.teacher_q, expected[game].teacher_q)


@MIXED
def test_every_game_comes_whole_before_any_of_its_states_comes_again(blocks, mixing, weights):
    mixture = mixture_of(blocks, mixing, weights)
    seen = {game: [] for game in BOTH}
    for number in range(4 * len(mixture)):
        for game, rows in ids(mixture, number).items():
            seen[game] += map(tuple, rows.tolist())
    for game, states in seen.items():
        count = blocks[game].states
        for low in range(0, len(states) - count + 1, count):
            assert len(set(states[low : low + count])) == count
    assert min(len(states) / blocks[game].states for game, states in seen.items()) >= 4  # each epoch has all of each


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_balanced_batch_holds_every_game_in_the_ratio_of_the_weights(blocks, weights):
    mixture = mixture_of(blocks, "balanced", weights)
    every = check_mixing(BOTH, "balanced", weights)
    sizes = batch_sizes(48, "balanced", every)
    assert sum(sizes.values()) == 2 * 48
    assert sizes["pong"] / sizes["breakout"] == pytest.approx(every["pong"] / every["breakout"], rel=0.05)
    for number in range(2 * len(mixture)):
        parts = ids(mixture, number)
        assert list(parts) == BOTH
        for game, rows in parts.items():
            epoch = -(-blocks[game].states // sizes[game])  # cut into so many equal batches, none is larger
            assert blocks[game].states // epoch <= len(rows) <= sizes[game]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_batch_of_one_game_has_its_turn_as_often_as_its_weight_says_and_never_long_to_wait(blocks, weights):
    mixture = mixture_of(blocks, "one_game", weights)
    every = check_mixing(BOTH, "one_game", weights)
    assert all(len(mixture.turn(number)) == 1 for number in range(3 * len(mixture)))
    turns = [next(iter(mixture.turn(number))) for number in range(len(mixture))]
    rounds = [turns.count(game) / every[game] for game in BOTH]  # equal but for the rounding to whole turns
    assert abs(rounds[0] - rounds[1]) < max(1 / weight for weight in every.values())
    ratio = max(every.values()) / min(every.values())
    assert max(len(list(run)) for _, run in itertools.groupby(turns)) <= np.ceil(ratio) + 1


def test_turns_are_spread_evenly():
    shares = np.array([1, 7, 20])
    whose, before = even_turns(shares)
    for one, share in enumerate(shares):
        mine = np.flatnonzero(whose == one)
        assert before[mine].tolist() == list(range(share))
        assert np.abs(mine - (np.arange(share) + 0.5) * 28 / share).max() <= 2


def test_adding_a_game_leaves_the_order_within_the_others_as_it_was(blocks):
    alone = Mixture(build_streams({"pong": blocks["pong"]}, {"pong": 48}, {"pong": None}, 3), "balanced", {"pong": 1.0})
    both = mixture_of(blocks, "balanced", {}, reaches={"pong": None, "breakout": None})
    for number in range(2 * len(alone)):
        np.testing.assert_array_equal(ids(alone, number)["pong"], ids(both, number)["pong"])


def test_small_games_leave_to_large_ones_what_memory_they_do_not_need(blocks):
    sizes = {"pong": 16, "breakout": 16}
    whole = {game: memory_of(blocks[game], 16, None) for game in BOTH}
    reaches = choose_reaches(blocks, sizes, sum(whole.values()))
    assert reaches == {"pong": None, "breakout": None}
    for spare in (40 * slot_bytes(8), whole["pong"] - 1):
        memory = whole["breakout"] + spare
        if memory // 2 < whole["breakout"]:
            continue
        reaches = choose_reaches(blocks, sizes, memory)
        assert reaches["breakout"] is None
        assert reaches["pong"] is not None
        assert 0.8 * memory < memory_of_all(blocks, sizes, reaches) <= memory
    tight = choose_reaches(blocks, sizes, whole["breakout"])
    assert None not in tight.values()
    assert list(tight) == BOTH


@pytest.mark.parametrize(("mixing", "weights", "complaint"), [
    ("stirred", {}, r"unknown mixing 'stirred': choose --data\.mixing from balanced, one_game"),
    ("balanced", {"enduro": 1.0}, "weights has enduro, which is not among the games, pong, breakout"),
    ("balanced", {"pong": 0.0}, "weight of pong is 0.0"),
    ("one_game", {"pong": float("nan")}, "weight of pong is nan"),
    ("one_game", {"pong": float("inf")}, "weight of pong is inf"),
    ("balanced", {"pong": 1e-6}, "weight of pong leaves no state of it in a batch"),
])  # fmt: skip
def test_what_cannot_be_mixed_is_refused_by_name(mixing, weights, complaint):
    with pytest.raises(ValueError, match=complaint):
        batch_sizes(48, mixing, check_mixing(BOTH, mixing, weights))


def test_turns_that_would_be_too_many_to_write_down_are_refused(blocks):
    streams = mixture_of(blocks, "one_game", {}).streams
    with pytest.raises(
        ValueError, match=r"weight of pong is 1e-07: an epoch would have \d.* raise it in --data\.weights"
    ):
        Mixture(streams, "one_game", {"pong": 1e-7, "breakout": 1.0})


def test_a_weight_that_leaves_fewer_states_than_devices_is_named():
    sizes = batch_sizes(8, "balanced", {"pong": 7.0, "breakout": 1.0})
    check_devices(8, 2, sizes)
    with pytest.raises(ValueError, match="weight of breakout leaves 2 states of it in a batch for 4 devices"):
        check_devices(8, 4, sizes)
