"""Python's standard library as a yardstick: what every base knows, and a project's names are not.

The packages of each sample are listed in stdlib_packages.json and never overlap.
"""

from __future__ import annotations

import builtins
import json
import re
import sysconfig
from pathlib import Path

ROOT = Path(sysconfig.get_paths()["stdlib"])
GROUPS = ("replay", "guard", "measured")


def packages() -> dict[str, list[str]]:
    """Return the packages of each sample."""
    return json.loads((Path(__file__).with_name("stdlib_packages.json")).read_text())


def library_files(groups: tuple[str, ...] = GROUPS) -> list[Path]:
    """Return the files of some groups of packages, tests left out, sorted."""
    listed, files = packages(), []
    for name in (name for group in groups for name in listed[group]):
        files += [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").is_file() else []
        files += (ROOT / name).rglob("*.py") if (ROOT / name).is_dir() else []
    return sorted(path for path in files if not {"test", "tests"} & set(path.parts))


def common_names() -> set[str]:
    """Return every word the library uses, and the builtins."""
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in library_files())
    return set(dir(builtins)).union(*(re.findall(r"\w+", text) for text in texts))
