"""``python -m artifactfs``: the command line, for places where the console script is not on the path."""

from __future__ import annotations

from artifactfs.cli import start

if __name__ == "__main__":
    start()
