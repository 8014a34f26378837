"""`fltk partition`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fltk.cli.command import Group, Option, epilog
from fltk.cli.context import Settings
from fltk.cli.options import options_from, partition_config
from fltk.cli.output import Column, emit, output_options
from fltk.cli.terminal import echo
from fltk.config import PartitionConfig, ignored
from fltk.errors import FltkError

if TYPE_CHECKING:
    from fltk.registry import PartitionRow, Store

LIST = [
    Column("partition"),
    Column("name"),
    Column("dataset"),
    Column("scheme"),
    Column("alpha"),
    Column("clients"),
    Column("newcomers"),
    Column("samples"),
    Column("seed"),
    Column("label-emd", "label EMD", 3),
    Column("js", "JS", 3),
    Column("effective-classes", "eff. classes", 2),
    Column("fingerprint"),
]
CLIENTS = [
    Column("client"),
    Column("role"),
    Column("group"),
    Column("train"),
    Column("val"),
    Column("test"),
    Column("classes"),
    Column("label-emd", "label EMD", 3),
    Column("js", "JS", 3),
    Column("effective-classes", "eff. classes", 2),
    Column("labels"),
]


class DefaultGroup(Group):
    """A group whose first member runs when options follow directly: `fltk partition --alpha 0.1` makes one."""

    shorthand = "make"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0].startswith("-") and args[0] not in ("-h", "--help"):
            args = [self.shorthand, *args]
        return super().parse_args(ctx, args)


@click.group(
    "partition",
    cls=DefaultGroup,
    epilog=epilog("fltk partition make --dataset mnist --scheme rotated --subset 4000", "fltk partition show part1"),
)
def partition() -> None:
    """Partition a data set across clients and measure heterogeneity.

    A partition is stored once and shared by all runs that compare on it. `fltk partition --alpha 0.5` is short for
    `fltk partition make --alpha 0.5`.
    """


@partition.command("make", epilog=epilog("fltk partition make --alpha 0.1", "fltk partition make --from-pfllib MNIST/"))
@click.option("--name", cls=Option, section="Partition", help="a unique name")
@click.option(
    "--download", is_flag=True, cls=Option, section="Partition", help="fetch a missing data set (torchvision)"
)
@options_from(PartitionConfig, section="Data and partition")
@output_options
@click.pass_context
def make(ctx: click.Context, /, name: str | None, download: bool, format: str, **params: Any) -> None:
    """Make a partition, store it and show it; the same arguments give the same fingerprint on every machine."""
    from fltk.experiment import Place, deal, save_partition
    from fltk.registry import Store

    settings: Settings = ctx.obj
    config = partition_config(ctx, params)
    dataset, made = deal(config, Place(settings.data_dir, download))
    with Store(settings.db, create=True) as store:
        store.require_writable()
        number = save_partition(store, dataset, made, name)
        row = store.find_partition(number)
    emit(_clients(row), CLIENTS, format, extra=_head(row))


@partition.command("list", epilog=epilog("fltk partition list", "fltk partition list --format json"))
@output_options
@click.pass_obj
def list_(settings: Settings, format: str) -> None:
    """List the stored partitions."""
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        emit([_line(row) for row in store.partitions()], LIST, format)


@partition.command("show", epilog=epilog("fltk partition show part1", "fltk partition show part1 --format csv"))
@click.argument("ref", metavar="PARTITION")
@output_options
@click.pass_obj
def show(settings: Settings, ref: str, format: str) -> None:
    """Show who holds what: sizes, labels and skew of every client."""
    from fltk.registry import Store

    with Store(settings.db, readonly=True) as store:
        row = store.find_partition(ref)
    emit(_clients(row), CLIENTS, format, extra=_head(row))


@partition.command(
    "export", epilog=epilog("fltk partition export part1 -o part1.npz", "fltk partition export part1 -o part1.json")
)
@click.argument("ref", metavar="PARTITION")
@click.option(
    "--output",
    "-o",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    cls=Option,
    help="file to write: .npz (index arrays) or .json (index lists and configuration)",
)
@click.pass_obj
def export(settings: Settings, ref: str, output: Path) -> None:
    """Write the index lists of a partition for other programs."""
    from fltk.files import check_path, replacing
    from fltk.registry import Store

    suffix = check_path(output, (".npz", ".json"))
    with Store(settings.db, readonly=True) as store:
        row = store.find_partition(ref)
        arrays = _arrays(store, row, settings)
    with replacing(output) as file:
        file.write(_packed(arrays) if suffix == ".npz" else _listed(row, arrays))
    echo(output)


def _packed(arrays: Mapping[str, Any]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _listed(row: PartitionRow, arrays: Mapping[str, Any]) -> bytes:
    lists = {key: value.tolist() for key, value in arrays.items()}
    data = {"schema": 1, "config": row.config, "fingerprint": row.fingerprint, "arrays": lists}
    return (json.dumps(data, sort_keys=True) + "\n").encode()


def _arrays(store: Store, row: PartitionRow, settings: Settings) -> Mapping[str, Any]:
    """Of the partition's file; where that is lost, dealt from the data again."""
    try:
        return store.partition_arrays(row.id)
    except FltkError as error:
        from fltk.experiment import Place, dealt_again

        return dict(sorted(dealt_again(row, store, Place(settings.data_dir), error).items()))  # as in the file


def _line(row: PartitionRow) -> dict[str, Any]:
    sizes = row.summary["sizes"]
    return {
        "partition": f"part{row.id}",
        "name": row.name,
        "dataset": row.config["dataset"],
        "scheme": row.config["scheme"],
        "alpha": None if "alpha" in ignored(row.config["scheme"]) else row.config["alpha"],
        "clients": row.summary["clients"],
        "newcomers": row.summary["newcomers"],
        "samples": sum(sizes["train"]) + sum(sizes["val"]),
        "seed": row.config["partition_seed"],
        **{k: row.summary["skew"].get(k) for k in ("label-emd", "js", "effective-classes")},
        "fingerprint": row.fingerprint[:12],
    }


def _head(row: PartitionRow) -> dict[str, Any]:
    return {
        "partition": f"part{row.id}" + (f" ({row.name})" if row.name else ""),
        "fingerprint": row.fingerprint,
        "data fingerprint": row.data_fingerprint,
        "draws": row.summary["attempts"],
        **row.summary["skew"],
    }


def _clients(row: PartitionRow) -> list[dict[str, Any]]:
    import numpy as np

    from fltk.partition import stats

    summary = row.summary
    counts = np.array(summary["label_counts"])
    measures = stats.per_client(counts)
    found = []
    for k in range(len(counts)):
        held = {summary["classes"][c]: int(n) for c, n in enumerate(counts[k]) if n}
        found.append(
            {
                "client": k,
                "role": "client" if k < summary["clients"] else "newcomer",
                "group": None if summary["groups"] is None else summary["groups"][k],
                **{part: summary["sizes"][part][k] for part in ("train", "val", "test")},
                "classes": len(held),
                **{
                    name: float(values[k])
                    for name, values in measures.items()
                    if name in ("label-emd", "js", "effective-classes")
                },
                "labels": held if len(held) <= 12 else f"{len(held)} classes",
            }
        )
    return found
