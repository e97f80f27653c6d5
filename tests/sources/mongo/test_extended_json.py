import json

import bson
import pytest
from bson import Int64, ObjectId, Regex

from recovery.sources.mongo.extended_json import from_text, read_document, to_text, write_document
from tests.support.mongo_samples import FAR, every_type

LOOKS_LIKE_ANOTHER = [
    {"$oid": "no id"},
    {"$oid": "0" * 24},
    {"$numberInt": "5"},
    {"$numberLong": {}},
    {"$date": "tomorrow"},
    {"$binary": 1},
    {"$uuid": "x"},
    {"$code": "x", "$scope": 1},
    {"$regularExpression": {"pattern": "(", "options": ""}},
    {"$timestamp": {"t": "x", "i": 1}},
    {"$minKey": 1},
    {"$numberDecimal": "1,5"},
    {"$undefined": True},
    {"$dbPointer": {}},
]


@pytest.mark.parametrize(
    "value", [*LOOKS_LIKE_ANOTHER, {"$regex": "^x", "$options": "i"}, {"$regex": "x"}, FAR, Regex("x", "i"), every_type()]
)
def test_definition_reads_back_to_the_byte_whatever_it_has(value):
    document = {"options": {"validator": {"a": [value, Int64(1)]}}, "indexes": []}
    assert bson.encode(read_document(write_document(document))) == bson.encode(document)
    assert bson.encode(from_text(to_text(document))) == bson.encode(document)


def test_regular_expression_operator_of_mongodump_stays_the_operator():
    assert read_document('{"a": {"$regex": "^x", "$options": "i"}, "b": {"$oid": "' + "1" * 24 + '"}}') == {
        "a": {"$regex": "^x", "$options": "i"},
        "b": ObjectId("1" * 24),
    }


def test_definition_without_look_alikes_is_plain_extended_json():
    assert json.loads(write_document({"a": {"$regex": "x"}, "b": 1})) == {"a": {"$regex": "x"}, "b": {"$numberInt": "1"}}


@pytest.mark.parametrize("text", ["", "[", '{"bson": 1}', '{"a": {"$oid": 1}}'])
def test_damaged_definition_is_refused(text):
    with pytest.raises((ValueError, TypeError)):
        read_document(text)
