"""References: bytes that lie at outside URIs, found, recorded, and read lazily as what was recorded."""
