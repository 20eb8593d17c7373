"""A run: its work directory, and all that its stages read."""
