"""Reading the rows of a table as pg_restore writes them, whole and cut off."""

import io

import pytest

from recovery.common.errors import ArtifactError
from recovery.sources.postgres.dump import archive_rows


@pytest.mark.parametrize("block", [1, 2, 3, 4, 5, 7, 100])
@pytest.mark.parametrize("rows", [b"", b"a\tb\nccc\n", b"\\\\.\nx\n", b"\n\n\n", b"a\\.\n\\.b\n"])
def test_rows_of_an_entry_end_at_their_mark_wherever_blocks_end(monkeypatch, rows, block):
    monkeypatch.setattr(archive_rows, "BLOCK", block)
    script = b'--\n-- a comment\n--\n\nCOPY s.t (a, "b\nc") FROM stdin;\n' + rows + b"\\.\n\n\n--\n-- the end\n--\n"
    stream = io.BytesIO(script)
    assert archive_rows._copy_statement(stream) == b'COPY s.t (a, "b\nc") FROM stdin'
    assert b"".join(archive_rows._copy_text(stream)) == rows
    assert stream.read() == b""


def test_rows_that_are_cut_off_are_refused():
    with pytest.raises(ArtifactError, match="does not end where they end"):
        list(archive_rows._copy_text(io.BytesIO(b"a\nb\n")))
