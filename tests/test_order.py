"""The order of states: every state once an epoch, in an order that only the seed decides, well mixed."""

import hashlib
import itertools

import numpy as np
import pytest

from pd_lightning.order import Order, split_episodes

CHANCE = np.random.default_rng(0)
SHAPES = [  # blocks, batch size, most blocks in a window
    (1, 1, 1),
    (1, 64, 9),
    (7, 5, 100),
    (13, 32, 4),
    *[(int(n), int(b), int(w)) for n, b, w in zip(*CHANCE.integers(1, [[90], [300], [40]], (3, 12)), strict=True)],
]


def lengths_of(blocks, seed=1):
    """Lengths of 1 to 32 as a recording has them: whole blocks, and the ends of episodes."""
    chance = np.random.default_rng([seed, blocks])
    return np.where(chance.random(blocks) < 0.7, 32, chance.integers(1, 33, blocks)).astype(np.int64)


def epoch_of(order, epoch):
    """All states of an epoch in order, block and step, int64 [states, 2]."""
    return np.concatenate([order.states(epoch, window) for window in range(order.windows)])


def positions(order, epoch):
    """Where in the epoch each state stands, the states counted in recorded order."""
    starts = np.cumsum(order.lengths) - order.lengths
    block, step = epoch_of(order, epoch).T
    return np.argsort(starts[block] + step)


