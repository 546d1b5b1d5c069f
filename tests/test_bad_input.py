"""What a user can get wrong: each ends the real command with one line on stderr that names it, exit status 2, and nothing lost."""

import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from conftest import ESTIMATOR, SMALL, run_script

N = 40


@pytest.fixture
def arrays(tmp_path):
    """A folder with four good arrays."""
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.RandomState(0)
    for split in ("train", "test"):
        np.save(
            folder / f"{split}_images.npy", random.randint(0, 256, (N, 16, 16, 3)).astype(np.uint8)
        )
        np.save(folder / f"{split}_labels.npy", np.arange(N) % 4)
    return folder


def refused(script, *words) -> str:
    """The one line that the command ended with."""
    result = run_script(script, *words)
    assert result.status == 2, (result.status, result.err, result.out)
    assert result.err.count("\n") == 1 and "Traceback" not in result.err, result.err
    return result.err


def train(folder, tmp_path, *words) -> str:
    return refused(
        "train_standard.py",
        "--dataset",
        "arrays",
        "--data-dir",
        folder,
        "--width",
        4,
        "--epochs",
        1,
        "--batch-size",
        8,
        "--num-steps",
        1,
        "--eval-steps",
        1,
        "--model-dir",
        tmp_path / "run",
        *words,
    )


class Payload:
    """Makes a file when it is unpickled by something that runs pickled code."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_the_good_arrays_are_good(arrays, tmp_path):
    result = run_script(
        "train_standard.py",
        "--dataset",
        "arrays",
        "--data-dir",
        arrays,
        "--width",
        4,
        "--epochs",
        1,
        "--batch-size",
        8,
        "--num-steps",
        1,
        "--eval-steps",
        1,
        "--model-dir",
        tmp_path / "run",
    )
    assert result.status == 0, result.err


def test_a_missing_array(arrays, tmp_path):
    (arrays / "test_labels.npy").unlink()
    assert "test_labels.npy" in train(arrays, tmp_path)


def test_a_truncated_array(arrays, tmp_path):
    path = arrays / "train_images.npy"
    path.write_bytes(path.read_bytes()[:500])
    assert "train_images.npy" in train(arrays, tmp_path)


def test_a_pickled_array_does_not_run(arrays, tmp_path):
    np.save(
        arrays / "train_labels.npy",
        np.array([Payload(tmp_path / "ran")] * N, dtype=object),
        allow_pickle=True,
    )
    assert "train_labels.npy" in train(arrays, tmp_path)
    assert not (tmp_path / "ran").exists()
    np.load(arrays / "train_labels.npy", allow_pickle=True)  # the payload is live
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name, array, said",
    [
        ("train_images.npy", np.zeros((N, 16, 16, 4), np.uint8), "train_images.npy"),
        ("train_images.npy", np.zeros((N, 256), np.uint8), "train_images.npy"),
        ("train_images.npy", np.zeros((N, 16, 16, 3), np.float32), "uint8"),
        ("test_images.npy", np.zeros((N, 8, 8, 3), np.uint8), "test_images.npy"),
        ("train_labels.npy", np.arange(N - 1) % 4, "train_labels.npy"),
        ("train_labels.npy", np.arange(N) % 4 - 1, "train_labels.npy"),
        ("train_labels.npy", np.linspace(0, 3, N), "train_labels.npy"),
        ("test_labels.npy", np.arange(N), "test_labels.npy"),
    ],
)
def test_a_wrong_array(name, array, said, arrays, tmp_path):
    np.save(arrays / name, array)
    assert said in train(arrays, tmp_path)


def test_labels_that_do_not_fit_the_named_set(arrays, tmp_path):
    np.save(arrays / "train_labels.npy", np.arange(N))
    images = np.zeros((N, 32, 32, 3), np.uint8)
    np.save(arrays / "train_images.npy", images)
    np.save(arrays / "test_images.npy", images)
    assert "train_labels.npy" in train(arrays, tmp_path, "--dataset", "cifar10")


def test_more_images_than_there_are(arrays, tmp_path):
    assert "--limit-train 41" in train(arrays, tmp_path, "--limit-train", N + 1)


def test_no_such_data_folder(tmp_path):
    assert "--data-dir" in train(tmp_path / "nowhere", tmp_path)


def test_a_batch_of_one_for_a_bound(chain, tmp_path):
    assert "--batch-size 1" in refused(
        "train_MI_estimator.py", *ESTIMATOR, "--batch-size", 1, "--model-dir", tmp_path
    )


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "--model-dir" in refused(
        "train_standard.py", *SMALL, "--model-dir", tmp_path / "file" / "run"
    )


def test_an_output_that_cannot_be_written(chain, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    assert "--output" in refused(
        "test_comparison.py",
        "--model-dir",
        chain / "standard",
        "--attacks",
        "none",
        "--output",
        tmp_path / "file" / "r.json",
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device(tmp_path):
    assert "--device cuda" in refused(
        "train_standard.py", *SMALL, "--device", "cuda", "--model-dir", tmp_path
    )


def stage_2(target, tmp_path, *words) -> str:
    return refused(
        "train_MI_estimator.py",
        *ESTIMATOR,
        "--pre-target",
        target,
        "--model-dir",
        tmp_path / "e",
        *words,
    )


def test_a_target_that_is_missing(tmp_path):
    assert "nowhere.pth" in stage_2(tmp_path / "nowhere.pth", tmp_path)


def test_a_target_of_another_architecture(chain, tmp_path):
    assert "resnet18" in stage_2(chain / "standard/best_model.pth", tmp_path, "--arch", "vgg16")
    state = torch.load(chain / "standard/best_model.pth", weights_only=True)["state_dict"]
    torch.save(state, tmp_path / "plain.pth")
    assert "--arch" in stage_2(tmp_path / "plain.pth", tmp_path)
    assert "plain.pth" in stage_2(tmp_path / "plain.pth", tmp_path, "--arch", "wrn28-10")


def test_a_target_that_is_truncated(chain, tmp_path):
    whole = (chain / "standard/best_model.pth").read_bytes()
    (tmp_path / "half.pth").write_bytes(whole[: len(whole) // 2])
    assert "half.pth" in stage_2(tmp_path / "half.pth", tmp_path)


def test_a_target_with_pickled_code_does_not_run(tmp_path):
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"state_dict": Payload(tmp_path / "ran")}))
    assert "evil.pth" in stage_2(tmp_path / "evil.pth", tmp_path)
    torch.save({"state_dict": Payload(tmp_path / "ran")}, tmp_path / "evil2.pth")
    assert "evil2.pth" in stage_2(tmp_path / "evil2.pth", tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_a_run_that_is_damaged(chain, tmp_path):
    shutil.copytree(chain / "standard", tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    (tmp_path / "run" / "previous.ckpt").unlink()  # or the run would go on from it
    assert "last.ckpt" in refused(
        "train_standard.py", *SMALL, "--epochs", 4, "--model-dir", tmp_path / "run"
    )


def test_a_target_under_another_threat_model_or_of_another_data_set(chain, arrays, tmp_path):
    assert "epsilon 0.15" in stage_2(
        chain / "standard/best_model.pth", tmp_path, "--epsilon", "8/255"
    )
    assert "norm linf" in stage_2(chain / "standard/best_model.pth", tmp_path, "--norm", "l2")
    assert "dataset digits" in stage_2(
        chain / "standard/best_model.pth",
        tmp_path,
        "--dataset",
        "arrays",
        "--data-dir",
        arrays,
        "--limit-train",
        20,
    )


def stage_3(estimators, tmp_path, *words) -> str:
    return refused(
        "train_MIAT.py",
        *SMALL,
        "--epochs",
        2,
        "--estimator-dir",
        estimators,
        "--model-dir",
        tmp_path / "t",
        *words,
    )


def test_an_estimator_folder_that_lacks_a_file(chain, tmp_path):
    shutil.copytree(chain / "estimators", tmp_path / "e")
    (tmp_path / "e" / "global_a_model.pth").unlink()
    assert "global_a_model.pth" in stage_3(tmp_path / "e", tmp_path)


def test_wmim_without_the_natural_estimator(chain, tmp_path):
    shutil.copytree(chain / "estimators", tmp_path / "e")
    (tmp_path / "e" / "local_n_model.pth").unlink()
    assert "local_n_model.pth" in stage_3(tmp_path / "e", tmp_path, "--mi-loss", "wmim")
    assert "adversarial" in stage_3(
        chain / "estimators",
        tmp_path,
        "--mi-loss",
        "wmim",
        "--pre-local-n",
        chain / "estimators/local_a_model.pth",
    )


def test_options_of_namid_given_to_wmim(chain, tmp_path):
    for option, value in (("--lam", 0.1), ("--without", "natural"), ("--pre-global-a", "a.pth")):
        assert f"{option} {value}" in stage_3(
            chain / "estimators", tmp_path, "--mi-loss", "wmim", option, value
        )


def test_the_released_stage_2_reads_a_resnet18(chain, tmp_path):
    """And says which --arch, given, would win over the preset's."""
    state = torch.load(chain / "standard/best_model.pth", weights_only=True)["state_dict"]
    torch.save({"arch": "wrn34-10", "state_dict": state}, tmp_path / "wide.pth")
    line = stage_2(tmp_path / "wide.pth", tmp_path, "--preset", "released")
    assert "wide.pth: holds a wrn34-10, not a resnet18" in line and "--arch wrn34-10" in line


