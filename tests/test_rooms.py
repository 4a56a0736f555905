"""Modules lie in rooms, and import only from their own room and those before it."""

import ast
import re
from pathlib import Path

import pd_lightning

ROOT = Path(pd_lightning.__file__).parent
ROOMS = re.findall(r"^\d\. (.*?)(?=^\d\. |\n\n)", (pd_lightning.__doc__ or "") + "\n", re.MULTILINE | re.DOTALL)
ROOM = {name: number for number, text in enumerate(ROOMS) for name in re.findall(r"`(\w+)`", text)}


def test_every_module_has_a_room():
    modules = {path.stem for path in ROOT.glob("[!_]*") if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert ROOM.keys() - {"__main__"} == modules


def test_no_module_imports_from_a_later_room():
    seen = 0
    for path in ROOT.rglob("*.py"):
        mine = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if path.name == "__main__.py" or mine == "__init__":  # a command line may use anything
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pd_lightning."):
                other = str(node.module).split(".")[1]
                assert ROOM[other] <= ROOM[mine], f"{path.relative_to(ROOT)} imports {node.module}"
                seen += 1
    assert seen > 100
