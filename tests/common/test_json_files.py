"""JSON files: what does not fit the description is refused in one line that names the file and the
field."""

import os

import pytest

from common.errors import InputError
from common.json_files import read_json
from common.schema import FLAG, TEXT, Each, OrNone, fault, number, whole

RIGHT = {
    "name": TEXT,
    "runs": [{"n": whole(1, 9), "rate?": OrNone(number(0))}],
    "on?": FLAG,
    "by?": Each(number()),
}
GOOD = {"name": "a", "runs": [{"n": 3, "rate": None, "more": []}], "by": {"x": 1.5}, "other": 1}


def test_what_fits():
    assert fault(GOOD, RIGHT) is None


@pytest.mark.parametrize(
    "change, said",
    [
        ({"name": None}, "name is None, not a text"),
        ({"runs": {}}, "runs is a dict, not a list"),
        ({"runs": [{"n": 3}, {}]}, "runs[1].n is missing"),
        ({"runs": [{"n": True}]}, "runs[0].n is True, not a whole number from 1 to 9"),
        ({"runs": [{"n": 10}]}, "runs[0].n is 10, not a whole number from 1 to 9"),
        ({"runs": [{"n": 10**400}]}, "a number of more than 30 digits"),
        ({"runs": [{"n": 1, "rate": -1.0}]}, "runs[0].rate is -1.0, not a finite number from 0"),
        ({"on": 1}, "on is 1, not true or false"),
        ({"by": {"x": float("nan")}}, "by.x is nan, not a finite number"),
        ({"by": {7: 1.0}}, "by has the name 7, not a text"),
        ({"name": ["x" * 10**6]}, "name is a list, not a text"),
    ],
)
def test_the_first_field_that_does_not_fit_is_named(change, said):
    found = fault(GOOD | change, RIGHT)
    assert said in found and len(found) < 120


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "is damaged or no JSON file"),
        (b'{"name": "a"', "is damaged or no JSON file"),
        (b"\xff\xfe{}", "is damaged or no JSON file"),
        (b'{"n": ' + b"9" * 5000 + b"}", "is damaged or no JSON file"),
        (b"[" * 100_000 + b"]" * 100_000, "is nested too deep"),
        (b'{"runs": ' + b"[" * 100 + b"]" * 100 + b"}", "is nested too deep"),
        (b"[1, 2]", "it is a list, not a dict"),
        (b"null", "it is None, not a dict"),
        (b"{}", "name is missing"),
    ],
)
def test_files_of_another_content(content, said, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_json(path, RIGHT, "write it again", "is no list of runs: ")
    assert str(caught.value) == f"{path}: is no list of runs: {said}; write it again"


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(2**29)
    for name, said in (
        ("pipe", "is not a file"),
        ("nowhere", "is not a file"),
        (".", "is not a file"),
        ("large", "has 536870912 bytes, and at most 268435456 can be read"),
    ):
        with pytest.raises(InputError) as caught:
            read_json(tmp_path / name, RIGHT, "write it again")
        assert str(caught.value) == f"{tmp_path / name}: {said}; write it again"
