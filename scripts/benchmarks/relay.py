"""A program that makes one machine's network slow: a TCP relay whose every byte arrives a given time after it was sent.

python relay.py HOST PORT [--delay SECONDS]

It prints the port that it listens on (127.0.0.1), answers each line on its standard input by a line of JSON with what it has
counted, and ends when that input ends: it cannot outlive who started it.

What it does to a connection: each direction is delayed by ``--delay``, in order, with at most 4 MiB under way; a reader who does
not read stops the sender. A client is connected at once by the kernel of this machine, so its first bytes wait for one round trip
more, which a handshake would have taken. There is no loss, no slow start and no limit of bandwidth but the processor's.

Bytes are never copied into this program: `splice` moves them from a socket into a pipe, where they wait, and on into the other
socket. So it takes little of the processors that the two ends need: 0.4 s a GiB, in one thread. The time that a byte waits is
counted from when it is taken off its socket.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import json
import os
import resource
import select
import signal
import socket
import struct
import time
from collections import deque

IN_FLIGHT = 4 << 20  # bytes of a connection and direction
_BACKLOG = 512
_IDLE_SECONDS = 60.0
_MOVE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_AT_ONCE = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


class Flow:
    """One direction of a connection: what has left ``source`` waits in a pipe until it is due at ``sink``."""

    def __init__(self, source: socket.socket, sink: socket.socket, not_before: float) -> None:
        self.source = source
        self.sink = sink
        self.not_before = not_before  # of the monotonic clock: nothing is on its way earlier
        self.outlet, self.inlet = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.waiting: deque[tuple[float, int]] = deque()  # when due, bytes; 0 bytes: the sender has ended
        self.held = 0
        self.ended = False  # nothing more comes
        self.delivered = False  # and all that came has gone
        self.full = False  # the pipe takes no more until some has gone
        self.blocked = False  # the reader takes no more for now
        self.scheduled = False

    @property
    def wants(self) -> bool:
        """Whether more may be taken off the source."""
        return not self.ended and not self.full and self.held < IN_FLIGHT

    def take(self, now: float, delay: float) -> int:
        """Take what lies in the source; returns how much. Call it only when the source is readable."""
        try:
            count = os.splice(self.source.fileno(), self.inlet, IN_FLIGHT - self.held, flags=_MOVE)
        except BlockingIOError:  # there are bytes, so it is the pipe
            self.full = self.held > 0 and not self._widen()
            return 0
        self.ended = not count
        self.held += count
        self.waiting.append((max(now, self.not_before) + delay, count))
        return count

    def _widen(self) -> bool:
        """A larger pipe, if it may be: it has a slot for each fragment, whose sizes are the kernel's choice."""
        size = fcntl.fcntl(self.inlet, fcntl.F_GETPIPE_SZ)
        if size >= IN_FLIGHT:
            return False
        with contextlib.suppress(PermissionError):  # an ordinary user's pipes end at /proc/sys/fs/pipe-max-size
            return fcntl.fcntl(self.inlet, fcntl.F_SETPIPE_SZ, size * 4) > size
        return False

    def give(self, now: float) -> None:
        """Hand on what is due."""
        waiting = self.waiting
        while waiting and waiting[0][0] <= now:
            due, count = waiting[0]
            if not count:
                waiting.clear()
                self.delivered = True
                self.sink.shutdown(socket.SHUT_WR)
                return
            try:
                gone = os.splice(self.outlet, self.sink.fileno(), count, flags=_MOVE)
            except BlockingIOError:
                self.blocked = True
                return
            self.held -= gone
            self.full = False
            if gone == count:
                waiting.popleft()
            else:
                waiting[0] = (due, count - gone)
        self.blocked = False

    def close(self) -> None:
        os.close(self.inlet)
        os.close(self.outlet)


class Connection:
    """A client's socket, the server's, and what flows between them."""

    def __init__(self, client: socket.socket, server: socket.socket, accepted: float, delay: float) -> None:
        self.sockets = (client, server)
        self.up = Flow(client, server, accepted + 2 * delay)
        self.down = Flow(server, client, accepted)
        self.watched = dict.fromkeys(self.sockets, 0)
        self.closed = False


