"""Adversarial images of a file that test_comparison.py counts: what it refuses, and what it says of them."""

import numpy as np
from conftest import evaluate, run_script

import data


def test_bad_files_of_adversarial_images(chain, tmp_path):
    labels = data.load("digits", limit_test=60).test_labels.numpy()
    good = np.zeros((60, 3, 16, 16), np.float32)
    for content, named in (
        ({"labels": labels[:-1], "a": good}, "other images"),
        ({"labels": labels, "a": good[:, :1]}, "shape"),
        ({"labels": labels, "a": good + 2}, "outside"),
        ({"labels": labels, "a": good.astype(np.int64)}, "int64"),
    ):
        np.savez(tmp_path / "bad.npz", **content)
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--adv",
            tmp_path / "bad.npz",
            "--output",
            tmp_path / "x.json",
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    np.save(tmp_path / "array.npy", good)
    np.savez(tmp_path / "labels.npz", labels=labels)
    for name, named in (
        ("array.npy", "no .npz"),
        ("nowhere.npz", "no .npz"),
        (".", "no .npz"),
        ("labels.npz", "labels alone"),
    ):
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--adv",
            tmp_path / name,
            "--output",
            tmp_path / "x.json",
        )
        assert refused.status == 2 and named in refused.err and refused.err.count("\n") == 1, (
            refused.err
        )
    cut = (tmp_path / "bad.npz").read_bytes()[:-100]
    for damaged in (b"no archive", cut):
        (tmp_path / "bad.npz").write_bytes(damaged)
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--adv",
            tmp_path / "bad.npz",
            "--output",
            tmp_path / "x.json",
        )
        assert (
            refused.status == 2
            and "bad.npz: is no .npz file" in refused.err
            and refused.err.count("\n") == 1
        )


def test_given_images_never_stand_for_an_attack_on_the_network(chain, tmp_path):
    """White-box rows are not overwritten by those of a file, nor one file's by another's."""
    evaluate(chain, tmp_path, "--attacks", "fgsm", "--save-adv", tmp_path / "a.npz")
    evaluate(chain, tmp_path, "--adv", tmp_path / "a.npz", name="given.json")
    evaluate(
        chain,
        tmp_path,
        "--attacks",
        "fgsm",
        "--save-adv",
        tmp_path / "b.npz",
        "--epsilon",
        0.01,
        name="other.json",
    )
    for name, words in (
        ("results.json", ["--adv", tmp_path / "a.npz"]),
        ("given.json", ["--adv", tmp_path / "b.npz"]),
        ("given.json", ["--attacks", "fgsm"]),
    ):
        refused = run_script(
            "test_comparison.py",
            "--model-dir",
            chain / "standard",
            "--limit-test",
            60,
            "--batch-size",
            20,
            *words,
            "--output",
            tmp_path / name,
        )
        assert refused.status == 2 and "adv_hash" in refused.err and refused.err.count("\n") == 1


def test_given_images_are_counted_both_ways_and_their_budgets_doubted(chain, tmp_path):
    words = ["--attacks", "none,ddn-20,pgd-5", "--norm", "l2", "--epsilon", 2]
    _, first = evaluate(chain, tmp_path, *words, "--save-adv", tmp_path / "a.npz")
    result, again = evaluate(
        chain,
        tmp_path,
        "--adv",
        tmp_path / "a.npz",
        "--norm",
        "l2",
        "--epsilon",
        2,
        name="again.json",
    )
    for column in ("correct", "correct_any_norm", "median_norm", "interval_any_norm"):
        assert again["attacks"]["ddn-20"][column] == first["attacks"]["ddn-20"][column]
    assert "outside the budget" not in result.out
    result, less = evaluate(
        chain,
        tmp_path,
        "--adv",
        tmp_path / "a.npz",
        "--norm",
        "l2",
        "--epsilon",
        1,
        name="less.json",
    )
    fallen = less["attacks"]["pgd-5"]["outcomes"].count("o")
    assert (
        f"pgd-5: {fallen} images that the network gets wrong lie outside the budget, l2 1"
        in result.out
        and fallen > 0
    )
    stored = np.load(tmp_path / "a.npz")
    np.savez(
        tmp_path / "b.npz",
        labels=stored["labels"],
        none=np.zeros_like(stored["none"]),
        sta=np.zeros_like(stored["none"]),
    )
    result, black = evaluate(chain, tmp_path, "--adv", tmp_path / "b.npz", name="black.json")
    assert (
        black["attacks"]["none"]["correct"] == first["attacks"]["none"]["correct"]
    )  # black images are in no such budget
    assert "sta: its budget is none of pixels" in result.out


def test_given_images_of_our_attacks_are_judged_as_the_attacks_are(chain, tmp_path):
    """FWA's budget is one of transport: its images count as they do in its own row, and a file's unknown names by the norm, which
    here allows next to nothing."""
    _, first = evaluate(
        chain,
        tmp_path,
        "--attacks",
        "none,fwa-5,deepfool-5",
        "--epsilon",
        0.1,
        "--save-adv",
        tmp_path / "a.npz",
    )
    _, again = evaluate(
        chain, tmp_path, "--adv", tmp_path / "a.npz", "--epsilon", 0.1, name="again.json"
    )
    for name in ("fwa-5", "deepfool-5"):
        assert again["attacks"][name]["outcomes"] == first["attacks"][name]["outcomes"]
    stored = np.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", labels=stored["labels"], mine=stored["fwa-5"])
    _, mine = evaluate(
        chain, tmp_path, "--adv", tmp_path / "b.npz", "--epsilon", 1e-5, name="mine.json"
    )
    assert mine["attacks"]["mine"]["kind"] == "given"
    assert (
        mine["attacks"]["mine"]["correct"]
        == first["attacks"]["none"]["correct"]
        > first["attacks"]["fwa-5"]["correct"]
    )
