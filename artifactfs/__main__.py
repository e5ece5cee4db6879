"""``python -m artifactfs``: the command line, for places where the console script is not on the path."""

from __future__ import annotations

from artifactfs.cli.main import main

if __name__ == "__main__":
    main()
