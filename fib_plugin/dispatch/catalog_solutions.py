"""Stored solutions as a catalog needs them: name, author and content hash, without building the models.

Ten thousand are read when a catalog is made; the one that runs is read and checked in full when it is built.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated

import msgspec

from fib_plugin.dispatch.evidence import Winner
from fib_plugin.schema import Binding, Language, Solution, content_hash, parse

_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Source(msgspec.Struct, gc=False):
    path: _Text
    content: _Text


class _Spec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """BuildSpec with its defaults. One with more fields is left to the model, since they enter the hash."""

    binding: Binding | None = None
    dependencies: list[_Text] = []
    destination_passing_style: bool = True
    entry_point: _Text
    language: Language
    target_hardware: Annotated[list[str], msgspec.Meta(min_length=1)]


class _Solution(msgspec.Struct, gc=False):
    name: _Text
    definition: _Text
    author: _Text
    spec: _Spec
    sources: Annotated[list[_Source], msgspec.Meta(min_length=1)]


class _Content(msgspec.Struct, gc=False):
    """What is hashed. Fields here and in _Spec are in the order of the alphabet, as content_hash sorts its keys."""

    definition: str
    sources: list[tuple[str, str]]
    spec: _Spec


_decoder = msgspec.json.Decoder(_Solution)
_encoder = msgspec.json.Encoder()


def read_solution(data: bytes, path: str, file: str) -> Winner:
    """Name, hash and author of a stored solution.

    Only what decides the hash is checked: content that was never valid was never measured either.

    Args:
        path: of the file, for errors.
        file: the same relative to the dataset, as the winner names it.

    Raises:
        SchemaError: the file holds no solution.
    """
    try:
        stored = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        solution = parse(Solution, data, path)
        return Winner(solution.name, content_hash(solution), solution.author, file)
    return Winner(stored.name, _hash(stored), stored.author, file)


def _hash(stored: _Solution) -> str:
    """What schema.content_hash says of the same file."""
    sources = sorted((source.path, source.content) for source in stored.sources)
    text = _encoder.encode(_Content(stored.definition, sources, stored.spec))
    if not text.isascii():  # the standard encoder, which content_hash uses, escapes what is not
        text = json.dumps(msgspec.json.decode(text), separators=(",", ":")).encode()
    return hashlib.sha256(text).hexdigest()
