"""Refuses network file systems, on which SQLite's locks and shared memory do not hold.

Used before a registry, a workspace or a cache is opened. Pure but for reading ``/proc/self/mountinfo``; safe from any thread. Where
there is no such file (not Linux) nothing is refused.

Why: SQLite's write-ahead log needs memory shared by all its processes and locks that are believed
(https://sqlite.org/wal.html, "does not work over a network filesystem"; https://sqlite.org/howtocorrupt.html, section 2.1). On a
network file system it works until the day two hosts write.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from artifactfs.errors import InvalidInput

# Type names as the kernel prints them (the name of each struct file_system_type; for those outside of the kernel, as their
# documents mount them), with what people call them. Shared folders of virtual machines count: their host is another machine.
# virtiofs does not: it is the root disk of some virtual machines, and maps shared memory.
_NETWORK: Final = {
    "nfs": "NFS",
    "nfs4": "NFS",
    "cifs": "SMB",
    "smb3": "SMB",
    "smbfs": "SMB",
    "ncpfs": "NetWare",
    "afs": "AFS",
    "coda": "Coda",
    "9p": "9P",
    "ceph": "Ceph",
    "lustre": "Lustre",
    "gpfs": "GPFS",
    "beegfs": "BeeGFS",
    "orangefs": "OrangeFS",
    "pvfs2": "OrangeFS",
    "panfs": "PanFS",
    "wekafs": "WekaFS",
    "gfs2": "GFS2",
    "ocfs2": "OCFS2",
    "acfs": "ACFS",
    "davfs": "WebDAV",
    "vboxsf": "VirtualBox shared folder",
    "vmhgfs": "VMware shared folder",
    "prl_fs": "Parallels shared folder",
}

# fuse.SUBTYPE: the kernel knows only FUSE, the subtype is what the daemon says of itself. Names that begin so.
_NETWORK_FUSE: Final = (
    "artifactfs",  # a repository inside a mount of itself would wait for itself
    "blobfuse",
    "ceph",
    "curlftpfs",
    "davfs",
    "gcsfuse",
    "geesefs",
    "glusterfs",
    "goofys",
    "gvfsd-fuse",
    "juicefs",
    "mfs",
    "mountpoint-s3",
    "rclone",
    "s3fs",
    "s3ql",
    "seaweedfs",
    "sshfs",
    "vmhgfs-fuse",
)


SHARE_INSTEAD: Final = "Choose a directory on a local disk, or share the repository with `artifactfs serve`"


class Mounted(NamedTuple):
    """One line of mountinfo: ``point`` is where ``kind`` is mounted, over the mount ``parent``."""

    identity: int
    parent: int
    point: str
    kind: str


def refuse_network_filesystem(
    path: str | os.PathLike[str], *, what: str, instead: str = SHARE_INSTEAD, mountinfo: str | None = None
) -> None:
    """Raise InvalidInput when ``path``, which need not exist yet, lies on a network file system.

    ``what`` names the thing for the message ("the registry"), ``instead`` says what to do. ``mountinfo`` is the text of
    ``/proc/self/mountinfo``; by default it is read.
    """
    if mountinfo is None:
        try:
            mountinfo = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
        except OSError:
            return
    # Symbolic links are followed; parts that do not exist yet stay as they are.
    place = os.path.realpath(path)
    kind = filesystem_of(place, mountinfo)
    called = network_name(kind)
    if called is not None:
        raise InvalidInput(
            f"{what} cannot lie on a network file system ({called}): {place}; SQLite's locks do not hold there. {instead}"
        )


def network_name(kind: str) -> str | None:
    """What people call a network file system of this kernel type; None when it is a local one."""
    outer, _, subtype = kind.partition(".")
    if outer == "fuse" and subtype.startswith(_NETWORK_FUSE):
        return subtype
    return _NETWORK.get(kind)


def filesystem_of(path: str, mountinfo: str) -> str:
    """The type of the file system that an absolute path without links lies on; empty when none is found.

    Descends from mount to mount as the kernel does, so that a mount hidden below a later one is not met: of the mounts upon the
    present one, the first on the way to ``path``.
    """
    mounts = _parse(mountinfo)
    known = {mount.identity for mount in mounts}
    # The root; in a chroot, which shows only what lies below it, there may be several of these or none.
    roots = [mount for mount in mounts if mount.parent not in known or mount.parent == mount.identity]
    kind = ""
    upon = roots
    met: set[int] = set()
    while on_the_way := [mount for mount in upon if mount.identity not in met and _holds(mount.point, path)]:
        nearest = min(on_the_way, key=lambda mount: len(mount.point))
        met.add(nearest.identity)
        kind = nearest.kind
        upon = roots + [mount for mount in mounts if mount.parent == nearest.identity]
    return kind


def _holds(point: str, path: str) -> bool:
    return point in {"/", path} or path.startswith(point + "/")


def _parse(mountinfo: str) -> list[Mounted]:
    # proc(5): "36 35 98:0 /root /point options [optional…] - type source options", blanks in names as \040.
    mounts = []
    for line in mountinfo.splitlines():
        head, dash, tail = line.partition(" - ")
        fields = head.split(" ")
        if dash and len(fields) >= 6:
            point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
            mounts.append(Mounted(int(fields[0]), int(fields[1]), point, tail.split(" ")[0]))
    return mounts
