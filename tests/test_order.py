"""The order of states: every state once an epoch, in an order that only the seed decides, well mixed."""

import hashlib
import itertools

import numpy as np
import pytest

from pd_lightning.streaming import Reach, variety
from pd_lightning.streaming.order import Order, permutation, split_episodes

CHANCE = np.random.default_rng(0)
SHAPES = [  # blocks, batch size, reach
    (1, 1, None),
    (1, 64, Reach(8, 9)),
    (7, 5, None),
    (13, 32, Reach(32, 4)),
    (5, 7, Reach(8, 1)),
    (90, 256, Reach(16, 10**6)),
    *[
        (int(n), int(b), Reach(int(p), int(w)))
        for n, b, p, w in zip(
            *CHANCE.integers(1, [[90], [300], [2], [80]], (4, 12)) * [[1], [1], [8], [1]], strict=True
        )
    ],
]
SHAPED = pytest.mark.parametrize(("blocks", "batch_size", "reach"), SHAPES)


def lengths_of(blocks, seed=1):
    """Lengths of 1 to 32 as a recording has them: whole blocks, and the ends of episodes."""
    chance = np.random.default_rng([seed, blocks])
    return np.where(chance.random(blocks) < 0.7, 32, chance.integers(1, 33, blocks)).astype(np.int64)


def every_row(lengths):
    """What an epoch must hold: block * 32 + step of every state."""
    return [block * 32 + step for block, length in enumerate(lengths) for step in range(length)]


def positions(order, epoch):
    """Where in the epoch each state stands, the states counted in recorded order."""
    return np.argsort(order.epoch(epoch).rows)


def distinct_segments(order, epoch, every):
    """How many different pieces of 64 consecutive steps a batch holds, in every `every`-th batch."""
    segment = order.epoch(epoch).rows // 64
    batches = list(itertools.pairwise(order.bounds))[::every]
    return np.array([len(np.unique(segment[low:high])) for low, high in batches])


