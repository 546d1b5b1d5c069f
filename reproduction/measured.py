"""Write the results file of a measurement: the numbers, and what they were made of."""

import json
import shlex
import sys
import time
from pathlib import Path

from common.files import file_hash, write_text
from data.sets import DataSet
from utils import provenance
from utils.devices import Compute


def write(path: Path, model: Path, dataset: DataSet, compute: Compute, content: dict) -> None:
    """Write `content` as JSON, with the command, the model's hash, the data and the machine."""
    about = {
        "model": str(model),
        "model_hash": file_hash(model),
        "dataset": dataset.name,
        "data_fingerprint": dataset.fingerprint,
        "n": len(dataset.test_labels),
        "hardware": provenance.hardware(compute.device),
        "versions": provenance.versions(),
        "git_commit": provenance.git_commit(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    write_text(path, json.dumps(about | content, indent=1) + "\n")
    print(f"written: {path}")
