"""mi-N and mi-values-N through test_comparison.py: the estimators are found, kept by hash, and
refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import evaluate, results, run_script

from common.files import file_hash

ATTACKS = ("--attacks", "none,mi-3,mi-values-3")


def hashes(folder, letters="na") -> dict:
    files = [(part, letter) for letter in letters for part in ("local", "global")]
    return {
        f"pre_{part}_{letter}": file_hash(folder / f"{part}_{letter}_model.pth")
        for part, letter in files
    }


def test_a_run_names_its_own_estimators(chain, tmp_path):
    """They join the worst case, and the same command makes no row again."""
    _, found = evaluate(chain, tmp_path, *ATTACKS, run="namid")
    rows = found["attacks"]
    assert list(rows) == ["none", "mi-3", "mi-values-3"]
    for name in ("mi-3", "mi-values-3"):
        assert rows[name]["settings"]["estimators"] == hashes(chain / "estimators")
        assert rows[name]["stopped_early"] and len(rows[name]["outcomes"]) == 60
        assert rows[name]["accuracy"] <= rows["none"]["accuracy"]
        assert rows[name]["forward_passes"] >= rows[name]["backward_passes"] > 0
    assert found["worst_case"]["attacks"] == list(rows)
    worst = [set(letters) == {"r"} for letters in zip(*(r["outcomes"] for r in rows.values()))]
    assert found["worst_case"]["correct"] == sum(worst)
    before = (tmp_path / "results.json").read_text()
    said, again = evaluate(chain, tmp_path, *ATTACKS, run="namid")
    assert "made again" not in said.out and again["attacks"] == json.loads(before)["attacks"]


def test_other_estimators_make_the_row_again(chain, tmp_path):
    evaluate(chain, tmp_path, "--attacks", "none,mi-2", run="namid")
    other = shutil.copytree(chain / "estimators", tmp_path / "other")
    content = torch.load(other / "local_a_model.pth", weights_only=True)
    content["state_dict"]["linear_shortcut.weight"] += 0.1
    torch.save(content, other / "local_a_model.pth")
    words = ("--attacks", "none,mi-2", "--estimator-dir", other)
    said, found = evaluate(chain, tmp_path, *words, run="namid")
    assert "mi-2: it was made with other settings: estimators" in said.out
    assert said.out.count("made again") == 1
    assert (
        found["attacks"]["mi-2"]["settings"]["estimators"]
        == hashes(other)
        != hashes(chain / "estimators")
    )


def test_saved_images_say_which_estimators_made_them(chain, tmp_path):
    path = tmp_path / "images.npz"
    words = ("--attacks", "mi-2", "--save-adv", path)
    _, found = evaluate(chain, tmp_path, *words, run="namid")
    assert found["attacks"]["mi-2"]["stopped_early"] is False
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        assert file["mi-2"].shape[0] == 60
    assert about["attacks"]["mi-2"]["estimators"] == hashes(chain / "estimators")
    assert about["all_steps"]


def test_wmim_is_attacked_by_its_own_term(chain, tmp_path, monkeypatch):
    """Its file says so; the estimator of standard MI is the natural one of stage 2."""
    run = shutil.copytree(chain / "namid", tmp_path / "wmim")
    settings = results(run / "settings.json")
    settings["options"] |= {"mi_loss": "wmim"}
    (run / "settings.json").write_text(json.dumps(settings))
    _, found = evaluate(tmp_path, tmp_path, "--attacks", "mi-values-2", run="wmim")
    settings = found["attacks"]["mi-values-2"]["settings"]
    assert settings["estimators"] == hashes(chain / "estimators", "n")


@pytest.mark.parametrize(
    "run, words, says",
    [
        ("standard", (), "names no estimators; give --estimator-dir"),
        ("namid", ("--surrogate", "MODEL"), "leave --surrogate out"),
        (
            "namid",
            ("--estimator-dir", "nowhere"),
            "--estimator-dir nowhere: has no local_n_model.pth",
        ),
        ("namid", ("--epsilon", "0.1"), "was made with epsilon 0.15"),
    ],
)
def test_what_cannot_be_attacked_so_is_refused(run, words, says, chain, tmp_path):
    words = [str(chain / "standard/best_model.pth") if word == "MODEL" else word for word in words]
    asked = ("--model-dir", chain / run, "--limit-test", 9, "--attacks", "none,mi-2")
    ended = run_script("test_comparison.py", *asked, *words, "--output", tmp_path / "r.json")
    assert ended.status == 2 and says in ended.err and ended.err.count("\n") == 1
    assert not (tmp_path / "r.json").exists()
