"""Batch sizes that compiled code is made for."""

import pytest

from icd_engine.runners.buckets import SIZES, bucket, filled


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 9, 16, 17, 33])
def test_buckets(rows):
    size = bucket(rows)
    assert size >= rows and (size in SIZES or size % SIZES[-1] == 0) and size < max(2, 2 * rows)
    assert filled(rows)[:rows] == list(range(rows)) and filled(rows)[rows:] == [0] * (size - rows)
