"""One revision a format, in the order of their numbers. Read by alembic alone."""
