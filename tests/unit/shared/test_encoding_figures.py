import pytest

from shared.encoding_figures import Figures, lines_of
from shared.schemas import Box, SnapshotElement

RED, BLUE = "rgb(255, 0, 0)", "rgb(0, 0, 255)"


def figure(index, tag, size=10, at=(0, 0), **more):
    box = Box(x_px=at[0], y_px=at[1], width_px=size, height_px=size)
    return SnapshotElement(index=index, role="generic", tag=tag, box=box, **more)


DRAWN = [
    figure(1, "circle", 10, colour=RED),
    figure(2, "circle", 20, colour=BLUE),
    figure(3, "rect", 20, colour=RED),
    figure(4, "text", 20, colour=RED),
    figure(5, "text", 10),
]
TEXTS = {4: "W", 5: "9"}


def fitting(sentence, spans=(), colours=(), drawn=DRAWN):
    words = sentence.casefold().split()
    return set(Figures(drawn, TEXTS, words, spans, colours).fitting)


@pytest.mark.parametrize(
    ("sentence", "spans", "found"),
    [
        ("click on a circle", (), {1, 2}),
        ("click on a large red shape", (), {3}),
        ("how many small items are there", (), {1, 5}),
        ("how many letters are there", (), {4}),
        ("how many 9s are there", ("9s",), {5}),
        ("click on a w", ("W",), {4}),
        ("click on a w", ("w",), set()),
        ("press submit", (), set()),
    ],
)
def test_figures_fit_what_is_told_of_them(sentence, spans, found):
    assert fitting(sentence, spans) == found


def test_a_colour_that_is_not_known_contradicts_nothing():
    assert fitting("the red item") == {1, 3, 4, 5}


def test_a_colour_that_the_instruction_shows_is_told():
    assert fitting("the colored box", colours=("blue",)) == {2, 5}


def test_the_number_of_what_fits_and_the_kind_of_the_only_figure_are_known():
    figures = Figures(DRAWN, TEXTS, ["circles"], (), ())
    assert figures.counted("2")
    assert not figures.counted("3")
    assert not figures.named("Circle")
    one = Figures([figure(1, "text")], {1: "k"}, [], (), ())
    assert one.named("Letter")
    assert not one.named("Number")


def board(*styles):
    return [
        figure(i, "span", 42, (57 * (i % 3), 44 * (i // 3) + i % 2), classes=(s,) if s else None)
        for i, s in enumerate(styles)
    ]


def test_lines_of_three_tell_what_stands_in_them():
    lines = lines_of(board("x", "x", None, "o", None, None, "o", None, None))
    assert ("x", "x") in lines[2]
    assert ("o", "o") not in lines[2]
    assert {("x", None), (None, None), ("x", "o"), ("o", "x")} & set(lines[4])


def test_where_all_look_alike_there_are_no_lines():
    assert lines_of(board(*[None] * 9)) == {}
