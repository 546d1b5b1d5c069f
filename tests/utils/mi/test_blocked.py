"""Bounds computed in blocks: the values and gradients of the plain form, in less memory."""

import pytest
import torch
from bound_parts import SCALARS, VALUES, encodings
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from utils.mi import blocked
from utils.mi.bounds import BOUNDS, per_sample


class TestBlocks:
    @pytest.mark.parametrize("block", [1, 40, 100])
    @pytest.mark.parametrize("form", ["scalar", "per sample"])
    @pytest.mark.parametrize("trained", ["both", "global"])
    def test_values_and_gradients_are_those_of_the_plain_form(
        self, trained, form, block, monkeypatch
    ):
        for name, function in (SCALARS if form == "scalar" else VALUES).items():
            results = []
            for size in (2**27, block):
                monkeypatch.setattr(blocked, "BLOCK", size)
                local, global_ = (each.requires_grad_() for each in encodings(7))
                # the plain form takes both gradients in one block
                value = function(
                    local.detach() if trained == "global" and size == block else local, global_
                )
                weights = torch.arange(1.0, 1 + value.numel(), dtype=value.dtype).view_as(value)
                results.append([value, *torch.autograd.grad((weights * value).sum(), global_)])
                if trained == "both":
                    results[-1] += torch.autograd.grad(
                        (weights * function(local, global_)).sum(), local
                    )
            for plain, in_blocks in zip(*results):
                torch.testing.assert_close(in_blocks, plain, rtol=1e-12, atol=1e-12, msg=name)

    @pytest.mark.parametrize("trained", [True, False])
    @pytest.mark.parametrize("block", [2**27, 40])
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_several_outputs_for_each_pattern(self, bound, block, trained, monkeypatch):
        monkeypatch.setattr(blocked, "BLOCK", block)
        (local, one), (_, other) = encodings(7), encodings(7, seed=1)
        local.requires_grad_(trained)
        both = torch.cat([one, other]).requires_grad_()
        weights = torch.arange(1.0, 15, dtype=torch.float64)
        values = per_sample(bound, local, both)
        expected = torch.cat([per_sample(bound, local, each) for each in both.split(7)])
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
        for found, wanted in zip(
            *(
                torch.autograd.grad((weights * each).sum(), [both] + [local] * trained)
                for each in (values, expected)
            )
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("trained", [True, False])
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_memory_grows_with_the_batch_and_not_with_its_square(self, bound, trained, monkeypatch):
        """The largest sum of the sizes of all tensors alive at a time, forwards and backwards."""

        def memory(n):
            alive, most = {}, 0

            class Watch(TorchDispatchMode):
                def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                    nonlocal alive, most
                    result = function(*args, **(kwargs or {}))
                    for each in result if isinstance(result, (tuple, list)) else [result]:
                        if isinstance(each, torch.Tensor):
                            storage = each.untyped_storage()
                            alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                    alive = {key: entry for key, entry in alive.items() if not entry[0].expired()}
                    most = max(most, sum(size for _, size in alive.values()))
                    return result

            local, global_ = (each.requires_grad_() for each in encodings(n, units=2, locations=2))
            local.requires_grad_(trained)
            with Watch():
                per_sample(bound, local, global_).sum().backward()
            return most

        monkeypatch.setattr(blocked, "BLOCK", 64)
        assert memory(200) <= 4.5 * memory(50)
        monkeypatch.setattr(blocked, "BLOCK", 2**27)
        assert memory(200) > 12 * memory(50)
