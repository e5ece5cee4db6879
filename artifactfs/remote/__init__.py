"""The Store and Registry contracts over HTTP: messages (wire.py) and their client."""
