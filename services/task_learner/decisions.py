"""What follows when a person joins two routines, or splits one.

The routine a person took traces from stays the one that recognises them: it is ignored, and its
record says where its traces go (`forwards`). Each of them is copied there, now and whenever it
gains one; where the rule or the trace is gone, so is the copy. Nothing else has to be kept for the
decision to hold after a restart, and the records on `tasks` are enough after the loss of the store.

Pure. Does not cover: taking traces out one by one.
"""

from dataclasses import replace

from services.task_learner.actions import Token
from services.task_learner.routines import Known, KnownTrace, in_time_order, steps_from
from services.task_learner.segment import Pattern
from shared.errors import ConflictError
from shared.schemas import Forward, RoutineStatus, derive_id

__all__ = ["forward", "join", "part_of", "split", "take_back"]


def join(source: Known, target: Known) -> None:
    """Let `source` count as `target` from now on. Raises ConflictError where they cannot be one."""
    if source is target or source.user_id != target.user_id:
        raise ConflictError("a routine is joined with another one of the same person")
    for known in (source, target):
        _must_be_whole(known)
    _hand_over(source, (Forward(into=target.routine_id),))


def split(source: Known, step: int) -> None:
    """Let executions with and without a step be two routines; `step` counts from 0.

    Raises ConflictError where there is no such step, or all or no executions have it.
    """
    _must_be_whole(source)
    if not 0 <= step < len(source.pattern.tokens):
        raise ConflictError(
            f"{source.name} has no step {step + 1}: it has {len(source.pattern.tokens)}"
        )
    num = sum(bool(trace.event_ids[step]) for trace in source.traces.values())
    if num in (0, len(source.traces)):
        every = "every execution has" if num else "no execution has"
        raise ConflictError(f"{every} step {step + 1} of {source.name}: choose one that some have")
    key = _key(source.pattern.tokens[step])
    _hand_over(
        source,
        tuple(
            Forward(into=derive_id(source.routine_id, "split", key, int(has)), step=key, has=has)
            for has in (True, False)
        ),
    )


def take_back(source: Known) -> tuple[Forward, ...]:
    """Let a routine that was joined or split be itself again; return where its traces went.

    It is proposed anew: what was decided about it before is not known any more.
    Raises ConflictError where there is nothing to take back.
    """
    if not source.forwards:
        raise ConflictError(f"{source.name} has been neither joined nor split")
    forwards, source.forwards = source.forwards, ()
    source.status = RoutineStatus.PROVISIONAL
    return forwards


def part_of(source: Known, rule: Forward) -> Known:
    """Return the routine that a split makes, still without a trace."""
    tokens = source.pattern.tokens
    kept = tokens if rule.has else tuple(t for t in tokens if _key(t) != rule.step)
    told = next(t.label.lstrip("@") or t.action for t in tokens if _key(t) == rule.step)
    name = f"{source.name}, with{'' if rule.has else 'out'} {told}"[:120]
    return Known(
        rule.into, source.user_id, source.origin, Pattern(kept), name, named_by_user=True,
        derived_from=source.routine_id,
    )  # fmt: skip


def forward(
    source: Known, target: Known, rule: Forward
) -> tuple[dict[str, KnownTrace], list[KnownTrace]]:
    """Copy what the rule names into `target`.

    Return the traces that were copied, by the ids of their copies, and the copies that are to go.
    """
    columns = steps_from(source.pattern, target.pattern)
    wanted = {
        derive_id(target.routine_id, trace.trace_id): trace
        for trace in source.traces.values()
        if rule.step is None or _has(source, trace, rule.step) is rule.has
    }
    gone = [
        trace
        for trace_id, trace in target.traces.items()
        if trace.forwarded_by == source.routine_id and trace_id not in wanted
    ]
    new = {i: t for i, t in wanted.items() if i not in target.traces}
    for trace_id, trace in new.items():
        target.traces[trace_id] = replace(
            trace, trace_id=trace_id, digest="", forwarded_by=source.routine_id,
            event_ids=tuple("" if c is None else trace.event_ids[c] for c in columns),
            values=[None if c is None else trace.values[c] for c in columns],
        )  # fmt: skip
    target.traces = in_time_order(target.traces.values())
    return new, gone


def _must_be_whole(known: Known) -> None:
    if known.forwards:
        raise ConflictError(f"{known.name} has been joined or split already")
    if not known.is_live or known.record is None:
        raise ConflictError(f"routine {known.routine_id} has been forgotten: show it again")


def _hand_over(source: Known, forwards: tuple[Forward, ...]) -> None:
    source.forwards, source.status = forwards, RoutineStatus.IGNORED


def _has(source: Known, trace: KnownTrace, key: str) -> bool:
    steps = zip(source.pattern.tokens, trace.event_ids, strict=True)
    return any(event and _key(token) == key for token, event in steps)


def _key(token: Token) -> str:
    return derive_id(*token)
