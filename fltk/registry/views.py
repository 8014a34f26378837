"""The views that users read with SQL. Their columns are a promise; the tables behind them are not.

The definitions are SQL alone, so that every tool that opens the database can use them. An upgrade drops them
first and makes them anew, so that no migration meets a view. Removed runs appear in none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import inspect
from sqlalchemy.engine import Connection


@dataclass(frozen=True)
class View:
    """A view: what one row is, its columns with their meaning, and its SELECT for each kind of database."""

    name: str
    help: str
    columns: Mapping[str, str]
    sqlite: str
    postgresql: str


def _view(name: str, help: str, columns: Mapping[str, str], sql: str, postgresql: str | None = None) -> View:
    """A view that has the same definition everywhere unless told otherwise."""
    return View(name, help, columns, sql, postgresql or sql)


def _json(column: str) -> str:
    """Stored JSON as SQL can read it: Python writes NaN and infinities, which JSON does not know."""
    return f"replace(replace(replace({column}, '-Infinity', 'null'), 'Infinity', 'null'), 'NaN', 'null')"


def _sqlite_setting(path: str) -> str:
    return f"json_extract({_json('r.config')}, '$.{path}')"


def _postgresql_setting(path: str) -> str:
    return f"(({_json('r.config')})::jsonb #>> '{{{path.replace('.', ',')}}}')"


def _runs(*settings: str) -> str:
    scheme, alpha, clients, model = settings
    last = "SELECT s.value FROM scalar s WHERE s.run_id = r.id AND s.key = '{}' ORDER BY s.round DESC LIMIT 1"
    return f"""
        SELECT r.id AS run, r.uuid, r.name, r.kind, r.parent, r.method, r.dataset, {scheme} AS scheme,
            CAST({alpha} AS DOUBLE PRECISION) AS alpha, CAST({clients} AS INTEGER) AS clients, {model} AS model,
            r.seed, r.partition_id AS part, r.status, r.message, r.rounds_done AS rounds,
            ({last.format("personal_test_acc")}) AS personal_test_acc,
            ({last.format("global_test_acc")}) AS global_test_acc,
            r.created AS started, r.finished, r.config_hash, r.note
        FROM run r WHERE r.removed IS NULL"""


_SHOWN = ("partition.scheme", "partition.alpha", "partition.clients", "train.model")


def _metrics(infinity: str) -> str:
    return f"""
        SELECT s.run_id AS run, s.round AS round, s.key AS key,
            CASE s.kind WHEN 0 THEN s.value WHEN 2 THEN {infinity} WHEN 3 THEN -{infinity} WHEN 4 THEN 0.0 END AS value
        FROM scalar s JOIN run r ON r.id = s.run_id WHERE r.removed IS NULL"""


def _power(exponent: str) -> str:
    """2^exponent of 0 to 60, as an exact integer."""
    return f"(CAST(1 AS BIGINT) << CAST({exponent} AS INTEGER))"


def _client_metrics(bits: str, infinity: str) -> str:
    """float32 values from SELECT `bits`: run, round, key, client, and the 32 bits of the value as the integer u.

    value = sign m 2^-149 where the exponent e is 0, otherwise sign (2^23 + m) 2^(e-150), each step exact.
    """
    whole = "sign * CAST(m + 8388608 AS DOUBLE PRECISION)"
    least = "CAST(713623846352979940529142984724747568191373312.0 AS DOUBLE PRECISION)"  # 2^149
    return f"""
        SELECT run, round, key, client, CASE
            WHEN e = 255 THEN CASE WHEN m = 0 THEN sign * {infinity} END
            WHEN e = 0 THEN sign * CAST(m AS DOUBLE PRECISION) / {least}
            WHEN e >= 210 THEN {whole} * {_power("60")} * {_power("e - 210")}
            WHEN e >= 150 THEN {whole} * {_power("e - 150")}
            WHEN e >= 90 THEN {whole} / {_power("150 - e")}
            WHEN e >= 30 THEN {whole} / {_power("60")} / {_power("90 - e")}
            ELSE {whole} / {_power("60")} / {_power("60")} / {_power("30 - e")} END AS value
        FROM (SELECT run, round, key, client, 1 - 2 * (u >> 31) AS sign, (u >> 23) & 255 AS e, u & 8388607 AS m
            FROM ({bits}) b) c"""


# json_each(json_array(x)) computes x once a row, however often it is used further on.
_NIBBLES = " | ".join(
    f"((instr('0123456789ABCDEF', substr(h.value, {position}, 1)) - 1) << {shift})"
    for position, shift in zip((7, 8, 5, 6, 3, 4, 1, 2), range(28, -4, -4), strict=True)
)
_SQLITE_BITS = f"""
    SELECT v.run_id AS run, v.round AS round, v.key AS key, j.key AS client, b.value AS u
    FROM client_vector v JOIN run r ON r.id = v.run_id,
        json_each('[0' || replace(hex(zeroblob(length(v.data) / 4 - 1)), '00', ',0') || ']') j,
        json_each(json_array(hex(substr(v.data, 4 * j.key + 1, 4)))) h, json_each(json_array({_NIBBLES})) b
    WHERE r.removed IS NULL AND length(v.data) >= 4"""
_POSTGRESQL_BITS = """
    SELECT v.run_id AS run, v.round AS round, v.key AS key, j.client AS client,
        (get_byte(v.data, 4 * j.client + 3)::bigint << 24) | (get_byte(v.data, 4 * j.client + 2) << 16)
            | (get_byte(v.data, 4 * j.client + 1) << 8) | get_byte(v.data, 4 * j.client) AS u
    FROM client_vector v JOIN run r ON r.id = v.run_id
        CROSS JOIN LATERAL generate_series(0, length(v.data) / 4 - 1) AS j(client)
    WHERE r.removed IS NULL"""


def _settings(each: str, kind: str, text: str) -> str:
    """Both levels of the configuration, by the database's functions for entries, type and text of JSON."""
    plain, nested = f"{kind.format('t')} <> 'object'", f"{kind.format('t')} = 'object'"
    members = each.format(f"CASE WHEN {nested} THEN t.value ELSE '{{}}' END")
    whole = each.format(_json("r.config"))
    return f"""
        SELECT r.id AS run, t.key AS key, {text.format("t")} AS value FROM run r, {whole} t
        WHERE r.removed IS NULL AND {plain}
        UNION ALL SELECT r.id, t.key || '.' || s.key, {text.format("s")} FROM run r, {whole} t, {members} s
        WHERE r.removed IS NULL AND {nested}"""


