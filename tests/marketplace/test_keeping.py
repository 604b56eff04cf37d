"""Which rounds' content is let go, against hand-made histories."""

import pytest

from marketplace.errors import InputError
from marketplace.history import History, Settlement
from marketplace.keeping import pin_name, project_of, released

PROJECT = bytes(range(32))
OTHER = bytes(32)


def after(*settled: int) -> History:
    history = History()
    for number in settled:
        history.round(number).settlement = Settlement("0xA", bytes(32), [], b"", 1, "0xT")
    return history


def names(*numbers: int, project: bytes = PROJECT) -> list[str]:
    return [pin_name(project, number) for number in numbers]


def test_a_name_tells_its_project_and_round():
    assert pin_name(PROJECT, 12) == "project-0001020304050607.round-12"
    assert project_of(pin_name(PROJECT, 12)) == "0001020304050607"
    for name in ("kept", "project-x.round-1", "project-0001020304050607.round-1x"):
        assert project_of(name) is None


@pytest.mark.parametrize(
    ("settled", "current", "keep", "gone"),
    [
        ([], 1, 2, []),
        ([1], 2, 2, []),
        ([1, 2], 3, 2, []),
        ([1, 2, 3], 4, 2, [1]),
        ([1, 2, 3, 4], 5, 1, [1, 2, 3]),
        ([1, 4], 5, 2, [2, 3]),  # 2 and 3 failed: nobody needs their updates
        ([], 4, 2, [1, 2, 3]),
        ([1, 2, 3, 4, 5], 5, 2, [1, 2, 3]),  # ended
        ([1, 2, 3], 4, 9, []),
    ],
)
def test_rounds_that_ended_are_let_go_but_the_last_settled(settled, current, keep, gone):
    kept = [*names(0, 1, 2, 3, 4, 5, 6), *names(1, project=OTHER), "kept"]
    assert released(kept, PROJECT, after(*settled), current, keep) == names(*gone)


def test_the_current_model_is_never_let_go():
    with pytest.raises(InputError, match="takes 1"):
        released([], PROJECT, after(1), 2, 0)
