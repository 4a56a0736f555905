"""The command that lists which states come when, and lists that are not read to their end."""

import subprocess
import sys

import pytest

from pd_lightning.blocks import Shard, find_shards
from pd_lightning.streaming import Blocks, Stream, choose_reach, held_out, memory_of
from pd_lightning.streaming.__main__ import main


@pytest.mark.parametrize("memory", [None, 0.005])
def test_the_order_command_prints_what_a_rank_would_see(datasets, capsys, memory):
    options = {"games": "pong,breakout", "batch_size": 64, "ranks": 4, "rank": 3, "epoch": 2, "seed": 9}
    options |= {"validation": 0.2, **({"memory": memory} if memory else {})}
    command = ["order", str(datasets), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    assert main(command) == 0
    printed = capsys.readouterr().out.splitlines()
    streams = {}
    for game in ("pong", "breakout"):
        shards = [Shard(path) for path in find_shards(datasets / game)]
        blocks = Blocks(shards, held_out(shards, 0.2, 9)[0])
        need = memory_of(blocks, 64, None) if game == "breakout" else 0  # the smaller one; it leaves the rest
        streams[game] = blocks, need
    lines, length = [], -(-streams["pong"][0].states // 64)
    room = int((memory or 1) * 2**30)
    breakout = choose_reach(streams["breakout"][0], 64, room // 2)
    pong = choose_reach(streams["pong"][0], 64, room - memory_of(streams["breakout"][0], 64, breakout))
    for i in range(length):
        for game, reach in (("pong", pong), ("breakout", breakout)):
            stream = Stream(streams[game][0], 64, 9, reach, 3, 4)
            for block, step in stream.ids(2 * length + i):
                shard, number = stream.blocks.chosen[block]
                lines.append(f"{game} {i} {shard:04d}.h5 {number} {step}")
    assert printed == lines


@pytest.mark.parametrize(("arguments", "complaint"), [
    (["--games=[pong, breakout]", "--batch_size=25", "--ranks=2"], "multiple of the number of devices"),
    (["--games", "asterix"], "asterix"),
    (["--mixing", "stirred"], "balanced, one_game"),
    (["--weights.breakout", "2"], "weights has breakout"),
    (["--memory", "0.0001"], "raise --data.memory"),
    (["--memory", "-1"], "memory is -1"),
    (["--games=pong,pong"], "each once"),
    (["--batch_size=0"], "batch_size is 0"),
    (["--epoch=-1"], "epoch -1"),
    (["--games=[pong, breakout]", "--batch_size=8", "--ranks=4", "--weights.pong=7"], "weight of breakout leaves 2"),
])  # fmt: skip
def test_the_order_command_complains_in_one_line(datasets, capsys, arguments, complaint):
    assert main(["order", str(datasets), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert complaint in captured.err


@pytest.mark.parametrize("words", ["streaming order", "blocks info"])
def test_whoever_reads_a_list_may_stop_reading(datasets, words):
    command = f"{sys.executable} -m pd_lightning.{words} {datasets} | head -1"
    done = subprocess.run(["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True)
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert done.returncode in (0, 141)
