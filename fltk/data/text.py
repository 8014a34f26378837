"""Text by speaker: windows of characters, and the character that follows each."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np

from fltk.bounded import ARRAYS
from fltk.data.dataset import Floats, Ints
from fltk.data.files import reading
from fltk.data.loaders import Raw, Request
from fltk.objectives import NextToken

SHAKESPEARE_FILE = "Shakespeare/shakespeare_roles.json.gz"
VOCABULARY = (
    "\n !$&',-.0123456789:;?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz"  # the characters of the plays
)
NAMES = {" ": "space", "\n": "newline"}

WINDOW = 80  # characters that a model sees, as in LEAF (Caldas et al., arXiv:1812.01097)
STRIDE = 10  # characters from one window to the next; LEAF has 1, which is ten times the work for the same text
PASSAGE = 400  # characters of a passage: windows of one overlap, those of two share no character
LEAST = 4  # passages of a role that counts: fewer cannot be cut into train, validation and test


def shakespeare(request: Request) -> Raw:
    """Next-character prediction by role, as in LEAF: 80 characters and the one that follows.

    A role's speeches are joined in play order and cut into passages of 400 characters. Passages are the recordings that
    a partition never tears apart, so that no test window overlaps a training window. Roles with fewer than four
    passages are left out. The vocabulary is `VOCABULARY`, 76 characters.
    """
    path = request.file(SHAKESPEARE_FILE)
    codes = np.full(128, -1, np.int64)
    codes[[ord(c) for c in VOCABULARY]] = np.arange(len(VOCABULARY))

    texts = [(name, _encoded(text, codes, path)) for name, text in _roles(path)]
    kept = [(name, text) for name, text in texts if len(text) >= LEAST * PASSAGE]
    starts, owner, session = _windows([text for _, text in kept])
    text = np.concatenate([text for _, text in kept])

    def take(keep: Ints) -> Floats:
        windows: Floats = text[starts[keep, None] + np.arange(WINDOW)].astype(np.float32)
        return windows

    return Raw(
        text[starts + WINDOW],
        tuple(NAMES.get(c, c) for c in VOCABULARY),
        take,
        owner=owner,
        owner_kind="role",
        owner_names=tuple(name for name, _ in kept),
        session=session,
        objective=NextToken(),
    )


def _roles(path: Path) -> list[tuple[str, str]]:
    """Every role's name and text."""
    with reading(path), gzip.open(path, "rb") as file:
        data = file.read(ARRAYS + 1)
        if len(data) > ARRAYS:
            raise ValueError(f"it unpacks to more than the {ARRAYS:,} bytes that are admitted")
        clients = json.loads(data)["clients"]
        return [(name, "\n".join(speeches)) for name, speeches in clients.items()]


def _encoded(text: str, codes: Ints, path: Path) -> Ints:
    """Places in the vocabulary, (characters,)."""
    with reading(path):
        found = codes[np.frombuffer(text.encode("ascii"), np.uint8)]
        if (found < 0).any():
            unknown = text[int(np.flatnonzero(found < 0)[0])]
            raise ValueError(f"the character {unknown!r} is not in the vocabulary")
        return found


def _windows(texts: list[Ints]) -> tuple[Ints, Ints, Ints]:
    """Of all windows the start in the joined texts, the text, and the passage; (n,) each."""
    inside = np.arange(0, PASSAGE - WINDOW, STRIDE, dtype=np.int64)  # starts in a passage; the target is in it, too
    passages = np.array([len(text) // PASSAGE for text in texts], np.int64)
    ends = np.cumsum([len(text) for text in texts])
    begins = np.concatenate([np.zeros(1, np.int64), ends[:-1]])

    owners = np.repeat(np.arange(len(texts), dtype=np.int64), passages)  # (all passages,)
    first = np.repeat(np.cumsum(passages) - passages, passages)
    offsets = begins[owners] + PASSAGE * (np.arange(len(owners), dtype=np.int64) - first)

    starts = (offsets[:, None] + inside).reshape(-1)
    session = np.repeat(np.arange(len(owners), dtype=np.int64), len(inside))
    return starts, np.repeat(owners, len(inside)), session
