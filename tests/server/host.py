"""A process that serves repositories: those of a test module, one after another, over real sockets.

Each line on stdin names a directory, in which a repository is made and served; its address is printed. The end of stdin ends all.
The clock of a repository's registry is the file ``clock`` in its directory.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from artifactfs.content.stores import LocalStores
from artifactfs.registry.sql import SQLRegistry
from artifactfs.server.app import create_app
from artifactfs.server.log import Log
from artifactfs.server.serving import Serving, listen, url_of


def main() -> None:
    running: list[tuple[Serving, threading.Thread]] = []
    for line in sys.stdin:
        place = Path(line.rstrip("\n"))
        clock = place / "clock"
        registry = SQLRegistry(place / "registry.db", create=True, clock=lambda clock=clock: float(clock.read_text()))
        stores = LocalStores(place / "store")
        listener = listen("127.0.0.1", 0)
        log = Log(sys.stderr.write, access=False)
        serving = Serving(create_app(registry, stores, log=log), listener, graceful=5)
        ready = threading.Event()
        thread = threading.Thread(target=serving.run, args=(ready.set,))
        thread.start()
        ready.wait()
        running.append((serving, thread))
        sys.stdout.write(url_of(listener) + "\n")
        sys.stdout.flush()
    for serving, _ in running:
        serving.stop()
    for _, thread in running:
        thread.join()


if __name__ == "__main__":
    main()
