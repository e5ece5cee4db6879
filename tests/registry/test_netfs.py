from __future__ import annotations

from pathlib import Path

import pytest

from artifactfs.errors import InvalidInput
from artifactfs.registry.netfs import filesystem_of, network_name, refuse_network_filesystem

MOUNTS = r"""
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
40 27 0:40 / /home rw,relatime shared:2 master:3 - nfs4 server:/home rw,vers=4.2
41 40 0:41 / /home/ann/disk rw - xfs /dev/sdb1 rw
42 27 0:42 / /mnt/a\040b rw - cifs //server/share rw
43 27 0:43 / /mnt/ssh rw - fuse.sshfs host: rw
44 27 0:44 / /mnt/usb rw - fuseblk /dev/sdc1 rw
45 27 0:45 / /data rw - nfs server:/data rw
46 45 0:46 / /data rw - tmpfs none rw
47 27 0:47 / /srv/x/y rw - nfs server:/y rw
48 27 0:48 / /srv/x rw - btrfs /dev/sdd rw
""".lstrip()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/etc/hosts", "ext4"),
        ("/home", "nfs4"),
        ("/home/ann/project", "nfs4"),
        ("/home/ann/disk/project", "xfs"),
        ("/homeless", "ext4"),
        ("/mnt/a b/c", "cifs"),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/mnt/usb/x", "fuseblk"),
    ],
)
def test_a_path_lies_on_the_nearest_mount(path, kind):
    assert filesystem_of(path, MOUNTS) == kind


def test_a_mount_covers_the_one_below():
    assert filesystem_of("/data/x", MOUNTS) == "tmpfs"


def test_a_mount_hidden_by_a_later_one_above_is_not_met():
    assert filesystem_of("/srv/x/y/z", MOUNTS) == "btrfs"


def test_a_changed_root_shows_no_root_mount():
    inside = "50 49 0:50 / /srv rw - nfs server:/srv rw\n51 49 0:51 / /srv/deep rw - xfs /dev/sda rw\n"
    assert filesystem_of("/srv/x", inside) == "nfs"
    assert filesystem_of("/srv/deep/x", inside) == "xfs"
    assert filesystem_of("/etc", inside) == ""


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("nfs", "NFS"),
        ("nfs4", "NFS"),
        ("cifs", "SMB"),
        ("smb3", "SMB"),
        ("9p", "9P"),
        ("ceph", "Ceph"),
        ("lustre", "Lustre"),
        ("afs", "AFS"),
        ("fuse.sshfs", "sshfs"),
        ("fuse.ceph-fuse", "ceph-fuse"),
        ("fuse.artifactfs", "artifactfs"),
        ("fuse.glusterfs", "glusterfs"),
        ("ext4", None),
        ("xfs", None),
        ("btrfs", None),
        ("zfs", None),
        ("tmpfs", None),
        ("overlay", None),
        ("fuseblk", None),
        ("fuse.fuse-overlayfs", None),
        ("fuse.gocryptfs", None),
        ("", None),
    ],
)
def test_file_systems_are_local_or_not(kind, name):
    assert network_name(kind) == name


def test_the_refusal_names_the_place_and_the_ways_out():
    with pytest.raises(InvalidInput) as raised:
        refuse_network_filesystem("/home/ann/repo/registry.db", what="the registry", mountinfo=MOUNTS)
    for words in ("the registry", "NFS", "/home/ann/repo/registry.db", "local disk", "artifactfs serve"):
        assert words in str(raised.value)


def test_symbolic_links_are_followed(tmp_path: Path):
    (tmp_path / "link").symlink_to("/home/ann")
    with pytest.raises(InvalidInput, match="/home/ann/repo"):
        refuse_network_filesystem(tmp_path / "link" / "repo", what="the workspace", mountinfo=MOUNTS)


def test_this_machine_is_read(tmp_path: Path):
    refuse_network_filesystem(tmp_path / "not" / "there", what="the registry")


def test_lines_that_say_nothing_are_passed_over():
    assert filesystem_of("/x", "\nnonsense\n1 2 - ext4\n" + MOUNTS) == "ext4"
