"""The database of the server: one SQLite file in the server's folder."""

from pathlib import Path


class Store:
    """The tables, and transactions on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