def _evaluations(rows: str, entries: str, model: str, value: str, numeric: str) -> str:
    return f"""
        SELECT e.id AS evaluation, e.run_id AS run, e.round AS round, e.created AS created, {model} AS model,
            s.key AS key, {value} AS value
        FROM evaluation e JOIN run r ON r.id = e.run_id, {rows.format(_json("e.summary"))} t, {entries} s
        WHERE r.removed IS NULL AND {numeric}"""


RUN = "number of the run: 42 for run42"
SECONDS = "seconds since 1970, UTC"
VALUE = "the value; NULL for NaN"

VIEWS = (
    _view(
        "v_runs",
        "one row a run",
        {
            "run": RUN,
            "uuid": "its identity across databases",
            "name": "its unique name, or NULL",
            "kind": "train, bench for a measurement, or what made it of another run",
            "parent": "number of the run it was made of, or NULL",
            "method": "method",
            "dataset": "data set",
            "scheme": "partitioning scheme",
            "alpha": "Dirichlet concentration",
            "clients": "clients that train",
            "model": "network",
            "seed": "root seed",
            "part": "number of the partition: 3 for part3",
            "status": "running, done, interrupted, failed; running may be stale, see v_attempts.heartbeat",
            "message": "why it stopped",
            "rounds": "rounds recorded",
            "personal_test_acc": "last mean test accuracy of the clients' own models",
            "global_test_acc": "last mean test accuracy of the one server model",
            "started": SECONDS,
            "finished": SECONDS,
            "config_hash": "SHA-256 of the configuration",
            "note": "free text",
        },
        _runs(*(_sqlite_setting(path) for path in _SHOWN)),
        _runs(*(_postgresql_setting(path) for path in _SHOWN)),
    ),
    _view(
        "v_settings",
        "one row a setting of a run",
        {"run": RUN, "key": "such as train.lr", "value": "as text"},
        _settings(
            "json_each({})",
            "{}.type",
            "CASE WHEN {0}.type IN ('true', 'false') THEN {0}.type ELSE CAST({0}.value AS TEXT) END",
        ),
        _settings("jsonb_each(({})::jsonb)", "jsonb_typeof({}.value)", "({0}.value #>> '{{}}')"),
    ),
    _view(
        "v_tags",
        "one row a tag of a run",
        {"run": RUN, "key": "name of the tag", "value": "its value; empty for a tag without one"},
        "SELECT t.run_id AS run, t.key, t.value FROM tag t JOIN run r ON r.id = t.run_id WHERE r.removed IS NULL",
    ),
    _view(
        "v_rounds",
        "one row a finished round",
        {"run": RUN, "round": "from 1", "digest": "of all weights", "recorded": SECONDS},
        "SELECT t.run_id AS run, t.round, t.digest, t.recorded FROM round t JOIN run r ON r.id = t.run_id "
        "WHERE r.removed IS NULL",
    ),
    _view(
        "v_metrics",
        "one row a number of a round",
        {"run": RUN, "round": "from 1", "key": "such as personal_test_acc", "value": VALUE},
        _metrics("9e999"),
        _metrics("'Infinity'::double precision"),
    ),
    _view(
        "v_client_metrics",
        "one row a number of a client in a round",
        {"run": RUN, "round": "from 1", "key": "such as personal_test_acc", "client": "from 0", "value": VALUE},
        _client_metrics(_SQLITE_BITS, "9e999"),
        _client_metrics(_POSTGRESQL_BITS, "'Infinity'::double precision"),
    ),
    _view(
        "v_maps",
        "one row a stored collaboration map; its matrix is read by `fltk export` and `fltk plot`",
        {
            "run": RUN,
            "round": "from 1",
            "kind": "what it shows",
            "slices": "JSON list of the parts of the model",
            "shape": "JSON list: slices, clients, clients",
            "ids": "JSON list of the clients; [] for all in order",
        },
        "SELECT t.run_id AS run, t.round, t.kind, t.slices, t.shape, t.ids FROM map t JOIN run r ON r.id = t.run_id "
        "WHERE r.removed IS NULL",
    ),
    _view(
        "v_evaluations",
        "one row a number of an evaluation",
        {
            "evaluation": "number of the evaluation",
            "run": RUN,
            "round": "round of the checkpoint",
            "created": SECONDS,
            "model": "deployed, personal, global or a deployment candidate",
            "key": "such as acc_mean",
            "value": VALUE,
        },
        _evaluations(
            "json_each({}, '$.rows')",
            "json_each(t.value)",
            "json_extract(t.value, '$.model')",
            "s.value",
            "s.type IN ('integer', 'real')",
        ),
        _evaluations(
            "jsonb_array_elements(({})::jsonb -> 'rows')",
            "jsonb_each(t.value)",
            "t.value ->> 'model'",
            "CAST(s.value #>> '{}' AS DOUBLE PRECISION)",
            "jsonb_typeof(s.value) = 'number'",
        ),
    ),
    _view(
        "v_checkpoints",
        "one row a stored checkpoint",
        {
            "run": RUN,
            "round": "after this round",
            "sha256": "its content and the name of its file",
            "size": "bytes",
            "created": SECONDS,
        },
        "SELECT t.run_id AS run, t.round, t.sha256, a.size, t.created FROM checkpoint t JOIN run r ON r.id = t.run_id "
        "JOIN artifact a ON a.sha256 = t.sha256 WHERE r.removed IS NULL",
    ),
    _view(
        "v_attempts",
        "one row a process that worked on a run",
        {
            "attempt": "number of the attempt",
            "run": RUN,
            "host": "its computer",
            "pid": "its number there",
            "started": SECONDS,
            "heartbeat": "last sign of life; " + SECONDS,
            "ended": SECONDS,
            "status": "running, done, interrupted, failed, stale",
            "changes": "JSON list of [what, then, now]: conditions that were allowed to differ from the beginning",
        },
        "SELECT t.id AS attempt, t.run_id AS run, t.host, t.pid, t.started, t.heartbeat, t.ended, t.status, t.changes "
        "FROM attempt t JOIN run r ON r.id = t.run_id WHERE r.removed IS NULL",
    ),
)


def drop(connection: Connection) -> None:
    """Remove the views, the last ones first."""
    there = set(inspect(connection).get_view_names())
    for view in reversed(VIEWS):
        if view.name in there:
            connection.exec_driver_sql(f"DROP VIEW {view.name}")


def create(connection: Connection) -> None:
    """Make the views."""
    for view in VIEWS:
        definition = view.sqlite if connection.dialect.name == "sqlite" else view.postgresql
        connection.exec_driver_sql(f"CREATE VIEW {view.name} AS {definition}")
