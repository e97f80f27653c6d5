"""The major versions of PostgreSQL that tests run on."""

import pytest

from sandbox.servers import postgres_bin

MAJORS = (13, 14, 15, 16, 17, 18)
"""All that the project supports."""


def majors(*usual, without=()):
    """A parameter of a fixture for each major version: in ``make test`` the usual ones, in ``make test-long`` all that are there.

    Args:
        usual: those of every run.
        without: those that the test is not about.
    """
    return [_parameter(major, usual) for major in MAJORS if major not in without]


def _parameter(major, usual):
    marks = [] if major in usual else [pytest.mark.long]
    try:
        postgres_bin(major)
    except FileNotFoundError as error:
        marks.append(pytest.mark.skip(reason=str(error)))
    return pytest.param(major, marks=marks)
