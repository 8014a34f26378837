"""What people add to runs: names, notes and tags; and taking runs away and back."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import and_, select

from fltk.errors import UsageError
from fltk.registry.attempts import RUNNING
from fltk.registry.base import check_free, check_name, check_text, find_id
from fltk.registry.rows import RunRow
from fltk.registry.runs import Runs, tag_key
from fltk.registry.schema import run, tag
from fltk.registry.sealing import Sealing


class Labels(Runs):
    """The part of the store that knows labels and removal."""

    def require_free_name(self, name: str) -> None:
        """UsageError for a name that no new run can have, to be asked before its work begins."""
        text = check_name(name)
        with self._db.read() as connection:
            check_free(connection, run, "run", text)

    def rename(self, run_id: int, name: str) -> None:
        """Give the run a (new) unique name."""
        text = check_name(name)
        with self._write() as sealing:
            if self._row(sealing.connection, run_id).name != text:
                check_free(sealing.connection, run, "run", text)
                sealing.update_run(run_id, {"name": text})

    def set_note(self, run_id: int, note: str) -> None:
        """Replace the run's free note."""
        text = check_text(note, "--note")
        with self._write() as sealing:
            self._row(sealing.connection, run_id)
            sealing.update_run(run_id, {"note": text})

    def set_tag(self, run_id: int, key: str, value: str = "") -> None:
        """Set a tag, replacing its value."""
        with self._write() as sealing:
            self._row(sealing.connection, run_id)
            _delete_tag(sealing, run_id, key)
            sealing.insert(tag, {"run_id": run_id, "key": tag_key(key), "value": check_text(value, "--tag")})

    def remove_tag(self, run_id: int, key: str) -> bool:
        """Remove a tag; False when the run does not have it."""
        with self._write() as sealing:
            self._row(sealing.connection, run_id)
            return _delete_tag(sealing, run_id, key)

    def remove_runs(self, run_ids: Sequence[int]) -> None:
        """Hide runs from every list and look-up; nothing is deleted. All of them or, with UsageError, none.

        Refused for a run that a process works on. Runs that were made of a removed one stay.
        """
        now = self._clock()
        with self._write() as sealing:
            rows = self._rows(sealing.connection, select(run).where(run.c.id.in_(run_ids)))
            for row in rows:
                if row.status == RUNNING:
                    raise UsageError(f"{row.label} is running; stop it first")
            for row in rows:
                if row.removed is None:
                    sealing.update_run(row.id, {"removed": now})

    def restore_runs(self, run_ids: Sequence[int]) -> None:
        """Show removed runs again."""
        with self._write() as sealing:
            for run_id in run_ids:
                sealing.update_run(run_id, {"removed": None})

    def find_removed(self, ref: str | int) -> RunRow:
        """The removed run that a reference means; UsageError when there is none or several."""
        with self._db.read() as connection:
            found, several = find_id(connection, run, "run", "uuid", ref, run.c.removed.is_not(None))
            if found is not None:
                return self._sound_row(connection, found)
            if several:
                raise self._ambiguous(connection, str(ref), several)
            kept, _ = find_id(connection, run, "run", "uuid", ref, run.c.removed.is_(None))
            if kept is not None:
                raise UsageError(f"run {str(ref)!r} is not removed")
            raise self._unknown_run(connection, str(ref))


def _delete_tag(sealing: Sealing, run_id: int, key: str) -> bool:
    chosen = and_(tag.c.run_id == run_id, tag.c.key == tag_key(key))
    return sealing.delete(tag, chosen) > 0
