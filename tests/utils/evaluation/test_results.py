"""The results file of test_comparison.py: whose it is, one process at a time, intervals, what is refused."""

import math
import os
import shutil

import pytest
from conftest import evaluate, run_script, succeed

from common.locks import locked
from utils.evaluation.results import wilson


def test_another_evaluation_in_the_same_file_is_refused(chain, tmp_path):
    evaluate(chain, tmp_path, "--attacks", "none")
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        50,
        "--batch-size",
        20,
        "--attacks",
        "none",
        "--output",
        tmp_path / "results.json",
    )
    assert (
        refused.status == 2
        and "holds another evaluation" in refused.err
        and refused.err.count("\n") == 1
    )
    _, more = evaluate(chain, tmp_path, "--attacks", "none,fgsm")  # a further attack joins
    assert set(more["attacks"]) == {"none", "fgsm"}
    shutil.copytree(chain / "standard", tmp_path / "moved")
    _, same = evaluate(
        tmp_path, tmp_path, "--attacks", "none,fgsm", run="moved"
    )  # the same network at another place
    assert same["attacks"] == more["attacks"]


def test_bad_places_for_results(chain, tmp_path):
    words = [
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--attacks",
        "none",
    ]
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "row.json").write_text(
        '{"attacks": {"fgsm": {"accuracy": 3}, "none": {"outcomes": 7}}}'
    )
    os.mkfifo(tmp_path / "pipe")
    for output, named in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "is no plain file"),
        (tmp_path / "list.json", "is no results file"),
        (tmp_path / "row.json", "is no results file"),
    ):
        refused = run_script(*words, "--output", output)
        assert (
            refused.status == 2
            and f"--output {output}: {named}" in refused.err
            and refused.err.count("\n") == 1
        )
    (tmp_path / "settings.json").write_text("{}")
    refused = run_script("test_comparison.py", "--model-dir", tmp_path)
    assert refused.status == 2 and "holds no run" in refused.err and refused.err.count("\n") == 1


@pytest.mark.parametrize("name", ["results.json", "a.npz"])
def test_one_process_at_a_time_writes_a_file(name, chain, tmp_path):
    lock = tmp_path / f".{name}.lock"
    lock.touch()
    words = [
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--attacks",
        "none",
        *(["--save-adv", tmp_path / "a.npz"] if name == "a.npz" else []),
        "--output",
    ]
    with locked(lock):
        refused = run_script(*words, tmp_path / "results.json")
        assert (
            refused.status == 2
            and "another process" in refused.err
            and refused.err.count("\n") == 1
        )
        if name == "results.json":
            succeed(*words, tmp_path / "other.json")
    succeed(*words, tmp_path / "results.json")
    assert not lock.exists()


@pytest.mark.parametrize(
    "words, named",
    [
        (["--attacks", "linf,fgsm"], "linf, l2 or released alone"),
        (["--attacks", "l2"], "give --norm l2"),
        (["--epsilon", 8], "write 8/255"),
        (["--attacks", "pgd-3", "--sweep", "0,4"], "write 4/255"),
        (["--attacks", "deepfool,sta", "--sweep", "0,0.1"], "give an attack that does"),
        (["--attacks", "released", "--step-size", 0.1], "--step-size"),
        (["--adv", "a.npz", "--attacks", "fgsm"], "leave --attacks"),
        (["--adv", "a.npz", "--gallery"], "--gallery"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, named, chain, tmp_path):
    refused = run_script(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--limit-test",
        10,
        "--output",
        tmp_path / "r.json",
        *words,
    )
    assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
        refused.err
    )
    assert not list(tmp_path.iterdir())


def test_that_nothing_is_kept_is_said(chain):
    result = succeed(
        "test_comparison.py",
        "--model",
        chain / "standard/best_model.pth",
        "--limit-test",
        10,
        "--attacks",
        "none",
    )
    assert "give --output" in result.out and "seed 1" in result.out


@pytest.mark.parametrize(
    "correct, n, low, high",
    [(0, 10, 0, 27.753), (5, 10, 23.659, 76.341), (10, 10, 72.247, 100), (81, 263, 25.526, 36.621)],
)
def test_wilson_interval(correct, n, low, high):
    """The ends p solve |p - share| = z sqrt(p (1 - p) / n)."""
    found = wilson(correct, n)
    assert found == pytest.approx((low, high), abs=0.02)
    for p in (found[0] / 100, found[1] / 100):
        if 0 < p < 1:
            assert abs(p - correct / n) == pytest.approx(
                1.959964 * math.sqrt(p * (1 - p) / n), rel=1e-9, abs=1e-7
            )
