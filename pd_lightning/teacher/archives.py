"""Reads archives of strangers within limits: nothing in them is run, believed, or unpacked to a path of theirs.

`torch.load(weights_only=True)` runs no code. But it believes sizes, and two readers of one zip may see two contents. So
what it is given here is a copy that we wrote, of members whose sizes and checksums were found right, and it is mapped
into memory: a tensor cannot reach beyond the file, nor claim more than it holds.
"""

from __future__ import annotations

import gzip
import pickletools
import re
import tempfile
import zipfile
from pathlib import Path
from typing import IO, Any

import torch

from pd_lightning.teacher.fault import TeacherError, naming

WEIGHTS_LIMIT = 256 * 2**20
"""Bytes of weights in a file, unpacked. The largest network here has 20 MB, thrice that with its optimizer's state."""
TEXT_LIMIT = 64 * 2**20
"""Bytes of settings: Stable-Baselines3 puts objects of some MB beside them."""
PICKLE_LIMIT = 2 * 2**20
"""Bytes of the pickle in which PyTorch keeps names and shapes: 20 KB for our checkpoints."""
MEMBERS_LIMIT = 10_000
TRUSTED = "get the file again, from somebody you trust"

_STORAGES = ["BFloat16", "Half", "Float", "Double", "Bool", "Byte", "Char", "Short", "Int", "Long"]
_ALLOWED = {
    "collections OrderedDict",
    "torch device",  # of a training, among its settings
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {name}Storage" for name in _STORAGES),
}
"""What the pickle of tensors and plain values names. Fewer than PyTorch allows, which has `bytearray` of any size."""


def members(archive: zipfile.ZipFile, where: object) -> dict[str, zipfile.ZipInfo]:
    """The members by name.

    Raises:
        TeacherError: there are too many, two of one name, or one whose path leads out of the archive.
    """
    found = archive.infolist()
    names = [info.filename for info in found]
    if len(found) > MEMBERS_LIMIT or len(set(names)) != len(names):
        raise TeacherError(f"{where}: {len(names)} members, {len(set(names))} names; no library writes that; {TRUSTED}")
    for name in names:
        if name.startswith("/") or re.search(r"\\|:|(^|/)\.\.(/|$)", name):
            raise TeacherError(f"{where}: member {name[:80]!r} leads out of the archive; {TRUSTED}")
    return dict(zip(names, found, strict=True))


def copy_limited(source: IO[bytes] | gzip.GzipFile, target: IO[bytes], limit: int) -> int:
    """Copies piece by piece until the source ends, or has given more than `limit` bytes; returns how many it has given.

    What it gives beyond the limit is not written.
    """
    size = 0
    while size <= limit and (piece := source.read(1 << 20)):
        size += len(piece)
        target.write(piece[: limit - size] if size > limit else piece)
    return size


def unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: IO[bytes], limit: int, where: object) -> int:
    """Copies a member piece by piece, and no more than it declared and was allowed; returns its bytes.

    Raises:
        TeacherError: it is larger than `limit`, or packed in a way that Python cannot unpack in pieces.
    """
    shown = f"{where}: {info.filename[:80]}"
    if info.file_size > limit:
        raise TeacherError(f"{shown} unpacks to {info.file_size:,} bytes, allowed are {limit:,}; {TRUSTED}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TeacherError(f"{shown} is packed by method {info.compress_type}, allowed are 0 and 8; {TRUSTED}")
    with archive.open(info) as source:  # compares the checksum at the end, and stops where it was to end
        size = copy_limited(source, target, info.file_size)
    if size != info.file_size:
        other = "larger" if size > info.file_size else "smaller"
        raise TeacherError(f"{shown} is {other} than the {info.file_size:,} bytes declared; {TRUSTED}")
    return size


def inflate(source: IO[bytes], target: IO[bytes], limit: int, where: object) -> None:
    """Unpacks a gzip file piece by piece, and no more than allowed.

    Raises:
        TeacherError: it is not whole, or larger than `limit`.
    """
    with naming(where, "not a whole gzip file", "copy it again"), gzip.GzipFile(fileobj=source) as packed:
        size = copy_limited(packed, target, limit)
    if size > limit:
        raise TeacherError(f"{where}: unpacks to more than the bytes allowed for weights; {TRUSTED}")


def read_torch(source: IO[bytes], where: object) -> Any:
    """What `torch.save` wrote: dictionaries, plain values, and tensors, which still lie in a file.

    Args:
        source: a file, open and seekable.
        where: what to call it in errors.

    Raises:
        TeacherError: it is not whole, too large, or more than plain values and tensors.
    """
    what = "neither a teacher file nor a checkpoint that loads without running code"
    step = "name a whole file of a format in the README"
    with naming(where, what, step), tempfile.TemporaryDirectory(prefix="pd_lightning-") as folder:
        copy = Path(folder) / "weights"
        with zipfile.ZipFile(source) as archive:
            _rewrite(archive, copy, where)
        # The mapping outlives the file's name.
        return torch.load(copy, map_location="cpu", weights_only=True, mmap=True)


def _rewrite(archive: zipfile.ZipFile, copy: Path, where: object) -> None:
    """Writes what PyTorch is to see: the checked pickle, the byte order, and the storages, unpacked."""
    found = members(archive, where)
    pickles = [name for name in found if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError(f"{len(pickles)} members NAME/data.pkl")
    root = pickles[0].removesuffix("data.pkl")
    limits = {f"{root}data.pkl": PICKLE_LIMIT, f"{root}byteorder": 16}
    left = WEIGHTS_LIMIT
    with zipfile.ZipFile(copy, "w") as clean:
        clean.writestr("archive/version", "3\n")
        for name, info in found.items():
            if name not in limits and not re.fullmatch(rf"{re.escape(root)}data/\d+", name):
                continue
            with clean.open(f"archive/{name.removeprefix(root)}", "w", force_zip64=True) as target:
                left -= unpack(archive, info, target, min(left, limits.get(name, left)), where)
    with zipfile.ZipFile(copy) as clean:
        check_pickle(clean.read("archive/data.pkl"), where)


def check_pickle(content: bytes, where: object) -> None:
    """Looks through a pickle without running it.

    Raises:
        TeacherError: it names anything but tensors and plain values.
    """
    for operation, argument, _ in pickletools.genops(content):
        named = argument if operation.name == "GLOBAL" else operation.name
        if operation.name in ("INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4") or (
            operation.name == "GLOBAL" and argument not in _ALLOWED
        ):
            raise TeacherError(
                f"{where}: its pickle wants {str(named)[:80]!r}, allowed are tensors and plain values: loading it "
                f"elsewhere may run code; of a model of your own save state_dict() alone, else {TRUSTED}"
            )
