"""The shards of a game's folder."""

import os
import re
from pathlib import Path

from pd_lightning.blocks.contract import fault, record_command


def find_shards(folder: str | os.PathLike[str]) -> list[Path]:
    """The shards of a game's folder, by number.

    Raises:
        ShardError: there is no such folder, or no shard in it; the message says how to record one.
    """
    folder = Path(folder)
    if folder.is_dir() and not os.access(folder, os.R_OK | os.X_OK):
        raise fault(folder, "folder", "not to be read", "one that may be listed", "check its permissions")
    if shards := numbered(folder):
        return shards
    near = [str(other) for other in sorted(folder.absolute().parent.glob("*/")) if numbered(other)]
    allowed = f"a folder with shards 0000.h5, 0001.h5, ... (there are: {', '.join(near) or 'none beside it'})"
    value = "empty of shards" if folder.is_dir() else "missing"
    raise fault(folder, "folder", value, allowed, f"record it: {record_command(folder)}")


def shard_name(number: int) -> str:
    """What a shard's file is called."""
    return f"{number:04d}.h5"


def is_shard(name: str) -> bool:
    """Whether a file's name is that of a shard."""
    return re.fullmatch(r"[0-9]{4,}\.h5", name) is not None


def numbered(folder: Path) -> list[Path]:
    """The shards in a folder, by number; there may be none."""
    found = [path for path in folder.glob("*.h5") if is_shard(path.name)]
    return sorted(found, key=lambda path: (int(path.stem), path.name))
