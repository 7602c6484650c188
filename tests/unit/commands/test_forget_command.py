import pytest
import typer

from services.commands.forget import duration_ms


@pytest.mark.parametrize(
    ("text", "ms"), [("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("3d", 259_200_000)]
)
def test_a_duration_is_a_number_and_a_unit(text, ms):
    assert duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "m", "10", "0m", "-1m", "1.5h", "10 m", "10w", "²m", "9" * 5000 + "d"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(typer.BadParameter):
        duration_ms(text)
