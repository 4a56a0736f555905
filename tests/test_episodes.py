"""Emulators are lent again: what was played in them before does not show."""

import multiprocessing
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pd_lightning import emulators as lending
from pd_lightning import episodes
from pd_lightning.atari import PROTOCOLS
from pd_lightning.emulators import Emulators
from pd_lightning.episodes import moments

PAPER = PROTOCOLS["paper"]
SHORT = replace(PAPER, frame_limit=80)
TASKS = Path("/proc/self/task")


@pytest.fixture
def emulators(monkeypatch):
    """Emulators of this test alone, which count how many were built."""
    built = []

    def build(game, parallel, protocol, **how):
        built.append((game, parallel))
        return original(game, parallel, protocol, **how)

    original = lending.build
    monkeypatch.setattr(lending, "build", build)
    fresh = Emulators()
    fresh.built = built  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(episodes, "EMULATORS", fresh)
    return fresh


def first_action(states):
    return torch.eye(6)[1].expand(len(states), -1)


def played(seeds, protocol=SHORT, **how):
    """All moments, joined: states, rewards, episodes."""
    found = list(moments(first_action, "pong", seeds, protocol, **how))
    return [np.concatenate([moment[field] for moment in found]) for field in (0, 3, 5)]


def test_emulators_that_have_played_play_as_new_ones_do(emulators):
    new = played([1, 2, 3], parallel=2)
    played([7, 8], replace(PAPER, frame_limit=80, epsilon=1.0), parallel=2)  # something else, in the same emulators
    again = played([1, 2, 3], parallel=2)
    assert emulators.built == [("pong", 2)]
    for one, other in zip(new, again, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_player_thinks_in_one_thread_and_the_others_are_there_again_afterwards(four_threads):
    threads = set()

    def thinks(states):
        threads.add(torch.get_num_threads())
        return first_action(states)

    for _ in moments(thinks, "pong", [1], SHORT, parallel=1):
        assert torch.get_num_threads() == 4
    assert threads == {1}


def test_emulators_that_nobody_needs_any_more_stand_still(emulators, monkeypatch):
    turn, back, lengths = 0, [], Counter()
    monkeypatch.setattr(emulators, "take_back", lambda env, *_: back.append((turn, env.num_envs)))
    at_random = replace(PAPER, epsilon=1.0)
    idle = torch.eye(18)[:1]
    for moment in moments(lambda states: idle.expand(len(states), -1), "road_runner", range(5), at_random, parallel=5):
        turn += 1
        lengths.update(moment.episodes.tolist())
    pairs = [max(lengths[0], lengths[1]), max(lengths[2], lengths[3]), lengths[4]]
    assert len(set(pairs)) == 3
    assert back == sorted(zip(pairs, (2, 2, 1), strict=True))


@pytest.fixture
def lent(monkeypatch):
    """Lends emulators that cannot play, a few at a time, and takes them back; says how many times some were built."""
    built, mine = [], Emulators()

    def fake(game, parallel, protocol, **how):
        built.append(SimpleNamespace(num_envs=parallel))
        return built[-1]

    def lend(rules, fire=False, count=2):
        mine.take_back(mine.lend("pong", count, rules, fire), "pong", rules, fire)
        return len(built)

    monkeypatch.setattr(lending, "build", fake)
    lend.pool = mine  # pyright: ignore[reportFunctionMemberAccess]
    return lend


def test_other_rules_want_other_emulators(lent):
    others = [{"sticky": 0.25}, {"frame_limit": 40}, {"noop_max": 0}]
    assert [lent(replace(SHORT, **other)) for other in ({}, *others)] == [1, 2, 3, 4]
    assert [lent(SHORT, fire=True), lent(SHORT), lent(replace(SHORT, epsilon=1.0))] == [5, 5, 5]


def test_emulators_that_were_left_in_mid_game_are_not_lent_again(emulators):
    playing = moments(first_action, "pong", [1, 2], SHORT, parallel=2)
    next(playing)
    del playing
    played([1, 2], parallel=2)
    assert emulators.built == [("pong", 2)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere threads have no priority of their own")
def test_threads_of_emulators_stand_behind_the_one_that_thinks():
    def priorities():
        return {thread.name: os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in TASKS.iterdir()}

    before = priorities()
    env = Emulators().lend("pong", 2, SHORT, False)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    started = [nice for thread, nice in priorities().items() if thread not in before]
    assert started
    assert set(started) == {min(own + 10, 19)}
    assert priorities()[str(threading.get_native_id())] == own
    env.close()


def test_two_who_play_at_once_do_not_share(emulators):
    one, other = (moments(first_action, "pong", [1], SHORT, parallel=1) for _ in range(2))
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(mine.states, theirs.states)
    assert emulators.built == [("pong", 1)] * 2


def test_only_so_many_emulators_are_kept_and_the_newest_of_them(lent, monkeypatch):
    monkeypatch.setattr(lending, "IDLE_EMULATORS", 4)
    first, second, third = (replace(PAPER, frame_limit=limit) for limit in (40, 60, 80))
    assert [lent(rules) for rules in (first, second, third, third, second)] == [1, 2, 3, 3, 3]
    assert [lent(rules) for rules in (first, second)] == [4, 4]


def test_emulators_that_never_came_back_do_not_stand_in_the_way_of_others(lent, monkeypatch):
    monkeypatch.setattr(lending, "IDLE_EMULATORS", 4)
    lent.pool.lend("pong", 2, PAPER, False)  # whoever played there was cut short
    assert [lent(replace(PAPER, frame_limit=limit)) for limit in (40, 60, 80)] == [2, 3, 4]


def test_many_games_that_are_scored_in_turns_find_their_emulators_again(lent):
    rules = [replace(PAPER, frame_limit=limit) for limit in range(40, 80, 4)]
    assert [[lent(each, count=32) for each in rules][-1] for _ in range(3)] == [10, 10, 10]


def test_a_forked_process_builds_its_own():
    """The parent's have no threads there: who waited for them would wait for ever."""
    played([1, 2], parallel=2)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    child = context.Process(target=lambda: answers.put(played([1, 2], parallel=2)[0].sum()))
    child.start()
    assert answers.get(timeout=60) == played([1, 2], parallel=2)[0].sum()
    child.join(60)
    assert child.exitcode == 0


def test_an_interpreter_that_ends_after_playing_complains_of_nothing():
    program = (
        "import torch; from pd_lightning.rollout import play;"
        "print(play(lambda s: torch.zeros(len(s), 6), 'pong', 1, protocol='brief').steps)"
    )
    protocol = "from dataclasses import replace; from pd_lightning.atari import PROTOCOLS as p;"
    protocol += "p['brief'] = replace(p['paper'], name='brief', frame_limit=40);"
    command = [sys.executable, "-c", protocol + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[10]\n", "")
