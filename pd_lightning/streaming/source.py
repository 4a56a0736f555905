"""Where the states of a stream come from: everything decoded once, or a window through which all of it flows."""

from __future__ import annotations

from concurrent.futures import Executor, Future
from typing import Any

import numpy as np

from pd_lightning.blocks import BLOCK, STACK
from pd_lightning.streaming.order import Epoch, Order, Reach
from pd_lightning.streaming.sequence import Blocks
from pd_lightning.streaming.window import JOB, Window, slot_bytes, stacked

SMALLEST = 8
"""Fewest steps in a piece: 4 would cost twice the decoding."""
WIDEST = 64
"""Pieces for each state of a batch, beyond which a wider window gains nothing: 0.992 of the best variety."""
GOOD = 0.92
"""Variety with which the largest pieces are chosen that reach it: larger ones are cheaper to decode."""


def read_ahead(reach: Reach, batch_size: int) -> int:
    """Pieces that are read before they are needed: eight batches' worth, at most a sixteenth of all slots.

    So many that threads which a busy machine lets wait for some milliseconds hold nobody up.
    """
    return max(1, min(8 * -(-batch_size // reach.piece) + JOB, reach.window // 15))


def variety(reach: Reach | None, batch_size: int) -> float:
    """Different pieces in a batch, as a share of its states: nearly 1 in a perfect shuffle of a large recording."""
    return 1.0 if reach is None else reach.window * (1 - (1 - 1 / reach.window) ** batch_size) / batch_size


def choose_reach(blocks: Blocks, batch_size: int, memory: int) -> Reach | None:
    """How well a recording can be shuffled in some memory.

    Args:
        blocks: what to learn from.
        batch_size: over all ranks.
        memory: bytes that decoded frames may take.

    Returns:
        None, a perfect shuffle, if everything fits; else the reach of a sliding one.

    Raises:
        ValueError: there is no room for two pieces.
    """
    if memory_of(blocks, batch_size, None) <= memory:
        return None
    reach = Reach(SMALLEST, 0)
    for piece in (BLOCK, BLOCK // 2, SMALLEST):
        slots, widest = memory // slot_bytes(piece), WIDEST * batch_size
        window = max(slots - read_ahead(Reach(piece, widest), batch_size), slots * 15 // 16)
        reach = Reach(piece, min(window, widest))
        if reach.window and variety(reach, batch_size) >= GOOD:
            break
    if reach.window < 1:
        least = 2 * slot_bytes(SMALLEST) / 2**30
        raise ValueError(f"a game has {memory / 2**30:.6f} GiB, it needs at least {least:.6f}: raise --data.memory")
    return reach


def memory_of(blocks: Blocks, batch_size: int, reach: Reach | None) -> int:
    """Bytes that decoded frames take."""
    if reach is None:
        return len(blocks) * slot_bytes(BLOCK)
    return (reach.window + read_ahead(reach, batch_size)) * slot_bytes(reach.piece)


class Epochs:
    """The orders of the epochs that are at work, each worked out once, by a thread.

    Args:
        order: of all epochs.
        workers: who works it out.
    """

    def __init__(self, order: Order, workers: Executor) -> None:
        self._order, self._workers = order, workers
        self._found: dict[int, Future[Epoch]] = {}

    def ask(self, number: int) -> None:
        """Begins to work out the order of an epoch; forgets all but it and its neighbours."""
        if number not in self._found:
            self._found = {each: found for each, found in self._found.items() if abs(each - number) == 1}
            self._found[number] = self._workers.submit(self._order.epoch, number)

    def __getitem__(self, number: int) -> Epoch:
        self.ask(number)
        if self._found[number].cancel():  # nobody has begun: it is sooner done than waited for
            self._found[number] = Future()
            self._found[number].set_result(self._order.epoch(number))
        return self._found[number].result()


class Decoded:
    """All blocks decoded, each once, beginning with those that are needed first.

    Args:
        epochs: of a perfect shuffle.
        window: with a slot for every block.
    """

    def __init__(self, epochs: Epochs, window: Window) -> None:
        self._epochs, self._window = epochs, window
        self._slot_of = np.empty(0, np.int64)  # each block's slot, [N]
        self._frames = -1, np.empty(0, np.int32)  # an epoch, and its states' frames, [4 S]

    def gather(self, number: int, low: int, high: int, room: Any) -> np.ndarray:
        """Copies the states from `low` to `high` of an epoch to `room`.

        Returns:
            Their rows, int32 [high - low]: see `Epoch`.

        Raises:
            ShardError: a block is damaged.
        """
        epoch = self._epochs[number]
        rows = epoch.rows[low:high]
        if not len(self._slot_of):
            self._decode_all(by_first_use(np.roll(epoch.rows, -low) // BLOCK))
        if self._window.waiting:
            self._window.wait(self._slot_of[rows // BLOCK])
        if self._frames[0] != number:  # all at once: many small steps would cost more than they compute
            first = self._slot_of[epoch.rows // BLOCK] * self._window.depth + epoch.rows % BLOCK
            self._frames = number, stacked(first).astype(np.int32)
        self._window.gather(self._frames[1][STACK * low : STACK * high], room)
        return rows

    def _decode_all(self, blocks: np.ndarray) -> None:
        slots = np.arange(len(blocks))  # filled one after the other: a system gives memory where it is touched
        self._window.ask(slots, np.stack([blocks, np.zeros_like(blocks)], 1))
        self._slot_of = np.empty_like(slots)
        self._slot_of[blocks] = slots


class Sliding:
    """A window through which the pieces of all epochs pass, in the sequence in which they are numbered here.

    Each epoch has W passes before its beginning, of the pieces that pass once more at its end, and P after it. At time
    T the passes from T - W + 1 to T may be drawn from: those before are over, and their slots are free.

    Args:
        order: with a reach.
        epochs: its epochs.
        window: with more slots than the reach has pieces.
    """

    def __init__(self, order: Order, epochs: Epochs, window: Window) -> None:
        assert order.reach is not None
        assert order.reach.window < window.slots
        self._order, self._epochs, self._window = order, epochs, window
        self._piece, self._before = order.reach
        self._in_epoch = self._before + len(order.piece_starts)
        self._live = self._asked = 0  # the first pass that is not over, and the first that was not asked for
        self._slot_of = np.arange(window.slots)  # by a pass's number modulo theirs

    def gather(self, number: int, low: int, high: int, room: Any) -> np.ndarray:
        """As `Decoded.gather`; in several steps, if the window does not hold all of a batch at once."""
        epoch, base = self._epochs[number], number * self._in_epoch
        rows = epoch.rows[low:high]
        steps = rows % self._piece  # within the piece: a block is a whole number of them
        passes = epoch.passes[low:high].astype(np.int64) + (base + self._before)
        done = 0
        while done < len(rows):
            self._move_to(base + int(epoch.times[low + done]) + 1, low + done)
            late = np.flatnonzero(passes[done:] >= self._asked)  # not before more passes are over
            end = done + int(late[0]) if len(late) else len(rows)
            slots = self._slot_of[passes[done:end] % self._window.slots]
            self._window.wait(slots)
            self._window.gather(stacked(slots * self._window.depth + steps[done:end]), room[done:end])
            done = end
        return rows

    def _move_to(self, live: int, low: int) -> None:
        """Lets go of all passes before `live`, and asks for as many as there is room for.

        Args:
            live: the first pass that is not over.
            low: the state of the epoch that comes next.
        """
        anew = live < self._live or live > self._asked or not self._asked
        if anew:
            self._window.clear()
            self._asked = live
        self._live = live
        while self._asked < live + self._window.slots:
            number, place = divmod(self._asked, self._in_epoch)
            count = min(live + self._window.slots - self._asked, self._in_epoch - place)
            passes = np.arange(place, place + count)
            if anew or place < self._before:  # many at once, at a beginning: first what is needed first
                passes = self._in_order_of_use(number, passes, low if anew else 0)
            places = (number * self._in_epoch + passes) % self._window.slots
            if anew:  # so they are filled one after the other: a system gives memory where it is touched
                rest = np.setdiff1d(np.arange(self._window.slots), places)
                self._slot_of[np.concatenate([places, rest])] = np.arange(self._window.slots)
            pieces = self._order.piece_starts[self._epochs[number].pieces[passes - self._before]]
            self._window.ask(self._slot_of[places], pieces)
            self._asked += count
            anew, low = False, 0

    def _in_order_of_use(self, number: int, passes: np.ndarray, low: int) -> np.ndarray:
        """Passes of an epoch, counted from its first; those of which a state is drawn first after `low` come first."""
        reach = low + 2 * len(passes) * self._piece  # all are used by then, but for some that hardly matter
        used = self._epochs[number].passes[low:reach] + self._before
        used = used[(used >= passes[0]) & (used <= passes[-1])] - passes[0]
        return passes[by_first_use(np.concatenate([used, np.arange(len(passes))]))]


def by_first_use(numbers: np.ndarray) -> np.ndarray:
    """All of 0 to n - 1, of which each occurs in `numbers`, in the sequence in which they occur first, int64 [n]."""
    first = np.empty(int(numbers.max()) + 1, np.int64)
    first[numbers[::-1]] = np.arange(len(numbers))[::-1]  # the last to be written is the earliest
    return np.argsort(first)