def distinct_segments(order, epoch, every):
    """How many different pieces of 64 consecutive steps a batch holds, on average over every `every`-th batch."""
    block = epoch_of(order, epoch)[:, 0]
    batches = list(itertools.pairwise(order.bounds))[::every]
    return np.mean([len(np.unique(block[low:high] // 2)) for low, high in batches])


@pytest.mark.parametrize(("blocks", "batch_size", "window"), SHAPES)
def test_every_state_comes_exactly_once_per_epoch_in_batches_whose_sizes_differ_by_at_most_one(
    blocks, batch_size, window
):
    lengths = lengths_of(blocks)
    order = Order(lengths, batch_size, 3, window)
    every = [[block, step] for block in range(blocks) for step in range(lengths[block])]
    sizes = np.diff(order.bounds)
    assert order.batches == len(sizes) == -(-lengths.sum() // batch_size)
    assert sizes.sum() == lengths.sum()
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1
    for epoch in (0, 1, 7):
        assert sorted(epoch_of(order, epoch).tolist()) == every


@pytest.mark.parametrize(("blocks", "batch_size", "window"), SHAPES)
def test_the_parts_of_the_batches_joined_are_the_epoch_in_its_order(blocks, batch_size, window):
    order = Order(lengths_of(blocks), batch_size, 3, window)
    parts = [
        order.states(1, w)[part]
        for low, high in itertools.pairwise(order.bounds.tolist())
        for w, part in order.parts(1, low, high)
    ]
    assert all(len(part) for part in parts)  # else a window would be read for nothing
    np.testing.assert_array_equal(np.concatenate(parts), epoch_of(order, 1))


@pytest.mark.parametrize(("blocks", "batch_size", "window"), SHAPES)
def test_a_window_has_no_more_blocks_than_allowed_and_is_not_much_smaller_than_the_others(blocks, batch_size, window):
    order = Order(lengths_of(blocks), batch_size, 3, window)
    for epoch in range(2):
        windows = [order.blocks(epoch, w) for w in range(order.windows)]
        assert sorted(np.concatenate(windows).tolist()) == list(range(blocks))
        sizes = [len(chosen) for chosen in windows]
        assert max(sizes) <= window
        assert max(sizes) - min(sizes) < max(2, order.windows)
        for w, chosen in enumerate(windows):
            assert set(order.states(epoch, w)[:, 0]) == set(chosen)


def test_what_fits_is_shuffled_perfectly_each_epoch_without_regard_to_the_others():
    order = Order(lengths_of(400), 256, 5, 400)
    count = int(order.lengths.sum())
    places = [positions(order, epoch) for epoch in range(4)]
    recorded = np.arange(count)
    for one, other in itertools.combinations([recorded, *places], 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(count)  # four standard deviations
    # Neighbours in time are as far apart as any two states: a third of the epoch on average.
    apart = np.abs(np.diff(places[0])).mean() / count
    assert apart == pytest.approx(1 / 3, abs=0.02)


def test_windows_are_other_blocks_in_another_epoch():
    order = Order(lengths_of(400), 256, 5, 100)
    shared = [len(np.intersect1d(order.blocks(0, w), order.blocks(1, w))) for w in range(order.windows)]
    assert max(shared) < 45  # 25 of 100 by chance


def test_a_batch_is_nearly_as_varied_as_a_perfect_shuffles_where_memory_holds_a_twentieth():
    lengths = np.full(54_000 // 32 * 16, 32)  # sixteen hours
    perfect = distinct_segments(Order(lengths, 256, 0, len(lengths)), 0, every=40)
    windowed = distinct_segments(Order(lengths, 256, 0, 1300), 0, every=40)
    assert windowed > 0.9 * perfect


def test_no_stretch_of_an_epoch_is_badly_mixed_not_even_its_end():
    lengths = np.full(2001, 32)  # two windows of a thousand, and one block
    order = Order(lengths, 256, 0, 1000)
    block = epoch_of(order, 0)[:, 0]
    variety = [len(np.unique(block[low:high])) for low, high in itertools.pairwise(order.bounds)]
    assert min(variety) > 0.8 * np.mean(variety)


def test_the_order_is_the_same_on_every_machine_and_in_every_release():
    sha = hashlib.sha256()
    for window in (40, 7):
        order = Order(np.arange(40) % 32 + 1, 64, 11, window)
        sha.update(order.bounds.astype("<i8").tobytes())
        for epoch in (0, 1, 1000):
            sha.update(epoch_of(order, epoch).astype("<i8").tobytes())
    sha.update(np.concatenate(split_episodes([30, 20, 1], 0.2, seed=11)).tobytes())
    # Changing this breaks the resuming of everybody's runs: say so in the change log.
    assert sha.hexdigest()[:16] == "f266fce114c9aaac"


def test_asking_twice_in_any_sequence_gives_the_same_and_nobody_can_spoil_it_for_others():
    order = Order(lengths_of(40), 64, 11, 7)
    keys = [(epoch, window) for epoch in range(3) for window in range(order.windows)]
    first = {key: order.states(*key).copy() for key in keys}
    fresh = Order(lengths_of(40), 64, 11, 7)
    for key in np.random.default_rng(0).permutation(keys + keys).tolist():
        np.testing.assert_array_equal(fresh.states(*key), first[tuple(key)])
    with pytest.raises(ValueError, match="read-only"):
        fresh.states(0, 0)[0] = 0


def test_another_seed_and_another_epoch_are_other_orders_and_the_batch_size_only_cuts_them():
    first = Order(lengths_of(40), 64, 11, 40)
    assert not np.array_equal(epoch_of(first, 0), epoch_of(first, 1))
    assert not np.array_equal(epoch_of(first, 0), epoch_of(Order(lengths_of(40), 64, 12, 40), 0))
    np.testing.assert_array_equal(epoch_of(first, 2), epoch_of(Order(lengths_of(40), 10, 11, 40), 2))


def test_blocks_states_and_split_are_not_drawn_from_the_same_chance():
    # numpy's seeds are filled up with zeros: without care, seed 0, epoch 0 and window 0 would all be one generator.
    order = Order(np.ones(1000, np.int64), 10, 0, 1000)
    blocks, states = order.blocks(0, 0), order.states(0, 0)[:, 0]
    held = np.flatnonzero(split_episodes([1000], 0.5, seed=0)[0])
    assert (blocks[states] == blocks).mean() < 0.02
    assert not np.array_equal(blocks[blocks], states)
    assert not np.array_equal(np.sort(blocks[:500]), held)


def test_unshuffled_is_the_recorded_order():
    order = Order(lengths_of(20), 16, 0, 3, shuffle=False)
    for epoch in range(2):
        np.testing.assert_array_equal(positions(order, epoch), np.arange(order.lengths.sum()))


@pytest.mark.parametrize("episodes", [[10], [1, 1], [3, 1, 40], [500]])
@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.49])
def test_a_share_of_the_episodes_is_held_out_at_least_one_and_always_the_same(episodes, share):
    held = split_episodes(episodes, share, seed=4)
    assert [len(part) for part in held] == episodes
    assert sum(part.sum() for part in held) == max(1, round(share * sum(episodes)))
    for part, again in zip(held, split_episodes(episodes, share, seed=4), strict=True):
        np.testing.assert_array_equal(part, again)


def test_held_out_episodes_are_a_fair_sample():
    often = np.mean([np.concatenate(split_episodes([6, 4], 0.3, seed)) for seed in range(2000)], 0)
    np.testing.assert_allclose(often, 0.3, atol=4 * np.sqrt(0.3 * 0.7 / 2000))


def test_nothing_is_held_out_if_nothing_is_asked_for():
    assert not any(part.any() for part in split_episodes([4, 2], 0.0, seed=0))


@pytest.mark.parametrize(("episodes", "share", "complaint"), [
    ([1], 0.05, "leaves none to learn from"),
    ([1, 1], 0.9, "leaves none to learn from"),
    ([10], 1.0, "from 0 to less than 1"),
    ([10], -0.1, "from 0 to less than 1"),
    ([10], float("nan"), "from 0 to less than 1"),
])  # fmt: skip
def test_a_split_that_leaves_nothing_to_learn_from_is_refused(episodes, share, complaint):
    with pytest.raises(ValueError, match=complaint):
        split_episodes(episodes, share, seed=0)
