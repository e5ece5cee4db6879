"""The relay of scripts/bench: what goes in comes out, later and in order, and no more of it is under way than it says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ports import HeldPort

PROGRAM = Path(__file__).parents[2] / "scripts" / "benchmarks" / "relay.py"
DELAY = 0.010
SECONDS = 30
IN_FLIGHT = 4 << 20


class Relay:
    def __init__(self, upstream: int, delay: float) -> None:
        command = [sys.executable, str(PROGRAM), "127.0.0.1", str(upstream), "--delay", str(delay)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def counts(self) -> dict[str, int]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> int:
        self.process.stdin.close()
        try:
            return self.process.wait(SECONDS)
        finally:
            self.process.kill()
            self.process.stdout.close()


def receive(connection: socket.socket) -> bytes:
    parts = []
    while part := connection.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


@contextlib.contextmanager
def relayed(serve: Callable[[socket.socket], None], delay: float = DELAY) -> Iterator[Relay]:
    """A relay before a server that treats each connection so, in a thread of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads: list[threading.Thread] = []

        def treat(connection: socket.socket) -> None:
            with connection, contextlib.suppress(ConnectionError):
                serve(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):  # shut down below
                while True:
                    connection, _ = listener.accept()
                    connection.settimeout(SECONDS)
                    threads.append(threading.Thread(target=treat, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        relay = Relay(listener.getsockname()[1], delay)
        try:
            yield relay
        finally:
            relay.end()
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *threads):
                thread.join(SECONDS)


def echo(connection: socket.socket) -> None:
    while part := connection.recv(1 << 16):
        connection.sendall(part)


def test_what_is_sent_arrives_in_both_directions_and_is_counted():
    contents = [os.urandom(size) for size in (0, 1, 100_000, 9_000_001)]

    def reverse(connection: socket.socket) -> None:
        connection.sendall(receive(connection)[::-1])

    received: dict[int, bytes] = {}

    def exchange(relay: Relay, number: int) -> None:
        with relay.connect() as connection:
            connection.sendall(contents[number])
            connection.shutdown(socket.SHUT_WR)
            received[number] = receive(connection)

    with relayed(reverse) as relay:
        clients = [threading.Thread(target=exchange, args=(relay, number)) for number in range(len(contents))]
        for client in clients:
            client.start()
        for client in clients:
            client.join(SECONDS)
        assert {number: hashlib.sha256(data).digest() for number, data in received.items()} == {
            number: hashlib.sha256(data[::-1]).digest() for number, data in enumerate(contents)
        }
        total = sum(map(len, contents))
        counts = relay.counts()
        assert (counts["connections"], counts["up"], counts["down"]) == (len(contents), total, total)


def test_each_direction_is_delayed_and_a_connection_costs_a_round_trip():
    with relayed(echo) as relay:
        begin = time.monotonic()
        with relay.connect() as connection:
            for number in range(10):
                connection.sendall(b"%d" % number)
                assert connection.recv(100) == b"%d" % number
        assert time.monotonic() - begin >= (10 + 1) * 2 * DELAY


def test_bytes_under_way_are_bounded_when_nobody_reads():
    offered = 256 << 20
    block = bytes(1 << 20)

    def flood(connection: socket.socket) -> None:
        for _ in range(offered // len(block)):
            connection.sendall(block)

    with relayed(flood) as relay, relay.connect() as connection:
        deadline = time.monotonic() + SECONDS
        taken, counts = -1, relay.counts()
        # A flow that is held up by the machine has not come to its end yet.
        while counts["down"] < IN_FLIGHT or counts["down"] != taken:
            assert time.monotonic() < deadline
            taken = counts["down"]
            time.sleep(0.2)
            counts = relay.counts()
            assert counts["held"] <= IN_FLIGHT
        # The kernel's own buffers of the two sockets hold some MiB more.
        assert IN_FLIGHT <= taken < offered // 2
        assert len(receive(connection)) == offered
        assert relay.counts()["down"] == offered


def test_a_reset_reaches_the_other_side_and_the_relay_goes_on():
    ended = threading.Event()

    def wait(connection: socket.socket) -> None:
        connection.sendall(connection.recv(1))
        try:
            echo(connection)
        except ConnectionResetError:
            ended.set()

    with relayed(wait) as relay:
        first = relay.connect()
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        first.close()
        assert ended.wait(SECONDS)
        with relay.connect() as second:
            second.sendall(b"again")
            second.shutdown(socket.SHUT_WR)
            assert receive(second) == b"again"


def test_a_server_that_is_not_there_is_a_closed_connection():
    with contextlib.closing(HeldPort()) as port:
        relay = Relay(port.number, DELAY)
        try:
            for _ in range(2):
                # The kernel may tell of it while the connection is made, or later.
                with pytest.raises(ConnectionResetError), relay.connect() as connection:
                    connection.recv(1)
            assert relay.counts()["open"] == 0
        finally:
            assert relay.end() == 0
