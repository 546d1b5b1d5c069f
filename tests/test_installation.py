"""What `./run` installs: the locked versions with their hashes, or on request the newest; and what
a missing
library or GPU costs. pip is stood in for by a script that notes what it is asked for."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, evaluate, run_script
from packaging.requirements import Requirement

from utils import devices, provenance

FILES = [path.name for path in ROOT.glob("requirements*")]
# As a Python that makes environments; `pip install` of a file fails where BROKEN is part of its name.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
  "-m pip install"*)
    echo "$*" >> asked
    if [ -n "${BROKEN:-}" ] && [[ "$*" == *"$BROKEN"* ]]; then echo "a long error" >&2; exit 1; fi ;;
esac
"""


@pytest.fixture
def run(tmp_path):
    """A function that runs ./run with this pip in a folder of its own: the process, and the files
    installed."""
    for name in ("run", *FILES):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(PYTHON)
    python.chmod(0o755)

    def call(*words, **more):
        (tmp_path / "asked").write_text("")
        environment = os.environ | {"PYTHON": str(python)} | more
        ended = subprocess.run(
            ["bash", "run", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        asked = (tmp_path / "asked").read_text().splitlines()
        return ended, [line.split("--disable-pip-version-check ")[1] for line in asked]

    return call


LOCKED = "--require-hashes -r requirements.lock"
ATTACKS = "--require-hashes --no-deps -r requirements-attacks.txt"


def test_setup_installs_the_locked_versions_once(run):
    ended, asked = run("setup")
    assert ended.returncode == 0 and asked == [LOCKED, ATTACKS]
    assert run("setup")[1] == [ATTACKS]  # which a setup tries again
    assert run("demo")[1] == []
    assert run("check")[1] == ["--require-hashes -r requirements-dev.lock"]


def test_latest_takes_the_versions_asked_for_until_the_next_setup(run):
    run("setup")
    ended, asked = run("setup", "--latest")
    assert ended.returncode == 0 and asked == ["--upgrade -r requirements.txt", ATTACKS]
    assert run("check")[1] == ["--upgrade -r requirements-dev.txt"]
    assert run("setup")[1] == [LOCKED, ATTACKS]
    assert run("setup", "--newest")[0].returncode == 2


def test_a_failing_advertorch_is_one_line_and_anything_else_ends_the_installation(run):
    ended, _ = run("setup", BROKEN="attacks")
    assert ended.returncode == 0 and ".venv is ready" in ended.stdout
    assert ended.stderr.count("\n") == 1 and "CW and DDN are left out" in ended.stderr
    assert run("demo")[1] == []  # it is not tried again with each command
    assert run("setup")[1] == [ATTACKS]
    ended, _ = run("setup", "--latest", BROKEN="requirements.txt")
    assert ended.returncode != 0 and "ready" not in ended.stdout


def locked(name) -> dict[str, list[tuple[Requirement, int]]]:
    """Read a lock file: {package: its pinned versions, with the number of hashes of each}."""
    found = {}
    text = re.sub(r"\\\n", " ", (ROOT / name).read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line.split(" --hash")[0])
            entry = requirement, len(re.findall(r"--hash=sha256:[0-9a-f]{64}\b", line))
            found.setdefault(requirement.name, []).append(entry)
    return found


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_a_lock_pins_what_is_asked_for_with_hashes(name):
    pins = locked(f"{name}.lock")
    for line in (ROOT / f"{name}.txt").read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        asked = Requirement(text)
        assert asked.name in pins, f"{asked.name} is not in {name}.lock: CONTRIBUTING.md says how"
        for pinned, _ in pins[asked.name]:
            (version,) = pinned.specifier
            assert version.operator == "==" and asked.specifier.contains(version.version)
    assert all(hashes for entries in pins.values() for _, hashes in entries)


@pytest.mark.parametrize("platform", ["linux", "darwin"])
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_a_lock_has_one_version_of_each_package_for_each_python(platform, version):
    here = {
        "sys_platform": platform,
        "python_version": version,
        "python_full_version": f"{version}.0",
    }
    here |= {"platform_machine": "x86_64" if platform == "linux" else "arm64"}
    here["platform_python_implementation"] = "CPython"
    pins, more = locked("requirements.lock"), locked("requirements-dev.lock")
    chosen = {}
    for name, entries in [*pins.items(), *more.items()]:
        fitting = [each for each, _ in entries if not each.marker or each.marker.evaluate(here)]
        assert len(fitting) <= 1
        for each in fitting:  # the two files agree where both name a package
            assert chosen.setdefault(name, each.specifier) == each.specifier
    assert {"torch", "numpy", "pillow", "tyro"} <= chosen.keys()
    assert ("nvidia-cudnn-cu13" in chosen) == (platform == "linux")


def test_tyro_is_capped_and_pillow_is_listed():
    asked = (ROOT / "requirements.txt").read_text()
    assert re.search(r"^tyro>=[\d.]+,<", asked, re.M) and re.search(r"^pillow>=", asked, re.M)
    assert "advertorch" not in asked


@pytest.fixture
def broken(monkeypatch):
    """An advertorch that cannot be imported."""
    monkeypatch.setitem(sys.modules, "advertorch.attacks", None)
    monkeypatch.delitem(sys.modules, "utils.attacks.cw_ddn", raising=False)


def test_without_advertorch_cw_and_ddn_alone_are_missing(broken, chain, tmp_path):
    words = ["--norm", "l2", "--epsilon", 1, "--attacks", "none,cw-3,ddn-3,fgsm"]
    ended, said = evaluate(chain, tmp_path, *words)
    assert list(said["attacks"]) == ["none", "fgsm"] and said["worst_case"]["attacks"] == [
        "none",
        "fgsm",
    ]
    lines = [line for line in ended.out.splitlines() if "need advertorch" in line]
    assert len(lines) == 1 and lines[0].startswith("warning: cw-3, ddn-3 left out: cw and ddn need")


def test_without_advertorch_cw_alone_is_refused(broken, chain, tmp_path):
    words = ["--model-dir", chain / "standard", "--norm", "l2", "--attacks", "cw-3"]
    ended = run_script("test_comparison.py", *words, "--output", tmp_path / "results.json")
    assert ended.status == 2 and ended.err.count("\n") == 1
    assert "--attacks cw-3: cw and ddn need advertorch" in ended.err
    assert not (tmp_path / "results.json").exists()


def test_versions_of_a_missing_package_are_none(monkeypatch):
    def missing(name):
        raise provenance.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(provenance.metadata, "version", missing)
    assert provenance.versions()["advertorch"] is None
    json.dumps(provenance.versions())


@pytest.mark.parametrize(
    "vendor, kind, hidden, seen, warned",
    [
        ("0x10de", "0x030000", None, False, True),
        ("0x10de", "0x030200", None, False, True),
        ("0x10de", "0x030200", "", False, False),  # hidden on purpose
        ("0x10de", "0x030200", None, True, False),
        ("0x10de", "0x020000", None, False, False),  # a network card
        ("0x1002", "0x030000", None, False, False),
    ],
)
def test_a_gpu_that_torch_misses_is_named(
    vendor, kind, hidden, seen, warned, tmp_path, monkeypatch, capsys
):
    device = tmp_path / "bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text(f"{vendor}\n")
    (device / "class").write_text(f"{kind}\n")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    devices.warn_of_unseen_gpu(tmp_path)
    said = capsys.readouterr().out
    assert said.count("\n") == warned and ("there is an NVIDIA device" in said) == warned


def test_a_machine_without_such_a_list_is_no_error(tmp_path, capsys):
    devices.warn_of_unseen_gpu(tmp_path)
    assert capsys.readouterr().out == ""
