"""What an evaluation writes replaces nothing that is not its own, and a refused one replaces
nothing at all."""

import os
import shutil
from pathlib import Path
from unittest import mock

import numpy
import pytest
from conftest import results, run_script, succeed


def content(folder: Path) -> dict:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(chain, tmp_path) -> Path:
    """A copy of a run, with an evaluation of 20 images under FGSM and their images."""
    shutil.copytree(chain / "standard", tmp_path / "run", ignore=shutil.ignore_patterns("*.json.*"))
    succeed(*command(tmp_path / "run"), "--save-adv", tmp_path / "run/x.npz")
    return tmp_path / "run"


def command(run, *more) -> list:
    words = ["test_comparison.py", "--model-dir", run, "--attacks", "none,fgsm"]
    return [*words, "--limit-test", 20, *more]


def refused(*words) -> str:
    result = run_script(*words)
    assert result.status == 2 and result.err.count("\n") == 1, (result.status, result.err)
    return result.err


@pytest.mark.parametrize(
    "words, said",
    [
        (["--output", "{run}/best_model.pth"], "is no results file"),
        (["--output", "{run}/settings.json"], "is no results file"),
        (["--output", "{run}/metrics.csv"], "is no results file"),
        (["--output", "{run}/link.json"], "is no plain file"),
        (["--output", "{run}/x.npz", "--save-adv", "{run}/x.npz"], "is the file of --save-adv"),
        (["--surrogate", "{run}/metrics.csv"], "metrics.csv"),
        (
            ["--surrogate", "{run}/last_model.pth", "--output", "{run}/last_model.pth"],
            "--surrogate",
        ),
        (["--save-adv", "{run}/best_model.npz"], "holds something else"),
        (["--save-adv", "{run}/arrays.npz"], "holds something else"),
        (["--save-adv", "{run}/mine.npz"], "mine.npz.parts beside it is the folder of notes"),
    ],
)
@pytest.mark.parametrize("restart", [[], ["--restart"]])
def test_what_is_not_its_own_stays(words, said, restart, run):
    """So do the results of before, with --restart as well."""
    os.symlink("settings.json", run / "link.json")
    shutil.copy(run / "best_model.pth", run / "best_model.npz")
    numpy.savez(run / "arrays.npz", a=numpy.zeros(3))
    (run / "mine.npz.parts").mkdir()
    (run / "mine.npz.parts/notes").write_text("mine")
    before = content(run)
    words = [word.format(run=run) for word in words]
    assert said in refused(*command(run, *words, *restart))
    assert content(run) == before


def test_given_images_are_not_replaced_by_their_results(run):
    before = content(run)
    words = ["test_comparison.py", "--model-dir", run, "--limit-test", 20, "--adv", run / "x.npz"]
    for more in ([], ["--restart"]):
        assert "is the file of --adv" in refused(*words, "--output", run / "x.npz", *more)
    assert content(run) == before


def test_images_of_another_evaluation_are_replaced_by_a_restart_alone(run):
    words = command(run, "--save-adv", run / "x.npz", "--seed", 2, "--output", run / "2.json")
    before = content(run)
    assert "another evaluation: seed 1 (now 2)" in refused(*words)
    assert content(run) == before
    succeed(*words, "--restart")
    assert content(run)[str(run / "x.npz")] != before[str(run / "x.npz")]


def test_a_restart_keeps_the_results_until_it_has_its_own(run):
    """A stop before the first row leaves the old file; the first row replaces it."""
    before = (run / "results.json").read_bytes()
    stop = mock.Mock(side_effect=KeyboardInterrupt)
    with mock.patch("utils.evaluation.counting.registry.attack", stop):
        words = command(run, "--attacks", "fgsm", "--restart")
        assert run_script(*words).status == 130
    assert (run / "results.json").read_bytes() == before
    succeed(*command(run, "--attacks", "none", "--restart"))
    assert list(results(run / "results.json")["attacks"]) == ["none"]


def test_a_full_disk_keeps_the_rows_of_before(run):
    before = content(run)
    full = OSError(28, "No space left on device")
    with mock.patch("os.fsync", mock.Mock(side_effect=full)):
        said = refused(*command(run, "--attacks", "none,fgsm,pgd-2"))
    assert f"{run / 'results.json'}: cannot be written (No space left on device)" in said
    assert content(run) == before
    succeed(*command(run, "--attacks", "none,fgsm,pgd-2"))
