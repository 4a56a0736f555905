"""Loads teachers from files of strangers, and watches itself: `python loader.py GAME FILE...`, a line of JSON for each.

It has a gigabyte more than it needs to start, ten seconds of processor a file, and dies if one makes it run anything.
"""

import json
import os
import resource
import sys

import psutil
import torch

from pd_lightning.teacher import TeacherError, load_teacher

ROOM = 2**30
RUNS = {"os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class"}


def watch(event: str, arguments: tuple) -> None:
    """An audit hook, which cannot be taken away again: no exception handler gets past its end."""
    if event in RUNS:
        print(json.dumps({"ran": [event, *map(str, arguments)]}), flush=True)
        os._exit(3)


def main() -> None:
    game, *paths = sys.argv[1:]
    torch.set_num_threads(1)
    size = psutil.Process().memory_info().vms + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    load_teacher(paths[0], game)  # a good one: from here on all is imported that is needed
    sys.addaudithook(watch)
    for path in paths:
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent) + 10, resource.RLIM_INFINITY))
        try:
            teacher = load_teacher(path, game)
            said = {"weights": [teacher.sha256, teacher.outputs, teacher.fire, sorted(teacher.about.items())]}
        except TeacherError as error:
            said = {"error": str(error)}
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(json.dumps({**said, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