class Relay:
    """Listens and relays until its standard input ends."""

    def __init__(self, upstream: tuple[str, int], delay: float) -> None:
        self.upstream = upstream
        self.delay = delay
        self.counts = {
            "connections": 0,
            "up": 0,
            "down": 0,
        }  # the last two: bytes taken, from clients and from the server
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self.listener.setblocking(False)
        self.port: int = self.listener.getsockname()[1]
        self._poll = select.epoll()
        self._poll.register(self.listener, select.EPOLLIN)
        self._poll.register(0, select.EPOLLIN)
        self._by_descriptor: dict[
            int, tuple[Connection, Flow, Flow]
        ] = {}  # what leaves a socket, and what arrives there
        self._due: list[tuple[float, int, Connection, Flow]] = []
        self._number = 0

    def run(self) -> None:
        while True:
            timeout = max(0.0, self._due[0][0] - time.monotonic()) if self._due else _IDLE_SECONDS
            # epoll counts in milliseconds, which would add half of one to each delay; select in microseconds.
            select.select([self._poll.fileno()], [], [], timeout)
            for descriptor, events in self._poll.poll(0):
                if descriptor == 0:
                    if not os.read(0, 4096):
                        return
                    print(json.dumps(self._report()), flush=True)
                elif descriptor == self.listener.fileno():
                    self._accept()
                elif (found := self._by_descriptor.get(descriptor)) is not None:
                    self._ready(*found, events)
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                _, _, connection, flow = heapq.heappop(self._due)
                flow.scheduled = False
                self._give(connection, flow, now)

    def _report(self) -> dict[str, int]:
        """The counts, and what is so now: connections that are open, and the most bytes that one direction of one holds."""
        flows = [leaving for _, leaving, _ in self._by_descriptor.values()]
        return {**self.counts, "open": len(flows) // 2, "held": max((flow.held for flow in flows), default=0)}

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket()
                for each in (client, server):
                    each.setblocking(False)
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.connect_ex(self.upstream)  # a refusal shows as an error of the socket
                connection = Connection(client, server, time.monotonic(), self.delay)
                self._by_descriptor[client.fileno()] = (connection, connection.up, connection.down)
                self._by_descriptor[server.fileno()] = (connection, connection.down, connection.up)
                self.counts["connections"] += 1
                self._watch(connection)

    def _ready(self, connection: Connection, leaving: Flow, arriving: Flow, events: int) -> None:
        """A socket can be read or written, or has failed, which shows when that is tried."""
        now = time.monotonic()
        if arriving.blocked:
            self._give(connection, arriving, now)
        if leaving.wants and events & ~select.EPOLLOUT and not connection.closed:
            try:
                taken = leaving.take(now, self.delay)
            except OSError:
                self._reset(connection)
                return
            self.counts["up" if leaving is connection.up else "down"] += taken
            self._settle(connection)

    def _give(self, connection: Connection, flow: Flow, now: float) -> None:
        if connection.closed:
            return
        try:
            flow.give(now)
        except OSError:
            self._reset(connection)
        else:
            self._settle(connection)

    def _settle(self, connection: Connection) -> None:
        """After bytes were moved: wait for what is next, or close what has ended on both sides."""
        flows = (connection.up, connection.down)
        if all(flow.delivered for flow in flows):
            self._close(connection)
            return
        for flow in flows:
            if flow.waiting and not flow.blocked and not flow.scheduled:
                flow.scheduled = True
                self._number += 1
                heapq.heappush(self._due, (flow.waiting[0][0], self._number, connection, flow))
        self._watch(connection)

    def _watch(self, connection: Connection) -> None:
        """Ask for the events that are of use now, and for none of a socket that has no use: an end would be told for ever."""
        client, server = connection.sockets
        up, down = connection.up, connection.down
        for each, leaving, arriving in ((client, up, down), (server, down, up)):
            wanted = (select.EPOLLIN if leaving.wants else 0) | (select.EPOLLOUT if arriving.blocked else 0)
            watched = connection.watched[each]
            if wanted == watched:
                continue
            if not watched:
                self._poll.register(each, wanted)
            elif not wanted:
                self._poll.unregister(each)
            else:
                self._poll.modify(each, wanted)
            connection.watched[each] = wanted

    def _reset(self, connection: Connection) -> None:
        """One end has failed: the other is told at once."""
        for each in connection.sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._close(connection)

    def _close(self, connection: Connection) -> None:
        connection.closed = True
        for each in connection.sockets:
            del self._by_descriptor[each.fileno()]
            each.close()
        for flow in (connection.up, connection.down):
            flow.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="relay.py", description="Relays TCP connections, every byte delayed.")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--delay", type=float, default=0.010, help="seconds in each direction (default %(default)s)")
    chosen = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes six
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started it, whose end ends this
    relay = Relay((chosen.host, chosen.port), chosen.delay)
    print(relay.port, flush=True)
    relay.run()


if __name__ == "__main__":
    main()
