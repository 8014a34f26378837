"""A defence at work: who is judged with whom, what f is assumed, and what a rule's state becomes.

`DefenceRun` is the defence of a run, `DefenceRound` one round under it. A round is judged once; methods then average
through `DefenceRound.average`, which weighs by trust, takes the clipped rows and calls the defence's rule where it has
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fltk.defences.base import Combined, Defence, Facts, Screened, assumed
from fltk.errors import UsageError
from fltk.memory.products import Gram
from fltk.protocol.averaging import CLUSTERS, MIXED, ONE
from fltk.protocol.verdict import PREFIX, Mean, rows_left
from fltk.train.streams import Streams

CLIENTS = ("clipped",)  # numbers of rules that count clients
NAMES = {ONE: "one global model", CLUSTERS: "cluster models", MIXED: "one mixed model per client"}


@dataclass(frozen=True)
class DefenceRun:
    """A defence in a run: of which kind the method is, the malicious share that is assumed, and whose weights count.

    parameters: columns of the shared part that are no buffers; they come first.
    """

    defence: Defence
    kind: str
    share: float
    equal: bool  # clients weigh equally in the averages of `one` and `clusters`
    parameters: int
    streams: Streams
    n_clients: int
    participation: float = 1.0
    rounds: int = 1

    @property
    def form(self) -> frozenset[str]:
        """Which of the defence's rules are used with this kind of method."""
        return self.defence.forms.get(self.kind, frozenset())

    @property
    def combines(self) -> bool:
        """Whether a rule takes the place of the mean."""
        return "combine" in self.form

    def check(self, name: str, participants: int, classes: bool) -> None:
        """Refuse, by the option to change, what the defence `name` cannot do here.

        participants: clients in a round.  classes: the output layer is averaged class by class.
        """
        if not self.form:
            why = self.defence.refusals.get(self.kind, "its rule has no form for them")
            raise UsageError(f"--defence {name} does not go with a method of {NAMES[self.kind]}: {why}")
        f, most = assumed(self.share, participants), self.defence.most(participants)
        if f > most:
            need = self.defence.condition
            raise UsageError(
                f"--defence {name} needs {need}, but a round has n = {participants} clients of which f = {f} are "
                "assumed malicious: lower --defence-fraction or raise --clients or --participation"
                if most >= 0
                else f"--defence {name} needs {need}, but a round has n = {participants} clients: raise --clients or "
                "--participation"
            )
        if self.combines and classes:
            raise UsageError(f"--head-mix classes does not go with --defence {name}, which replaces the average")
        self.defence.check(self.kind, self.participation, self.n_clients)

    def facts(self, ids: Sequence[int], weights: Tensor, f: int, round: int, gram: Gram, place: str) -> Facts:
        """What every rule is told. `place` names the call among those of the round: each draws from its own stream."""
        return Facts(
            ids=tuple(ids),
            weights=weights,
            f=f,
            generator=self.streams.generator(f"defence/{place}", round),
            parameters=self.parameters,
            round=round,
            gram=gram,
            kind=self.kind,
            n_clients=self.n_clients,
            participation=self.participation,
            rounds=self.rounds,
        )

    def watch(
        self,
        round: int,
        ids: Sequence[int],
        rows: Sequence[Tensor],
        references: Sequence[Tensor],
        weights: Tensor,
        server: Mapping[str, Tensor],
        root: Tensor | None = None,
    ) -> DefenceRound:
        """Judge a round's uploads (K rows (P,) from K references), in ascending order of client id.

        weights: (K,) float64, those of the method.  server: the tensors that the last watch left.  root: (K, d) updates
        of the server's own training from each reference.
        """
        known = {k.removeprefix(PREFIX): v for k, v in server.items() if k.startswith(PREFIX)}
        watch = DefenceRound(self, round, known)
        if "screen" in self.form:
            watch.judge(ids, rows, references, weights, root)
        return watch


