"""The state of a stopped AutoAttack: what does not fit the batch is left, said in a line, and the
batch begins again."""

import os

import numpy
import pytest
import torch

from utils.evaluation.autoattack import BatchFile

X = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
GOOD = {"question": "q", "x_adv": X.numpy(), "robust": [6, 4], "passes": [10, 3]}


def state(tmp_path, **changes):
    path = tmp_path / ".r.json.unfinished.npz"
    numpy.savez(path, **{k: v for k, v in (GOOD | changes).items() if v is not None})
    return BatchFile(path, "q")


def test_a_good_state_is_read(tmp_path, capsys):
    found = state(tmp_path).read(X, 4)
    assert found["robust"].tolist() == [6, 4] and numpy.array_equal(found["x_adv"], X.numpy())
    old = state(tmp_path, robust=None, stood=[6, 4])  # the name of earlier commits
    assert old.read(X, 4)["robust"].tolist() == [6, 4]
    assert state(tmp_path, question="another").read(X, 4) is None
    assert BatchFile(tmp_path / "none.npz", "q").read(X, 4) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"robust": None}, "lacks one of the arrays"),
        ({"passes": None}, "lacks one of the arrays"),
        ({"x_adv": X.numpy()[:5]}, "x_adv has shape (5, 3, 8, 8)"),
        ({"x_adv": X.double().numpy()}, "type float64"),
        ({"x_adv": X.numpy() + numpy.float32(numpy.nan)}, "outside [0,1]"),
        ({"x_adv": X.numpy() * 3}, "outside [0,1]"),
        ({"robust": [6.0, 4.0]}, "no whole numbers"),
        ({"robust": 6}, "not those of this attack"),
        ({"robust": [6, 5, 4, 3, 2]}, "not those of this attack"),
        ({"robust": [6, 7]}, "does not fall"),
        ({"robust": [6, 0]}, "does not fall"),
        ({"passes": [1]}, "no whole numbers"),
        ({"passes": [-1, 0]}, "not those of this attack"),
    ],
)
def test_a_damaged_state_is_left(changes, why, tmp_path, capsys):
    file = state(tmp_path, **changes)
    assert file.read(X, 4) is None
    said = capsys.readouterr().out
    assert said.startswith(f"warning: {file.path}: ") and said.count("\n") == 1
    assert why in said and said.endswith("; its batch begins again\n")


def test_a_file_that_cannot_be_read_is_left(tmp_path, capsys):
    path = tmp_path / "state.npz"
    path.write_bytes(b"PK\x03\x04 cut")
    assert BatchFile(path, "q").read(X, 4) is None
    path.unlink()
    os.mkfifo(path)
    assert BatchFile(path, "q").read(X, 4) is None
    assert capsys.readouterr().out.count("is no .npz file of arrays") == 2
