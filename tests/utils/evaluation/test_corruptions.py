"""--corruptions: counts known beforehand, files that are missing or do not fit, the table and its
file."""

import json

import numpy as np
import pytest
import torch
from conftest import results, run_script, succeed

from common.errors import InputError
from data.corruptions import CORRUPTIONS, EXTRA, Corruptions
from utils.devices import Compute
from utils.evaluation.corruptions import evaluate_corruptions, summary
from utils.evaluation.networks import Network

NAMES = (*CORRUPTIONS, *EXTRA)


def write(folder, n=4, size=16, classes=10):
    """A folder with five severities of n images; each pixel is 10 times the severity, plus 100 in
    the extra files."""
    folder.mkdir()
    for name in NAMES:
        values = 10 * np.repeat(np.arange(1, 6), n) + 100 * (name in EXTRA)
        images = np.broadcast_to(values[:, None, None, None], (5 * n, size, size, 3))
        np.save(folder / f"{name}.npy", images.astype(np.uint8))
    np.save(folder / "labels.npy", np.tile(np.arange(n) % classes, 5))
    return folder


class Dim(torch.nn.Module):
    """Says the label 0 to images darker than 35 of 255, 1 to brighter ones, and NaN above 140."""

    def forward(self, x):
        level = 255 * x.mean((1, 2, 3))
        bright = (level > 35).float()
        logits = torch.stack([1 - bright, bright], 1)
        return torch.where(level[:, None] > 140, torch.nan, logits)


def test_the_names_are_those_of_the_data_set():
    assert len(CORRUPTIONS) == 15 and len(EXTRA) == 4 and len(set(NAMES)) == 19


def test_each_severity_is_counted_by_itself(tmp_path):
    """Labels 0, 1, 2, 3: a quarter is right; beyond a level of 140, nothing."""
    read = Corruptions(write(tmp_path / "c"), "digits")
    compute = Compute(torch.device("cpu"), "fp32")
    found = evaluate_corruptions(Network(Dim(), "dim", {}), read, compute, None, 3)
    assert list(found) == list(NAMES)
    assert found["fog"] == [25.0] * 5 and found["saturate"] == [25.0] * 4 + [0.0]
    first = evaluate_corruptions(Network(Dim(), "dim", {}), read, compute, 1, 3)
    assert first["fog"] == [100.0] * 3 + [0.0] * 2  # the label 0, which dim images are given
    assert summary(first) == {
        "mean of 15": 60.0,
        "mean of 19": pytest.approx(60.0 * 15 / 19),
    }


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d: [(d / f"{each}.npy").unlink() for each in ("fog", "snow")], "snow.npy, fog.npy"),
        (lambda d: (d / "labels.npy").unlink(), "lacks labels.npy"),
        (lambda d: np.save(d / "fog.npy", np.zeros((20, 16, 16, 3))), "fog.npy.*float64"),
        (lambda d: np.save(d / "fog.npy", np.zeros((15, 16, 16, 3), np.uint8)), "fog.npy.*as many"),
        (lambda d: np.save(d / "labels.npy", np.full(20, 10)), "label 10; digits end at 9"),
        (lambda d: np.save(d / "labels.npy", np.zeros(4, int)), "4 labels for 20"),
        (lambda d: (d / "frost.npy").write_bytes(b"no array"), "frost.npy: is truncated"),
        (
            lambda d: np.save(d / "labels.npy", np.array([{}] * 20), allow_pickle=True),
            "pickled Python objects, which are not loaded",
        ),
    ],
)
def test_files_that_do_not_fit_are_named(change, says, tmp_path):
    change(write(tmp_path / "c"))
    with pytest.raises(InputError, match=says) as caught:
        Corruptions(tmp_path / "c", "digits")
    assert "\n" not in str(caught.value)


def test_the_script_prints_a_table_and_writes_it(chain, tmp_path):
    folder, output = write(tmp_path / "c"), tmp_path / "corruptions.json"
    words = ("--model-dir", chain / "standard", "--corruptions", folder, "--output", output)
    said = succeed("test_comparison.py", *words, "--limit-test", 3).out
    found = results(output)
    assert found["n"] == 3 and set(found["corruptions"]) == set(NAMES)
    assert found["mean of 15"] == pytest.approx(summary(found["corruptions"])["mean of 15"])
    assert "severity 5" in said and f"{found['mean of 15']:.2f}" in said
    again = succeed("test_comparison.py", *words)  # may replace a file of its kind
    assert "mean of 19" in again.out and results(output)["n"] == 4


@pytest.mark.parametrize(
    "words, says",
    [
        (("--attacks", "pgd-3"), "corrupted images are not attacked; leave --attacks"),
        (("--split", "holdout"), "--split"),
        (("--output", "MODEL"), "holds other results: corruptions is missing; name another file"),
    ],
)
def test_what_does_not_go_together_is_refused(words, says, chain, tmp_path):
    other = tmp_path / "results.json"
    other.write_text(json.dumps({"attacks": {}}))
    words = [str(other) if word == "MODEL" else word for word in words]
    asked = ("--model-dir", chain / "standard", "--corruptions", write(tmp_path / "c"))
    ended = run_script("test_comparison.py", *asked, *words)
    assert ended.status == 2 and says in ended.err and ended.err.count("\n") == 1
    assert json.loads(other.read_text()) == {"attacks": {}}
