from services.task_learner.actions import Token
from services.task_learner.routines import Known, KnownTrace
from services.task_learner.segment import Pattern
from services.task_learner.settings import TaskLearnerSettings
from shared.schemas import Level, Origin, RoutineStatus


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


OPEN_AND_SAVE = Pattern(
    (
        Token("shop", "desk", "button", "Open", "click"),
        Token("shop", "desk", "button", "Save", "click"),
    )
)


def test_a_routine_is_replayed_again_as_it_grows_though_old_traces_go():
    known = Known("r", "ann", Origin.MINED, OPEN_AND_SAVE)
    settings = TaskLearnerSettings()
    known.traces = {f"t{n}": trace(f"t{n}", f"a{n}", f"b{n}") for n in range(40)}
    known.update(settings)
    assert known.automatability.step_rate == 1
    known.automatability = None
    known.num_older = 5
    known.update(settings)
    assert known.automatability is None  # not worth another look yet
    known.num_older = 10
    known.update(settings)
    assert known.automatability is not None


def test_why_a_routine_is_not_proposed_is_said():
    known = Known("r", "ann", Origin.MINED, OPEN_AND_SAVE)
    known.traces = {f"t{n}": trace(f"t{n}", f"a{n}", f"b{n}") for n in range(4)}
    known.update(TaskLearnerSettings())
    assert (known.status, known.not_proposed) == (
        RoutineStatus.CONFIRMED, "seen 4 times, 5 are needed",
    )  # fmt: skip
    known.traces = {f"t{n}": trace(f"t{n}", f"a{n}", f"b{n}") for n in range(8)}
    known.update(TaskLearnerSettings())
    assert (known.status, known.not_proposed) == (RoutineStatus.PROPOSED, None)
    agent = Known("s", "ann", Origin.TAUGHT, known.pattern, "Show me")
    known.update(TaskLearnerSettings(), [agent])
    assert (known.status, known.not_proposed) == (
        RoutineStatus.CONFIRMED, "nearly the same as Show me",
    )  # fmt: skip
    agent.traces = dict(known.traces)
    agent.update(TaskLearnerSettings(), [known])
    assert agent.status is RoutineStatus.PROPOSED  # taught: no rule holds it back


def test_an_execution_that_a_sentence_tells_keeps_what_is_no_step_any_more():
    known = Known("r", "ann", Origin.MINED, OPEN_AND_SAVE, told_by=("open", "it"))
    known.traces = {"a": trace("a", "e1", "e2")}
    known.change_pattern(Pattern(OPEN_AND_SAVE.tokens[1:]))
    [kept] = known.traces.values()
    assert (kept.event_ids, kept.others) == (("e2",), ("e1",))
