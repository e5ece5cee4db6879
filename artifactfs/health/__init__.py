"""Health: what is wrong with stored bytes, which files that hits, and how it is mended. Over a Store and a Registry at hand."""
