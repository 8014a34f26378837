"""Flat models: parts, views and the identities between them."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn
from toys import random

from fltk.errors import UsageError
from fltk.models import zoo
from fltk.models.layout import Layout
from fltk.models.parts import ALL, BASE, BATCH_NORM, HEAD, NONE, NORM, Columns, Part
from fltk.names import MODELS

SHAPES: dict[str, tuple[int, ...]] = {"cnn1d": (6, 128), "lstm": (12,), "gru": (12,)}


def layout_of(name: str) -> Layout:
    return Layout.of(zoo.make(name, SHAPES.get(name, (1, 16, 16)), 10))


class Rooted(nn.Module):
    """A network with parameters of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(4))
        self.scale = nn.Parameter(torch.empty(1))
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.scale * x + self.token)  # type: ignore[no-any-return]  # nn.Module calls are untyped


@pytest.fixture(params=MODELS)
def layout(request: pytest.FixtureRequest) -> Layout:
    """The layout of every network."""
    return layout_of(request.param)


def test_entries_tile_the_vector_with_trainable_ones_first(layout: Layout) -> None:
    at = 0
    for e in layout.entries:
        assert e.start == at
        at = e.stop
    assert at == layout.size
    kinds = [e.trainable for e in layout.entries]
    assert kinds == sorted(kinds, reverse=True)
    assert layout.trainable == sum(e.size for e in layout.entries if e.trainable)


def test_viewing_and_flattening_are_inverse(layout: Layout) -> None:
    flat = random(layout.size)
    for e in layout.entries:
        view = e.view(flat)
        assert tuple(view.shape) == e.shape
        assert torch.equal(e.flatten(view), flat[e.start : e.stop])
        assert e.view(flat).data_ptr() == flat[e.start :].data_ptr()
    again = torch.cat([e.flatten(e.view(flat)) for e in layout.entries])
    assert torch.equal(again, flat)


PARTS = (
    "all",
    "none",
    "head",
    "base",
    "top:0",
    "top:1",
    "top:2",
    "top:99",
    "below:0",
    "below:1",
    "below:2",
    "below:99",
)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_and_its_rest_are_the_whole(layout: Layout, part: str) -> None:
    rest = ~Part(part)
    assert layout.width(part) + layout.width(rest) == layout.size
    assert ~rest == part
    row, other = random(layout.size), random(layout.size, seed=1)
    inside, outside = layout.take(row, part), layout.take(row, rest)
    assert torch.equal(layout.join({part: inside, rest: outside}), row)
    mixed = layout.put(other, part, inside)
    assert torch.equal(layout.take(mixed, part), inside)
    assert torch.equal(layout.take(mixed, rest), layout.take(other, rest))
    assert torch.equal(other, random(layout.size, seed=1))
    assert torch.equal(layout.take(torch.stack([row, other]), part), torch.stack([inside, layout.take(other, part)]))


def test_parts_by_name(layout: Layout) -> None:
    assert layout.ranges("head") == layout.ranges("top:1")
    assert layout.ranges("base") == layout.ranges("below:1")
    assert layout.ranges("top:99") == layout.ranges("all") == ((0, layout.size),)
    assert layout.ranges("top:0") == layout.ranges("none") == ()
    widths = [layout.width(f"top:{k}") for k in range(len(layout.weighted_layers) + 1)]
    assert widths == sorted(set(widths))
    assert sum(layout.width(name) for name in layout.layers) == layout.size
    assert layout.width("head") == layout.width(layout.weighted_layers[-1])


def test_the_head_is_the_last_linear_layer() -> None:
    layout = layout_of("mlp")
    assert layout.width("head") == 100 * 10 + 10
    assert layout.ranges("head") == ((layout.size - 1010, layout.size),)
    assert layout_of("resnet8-bn").width("head") == 64 * 10 + 10


def test_normalisation_is_found_by_module_type_with_its_running_statistics() -> None:
    plain, batch = layout_of("resnet8"), layout_of("resnet8-bn")
    assert plain.width("norm") == 2 * (16 + 2 * 16 + 2 * 32 + 2 * 64)
    assert batch.width("norm") == 2 * plain.width("norm")
    buffers = [e for e in batch.entries if not e.trainable]
    assert {e.name.rpartition(".")[2] for e in buffers} == {"running_mean", "running_var"}
    assert all(e.norm for e in buffers)
    assert not any("num_batches_tracked" in e.name for e in batch.entries)
    assert plain.trainable == batch.trainable == plain.size
    assert layout_of("mlp").width("norm") == 0


