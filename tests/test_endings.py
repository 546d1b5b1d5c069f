"""How a script ends where the terminal, the disk or the environment is at fault: a line, a status,
no traceback."""

import os
import runpy
import signal
import subprocess
import sys
import traceback
from unittest import mock

import pytest
import torch
from conftest import ROOT, SMALL, forked, run_script

from common.streams import printable

THEOREM1 = ("analyze_MI.py", "theorem1", "--output")


def _ends(words, streams, variables, report):
    """Run a script as a new interpreter would, on these files instead of its streams."""
    os.environ.update(variables)
    streams = {
        number: os.open(path, os.O_WRONLY) if isinstance(path, str) else path
        for number, path in streams.items()
    }
    for number, path in streams.items():
        if path is None:
            os.close(number)
        else:
            os.dup2(path, number)
        stream = os.fdopen(number, "w", closefd=False) if path is not None else None
        setattr(sys, {1: "stdout", 2: "stderr"}[number], stream)
    sys.argv = words
    status = 0
    try:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except SystemExit as end:
        status = end.code or 0
    except BaseException:
        report.write_text(traceback.format_exc())
        status = 1
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120  # as the interpreter ends
    os._exit(status)


def ends(words, tmp_path, stdout="out", stderr="err", **variables) -> tuple[int, str, str]:
    """Return the status, and what standard output and error hold. None: the stream is closed."""
    files = {}
    for number, name in ((1, stdout), (2, stderr)):
        files[number] = name
        if name in ("out", "err"):
            files[number] = str(tmp_path / name)
            (tmp_path / name).touch()
    report = tmp_path / "traceback"
    words = [str(word) for word in words]
    process = forked(_ends, words, files, variables, report)
    process.join()
    assert not report.exists(), report.read_text()
    read = [
        (tmp_path / name).read_text(errors="surrogateescape") if (tmp_path / name).exists() else ""
        for name in ("out", "err")
    ]
    return process.exitcode, *read


@pytest.mark.parametrize(
    "closed", [{"stdout": None}, {"stderr": None}, {"stdout": None, "stderr": None}]
)
def test_a_closed_stream_hides_what_is_printed_and_nothing_else(closed, tmp_path):
    status, out, err = ends((*THEOREM1, tmp_path / "o"), tmp_path, **closed)
    assert status == 0 and err == "" and ("written:" in out) == ("stdout" not in closed)
    lines = (tmp_path / "o/theorem1.csv").read_text().splitlines()
    assert len(lines) > 1 and all("," in line for line in lines)


def test_a_closed_stream_hides_a_refusal_but_not_its_status(tmp_path):
    words = ("analyze_MI.py", "theorem1", "--dim", 0)
    assert ends(words, tmp_path, stdout=None, stderr=None)[0] == 2


@pytest.mark.parametrize("words", [("theorem1", "--output", "{o}"), ("--help",)])
def test_a_full_standard_output_is_named(words, tmp_path):
    words = [word.format(o=tmp_path / "o") for word in words]
    status, _, err = ends(["analyze_MI.py", *words], tmp_path, stdout="/dev/full")
    assert status == 2 and err.count("\n") == 1
    assert "standard output: cannot be written (No space left on device)" in err


def test_a_full_standard_error_leaves_the_status(tmp_path):
    words = ("analyze_MI.py", "theorem1", "--dim", 0)
    assert ends(words, tmp_path, stderr="/dev/full")[0] == 2


def test_a_reader_that_is_gone_is_named(tmp_path):
    """As in `analyze_MI.py theorem1 | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    status, _, err = ends((*THEOREM1, tmp_path / "o"), tmp_path, stdout=writer)
    os.close(writer)
    assert status == 2 and "standard output: cannot be written (Broken pipe)" in err


@pytest.mark.parametrize(
    "name, shown",
    [("a\nb", "a\\nb"), ("a\x1b[31mb", "a\\x1b[31mb"), ("a\udcffb", "a\\udcffb"), ("é", "é")],
)
def test_a_name_cannot_steer_the_terminal(name, shown, tmp_path):
    """In a refusal it stays on its line; on standard output nothing but the newline is left."""
    words = ("test_comparison.py", "--model", tmp_path / name)
    refused = ends(words, tmp_path)
    assert refused[0] == 2 and refused[2].count("\n") == 1 and shown in refused[2]
    status, out, _ = ends((*THEOREM1, tmp_path / name), tmp_path)
    assert status == 0 and (tmp_path / name / "theorem1.csv").is_file()
    assert "\x1b" not in out and "\udcff" not in out
    assert name == "a\nb" or shown in out


def test_printable_keeps_text():
    text = "E_n(x; h(x~)) 3.5 é λ\n\ttab"
    assert printable(text, "\n\t") == text and printable("a\rb\x07\x9b") == "a\\rb\\x07\\x9b"


@pytest.mark.parametrize("option", ["--model", "--model-dir", "--output", "--data-dir"])
def test_a_name_that_is_too_long_is_named_with_its_option(option, tmp_path):
    given = [] if option in ("--model", "--model-dir") else ["--model", "m.pth"]
    result = run_script("test_comparison.py", *given, option, tmp_path / ("n" * 300))
    assert result.status == 2 and result.err.count("\n") == 1
    assert option in result.err and "too long" in result.err


def test_any_backend_of_matplotlib_draws():
    """An interpreter of its own, because matplotlib reads the variable at its import."""
    code = "from utils.plots import plt; print(plt.get_backend())"
    environment = os.environ | {"MPLBACKEND": "nonsense"}
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.stdout.lower() == "agg\n", ended.stderr


@pytest.mark.parametrize(
    "variables, said",
    [
        ({"WORLD_SIZE": "2"}, "RANK is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is two"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "a"}, "MASTER_PORT is not set"),
    ],
)
def test_a_left_over_of_a_cluster_is_named(variables, said, tmp_path, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    result = run_script("train_standard.py", *SMALL, "--model-dir", tmp_path / "run")
    assert result.status == 2 and said in result.err and result.err.count("\n") == 1
    assert "unset WORLD_SIZE" in result.err and not (tmp_path / "run").exists()
    result = run_script(*THEOREM1, tmp_path / "o")
    assert result.status == 2 and "unset WORLD_SIZE" in result.err


def test_sigterm_ends_an_evaluation_with_a_line_and_no_lock(chain, tmp_path):
    """As early as this, and while images are attacked; the second signal would end it at once."""

    def kill(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)

    words = ["test_comparison.py", "--model-dir", chain / "standard", "--limit-test", 20]
    words += ["--output", tmp_path / "r.json", "--save-adv", tmp_path / "x.npz"]
    before = signal.getsignal(signal.SIGTERM)
    for place in ("checks.of_network", "counting.registry.attack"):
        with mock.patch(f"utils.evaluation.{place}", kill):
            result = run_script(*words)
        assert result.status == 143 and result.err.count("\n") == 1, result.err
        assert "terminated; what was written stays" in result.err
        assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".lock")]
    assert signal.getsignal(signal.SIGTERM) is before
    assert run_script(*words).status == 0


def test_too_little_memory_is_one_line(tmp_path):
    """The real error of PyTorch, for more memory than a computer has."""
    with mock.patch("utils.analysis.theorem1.theorem1_cases", lambda *_: torch.empty(10**16)):
        result = run_script(*THEOREM1, tmp_path)
    assert result.status == 2 and result.err.count("\n") == 1 and "memory" in result.err
