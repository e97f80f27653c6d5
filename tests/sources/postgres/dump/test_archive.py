"""Reading what pg_dump wrote, whole and damaged."""

import io
from pathlib import Path
from tarfile import TarInfo

import pytest
import xxhash

from recovery.common.errors import ArtifactError
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.dump.archive import read_pack
from recovery.sources.postgres.dump.table_reader import texts_of

TABLE = b"1\tx\\\\.\n2\t\\N\n3\t" + b"y" * 100 + b"\n"
END = b"\\.\n\n\n"


def member(name, data):
    info = TarInfo(name)
    info.size = len(data)
    return info, io.BytesIO(data)


def members(root):
    return [member(path.name, path.read_bytes()) for path in sorted(Path(root).iterdir())]


def test_read_pack_counts_and_digests_the_rows_of_a_table():
    [(kind, name, facts)] = read_pack("db", [member("./12.dat", TABLE + END)])
    total = sum(map(xxhash.xxh3_64_intdigest, TABLE.split(b"\n")[:-1])) % 2**64
    assert (kind, name) == ("member", "12.dat")
    assert facts == {"count": 3, "digest": f"{total:016x}", "bytes": len(TABLE)}


@pytest.mark.parametrize("cut", range(1, len(TABLE + END) + 1))
def test_read_pack_refuses_a_table_truncated_at_any_byte(cut):
    with pytest.raises(ArtifactError, match=r"12\.dat"):
        list(read_pack("db", [member("12.dat", (TABLE + END)[:-cut])]))


def test_read_pack_refuses_a_table_with_data_after_its_end():
    for tail in (b"\n", b"x", b"1\n" + END):
        with pytest.raises(ArtifactError):
            list(
                read_pack("db", [member("12.dat", TABLE + END + tail)])
                if tail != b"1\n" + END
                else read_pack("db", [member("12.dat", TABLE + END + tail[:-1])])
            )


def test_read_pack_refuses_a_table_with_nul_bytes():
    with pytest.raises(ArtifactError, match="NUL"):
        list(read_pack("db", [member("12.dat", TABLE + bytes(4096) + b"\n" + END)]))


def test_read_pack_refuses_members_that_pg_dump_does_not_write():
    for name in ("12.dat.gz", "evil.sh", "sub/12.dat"):
        with pytest.raises(ArtifactError, match="does not write"):
            list(read_pack("db", [member(name, b"")]))
    with pytest.raises(ArtifactError, match="no file"):
        list(read_pack("db", [(TarInfo("12.dat"), None)]))


def test_read_pack_refuses_a_truncated_sql_text():
    whole = b"SELECT 1;\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n"
    assert next(read_pack("db.schema", [member("schema.sql", whole)]))[1] == "schema.sql"
    with pytest.raises(ArtifactError, match="cut off"):
        list(read_pack("db.schema", [member("schema.sql", whole[:20])]))


def test_read_pack_digests_large_objects_by_number_size_and_content():
    def facts(*objects):
        listed = b"".join(b"%d blob_%d.dat\n" % (oid, oid) for oid, _ in objects)
        [(_, _, found)] = read_pack("db", [member("blobs_9.toc", listed), *(member(f"blob_{oid}.dat", data) for oid, data in objects)])
        return found

    first = facts((1, b"a"), (2, b"b"))
    assert first["listed"] == facts((1, b""), (2, b""))["listed"]
    assert first["present"] != facts((1, b""), (2, b"ab"))["present"]
    assert first["content"] != facts((1, b"b"), (2, b"a"))["content"]
    assert first["content"] == facts((2, b"b"), (1, b"a"))["content"]
    with pytest.raises(ArtifactError, match="names no large object"):
        list(read_pack("db", [member("blobs.toc", b"12 ../blob_12.dat\n")]))


def test_texts_of_splits_a_stream_into_tables():
    tables = [b"", b"a\nb\n", b"\n", b"\\\\.\n", b"x" * 1000 + b"\n"]
    stream = b"".join(table + b"\\.\n" for table in tables)
    for size in (1, 3, 7, 5000):
        blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
        assert [facts["bytes"] for facts in texts_of(blocks)] == [len(table) for table in tables]


def test_read_pack_holds_no_table_of_contents_without_limit(monkeypatch):
    monkeypatch.setattr(archive, "_MOST_TOC", 100)
    assert len(list(read_pack("db", [member("toc.dat", bytes(100))]))) == 1
    with pytest.raises(ArtifactError, match="larger than that of any database"):
        list(read_pack("db", [member("toc.dat", bytes(101))]))
