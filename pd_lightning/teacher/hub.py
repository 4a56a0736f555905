"""Teachers on the Hugging Face Hub: `hf://sb3/dqn-PongNoFrameskip-v4` becomes a local file, fetched once.

Of what lies there only what is needed comes: the unpacked `policy.pth` (13 MB instead of the zip's 27) and the small
files beside it, or else the zip or CleanRL model.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from pd_lightning.files import atomic
from pd_lightning.remote import cache_folder
from pd_lightning.teacher.archives import TEXT_LIMIT, WEIGHTS_LIMIT, copy_limited
from pd_lightning.teacher.fault import TeacherError, naming

_BESIDE = ("config.yml", "args.yml")


def is_hub(path: str | os.PathLike[str]) -> bool:
    """Whether this names a place on the hub. A path that lost a slash counts: `Path` takes one away."""
    return re.match("hf:/", os.fspath(path)) is not None


def fetch(url: str) -> Path:
    """The local file of a teacher on the hub, in `pd_lightning.remote.cache_folder()`; there it is looked for first.

    Args:
        url: hf://OWNER/NAME of a model, or a file in it.

    Raises:
        TeacherError: the name is not allowed, huggingface-hub is not installed, there is no teacher, one could not be
            fetched, or it is larger than a teacher may be.
    """
    place = re.sub("^hf:/+", "", url).rstrip("/")
    parts = place.split("/")
    if len(parts) < 2 or not all(re.fullmatch(r"[\w.-]*\w[\w.-]*", part, re.ASCII) for part in parts):
        raise TeacherError(f"{url}: allowed is hf://OWNER/NAME, as in hf://sb3/dqn-PongNoFrameskip-v4")
    folder = cache_folder() / "hub" / Path(*parts[:2])
    # What a name stands for is what was chosen among all that the hub has, not among what happens to be here.
    exact = folder / Path(*parts[2:])
    if exact.is_file():
        return exact
    record = folder / f".{'-'.join(['teacher', *parts[2:]])}"
    if record.is_file() and (folder / (kept := record.read_text())).is_file():
        return folder / kept
    try:
        files = fsspec.filesystem("hf")
    except ImportError:
        raise TeacherError(f"{url}: huggingface-hub is not installed; pip install -e '.[hf]'") from None
    with naming(url, "could not be fetched", "check the name and the network, then try again"):
        root = "/".join(parts[:2])
        sizes = {_below(info["name"], root): info.get("size") or 0 for info in files.find(root, detail=True).values()}
        chosen = _choose(list(sizes), parts[2:])
        if chosen is None:
            raise TeacherError(f"{url}: has no policy.pth, .zip or .cleanrl_model; choose a model of sb3 or cleanrl")
        near = PurePosixPath(chosen).parent
        # The weights come last: that they are there tells that all came.
        for name in (*_BESIDE, (near / "data").as_posix(), chosen):
            if name in sizes:
                _get(
                    files, f"{root}/{name}", folder / name, WEIGHTS_LIMIT if name == chosen else TEXT_LIMIT, sizes[name]
                )
        with atomic(record) as part:
            part.write_text(chosen)
    return folder / chosen


def _below(name: str, root: str) -> str:
    """A file's name in its model: file systems may put a protocol or a revision before it."""
    return re.sub(rf"^.*?{re.escape(root)}(@[^/]+)?/", "", name)


def _choose(names: list[str], wanted: list[str]) -> str | None:
    """The file that a teacher is read from, the lightest first."""
    names = [name for name in sorted(names) if ".." not in name.split("/") and not name.startswith("/")]
    if wanted:
        exact = "/".join(wanted)
        return exact if exact in names else _choose([name for name in names if name.startswith(f"{exact}/")], [])
    ends = (r"(^|/)policy\.pth", r"^[^/]*\.zip", r"\.cleanrl_model", r"(^|/)teacher\.safetensors")
    return next((name for end in ends for name in names if re.search(f"{end}$", name) and "eval" not in name), None)


def _get(files: Any, place: str, target: Path, limit: int, size: int) -> None:
    """Fetches a file, whole or not at all, and no more than `limit` bytes."""
    if size > limit:
        raise TeacherError(f"hf://{place}: {size:,} bytes, allowed are {limit:,}; choose another model")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as part, files.open(place, "rb") as source, part.open("wb") as opened:
        if copy_limited(source, opened, limit) > limit:
            raise TeacherError(f"hf://{place}: more than the {limit:,} bytes allowed; choose another model")
