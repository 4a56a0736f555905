"""How many states a second reach the training loop: ours beside what one would use instead, and beside the bound.

Every entry delivers the same recorded states, stacked, in shuffled batches. Each measurement has a process of its own,
entries take turns, and what they deliver is compared with the recording byte by byte. What the columns mean, and a
table: `benchmarks/README.md`.

    python -m benchmarks.streaming --busy true --output streaming.json
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.entries import ENTRIES, Job
from benchmarks.measure import measure
from benchmarks.processes import busy_core, in_fresh_process, use_cores
from benchmarks.recorded import Recorded, WrongState
from benchmarks.table import Results, elsewhere, show, table
from pd_lightning.blocks import Shard, ShardError, find_shards

PACKAGES = ("torch", "numpy", "h5py", "zstandard", "webdataset", "litdata", "mosaicml-streaming")


def machine(cores: int) -> dict[str, Any]:
    """What the numbers depend on: processor, cores, versions."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {"processor": model, "cores": cores, "system": f"{platform.system()} {platform.release()}", **versions}


def prepare(source: Path, scratch: Path, states: int) -> tuple[Path, int]:
    """The folder of everything that is made of this recording, with its digests; how many states rivals will hold."""
    shards = [Shard(path) for path in find_shards(source)]
    states = min(states, sum(map(len, shards)))
    name = sha256("".join(shard.digest for shard in shards).encode()).hexdigest()[:12]
    folder = scratch / f"{name}-{states}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "recorded.npz").exists():
        Recorded.of(source).save(folder / "recorded.npz")
    return folder, states


def write(job: Job) -> None:
    """Writes a rival's files, unless they are there. A folder gets its name when it is whole."""
    entry = ENTRIES[job.entry]
    if entry.write is None or (job.scratch / job.entry).exists():
        return
    part = job.scratch / f"{job.entry}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    entry.write(job.source, job.states, part)
    part.rename(job.scratch / job.entry)


def run(job: Job, results: Results) -> None:
    """Measures an entry once, in a fresh process.

    Raises:
        WrongState: it delivered something that was not recorded.
    """
    before = results.setdefault(job.entry, [])
    if isinstance(before, str):
        return
    log = job.scratch / "log.txt"
    try:
        in_fresh_process(log, write, job)
        before.append(in_fresh_process(log, measure, job))
    except ImportError as error:
        results[job.entry] = f"not installed ({error})"
    except WrongState as error:
        raise WrongState(f"{job.entry}: {error}") from error
    except BrokenProcessPool as error:
        raise RuntimeError(f"{job.entry}: its process ended; see {log}") from error


def _rounds(jobs: Sequence[Job], repetitions: int, busy: bool) -> tuple[Results, Results]:
    """All entries in turn, again and again; each round once alone, and once beside a busy core if asked for."""
    quiet: Results = {}
    loud: Results = {}
    rounds = [(r, core) for r in range(repetitions) for core in ([False, True] if busy else [False])]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=len(rounds) * len(jobs))
        for repetition, core in rounds:
            with busy_core() if core else nullcontext():
                for job in jobs:
                    progress.update(bar, description=f"{job.entry}{', a core busy' if core else ''}")
                    run(job._replace(seed=repetition), loud if core else quiet)
                    progress.advance(bar)
    return quiet, loud


def benchmark(
    data: str = "datasets/pong",
    scratch: str = "",
    states: int = 20_000,
    batch_size: int = 256,
    repetitions: int = 3,
    seconds: float = 5.0,
    warm_up: int = 20,
    memory: int = 512,
    cores: int = 2,
    entries: list[str] | None = None,
    busy: bool = False,
    output: str | None = None,
) -> None:
    """Measures loaders of recorded states.

    Args:
        data: the recording, a game's folder of shards.
        scratch: where the other libraries' files are written, and kept for the next time; empty is a folder of the
            system's temporary one. 20,000 states take 2 GB.
        states: how many of the recording the other libraries hold; with 60,000 none of them was faster.
        batch_size: states in a batch.
        repetitions: fresh processes for each entry; the median is reported.
        seconds: that each is measured for, at least; ours and the bound up to the end of an epoch.
        warm_up: batches before, at least; ours and the bound a whole epoch.
        memory: MiB of decoded frames for `ours, streaming`, and a quarter of them for `ours, streaming, tight`: less
            than the recording takes, four times over.
        cores: that everything together may use.
        entries: only these, of bound; ours, decoded once; ours, streaming; ours, streaming, tight; h5py; pickle;
            webdataset; litdata; mosaicml-streaming. None is all.
        busy: also measure beside a second process that trains a student on one core without a pause.
        output: a JSON file with every single measurement.
    """
    names = list(ENTRIES) if entries is None else entries
    if unknown := sorted(set(names) - set(ENTRIES)):
        raise ValueError(f"--entries has {', '.join(unknown)}: choose from {', '.join(ENTRIES)}")
    if min(states, batch_size, repetitions, cores, memory) < 1 or seconds <= 0:
        raise ValueError("--states, --batch_size, --repetitions, --cores, --memory and --seconds must be more than 0")
    source = Path(data).absolute()
    about = machine(use_cores(cores))
    folder, states = prepare(source, Path(scratch or Path(tempfile.gettempdir()) / "pd_lightning_benchmarks"), states)
    recorded, seed = folder / "recorded.npz", 0
    jobs = [
        Job(name, source, recorded, folder, states, batch_size, seed, seconds, warm_up, memory * 2**20)
        for name in names
    ]
    quiet, loud = _rounds(jobs, repetitions, busy)
    about["cores used by other processes"] = round(elsewhere(quiet), 2)
    if loud:
        about["and in the busy rounds"] = round(elsewhere(loud), 2)
    show(table(quiet, loud), about)
    if output:
        plain = [
            {name: runs if isinstance(runs, str) else [r._asdict() for r in runs] for name, runs in results.items()}
            for results in (quiet, loud)
        ]
        Path(output).write_text(json.dumps({"machine": about, "quiet": plain[0], "busy": plain[1]}, indent=2) + "\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 1 if an entry delivered something else than was recorded."""
    try:
        auto_cli(benchmark, args=arguments, as_positional=False, prog="python -m benchmarks.streaming")
    except (OSError, RuntimeError, ShardError, ValueError, WrongState) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
