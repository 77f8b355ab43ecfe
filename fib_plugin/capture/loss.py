"""Loss: why a record did not reach the disk, or not at once. The writer counts by it; logs and `fib status` show it."""

from __future__ import annotations

import errno
from enum import Enum


class Loss(str, Enum):
    """A reason, spelled as the status file spells it."""

    QUEUE_FULL = "queue_full"
    DISK_FULL = "disk_full"
    QUOTA = "quota"
    READ_ONLY = "read_only"
    PERMISSION_DENIED = "permission_denied"
    FOLDER_REMOVED = "folder_removed"
    LOCKED = "locked"
    FILE_TOO_LARGE = "file_too_large"
    IO_ERROR = "io_error"
    NOT_READY = "not_ready"
    DEVICE_ERROR = "device_error"
    BAD_RECORD = "bad_record"
    DEFINITION_CONFLICT = "definition_conflict"
    DEFINITION_DIFFERS = "definition_differs"
    SOLUTION_DIFFERS = "solution_differs"
    GRAPH_CAPTURE = "graph_capture"
    SNAPSHOT_POOL_FULL = "snapshot_pool_full"
    SNAPSHOT_TOO_LARGE = "snapshot_too_large"
    DEVICE_FULL = "device_full"
    SNAPSHOT_FAILED = "snapshot_failed"
    WRITER_FAILED = "writer_failed"
    CLOSED = "closed"

    __str__ = str.__str__


#: What to do about each, for the log line and for `fib status`.
REMEDIES: dict[str, str] = {
    Loss.QUEUE_FULL: "the disk is slower than the calls: keep less, sample, or put the dataset on a faster disk",
    Loss.DISK_FULL: "free space on the dataset's disk; records are kept in memory meanwhile",
    Loss.QUOTA: "raise the quota, or merge and prune the dataset; records are kept in memory meanwhile",
    Loss.READ_ONLY: "make the dataset's file system writable, or point FIB_DATASET_PATH elsewhere",
    Loss.PERMISSION_DENIED: "give the engine's user write access, or point FIB_DATASET_PATH elsewhere",
    Loss.FOLDER_REMOVED: "the folder is made again as soon as that is possible; what was in it is gone",
    Loss.LOCKED: "another process holds the shard's lock; it is tried again",
    Loss.FILE_TOO_LARGE: "raise the limit on a file's size (ulimit -f), or keep less",
    Loss.IO_ERROR: "see the error; it is tried again",
    Loss.NOT_READY: "a device copy never finished; the engine may hang",
    Loss.DEVICE_ERROR: "a device copy failed; see the engine's log",
    Loss.BAD_RECORD: "a defect of the adapter or of the definition; please report it",
    Loss.DEFINITION_CONFLICT: "the dataset has a definition of this name with another interface: rename or remove it",
    Loss.DEFINITION_DIFFERS: "the dataset's own definition was kept; remove it to get the current one",
    Loss.SOLUTION_DIFFERS: "the dataset's own file of the engine's op was kept; remove it to get the current one",
    Loss.GRAPH_CAPTURE: "nothing can be copied while a CUDA graph is captured; a later eager call is kept",
    Loss.SNAPSHOT_POOL_FULL: "new shapes came faster than their copies: keep less, or sample",
    Loss.SNAPSHOT_TOO_LARGE: "the first call of such a size makes room for later ones, up to 256 MiB; or keep less",
    Loss.DEVICE_FULL: "leave the engine's device some memory, or keep less",
    Loss.SNAPSHOT_FAILED: "counts are not refreshed; please report it",
    Loss.WRITER_FAILED: "a defect of the writer; it goes on; please report it",
    Loss.CLOSED: "the writer was closed before this record came",
}

_BY_ERRNO = {
    errno.ENOSPC: Loss.DISK_FULL,
    errno.EDQUOT: Loss.DISK_FULL,
    errno.EROFS: Loss.READ_ONLY,
    errno.EACCES: Loss.PERMISSION_DENIED,
    errno.EPERM: Loss.PERMISSION_DENIED,
    errno.ENOENT: Loss.FOLDER_REMOVED,
    errno.ENOTDIR: Loss.FOLDER_REMOVED,
    errno.EEXIST: Loss.FOLDER_REMOVED,  # a file stands where a folder should be
    errno.ESTALE: Loss.FOLDER_REMOVED,
    errno.EWOULDBLOCK: Loss.LOCKED,
    errno.ENAMETOOLONG: Loss.BAD_RECORD,
    errno.EINVAL: Loss.BAD_RECORD,
    errno.EFBIG: Loss.FILE_TOO_LARGE,
}


class QuotaReached(OSError):
    """The dataset folder has the size that the operator allowed."""


def loss_of(error: BaseException) -> Loss:
    """The reason to count for an error met while a record was being written."""
    if isinstance(error, QuotaReached):
        return Loss.QUOTA
    if isinstance(error, OSError):
        return _BY_ERRNO.get(error.errno or 0, Loss.IO_ERROR)
    return Loss.BAD_RECORD
