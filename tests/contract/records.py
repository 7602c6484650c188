"""Records as the tests send them."""

from shared.schemas import Action, RunOutcome, RunState, Source, Text, UiEvent, event_id


def ui_event(seq: int, user: str = "ann", session: str = "s1", text: str = "Ada") -> UiEvent:
    return UiEvent(
        id=event_id(user, Source.REPLAY, session, seq),
        time_ms=1_700_000_000_000 + seq,
        user_id=user,
        source=Source.REPLAY,
        session=session,
        seq=seq,
        action=Action.EDIT,
        application="orders",
        value=Text(cls="text", clear=text),
    )


def run_outcome(index: int, user: str = "ann", state: RunState = RunState.DONE) -> RunOutcome:
    return RunOutcome(
        id=f"outcome-{user}-{index}",
        time_ms=1_700_000_000_000 + index,
        user_id=user,
        run_id="run-1",
        record_index=index,
        routine_id="routine-1",
        model_id="model-1",
        state=state,
        started_ms=1,
        ended_ms=2,
    )
