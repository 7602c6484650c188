from services.task_learner.actions import Token
from services.task_learner.routines import Known, KnownTrace
from services.task_learner.segment import Pattern
from shared.schemas import Level, Origin


def token(label):
    return Token("click", "shop", "desk", "button", label)


def trace(name, *event_ids):
    return KnownTrace(
        name, "d", "s1", 1, 2, Level.VALUES, event_ids, (("replay", "s1", 1),),
        [None] * len(event_ids), None,
    )  # fmt: skip


def test_a_step_that_no_trace_has_any_more_leaves_with_its_words():
    again = token("Open")
    known = Known("r", "ann", Origin.MINED, Pattern((again, token("Secret menu"), again)))
    known.traces = {"a": trace("a", "e1", "", "e2"), "b": trace("b", "", "", "e3")}
    known.drop_unseen_steps()
    assert known.pattern.tokens == (again, again)
    assert [t.event_ids for t in known.traces.values()] == [("e1", "e2"), ("", "e3")]
