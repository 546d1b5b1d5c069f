"""Choose the device of a run, the precision of its networks, and the seeds of its random draws."""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch

from common.errors import InputError
from utils.distributed import Net, start, synchronised
from utils.provenance import cpu


@dataclass
class Compute:
    """Hold a device and the precision in which networks run there in training."""

    device: torch.device
    precision: str  # "fp32" or "bf16"
    compiles: bool = False

    def autocast(self) -> contextlib.AbstractContextManager:
        """Return a context in which networks run in the chosen precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def prepare(self, net: Net) -> Net:
        """Move `net` to the device, with convolution weights laid out channels last.

        Batch norm then takes its statistics over all processes.
        """
        return synchronised(net.to(self.device).to(memory_format=torch.channels_last))

    def compiled(self, net: Net) -> Net:
        """Compile `net` in place where this device compiles, and return it.

        There is one graph for each batch size; the last batch of an epoch may need a second one.
        """
        if self.compiles:
            net.compile(dynamic=False)
        return net

    def eager(self) -> contextlib.AbstractContextManager:
        """Return a context in which networks run without their compiled graphs.

        Evaluation uses another precision and other batch sizes.
        """
        return (
            torch.compiler.set_stance("force_eager") if self.compiles else contextlib.nullcontext()
        )

    def generator(self, *numbers: int) -> torch.Generator:
        """Return a generator on the device, seeded by `numbers`, say seed, epoch and step.

        A run that resumes in the middle needs no saved state of it.
        """
        return torch.Generator(self.device).manual_seed(mix(*numbers))


def mix(*numbers: int) -> int:
    """Mix several whole numbers to one 63-bit seed; nearby numbers give unrelated seeds."""
    return int(numpy.random.SeedSequence(numbers).generate_state(1, numpy.uint64)[0] >> 1)


def compute(device_asked: str, precision: str = "fp32", compile: str = "off") -> Compute:
    """Return the `Compute` that --device, --precision and --compile ask for.

    Each process of torchrun gets its own device. float32 means float32: TF32 stays off.
    """
    if device_asked == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto"
        )
    use_cuda = device_asked != "cpu" and torch.cuda.is_available()
    if device_asked == "auto":
        warn_of_unseen_gpu()
    device = start(torch.device("cuda" if use_cuda else "cpu"))
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported()
        else:
            native = not {"avx512_bf16", "amx_bf16"}.isdisjoint(cpu("flags").split())
        precision = "bf16" if native else "fp32"
    # Gradients of saturated softmaxes are denormal numbers, which slowed a CPU down 100 times. Zero
    # serves as well.
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        _keep_memory()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    return Compute(
        device, precision, compile == "on" or (compile == "auto" and device.type == "cuda")
    )


def warn_of_unseen_gpu(system: Path = Path("/sys")) -> None:
    """Print a warning where the machine has an NVIDIA device and PyTorch sees none.

    Linux lists the devices, with a driver or without, below `system`. Where CUDA_VISIBLE_DEVICES is
    empty or -1 they are hidden on purpose, and there is no warning.
    """
    if torch.cuda.is_available() or os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return
    for device in (system / "bus/pci/devices").glob("*"):
        with contextlib.suppress(OSError):
            # PCI class 03: a display controller.
            display = (device / "class").read_text().startswith("0x03")
            if display and (device / "vendor").read_text().strip() == "0x10de":
                built = torch.version.cuda
                why = f"its driver is missing or older than CUDA {built} needs"
                why = why if built else "this build of PyTorch is for CPUs"
                print(
                    f"warning: there is an NVIDIA device and PyTorch sees none: {why}", flush=True
                )
                return


def _keep_memory() -> None:
    """Ask glibc to keep freed memory for the next tensor of its size.

    By default it returns large blocks to the system, which clears their pages again each time: a
    fifth of the time of PGD (ResNet-18 of width 16, batch 125, bf16, one thread).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD
