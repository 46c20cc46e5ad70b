"""A Converge store in a folder, a file per key, that several processes on one host share.

Each write is on the disk when the call returns. Writers queue up on a lock of the folder, readers of a value wait
for nobody.
"""

from converge.extensions.storage.file.errors import StoreFolderError
from converge.extensions.storage.file.store import FileOptions, FileStore

__all__ = ["FileOptions", "FileStore", "StoreFolderError"]
