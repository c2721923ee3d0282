"""One status for several agents: the one that says most."""

import pytest

from town.failure import BAD_CONFIG, DONE, FAILED, TRY_LATER, BadSpec, Failure, Problem, TryLater, status_of, worst


@pytest.mark.parametrize(
    ("statuses", "says"),
    [
        ([], DONE),
        ([DONE, TRY_LATER], TRY_LATER),
        ([TRY_LATER, FAILED, DONE], FAILED),
        ([FAILED, BAD_CONFIG, TRY_LATER], BAD_CONFIG),
    ],
)
def test_the_status_that_says_most_is_that_of_the_command(statuses: list[int], says: int) -> None:
    assert worst(statuses) == says


def test_an_error_that_is_no_failure_counts_as_one() -> None:
    assert [
        status_of(error) for error in (TryLater("x"), BadSpec("f", (Problem("", "x"),)), Failure("x"), OSError())
    ] == [
        TRY_LATER,
        BAD_CONFIG,
        FAILED,
        FAILED,
    ]
