"""The Registry: what artifacts, versions and aliases there are, and where each chunk lies."""
