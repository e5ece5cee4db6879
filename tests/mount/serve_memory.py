"""The process that serves a MemoryTree for a test: it answers one line of JSON on standard input by one on its output.

A test never serves the mount it uses from its own process: a page fault on a mapping holds the interpreter's lock
while it waits for the very thread that would have to answer it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import threading

from artifactfs.errors import ArtifactFSError, Integrity
from artifactfs.mount.attach import MountOptions
from tests.mount.memory_tree import MemoryTree

BINDINGS = {"kernel": ("artifactfs.mount.kernel", "KernelMount"), "fusepy": ("artifactfs.mount.fusepy", "FusepyMount")}


class Commands:
    def __init__(self, tree: MemoryTree, binding) -> None:
        self.tree, self.binding = tree, binding

    def add(self, path, data="", count=1):
        """One file, or many: `path` then has a %d."""
        if count == 1:
            return self.tree.add(path, data.encode())
        for number in range(count):
            self.tree.add(path % number, data.encode())
        return count

    def replace(self, path, data):
        """The tree changes a file behind the kernel's back."""
        self.tree.find(path).data[:] = data.encode()
        return self.tree.find(path).number

    def remove(self, parent, name):
        self.tree.unlink(self.tree.find(parent).number, name.encode())

    def touch(self, path):
        self.tree.find(path).mtime += 1

    def mode(self, path, mode):
        self.tree.find(path).mode = mode

    def fail(self, path):
        """Reads of the file meet damaged data."""

        class Damaged:
            def wait(self):
                raise Integrity("chunk blake3:00 does not match its digest")

        self.tree.find(path).stalled = Damaged()

    def stall(self, path, count=1):
        for number in range(count):
            self.tree.stall(path % number if count > 1 else path)

    def slow_name(self, name):
        self.tree.slow_names[name.encode()] = threading.Event()

    def unstall(self):
        self.tree.unstall()

    def inval_entry(self, parent, name):
        self.binding.inval_entry(self.tree.find(parent).number, name.encode())

    def inval_inode(self, node):
        self.binding.inval_inode(node)

    def counts(self):
        return self.binding.counts

    def replies(self):
        return self.binding.replies

    def handles(self):
        return len(self.tree.handles)

    def inodes(self):
        return len(self.tree.inodes)

    def thread_starts(self):
        return self.tree.thread_starts

    def threads(self, name):
        return sum(thread.name == name for thread in threading.enumerate())

    def waiting(self):
        """Lookups that wait for a slow name."""
        return self.tree.waiting

    def descriptors(self):
        return len(os.listdir("/proc/self/fd"))


def main() -> int:
    settings = json.loads(sys.argv[1])
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING)
    tree = MemoryTree(**settings.get("tree", {}))
    module, name = BINDINGS[settings["binding"]]
    options = MountOptions(**settings.get("options", {}))
    kind = getattr(importlib.import_module(module), name)
    if user := settings["user"]:  # dropped here, because that user may not be able to reach this interpreter
        os.chdir("/")
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
    binding = kind(tree, settings["mountpoint"], options)
    try:
        binding.mount()
    except ArtifactFSError as error:
        sys.stdout.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        return 1
    commands = Commands(tree, binding)

    def answer() -> None:
        for line in sys.stdin:
            name, args = json.loads(line)
            try:
                result = {"result": getattr(commands, name)(*args)}
            except Exception as error:
                result = {"error": type(error).__name__, "message": str(error)}
            sys.stdout.write(json.dumps(result) + "\n")
            sys.stdout.flush()
        binding.unmount()

    sys.stdout.write('{"result": "mounted"}\n')
    sys.stdout.flush()
    threading.Thread(target=answer, daemon=True).start()
    binding.serve()
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a thread may still wait for a line