@dataclass
class DefenceRound:
    """One round under a defence. It collects what the rules leave behind; `left` goes into the run's state."""

    guard: DefenceRun
    round: int
    state: dict[str, Tensor]
    clipped: dict[int, Tensor] = field(default_factory=dict)  # rows of this round that the screen changed
    notes: list[str] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)  # how often there was something to note
    told: dict[str, list[float]] = field(default_factory=dict)  # a rule's numbers, of each group or model it judged

    def __post_init__(self) -> None:
        one = torch.ones(self.guard.n_clients, dtype=torch.float64)
        before = self.state.get("trust", one)  # absent clients keep theirs: their last rows may still be mixed
        self.trust = torch.cat([before, one[len(before) :]])
        self.factor = torch.full_like(one, torch.nan)  # |g^| / |g|, of the clients that were judged

    @property
    def numbers(self) -> dict[str, float]:
        """Scalars of the round: clients are added up over groups and models, anything else is their mean."""
        return self.counts | {k: sum(v) / (1 if k in CLIENTS else len(v)) for k, v in self.told.items()}

    @property
    def left(self) -> dict[str, Tensor]:
        """The tensors of the run's state that belong to the defence."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self.state.items()}

    def judge(
        self,
        ids: Sequence[int],
        rows: Sequence[Tensor],
        references: Sequence[Tensor],
        weights: Tensor,
        root: Tensor | None,
    ) -> None:
        """Screen a round, group by group of equal references where the rule's condition holds in each."""
        guard, d = self.guard, self.guard.parameters
        refs = stacked(references)
        updates = torch.stack([row[:d] for row in rows]).sub_(refs[:, :d])
        for group in self._groups(references):
            members = [ids[k] for k in group]
            f = self._f(len(group))
            if f is None:
                self.trust[members] = 1.0
                continue

            # nothing is copied where everybody is in one group
            some = len(group) < len(ids)
            own, starts = (updates[group], refs[group]) if some else (updates, refs)
            mine = [rows[k] for k in group]
            p = weights[group] / weights[group].sum()
            facts = guard.facts(members, p, f, self.round, Gram(own), f"screen{members[0]}")
            clean = root[group] if some and root is not None else root
            facts = replace(facts, references=starts, rows=mine, root=clean)
            found = guard.defence.screen(own, facts, self._of("screen"))
            self._enter(members, mine, starts, found)
        if guard.kind == MIXED:
            self.state["trust"] = self.trust.clone()

    def _groups(self, references: Sequence[Tensor]) -> list[list[int]]:
        """Uploads that are judged together: those from equal references, if the rule's condition holds in each."""
        everybody = list(range(len(references)))
        if self.guard.kind == MIXED:
            return [everybody]
        groups = equal_rows(references)
        share, most = self.guard.share, self.guard.defence.most
        if any(assumed(share, len(group)) > most(len(group)) for group in groups):
            return [everybody]
        return groups

    def _enter(self, ids: Sequence[int], rows: Sequence[Tensor], refs: Tensor, found: Screened) -> None:
        """The verdict on a group."""
        self.trust[list(ids)] = torch.nan_to_num(found.trust.double(), nan=0.0).clamp(0, 1)
        self._keep("screen", found)
        for i, before, after, r in zip(ids, rows, found.rows or rows, refs, strict=True):
            self.factor[i] = 1.0
            if after is not before and not torch.equal(after, before):
                self.clipped[i] = after
                d = self.guard.parameters
                length = (before[:d] - r[:d]).double().norm().clamp_min(1e-300)
                self.factor[i] = (after[:d] - r[:d]).double().norm() / length

    def remember(self, ids: Sequence[int], rows: Mapping[int, Tensor]) -> None:
        """The last rows of the clients `ids` are this round's; `rows` (P,) are those of which others get another form.

        The method says so, which alone knows whose upload it has kept, and as what. Kept from the first row on.
        """
        kept = self.state.get("rows")
        if kept is None and not rows:
            return
        if kept is None:
            kept = torch.full_like(next(iter(rows.values())), torch.nan).repeat(self.guard.n_clients, 1)
        kept = kept.clone()
        kept[list(ids)] = torch.nan
        for i, row in rows.items():
            kept[i] = row
        self.state["rows"] = kept

    def usable(self, bank: Tensor) -> Tensor | None:
        """Last rows (N, P) as others may use them, from those of the method; None where nothing was clipped."""
        return rows_left(self.left, bank) if "rows" in self.state else None

    def weigh(self, weights: Tensor, ids: Sequence[int]) -> Tensor:
        """Weights (K,) times trust, normalised; as they are under full trust, and zero where nobody is trusted."""
        trust = self.trust[list(ids)]
        if bool((trust == 1).all()):
            return weights
        mass = weights * trust
        total = float(mass.sum())
        if total <= 0:
            self._note("a model without a trusted upload stayed as it was", "defence_kept")
            return torch.zeros_like(weights)
        return mass / total

    def weigh_map(self, a: Tensor) -> Tensor:
        """Rows of a map (N, N) by trust, each client's own entry exempt; a row without mass becomes the own model."""
        free = a * self.trust
        free.diagonal().copy_(a.diagonal())
        changed = (free != a).any(1)
        if not bool(changed.any()):
            return a
        total = free.sum(1, keepdim=True)
        own = torch.eye(len(a), dtype=a.dtype)
        if bool((changed & (total[:, 0] <= 0)).any()):
            self._note("a client without a trusted peer kept its own model", "defence_kept")
        return torch.where(changed[:, None], torch.where(total > 0, free / total.clamp_min(1e-300), own), a)

    def memory(self, target: str) -> bytes:
        """What the rule remembers of a target, to be compared with that of another."""
        return b"".join(name.encode() + tensor.numpy().tobytes() for name, tensor in sorted(self._of(target).items()))

    def copy(self, place: str, twin: str) -> None:
        """Give a target the state of one that is computed alike."""
        for name in self._of(twin):
            del self.state[f"{twin}:{name}"]
        self.state |= {f"{twin}:{name}": tensor for name, tensor in self._of(place).items()}

    def average(
        self, rows: Sequence[Tensor], weights: Tensor, ids: Sequence[int], origin: Tensor, target: str, mean: Mean
    ) -> tuple[Tensor, Tensor]:
        """One target's row (P,) and the weights (K,) that entered it; `origin` and zeros where nobody is trusted."""
        p = self.weigh(weights, ids)
        rows = [self.clipped.get(i, row) for i, row in zip(ids, rows, strict=True)]
        row, used = self.apply(rows, p, ids, origin, target, mean, self.guard.parameters)
        # of an update that the screen has shortened only that part came in; the rest stayed with the model
        return row, used * self.factor[list(ids)].nan_to_num(nan=1.0).clamp_max(1)

    def apply(
        self,
        rows: Sequence[Tensor],
        p: Tensor,
        ids: Sequence[int],
        origin: Tensor,
        target: str,
        mean: Mean,
        parameters: int,
        shared: Gram | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The rule or the mean of rows with a positive weight; weights are final.

        shared: the Gram matrix of these rows, from any point, where several targets have it in common.
        """
        chosen = torch.nonzero(p).flatten().tolist()
        if not chosen:
            return origin, p
        f = self._f(len(chosen)) if self.guard.combines else None
        if f is None:
            return mean(rows, p, ids), p
        if shared is None or len(chosen) < len(rows):
            shared = Gram([rows[k] for k in chosen], origin[:parameters])
        rows, members = [rows[k] for k in chosen], [ids[k] for k in chosen]
        facts = self.guard.facts(members, p[chosen], f, self.round, shared, target)
        facts = replace(facts, origin=origin, parameters=parameters)
        found = self.guard.defence.combine(rows, p[chosen], facts, self._of(target))
        self._keep(target, found)
        return found.row, torch.zeros_like(p).index_put((torch.tensor(chosen),), found.used.double())

    def _f(self, n: int) -> int | None:
        """The f assumed among n rows, lowered to what the rule admits; None where it admits nothing."""
        f, most = assumed(self.guard.share, n), self.guard.defence.most(n)
        need = self.guard.defence.condition
        if most < 0:
            self._note(f"the mean of {n} clients stood in for a rule that needs {need}", "defence_mean")
            return None
        if f > most:
            self._note(f"f was lowered from {f} to {most} among {n} clients: the rule needs {need}", "defence_lowered")
        return min(f, most)

    def _note(self, text: str, count: str) -> None:
        self.counts[count] = self.counts.get(count, 0.0) + 1
        if text not in self.notes:
            self.notes.append(text)

    def _of(self, place: str) -> dict[str, Tensor]:
        """The state of a place: the screen, or a target of combine."""
        start = f"{place}:"
        return {k.removeprefix(start): v for k, v in self.state.items() if k.startswith(start)}

    def _keep(self, place: str, found: Screened | Combined) -> None:
        """Put a rule's next state in the place of its last one, and hear what it has to tell."""
        for name in self._of(place):
            del self.state[f"{place}:{name}"]
        self.state |= {f"{place}:{name}": tensor for name, tensor in found.state.items()}
        self.notes += [text for text in found.notes if text not in self.notes]
        for name, value in found.numbers.items():
            self.told.setdefault(name, []).append(value)


def stacked(rows: Sequence[Tensor]) -> Tensor:
    """Rows (P,) as a matrix (K, P); one row many times is not copied."""
    if all(row is rows[0] for row in rows):
        return rows[0].expand(len(rows), -1)
    return torch.stack(list(rows))


def equal_rows(rows: Sequence[Tensor]) -> list[list[int]]:
    """Positions of bitwise equal rows together, in the order of their first ones."""
    groups: list[list[int]] = []
    for k, row in enumerate(rows):
        same = next((g for g in groups if row is rows[g[0]] or torch.equal(row, rows[g[0]])), None)
        if same is None:
            groups.append([k])
        else:
            same.append(k)
    return groups