@SHAPED
def test_every_state_comes_exactly_once_per_epoch_in_batches_whose_sizes_differ_by_at_most_one(
    blocks, batch_size, reach
):
    lengths = lengths_of(blocks)
    order = Order(lengths, batch_size, 3, reach)
    sizes = np.diff(order.bounds)
    assert order.batches == len(sizes) == -(-lengths.sum() // batch_size)
    assert sizes.sum() == lengths.sum() == order.states
    assert sizes.max() <= batch_size
    assert sizes.max() - sizes.min() <= 1
    for epoch in (0, 1, 7):
        assert sorted(order.epoch(epoch).rows.tolist()) == every_row(lengths)


@SHAPED
def test_a_piece_passes_within_a_window_of_every_time_at_which_it_is_drawn_from(blocks, batch_size, reach):
    order = Order(lengths_of(blocks), batch_size, 3, reach)
    for number in range(2):
        rows, times, passes, pieces = order.epoch(number)
        if reach is None:
            assert len(times) == len(passes) == len(pieces) == 0
            continue
        assert order.reach is not None
        count = len(order.piece_starts)
        assert sorted(pieces.tolist()) == list(range(count))
        assert (np.diff(times) >= 0).all()
        assert times[0] >= 0
        assert times[-1] < count
        assert (passes <= times).all()
        assert (passes > times - order.reach.window).all()
        block, first = order.piece_starts[pieces[passes]].T
        np.testing.assert_array_equal(block, rows // 32)
        np.testing.assert_array_equal(first, rows % 32 // order.reach.piece * order.reach.piece)


def test_what_fits_is_shuffled_perfectly_each_epoch_without_regard_to_the_others():
    order = Order(lengths_of(400), 256, 5, None)
    count = order.states
    places = [positions(order, epoch) for epoch in range(4)]
    recorded = np.arange(count)
    for one, other in itertools.combinations([recorded, *places], 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(count)  # four standard deviations
    # Neighbours in time are as far apart as any two states: a third of the epoch on average.
    apart = np.abs(np.diff(places[0])).mean() / count
    assert apart == pytest.approx(1 / 3, abs=0.02)


def test_what_does_not_fit_is_shuffled_anew_in_each_epoch():
    order = Order(lengths_of(2000), 256, 5, Reach(8, 500))
    places = [positions(order, epoch) for epoch in range(4)]
    for one, other in itertools.combinations([np.arange(order.states), *places], 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.05  # pieces of 8 move together: 1,600 per standard deviation


def test_a_batch_is_as_varied_as_promised_everywhere_in_an_epoch_also_at_its_beginning_and_end():
    lengths = np.full(54_000 // 32 * 10, 32)  # ten hours
    perfect = distinct_segments(Order(lengths, 256, 0, None), 0, every=40)
    for reach in (Reach(8, 1300), Reach(16, 3200), Reach(32, 3200)):
        order = Order(lengths, 256, 0, reach)
        sliding = distinct_segments(order, 0, every=10)
        promised = variety(reach, 256)
        assert promised > 0.9
        assert sliding.mean() / perfect.mean() > promised - 0.005
        assert sliding.min() > 0.85 * perfect.mean()
        assert sliding[:5].mean() == pytest.approx(sliding.mean(), rel=0.03)
        assert sliding[-5:].mean() == pytest.approx(sliding.mean(), rel=0.03)


def test_neighbours_in_time_meet_in_a_wide_window_about_as_seldom_as_in_a_perfect_shuffle():
    lengths = np.full(54_000 // 32 * 10, 32)

    def pairs_within_4_steps(reach):
        order = Order(lengths, 256, 0, reach)
        rows, batches = order.epoch(0).rows, list(itertools.pairwise(order.bounds))
        return np.mean([(np.diff(np.sort(rows[low:high])) <= 4).sum() for low, high in batches])

    perfect = pairs_within_4_steps(None)
    assert perfect == pytest.approx(256 * 255 / 2 * 8 / lengths.sum(), rel=0.1)  # half a pair in a batch
    assert pairs_within_4_steps(Reach(32, 16_384)) < 2.5 * perfect


def test_the_order_is_the_same_on_every_machine_and_in_every_release():
    sha = hashlib.sha256()
    for reach in (None, Reach(8, 7), Reach(32, 20)):
        order = Order(np.arange(40) % 32 + 1, 64, 11, reach)
        sha.update(order.bounds.astype("<i8").tobytes())
        for epoch in (0, 1, 1000):
            sha.update(order.epoch(epoch).rows.astype("<i8").tobytes())
    sha.update(np.concatenate(split_episodes([30, 20, 1], 0.2, seed=11)).tobytes())
    # Changing this breaks the resuming of everybody's runs: say so in the change log.
    assert sha.hexdigest()[:16] == "904b425ea118156d"


def test_asking_twice_gives_the_same_and_nobody_can_spoil_it_for_others():
    for reach in (None, Reach(8, 7)):
        order, other = Order(lengths_of(40), 64, 11, reach), Order(lengths_of(40), 64, 11, reach)
        for epoch in (2, 0, 2, 1, 0):
            for array, again in zip(order.epoch(epoch), other.epoch(epoch), strict=True):
                np.testing.assert_array_equal(array, again)
        with pytest.raises(ValueError, match="read-only"):
            order.epoch(0).rows[0] = 0


@pytest.mark.parametrize("reach", [None, Reach(8, 30)])
def test_another_seed_and_another_epoch_are_other_orders_and_the_batch_size_only_cuts_them(reach):
    first = Order(lengths_of(40), 64, 11, reach)
    rows = first.epoch(0).rows
    assert not np.array_equal(rows, first.epoch(1).rows)
    assert not np.array_equal(rows, Order(lengths_of(40), 64, 12, reach).epoch(0).rows)
    np.testing.assert_array_equal(first.epoch(2).rows, Order(lengths_of(40), 10, 11, reach).epoch(2).rows)


def test_states_pieces_and_split_are_not_drawn_from_the_same_chance():
    # numpy's seeds are filled up with zeros: without care, seed 0 and epoch 0 and the split would all be one generator.
    orders = permutation(1000, 0), permutation(1000, 0, 0), permutation(1000, 0, 0, 0), permutation(1000, 0, 0, 1)
    for one, other in itertools.combinations(orders, 2):
        assert (one == other).mean() < 0.02
    held = np.flatnonzero(split_episodes([1000], 0.5, seed=0)[0])
    assert not np.array_equal(held, np.sort(permutation(1000, 0, 0)[:500]))


@pytest.mark.parametrize("count", [1, 2, 3, 255, 256, 257, 70_000])
def test_a_permutation_holds_every_number_once(count):
    np.testing.assert_array_equal(np.sort(permutation(count, 5, 1)), np.arange(count))


def test_unshuffled_is_the_recorded_order():
    lengths = lengths_of(20)
    for reach in (None, Reach(8, 3)):
        order = Order(lengths, 16, 0, reach, shuffle=False)
        for epoch in range(2):
            assert order.epoch(epoch).rows.tolist() == every_row(lengths)


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
