"""Files that earlier commits wrote are still read. tests/runs/b337911: a run stopped in its second
epoch there, by `train_standard.py` with the words below and SIGTERM."""

import csv
import json
import shutil

import torch
from conftest import ESTIMATOR, ROOT, run_script, succeed

import models
from models import mi

BEFORE = ROOT / "tests/runs/b337911"
WORDS = (
    "--dataset digits --limit-train 200 --holdout 40 --epsilon 0.15 --eval-steps 2 --arch vgg16 "
    "--width 1 --batch-size 40 --lr 0.05 --num-steps 2 --epochs 4"
).split()


def rows(folder) -> list[dict]:
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_checkpoint_of_an_earlier_commit_resumes(tmp_path):
    """It resumes inside its second epoch, keeps its first row, and ends as a run of today does."""
    folder = shutil.copytree(BEFORE, tmp_path / "run")
    used = json.loads((BEFORE / "settings.json").read_text())["precision_used"]
    saved = torch.load(BEFORE / "last.ckpt", weights_only=True)
    assert (saved["epoch"], saved["index"]) == (1, 4)
    said = succeed("train_standard.py", *WORDS, "--precision", used, "--model-dir", folder).out
    assert "resumed after epoch 1, batch 4" in said
    assert rows(folder)[0] == rows(BEFORE)[0] and len(rows(folder)) == 4
    assert models.load(folder / "last_model.pth").options == {"num_classes": 10, "width": 1}


def test_a_checkpoint_of_an_earlier_commit_refuses_other_settings(tmp_path):
    folder = shutil.copytree(BEFORE, tmp_path / "run")
    refused = run_script("train_standard.py", *WORDS, "--beta", 5, "--model-dir", folder)
    assert refused.status == 2 and "beta 6.0 (now 5.0)" in refused.err
    assert (folder / "last.ckpt").read_bytes() == (BEFORE / "last.ckpt").read_bytes()


def test_feature_maps_under_their_earlier_names(tmp_path):
    """stage3 of earlier commands, checkpoints and estimator files is layer3."""
    target, folder = tmp_path / "target.pth", tmp_path / "run"
    models.save(models.build("resnet18", 10, width=2), target)
    words = [*ESTIMATOR, "--pre-target", target, "--epochs", 1, "--model-dir", folder]
    succeed("train_MI_estimator.py", *words, "--representation=stage3")
    assert (
        json.loads((folder / "settings.json").read_text())["options"]["representation"] == "layer3"
    )
    saved = torch.load(folder / "last.ckpt", weights_only=True)
    saved["identity"]["representation"] = "stage3"
    torch.save(saved, folder / "last.ckpt")
    assert "finished" in succeed("train_MI_estimator.py", *words, "--representation", "layer3").out
    path = folder / "global_n_model.pth"
    net = torch.load(path, weights_only=True)
    net["about"]["representation"] = "stage3"
    torch.save(net, path)
    assert mi.load_net(path).about["representation"] == "layer3"
    assert mi.load_net(path).representation == "layer3"