def test_a_norm_layer_belongs_to_the_top_when_it_follows_the_first_top_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    layout = Layout.of(model)
    assert [e.layer for e in layout.entries if e.norm and e.trainable] == ["1", "1", "3", "3"]
    assert layout.width("top:2") == 12 + 6 + 8
    assert layout.width("below:2") == 15 + 6 + 6  # the running statistics of layer 1 stay with it
    assert len(layout.ranges("below:2")) == 2


@pytest.mark.parametrize("part", ["hed", "10", "layer:1"])
def test_an_unknown_part_is_refused_with_the_layers(part: str) -> None:
    with pytest.raises(ValueError, match=f"no part '{part}'.*1, 3"):
        layout_of("mlp").ranges(part)


def columns_of(layout: Layout, part: str) -> set[int]:
    """The columns of a part as a set of numbers."""
    return set(layout.take(torch.arange(layout.size), part).tolist())


def test_parts_combine_like_sets_of_columns(layout: Layout) -> None:
    everything = columns_of(layout, ALL)
    for a, b in product((HEAD, BASE, NORM, BATCH_NORM, Part("top:2")), (HEAD, NORM, Part("below:2"), NONE)):
        first, second = columns_of(layout, a), columns_of(layout, b)
        assert columns_of(layout, a | b) == first | second
        assert columns_of(layout, a - b) == first - second
        assert columns_of(layout, ~a) == everything - first
        assert columns_of(layout, ~(a | b)) == everything - first - second
        assert columns_of(layout, ~~(a | b)) == first | second
        assert columns_of(layout, a - (NORM | b)) == first - second - columns_of(layout, NORM)


def test_an_expression_reads_like_the_sets_that_it_was_made_of() -> None:
    assert ~NORM == "all - norm"
    assert ~~NORM == NORM
    assert HEAD | NORM == "head | norm"
    assert BASE - (NORM | "0") == "base - (norm | 0)"
    assert (~HEAD, ~BASE, ~Part("top:2"), ~ALL) == ("base", "head", "below:2", "none")
    layout = layout_of("resnet8-bn")
    assert layout.ranges("(head | norm)") == layout.ranges(NORM | HEAD)
    assert layout.ranges("all - head - norm") == layout.ranges(ALL - (HEAD | NORM))


@pytest.mark.parametrize(
    "text", ["head |", "| head", "(head", "head)", "head norm", "head | base - norm", "", "- head"]
)
def test_an_expression_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"part '.*' cannot be read: .*parentheses"):
        layout_of("mlp").ranges(text)


def test_batch_norm_is_the_normalisation_over_the_batch() -> None:
    norms = nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True)
    layout = Layout.of(nn.Sequential(nn.Conv2d(1, 4, 3), *norms, nn.Flatten(), nn.Linear(16, 2)))
    assert layout.width("norm") == 16 + 8 + 8
    assert layout.width("batch-norm") == 16
    assert layout.width(NORM - BATCH_NORM) == 16


def test_every_column_has_one_place() -> None:
    layout = layout_of("resnet8-bn")
    layout.check(Columns(), "FedAvg")
    layout.check(Columns(travels=HEAD, private=NORM, frozen=ALL - (HEAD | NORM)), "Mine")
    with pytest.raises(UsageError, match=r"Mine\.columns: 8\.weight is in 2 of the parts that travel \(all\)"):
        layout.check(Columns(travels=ALL, private=HEAD), "Mine")
    with pytest.raises(UsageError, match=r"is in 0 of the parts .*frozen \(none\)"):
        layout.check(Columns(travels=HEAD, private=NORM), "Mine")


def test_parameters_of_the_network_itself_are_a_layer() -> None:
    model = Rooted()
    layout = Layout.of(model)
    assert [(e.name, e.layer) for e in layout.entries][:2] == [("token", "self"), ("scale", "self")]
    assert layout.layers == ("self", "linear")
    assert layout.width("self") == 4 + 1
    assert columns_of(layout, ~Part("self")) == columns_of(layout, "linear")
    flat = random(layout.size)
    parameters = layout.bind(model, flat)
    assert torch.equal(model.token, flat[:4])
    assert [id(p) for p in parameters] == [id(p) for p in model.parameters()]


def test_bound_modules_share_memory_with_the_vector() -> None:
    model = zoo.make("resnet8-bn", (1, 8, 8), 4)
    layout = Layout.of(model)
    model = model.to_empty(device="cpu")
    flat = torch.zeros(layout.size)
    parameters = layout.bind(model, flat)
    assert len(parameters) == sum(e.trainable for e in layout.entries)
    flat.copy_(random(layout.size))
    for e, p in zip((e for e in layout.entries if e.trainable), parameters, strict=True):
        assert torch.equal(p, e.view(flat))
    names = dict(model.named_buffers())
    for e in layout.entries:
        if not e.trainable:
            assert torch.equal(names[e.name.lstrip(".")], e.view(flat))
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
