"""Floor 5: the file tree that everybody sees, attached to a directory by FUSE, with its writable staging."""
