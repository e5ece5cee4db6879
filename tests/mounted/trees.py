"""Trees of files: one to begin with, and what a user may notice of one, to be compared."""

from __future__ import annotations

import hashlib
import os
import random
import stat
from pathlib import Path
from typing import Any

LARGE = 9 << 20  # several chunks


def sample(root: Path) -> Path:
    """A small tree with everything in it that a version can hold."""
    noise = random.Random(1)
    (root / "images/deep/er").mkdir(parents=True)
    (root / "empty").mkdir()
    for number in range(60):
        (root / f"images/{number:03d}.png").write_bytes(noise.randbytes(100 * number))
    (root / "images/deep/er/x").write_text("deep\n")
    (root / "large.bin").write_bytes(noise.randbytes(LARGE))
    (root / "words.txt").write_text("".join(f"word {number}\n" for number in range(2000)))
    (root / "nothing").touch()
    (root / "run").write_text("#!/bin/sh\necho ran\n")
    (root / "run").chmod(0o755)
    (root / "link").symlink_to("images/deep/er/x")
    (root / "images/up").symlink_to("../run")
    (root / "folder-link").symlink_to("images")
    (root / "to-nowhere").symlink_to("images/none")
    (root / "größe 数据\nzwei").write_text("unicode\n")
    (root / ("n" * 255)).write_text("long\n")
    for path in root.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.name == "run" else 0o644)
    return root


Entry = dict[str, Any]


def snapshot(root: Path, *, base: int = 0, since: int = 0, without: str = "") -> dict[str, Entry]:
    """Everything below a directory that a user may notice, by path: "." is the directory itself.

    The time ``base`` (ns) is "base", and times from ``since`` on are "now": that they were made matters, not the nanosecond.
    The file ``without`` is not read.
    """
    found: dict[str, Entry] = {}
    first_names: dict[int, str] = {}

    def add(path: str, name: str) -> None:
        status = os.lstat(path)
        entry: Entry = {"mode": stat.filemode(status.st_mode)}
        if not stat.S_ISLNK(status.st_mode):
            mtime = status.st_mtime_ns
            entry["mtime"] = "base" if mtime == base else "now" if since and mtime >= since else mtime
            entry["xattrs"] = {key: os.getxattr(path, key) for key in os.listxattr(path) if key.startswith("user.")}
        if stat.S_ISREG(status.st_mode):
            data = Path(path).read_bytes()
            assert len(data) == status.st_size, path
            entry |= {"size": status.st_size, "sha256": hashlib.sha256(data).hexdigest(), "nlink": status.st_nlink}
            if status.st_nlink > 1:
                entry["same as"] = first_names.setdefault(status.st_ino, name)
        elif stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
        found[name] = entry

    add(str(root), ".")
    for directory, directories, files in os.walk(root):
        directories.sort()
        for name in sorted([*directories, *files]):
            path = os.path.join(directory, name)
            if name != without:
                add(path, os.path.relpath(path, root))
    return found


def content(root: Path, *, without: str = "") -> dict[str, tuple[str, ...]]:
    """What a version keeps of a tree, by path."""
    kept: dict[str, tuple[str, ...]] = {}
    for path, entry in snapshot(root, without=without).items():
        kind = entry["mode"][0]
        if kind == "-":
            executable = "x" if "x" in entry["mode"].replace("s", "x") else ""
            kept[path] = ("file", executable, entry["sha256"])
        elif kind == "l":
            kept[path] = ("link", entry["target"])
        else:
            kept[path] = ("directory",)
    return kept
