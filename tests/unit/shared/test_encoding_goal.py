from array import array

from shared.encoding_goal import (
    GOAL_STEPS,
    NUM_GOAL_CONTEXT,
    NUM_GOAL_ELEMENT,
    Page,
    encode_goal,
    step_on,
)
from shared.goal import GoalSource
from shared.schemas import Box, Level, Snapshot, SnapshotElement, Text

SOURCE = GoalSource(role="generic", tag="p", element_id="task", vocabulary=("like", "of", "press"))


def element(index, tag, text=None, *, role="generic", parent=None, **more):
    return SnapshotElement(
        index=index, parent=parent, role=role, tag=tag, text=text and Text(clear=text),
        box=Box(x_px=index, y_px=10 * index, width_px=20, height_px=8), **more,
    )  # fmt: skip


def page(goal="Like post of ana", names=("bo", "ana")):
    found = [element(0, "p", goal, element_id="task"), element(1, "b", "ana", parent=0)]
    for name in names:
        at = len(found)
        found += [
            element(at, "div", classes=("post",)),
            element(at + 1, "span", name, parent=at, classes=("author",)),
            element(at + 2, "span", parent=at, classes=("likeIcon",)),
        ]
    return Snapshot(application="app", level=Level.VALUES, elements=tuple(found))


def read(snapshot, history=(), *, controls=False):
    return encode_goal(Page(snapshot, SOURCE), SOURCE.vocabulary, history, controls=controls)


def rows(encoded):
    size = NUM_GOAL_ELEMENT
    return {e: list(encoded.x[i * size : (i + 1) * size]) for i, e in enumerate(encoded.elements)}


def test_the_instruction_and_what_is_in_it_are_no_candidates():
    assert not {0, 1} & set(read(page()).elements)


def test_icons_are_candidates_where_not_only_controls_are():
    assert {4, 7} <= set(read(page()).elements)
    assert read(page(), controls=True).elements == ()


def test_an_icon_in_the_row_of_the_one_who_is_named_differs_from_the_others():
    found = rows(read(page()))
    assert found[4] != found[7]


def test_another_name_in_instruction_and_row_gives_the_same_numbers():
    one = read(page("Like post of ana", ("bo", "ana")))
    other = read(page("Like post of eva", ("bo", "eva")))
    assert one.x == other.x
    assert one.g == other.g


def test_what_was_done_is_remembered_and_what_is_new_is_seen():
    snapshot = page()
    step = step_on(Page(snapshot, SOURCE), 7, "click", None)
    assert rows(read(snapshot))[7] != rows(read(snapshot, [step]))[7]
    later = page(names=("bo", "ana", "cy"))
    assert rows(read(later, [step]))[9] != rows(read(later))[9]


def test_all_numbers_fit_the_training_data():
    encoded = read(page("Like post of ana", ("bo", "ana") * 9))
    assert len(encoded.g) == NUM_GOAL_CONTEXT
    assert all(
        0 <= v * GOAL_STEPS <= 255 and v * GOAL_STEPS == int(v * GOAL_STEPS) for v in encoded.x
    )


def test_an_empty_page_has_no_candidate():
    empty = Snapshot(application="app", level=Level.VALUES, elements=())
    assert read(empty).x == array("f")


def test_parents_that_loop_do_no_harm():
    looped = Snapshot(
        application="app", level=Level.VALUES,
        elements=(element(1, "div", "a", parent=2, classes=("x",)),
                  element(2, "div", "b", parent=1, classes=("x",))),
    )  # fmt: skip
    assert set(read(looped).elements) == {1, 2}


def test_icons_without_a_parent_are_told_apart_by_their_place():
    icons = [element(i, "span", classes=("dot",)) for i in (1, 2, 3)]
    snapshot = Snapshot(application="app", level=Level.VALUES, elements=tuple(icons))
    known = Page(snapshot, None)
    assert len(set(known.keys.values())) == 3
    changed = icons[0].model_copy(update={"classes": ("dot", "chosen")})
    again = Page(snapshot.model_copy(update={"elements": (changed, *icons[1:])}), None)
    assert again.keys == known.keys


def answer(text):
    return Snapshot(
        application="app", level=Level.VALUES,
        elements=(element(0, "p", "Press ok", element_id="task"),
                  element(1, "div", text), element(2, "button", "ok", role="button")),
    )  # fmt: skip


def test_what_was_answered_before_bounds_a_number_still():
    first, then = answer("It is higher than 3"), answer("It is lower than 8")
    step = step_on(Page(first, SOURCE), 2, "click", None)
    alone, both = read(then).g, read(then, [step]).g
    assert sum(a != b for a, b in zip(alone, both, strict=True)) > 1
    again = read(answer("It is higher than 3"), [step_on(Page(then, SOURCE), 2, "click", None)])
    bounds = slice(NUM_GOAL_CONTEXT - 24, NUM_GOAL_CONTEXT)
    assert both[bounds] == again.g[bounds]
    assert sum(both[bounds]) == 2


def test_a_colour_in_the_instruction_is_told():
    def box(index, colour):
        return element(index, "div", colour=colour, classes=("color",))

    def shown(colour):
        asked = element(1, "div", parent=0, colour=colour)
        task = element(0, "p", "Press the box", element_id="task")
        return Snapshot(
            application="app", level=Level.VALUES,
            elements=(task, asked, box(2, "rgb(255, 0, 0)"), box(3, "rgb(0, 0, 255)")),
        )  # fmt: skip

    red, blue = rows(read(shown("rgb(255, 0, 0)"))), rows(read(shown("rgb(0, 0, 255)")))
    assert red[2] != blue[2]
    assert red[3] != blue[3]


def words(*offered, states=()):
    labels = [
        element(i, "input", role="checkbox", label=word, states=states)
        for i, word in enumerate(offered, start=1)
    ]
    task = element(0, "p", "Press words like huge", element_id="task")
    return Snapshot(application="app", level=Level.VALUES, elements=(task, *labels))


def test_a_word_that_means_what_is_told_differs_from_others_where_meanings_count():
    page = Page(words("gigantic", "water"), SOURCE)
    vocabulary = (*SOURCE.vocabulary, "words")
    told = encode_goal(page, vocabulary, (), controls=True, meanings=True)
    plain = encode_goal(page, vocabulary, (), controls=True)
    assert [rows(told)[i][-1] for i in (1, 2)] == [1, 0]
    assert [rows(plain)[i][-1] for i in (1, 2)] == [0, 0]
    other = Page(words("enormous", "water"), SOURCE)
    assert encode_goal(other, vocabulary, (), controls=True, meanings=True).x == told.x


def test_more_left_to_do_is_like_some_left_to_do():
    def context(*names):
        return read(page("Like ana, bo, cy, dee", names)).g

    none, one, many = context("x"), context("ana"), context("ana", "bo", "cy", "dee")
    some = [i for i in range(NUM_GOAL_CONTEXT) if one[i] and not none[i]]
    assert some
    assert all(many[i] for i in some)


def test_a_field_is_asked_for_by_a_word_of_the_same_stem():
    def field(label):
        goal = element(0, "p", "press movies directed by Ann", element_id="task")
        snapshot = Snapshot(
            application="app", level=Level.VALUES,
            elements=(goal, element(1, "input", role="textbox", label=label)),
        )  # fmt: skip
        source = ("press", "movies", "directed", "by")
        return encode_goal(Page(snapshot, SOURCE), source, (), controls=True).x

    near, far = field("director"), field("producer")
    assert sum(near) == sum(far) + 1
