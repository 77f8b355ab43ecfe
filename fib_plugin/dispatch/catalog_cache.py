"""The catalog's place on disk: one checked file for a dataset and the rules that decide, made once per host."""

from __future__ import annotations

import hashlib
from pathlib import Path

import filelock
import msgspec

import fib_plugin
from fib_plugin.dataset.files import write_file
from fib_plugin.dispatch.catalog_image import Image, Rules

#: To be raised whenever an Image, or what is decided from the same files, changes.
FORMAT = 1
LOCK_TIMEOUT_S = 10.0

_MAGIC = b"fib table %d\n" % FORMAT
_CHECK = 32

_decoder = msgspec.msgpack.Decoder(tuple[bytes, Image])
_encoder = msgspec.msgpack.Encoder()


class CacheError(OSError):
    """The cache cannot be used; the message says why."""


class CacheFile:
    """``<cache>/tables/<key>``: an Image behind a checksum. Whatever is wrong with it, it counts as missing."""

    def __init__(self, cache: Path, root: Path, rules: Rules) -> None:
        self._key = _key(root, rules)
        self._folder = cache / "tables"
        self.path = self._folder / f"{self._key.hex()}.table"

    def load(self) -> Image | None:
        """What is stored, or None."""
        try:
            content = self.path.read_bytes()
        except OSError:
            return None
        payload = memoryview(content)[len(_MAGIC) + _CHECK :]
        if content[: len(_MAGIC)] != _MAGIC or content[len(_MAGIC) : len(_MAGIC) + _CHECK] != _check(payload):
            return None
        try:
            key, image = _decoder.decode(payload)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return image if key == self._key else None

    def store(self, image: Image) -> None:
        """Replaces what is stored.

        Raises:
            CacheError: it cannot be written.
        """
        payload = _encoder.encode((self._key, image))
        try:
            write_file(self.path, _MAGIC + _check(payload) + payload)
        except OSError as error:
            raise CacheError(f"{self.path}: cannot be written: {error.strerror or error}") from error

    def stamp(self) -> tuple[int, int] | None:
        """Changes with every store."""
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns

    def lock(self, timeout: float) -> filelock.BaseFileLock:
        """The lock under which the image is made, taken; the caller releases it.

        Raises:
            CacheError: the folder cannot be written, or another process makes it for too long.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self.path.with_suffix(".lock"), timeout=timeout)
            lock.acquire()
        except filelock.Timeout as error:
            raise CacheError(f"{self.path}: another process has been making it for {timeout:g} s") from error
        except (OSError, NotImplementedError) as error:
            raise CacheError(f"{self._folder}: cannot be written: {error}") from error
        return lock


def _key(root: Path, rules: Rules) -> bytes:
    here = rules.environment
    decides = None if here is None else (here.hardware, sorted(here.libs.items()), rules.margin, rules.any_hardware)
    parts = (FORMAT, fib_plugin.__version__, str(root), decides)
    return hashlib.blake2b(msgspec.msgpack.encode(parts), digest_size=16).digest()


def _check(payload: bytes | memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=_CHECK).digest()
