"""Turns synthetic events into actions, as the learner's memory does but without a store."""

from services.task_learner.actions import Collapse, UserAction, collapse, normalise


def actions_of(events):
    """Return the actions that `events` come to."""
    found = []
    for event in events:
        normal = normalise(event)
        if normal is None:
            continue
        if found:
            verdict = collapse(found[-1], event, normal[0])
            if verdict is Collapse.DROP:
                continue
            if verdict is Collapse.REPLACE:
                found.pop()
        found.append(UserAction(len(found), event, *normal))
    return found