def test_estimators_that_do_not_fit(chain, tmp_path):
    e = chain / "estimators"
    assert "epsilon 0.15" in stage_3(e, tmp_path, "--epsilon", "0.1")
    assert "--n-units 32" in stage_3(e, tmp_path, "--n-units", 32)
    assert "--representation layer3" in stage_3(e, tmp_path, "--representation", "layer3")
    assert "local" in stage_3(e, tmp_path, "--pre-local-n", e / "global_n_model.pth")
    assert "adversarial" in stage_3(e, tmp_path, "--pre-local-n", e / "local_a_model.pth")


def test_a_file_to_start_from_that_does_not_fit(chain, tmp_path):
    assert "nowhere.pth" in stage_3(
        chain / "estimators", tmp_path, "--init", tmp_path / "nowhere.pth"
    )
    assert "--width 16" in stage_3(
        chain / "estimators", tmp_path, "--width", 16, "--init", chain / "standard/best_model.pth"
    )


def test_evaluation_without_a_model_or_with_two(chain, tmp_path):
    assert "--model-dir or --model" in refused("test_comparison.py")
    assert "--model-dir or --model" in refused(
        "test_comparison.py", "--model", "a.pth", "--model-dir", chain / "standard"
    )


def test_evaluation_of_what_is_no_run(chain, tmp_path):
    assert "holds no run" in refused("test_comparison.py", "--model-dir", tmp_path)
    assert "target_model.pth or best_model.pth" in refused(
        "test_comparison.py", "--model-dir", chain / "estimators"
    )


def test_evaluation_under_an_attack_that_there_is_not(chain):
    line = refused(
        "test_comparison.py", "--model-dir", chain / "standard", "--attacks", "none,pgd-40,hinge"
    )
    assert "hinge" in line and "fgsm" in line
