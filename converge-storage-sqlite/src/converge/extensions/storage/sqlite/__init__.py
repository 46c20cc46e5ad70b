"""A Converge store in one SQLite file that several processes on one host share.

Each commit is on the disk when the call returns (`durability="power"`), or safe from the death of the process only
(`"process"`). Writers queue up on `<path>.lock`, readers wait for nobody.
"""

from converge.extensions.storage.sqlite.errors import StoreFileError, StoreFormatError
from converge.extensions.storage.sqlite.store import SQLiteOptions, SQLiteStore

__all__ = ["SQLiteOptions", "SQLiteStore", "StoreFileError", "StoreFormatError"]
