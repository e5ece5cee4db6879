"""Floor 1: pure values of the vocabulary, without I/O: names, digests, Sequences, Trees, records."""
