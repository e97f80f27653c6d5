import math

import pytest

from recovery.destinations.s3_parts import part_size

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40


@pytest.mark.parametrize(
    ("size", "most"), [(0, 0), (8000 * MIB, 1000), (8000 * MIB + 1, 1000), (100 * GIB, 1000), (4 * TIB, 1000), (48 * TIB, 10_000)]
)
def test_part_size_keeps_within_the_limits_of_servers_for_every_size(size, most):
    part = part_size(size)
    assert 5 * MIB <= part <= 5 * GIB
    assert math.ceil(size / part) <= most
