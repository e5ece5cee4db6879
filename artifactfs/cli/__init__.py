"""The command line: parse, call, print. With ``config.py`` the only code that prints or reads environment and home."""

from __future__ import annotations

import sys
from typing import Final

INTERRUPTED: Final = 130
"""Exit status of what Ctrl-C ended, as shells count it: 128 and the number of SIGINT."""


def start() -> None:
    """Entry point of the console script."""
    try:
        from artifactfs.cli.main import main  # takes 0.05 s, in which somebody may press Ctrl-C

        main()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
