"""What method, attack, defence and the options of a round cannot do together: refused before anything is trained."""

from __future__ import annotations

from fltk.defences.base import assumed
from fltk.engine.base import Job
from fltk.errors import UsageError
from fltk.models.parts import NONE
from fltk.protocol.averaging import MIXED
from fltk.protocol.task import Task
from fltk.rounds.terms import guard_of, participants


def check(job: Job, task: Task) -> tuple[str, ...]:
    """Refuse, with the option's name, what does not go together; gives lines to tell."""
    job.method.check(task)
    _check_mechanisms(job, task)
    notes = _nothing_private(job, task) + _check_attack(job, task)
    _check_defence(job, task)
    return notes


def _check_mechanisms(job: Job, task: Task) -> None:
    """Refuse a server optimiser, a channel or several networks where the method has no use for them."""
    method, travels = job.method, job.method.columns.travels
    nothing = task.layout.width(travels) == 0
    asked = job.train
    if asked.server_opt and method.server_optimiser is not None:
        raise UsageError(f"--server-opt {asked.server_opt}: the method has a server optimiser of its own; leave it out")
    if asked.server_opt and (nothing or method.averages == MIXED):
        why = "it sends no model" if nothing else "it has no average that all clients share"
        raise UsageError(f"--server-opt {asked.server_opt} does not go with this --method: {why}")
    if asked.channel and job.channel is not None and nothing:
        raise UsageError(f"--channel {asked.channel} does not go with this --method: it sends no model")
    if asked.map_control and method.averages != MIXED:
        raise UsageError(
            f"--map-control {asked.map_control} does not go with this --method: it does not mix models by a map; take "
            "attn, fedamp, heurfedamp or pfedgraph"
        )
    if asked.augment and "augment" in method.cannot:
        raise UsageError(f"--augment {asked.augment} does not go with this --method: {method.cannot['augment']}")
    if asked.augment and job.federation.objective.tokens:
        raise UsageError(
            f"--augment {asked.augment} mixes numbers, and the samples are sequences of tokens; leave it out"
        )
    if task.starts and not nothing:
        raise UsageError(
            "--models does not go with this --method: it sends models, and those of different networks cannot be "
            "averaged; take local or fedmd"
        )


def _nothing_private(job: Job, task: Task) -> tuple[str, ...]:
    """A line to tell where clients keep a part of the model of which this network has nothing."""
    private = job.method.columns.private
    if private == NONE or task.layout.width(private):
        return ()
    return (f"--model: this network has no part {private}, so that clients keep nothing private",)


def _check_attack(job: Job, task: Task) -> tuple[str, ...]:
    """Refuse an attack that no client would make; gives lines to tell."""
    n, campaign = participants(job, task), job.campaign
    if campaign is None:
        return ()
    bad = min(n, len(campaign.malicious))
    if bad and campaign.start >= job.train.rounds:
        raise UsageError(
            f"--attack-start {campaign.start + 1}: the run has {job.train.rounds} rounds, and no client would ever "
            "attack; lower it or raise --rounds"
        )
    objective = job.federation.objective
    if campaign.attack.labels and not objective.softmax:
        raise UsageError(
            f"--kind: this attack changes class labels, and {objective.name} has none; choose one on models, "
            "such as random-model"
        )
    return campaign.attack.check(job.federation.shape, job.federation.n_classes, n, bad)


def _check_defence(job: Job, task: Task) -> None:
    """Refuse a defence that the method, the attack or the data do not admit."""
    guard, found = guard_of(job, task), job.protection
    if guard is None or found is None:
        return
    why = job.method.cannot.get("defence")
    if why:
        raise UsageError(f"--defence {found.name}: {why}; leave --defence out")

    n, campaign = participants(job, task), job.campaign
    share = 0.0 if campaign is None else len(campaign.malicious) / task.n_clients
    if share >= 0.5 and guard.defence.most(n) < assumed(share, n):
        raise UsageError(
            f"--malicious: --defence {found.name} cannot face {assumed(share, n)} of the {n} clients in a round, "
            f"at most {max(0, guard.defence.most(n))}"
        )
    guard.check(found.name, n, task.class_head is not None)
    if guard.defence.private and job.method.beside:
        raise UsageError(
            f"--defence {found.name} does not go with this --method: clients also send {job.method.beside}, which it "
            "neither clips nor hides"
        )
    if guard.defence.needs_root and not any(len(part) for part in job.federation.held_out):
        raise UsageError(
            f"--defence {found.name} needs a clean set on the server, which is drawn from the newcomers' data: train "
            "with --newcomers 4"
        )
