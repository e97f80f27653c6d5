import random

from recovery.packs.content_index import RecordDigest, read_rows, write_rows


def test_record_digest_depends_on_every_record_but_not_on_the_order():
    records = [b"%d" % number for number in range(1000)]
    shuffled = records[:]
    random.Random(1).shuffle(shuffled)
    one, other, changed = RecordDigest(), RecordDigest(), RecordDigest()
    one.add(records)
    other.add(shuffled[:300])
    other.add(shuffled[300:])
    changed.add([*records[:-1], b"x"])
    assert (one.count, one.hexdigest()) == (other.count, other.hexdigest())
    assert one.hexdigest() != changed.hexdigest()


def test_record_digest_counts_a_repeated_record():
    digest = RecordDigest()
    digest.add([b"a", b"a"])
    assert digest.count == 2
    assert digest.hexdigest() != RecordDigest().hexdigest()


def test_record_digest_after_merge_equals_the_digest_of_all_records():
    whole, half, other = RecordDigest(), RecordDigest(), RecordDigest()
    whole.add([b"a", b"b", b"c"])
    half.add([b"a"])
    other.add([b"b", b"c"])
    half.merge(other.count, other.hexdigest())
    assert (half.count, half.hexdigest()) == (whole.count, whole.hexdigest())


def test_record_digest_has_the_value_of_the_format_documentation():
    """The format is written down; another implementation must get the same."""
    digest = RecordDigest()
    digest.add([b"1\tAnna", b"2\tBert"])
    assert digest.hexdigest() == "8b9112c6b748ebbd"


def test_rows_with_names_that_are_not_utf8_are_read_back_as_written(tmp_path):
    rows = [
        ("entry", b"bad\xff\nname".decode("utf-8", "surrogateescape"), {"size": 1}),
        ("table", "a\tb", {"count": 2, "columns": ["x", "y"]}),
    ]
    write_rows(tmp_path / "rows", rows)
    assert list(read_rows(tmp_path / "rows")) == rows
    assert list(read_rows(tmp_path / "rows", "table")) == rows[1:]
