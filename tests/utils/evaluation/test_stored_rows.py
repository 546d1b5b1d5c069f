"""Rows of a results file whose numbers are not those of its outcomes are refused, and no table
shows them."""

import copy
import json

import pytest
from conftest import evaluate, results, run_script

from common.errors import InputError
from utils.evaluation import stored

ROWS = {
    "none": {"outcomes": "rrrw", "accuracy": 75.0, "correct": 3, "n": 4, "norms": []},
    "pgd-40": {"outcomes": "rfow", "accuracy": 50.0, "correct": 2, "n": 4, "norms": [0.1, 0.2]},
    "cw-20": {"outcomes": "rfor", "accuracy_any_norm": 50.0, "correct_any_norm": 2, "seconds": 1.0},
}
WORST = {"attacks": list(ROWS), "accuracy": 50.0, "correct": 2, "n": 4}
CONTENT = {"n": 4, "attacks": ROWS, "worst_case": WORST, "warnings": ["w"], "saved": None}


def test_good_rows_and_rows_under_their_earlier_names():
    assert list(stored.rows(CONTENT)) == list(ROWS)
    earlier = {"attacks": {"none": {"standing": "rrw", "accuracy": 200 / 3}}}
    assert stored.rows(earlier)["none"]["outcomes"] == "rrw"


@pytest.mark.parametrize(
    "place, value, said",
    [
        (("attacks", "pgd-40", "accuracy"), 99.0, "accuracy is 99.0, but its outcomes give 50"),
        (("attacks", "pgd-40", "correct"), 3, "attacks.pgd-40.correct is 3, but its outcomes"),
        (("attacks", "pgd-40", "outcomes"), "rfo", "n is 4, but its outcomes give 3"),
        (("attacks", "pgd-40", "outcomes"), "rfox", "not a text of the letters r, w, f and o"),
        (("attacks", "pgd-40", "accuracy"), "50", "attacks.pgd-40.accuracy is '50'"),
        (("attacks", "pgd-40", "norms"), ["x"], "attacks.pgd-40.norms[0] is 'x'"),
        (("attacks", "cw-20", "accuracy_any_norm"), 75.0, "but its outcomes give 50"),
        (("attacks", "cw-20", "seconds"), -1, "attacks.cw-20.seconds is -1"),
        (("attacks", "cw-20"), [], "attacks.cw-20 is a list"),
        (("attacks",), [], "attacks is a list"),
        (("worst_case", "accuracy"), 75.0, "worst_case.accuracy is 75.0, but its outcomes give 50"),
        (("worst_case", "attacks"), ["no"], "worst_case.attacks names a row that is not there"),
        (("warnings",), [1], "warnings[0] is 1"),
        (("n",), 0, "n is 0"),
    ],
)
def test_an_edited_value(place, value, said):
    content = part = copy.deepcopy(CONTENT)
    *names, last = place
    for name in names:
        part = part[name]
    part[last] = value
    with pytest.raises(InputError) as caught:
        stored.rows(content)
    assert said in str(caught.value)


def test_an_evaluation_does_not_resume_from_edited_results(chain, tmp_path):
    evaluate(chain, tmp_path, "--attacks", "none", "--device", "cpu")
    path = tmp_path / "results.json"
    edited = results(path)
    edited["attacks"]["none"]["accuracy"] = 99.0
    words = ["test_comparison.py", "--model-dir", chain / "standard", "--limit-test", 60]
    words += ["--batch-size", 20, "--attacks", "none", "--device", "cpu", "--output", path]
    for content, said in (
        (json.dumps(edited), "attacks.none.accuracy is 99.0, but its outcomes give"),
        ("[" * 100_000, "is nested too deep"),
        (json.dumps(results(path) | {"attacks": 3}), "attacks is 3, not a dict"),
    ):
        path.write_text(content)
        refused = run_script(*words)
        assert refused.status == 2 and refused.err.count("\n") == 1, refused.err
        assert f"--output {path}: is no results file: " in refused.err and said in refused.err
        assert path.read_text() == content
        path.write_text(json.dumps(edited | {"attacks": {}}))
