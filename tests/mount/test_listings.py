"""Listings between two requests of the kernel: never another directory's entries, never what was true at the request before."""

from __future__ import annotations

from collections.abc import Iterator

from artifactfs.mount.contract import Attr
from artifactfs.mount.handles import Listings


class Changing:
    """A tree whose directories hold names after their node, and whose sizes grow each time they are asked for."""

    def __init__(self) -> None:
        self.asked = 0

    def readdir(self, node: int, fh: int, offset: int) -> Iterator[tuple[bytes, Attr]]:
        for number in range(offset, 10):
            self.asked += 1
            yield b"%d-%d" % (node, number), Attr(number + 100, 0o100644, size=self.asked)

    def releasedir(self, fh: int) -> None:
        pass


def read(listings: Listings, node: int, fh: int, offset: int, count: int) -> list[tuple[bytes, int]]:
    """One request with room for ``count`` entries."""
    cursor = listings.take(node, fh, offset)
    found = []
    while (entry := cursor.peek()) is not None and len(found) < count:
        found.append((entry[0], entry[1].size))
        cursor.advance()
    listings.give_back(fh, cursor)
    return found


def test_directories_that_share_the_handle_zero_keep_apart():
    listings = Listings(Changing())
    assert [name for name, _ in read(listings, 7, 0, 0, 3)] == [b"7-0", b"7-1", b"7-2"]
    assert [name for name, _ in read(listings, 8, 0, 3, 2)] == [b"8-3", b"8-4"]
    assert [name for name, _ in read(listings, 7, 0, 3, 2)] == [b"7-3", b"7-4"]


def test_an_entry_that_found_no_room_is_asked_for_anew():
    tree = Changing()
    listings = Listings(tree)
    read(listings, 7, 3, 0, 2)
    tree.asked = 50
    assert read(listings, 7, 3, 2, 1) == [(b"7-2", 51)]


def test_an_immutable_listing_goes_on_where_it_stood():
    tree = Changing()
    listings = Listings(tree)
    read(listings, 7, 0, 0, 2)
    read(listings, 7, 0, 2, 2)
    assert tree.asked == 5  # the one without room was kept
