"""The HTTP adapter: exposes the Store and Registry contracts of a repository."""
