"""Settings from flags, variables, a file and defaults, and the record of which came from where."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from fltk.cli.command import command
from fltk.cli.main import COMMANDS, Entry, cli, run
from fltk.cli.options import (
    config_from,
    config_option,
    literal,
    method_params,
    options_from,
    origins,
    parse_set,
    set_option,
)
from fltk.config import PartitionConfig, TrainConfig
from fltk.errors import UsageError
from fltk.fields import option
from fltk.names import METHODS


@pytest.fixture(autouse=True)
def settle_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command of this file as if it were one of fltk's."""
    monkeypatch.setitem(COMMANDS, "settle", Entry(f"{__name__}:settle", "Test", "Test."))


@command("settle", examples=("fltk settle", "fltk settle --lr 1"))
@config_option
@options_from(PartitionConfig)
@options_from(TrainConfig, section="Training")
@click.option("--method", type=click.Choice(list(METHODS)), default="attn", help="method")
@click.option("--seed", type=int, default=0, help="seed")
@set_option
@click.pass_context
def settle(ctx: click.Context, /, method: str, seed: int, **params: Any) -> None:
    """Show what the settings came to."""
    train, part = config_from(TrainConfig, params), config_from(PartitionConfig, params)
    shown = {"lr": train.lr, "rounds": train.rounds, "balance": part.balance, "alpha": part.alpha}
    more = {
        "method": method,
        "seed": seed,
        "params": method_params(ctx),
        "origin": origins(ctx),
        "model": train.model,
    }
    click.echo(json.dumps(shown | more))


def settled(*args: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """The settings of `fltk settle ARGS`."""
    done = CliRunner().invoke(cli, ["settle", *args], env=env, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    return dict(json.loads(done.stdout))


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """An experiment file that uses every part of the form."""
    path = tmp_path / "exp.toml"
    path.write_text(
        'method = "fedprox"\nseed = 5\n[partition]\nalpha = 1\nbalance = false\n'
        "[train]\nlr = 0.2\nrounds = 7\nbatch-size = 4\n[params]\nmu = 0.1\ntop-k = 3\n"
    )
    return path


def test_defaults_come_from_the_dataclasses() -> None:
    found = settled()
    assert (found["lr"], found["rounds"], found["balance"]) == (TrainConfig().lr, TrainConfig().rounds, True)
    assert set(found["origin"].values()) == {"default"} and found["params"] == {}


def test_flag_beats_environment_beats_file_beats_default(experiment: Path) -> None:
    env = {"FLTK_SETTLE_LR": "0.3", "FLTK_SETTLE_ROUNDS": "8"}
    found = settled("--config", str(experiment), "--lr", "0.4", "--set", "mu=1", "--set", "on=true", env=env)
    assert (found["lr"], found["rounds"], found["balance"], found["alpha"]) == (0.4, 8, False, 1.0)
    assert (found["method"], found["seed"]) == ("fedprox", 5)
    assert found["params"] == {"mu": 1, "top_k": 3, "on": True}
    origin = found["origin"]
    assert (origin["train.lr"], origin["train.rounds"], origin["train.batch_size"]) == ("flag", "env", "file")
    assert (origin["partition.balance"], origin["partition.clients"]) == ("file", "default")
    assert (origin["method"], origin["params.mu"], origin["params.top_k"]) == ("file", "flag", "file")


def test_a_flag_pair_and_the_file_from_the_environment(experiment: Path) -> None:
    assert settled("--no-balance")["balance"] is False
    found = settled("--balance", env={"FLTK_SETTLE_CONFIG": str(experiment), "FLTK_SETTLE_SET": "a=1 b=x"})
    assert found["balance"] is True and found["rounds"] == 7
    assert found["params"] == {"mu": 0.1, "top_k": 3, "a": 1, "b": "x"} and found["origin"]["params.b"] == "env"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[train]\nlrr = 1", ("[train]", "'lrr'", "did you mean lr")),
        ("[trian]\nlr = 1", ("'trian'", "did you mean train")),
        ("sed = 1", ("'sed'", "did you mean seed")),
        ("[train]\nrounds = 1.5", ("[train]", "rounds must be a whole number", "1.5")),
        ("[train]\nrounds = true", ("rounds must be a whole number",)),
        ('[train]\nlr = "0.1"', ("lr must be a number",)),
        ("[partition]\nbalance = 1", ("balance must be true or false",)),
        ("[train]\nbatch-size = 1\nbatch_size = 2", ("batch_size is given twice",)),
        ("train = 3", ("train must be a table",)),
        ("[train", ("not valid TOML",)),
    ],
)
def test_a_wrong_file_is_refused_by_name(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "exp.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        settled("--config", str(path))
    assert all(part in str(caught.value) for part in (*parts, "exp.toml"))


@pytest.mark.parametrize(
    ("args", "part"),
    [
        (["--lr", "0"], "--lr must be a positive number"),
        (["--lr", "nan"], "--lr must be a positive number"),
        (["--scheme", "dirichle"], "did you mean dirichlet"),
        (["--rounds", "x"], "--rounds"),
        (["--set", "mu"], "KEY=VALUE"),
        (["--set", "=3"], "KEY=VALUE"),
        (["--config", "absent.toml"], "absent.toml"),
        (["--learning-rat", "1"], "--learning-rat"),
    ],
)
def test_a_wrong_value_is_wrong_usage(args: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["settle", *args]) == 2
    err = capsys.readouterr().err
    assert part in err and err.count("\n") == 1


def test_help_shows_sections_defaults_and_choices() -> None:
    text = CliRunner().invoke(cli, ["settle", "--help"]).stdout
    assert text.index("Partition:") < text.index("Training:") < text.index("\nOptions:")
    assert "--no-balance" in text and "[default: 0.05]" in text and "cnn1d" in text
    assert "--data-dir" not in text, "global options are shown once, by fltk --help"


def test_a_field_that_cannot_be_an_option_is_a_bug() -> None:
    @dataclass(frozen=True)
    class Odd:
        sizes: tuple[int, ...] = option((1,), "sizes")

    Odd.__annotations__["sizes"] = tuple[int, ...]
    with pytest.raises(TypeError, match="sizes"):
        options_from(Odd)(lambda: None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("3.0", 3.0),
        ("1e-3", 0.001),
        ("true", True),
        ("False", False),
        ("zscore", "zscore"),
        ("", ""),
    ],
)
def test_literals(text: str, value: Any) -> None:
    found = literal(text)
    assert found == value and type(found) is type(value)


def test_the_last_of_equal_keys_wins() -> None:
    assert parse_set(["top-k=1", "top_k=2", "name=a=b"]) == {"top_k": 2, "name": "a=b"}
