"""The MI estimator: values per sample, scaled scores, gradients, one that learns."""

import pytest
import torch

from models.mi import (
    GlobalNet,
    LocalNet,
)
from utils.mi.bounds import donsker_varadhan
from utils.mi.bounds import per_sample as bound_per_sample
from utils.mi.estimator import MIEstimator
from utils.mi.names import BOUNDS


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


class TestEstimator:
    @pytest.mark.parametrize("bound", BOUNDS)
    def test_value_per_sample(self, bound):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16), bound).eval()
        pattern, logits = torch.rand(5, 3, 16, 16), torch.randn(5, 10)
        local, global_ = estimator.encode_pattern(pattern), estimator.encode_output(logits)
        assert local.shape == (5, 16, 16)
        assert global_.shape == (5, 16, 1)
        expected = bound_per_sample(bound, local, global_)
        assert expected.shape == (5,)
        assert torch.equal(estimator.mi(local, global_), expected)
        assert torch.equal(estimator(pattern, logits), expected)

    @pytest.mark.parametrize("bound", BOUNDS)
    def test_scaled_scores_are_divided_by_the_root_of_the_units(self, bound):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16), bound, scaled=True).eval()
        pattern, logits = torch.rand(5, 3, 16, 16), torch.randn(5, 10)
        local, global_ = estimator.local_net(pattern), estimator.global_net(logits)
        torch.testing.assert_close(
            estimator(pattern, logits), bound_per_sample(bound, local / 4, global_)
        )
        assert not torch.allclose(
            estimator(pattern, logits), bound_per_sample(bound, local, global_)
        )

    def test_donsker_varadhan_is_the_default(self):
        estimator = MIEstimator(LocalNet(16), GlobalNet(10, 16))
        local, global_ = torch.randn(3, 16, 4), torch.randn(3, 16, 1)
        assert torch.equal(estimator.mi(local, global_), donsker_varadhan(local, global_))

    def test_units_are_innermost_in_memory(self):
        """Then the scores need no copy of the local encodings, the largest tensor of a step."""
        local = LocalNet(16)(torch.rand(2, 3, 16, 16))
        assert local.stride() == (16 * 16, 1, 16)

    def test_learns_a_dependence(self):
        """Outputs that tell the colour of the pattern: the bound rises well above that of shuffled outputs."""
        estimator = MIEstimator(LocalNet(16), GlobalNet(3, 16), "nce")
        optimizer = torch.optim.Adam(estimator.parameters(), 1e-2)
        for _ in range(30):
            output = torch.randn(32, 3)
            loss = -estimator(output[..., None, None].expand(-1, -1, 8, 8), output).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        estimator.eval()
        pattern = output[..., None, None].expand(-1, -1, 8, 8)
        assert estimator(pattern, output).mean() > 1
        assert estimator(pattern, output.roll(1, 0)).mean() < 0

    def test_gradient_reaches_the_output_through_a_frozen_estimator(self):
        estimator = MIEstimator(LocalNet(8), GlobalNet(4, 8)).eval().requires_grad_(False)
        output = torch.randn(3, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(estimator(torch.rand(3, 3, 8, 8), output).sum(), output)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0

    def test_one_sample(self):
        estimator = MIEstimator(LocalNet(8), GlobalNet(4, 8))
        for each in (estimator.eval(), estimator.train()):
            with pytest.raises(ValueError, match="at least 2 samples, not 1"):
                each(torch.rand(1, 3, 8, 8), torch.randn(1, 4))

    def test_unknown_bound(self):
        with pytest.raises(ValueError, match=r"'DV'.*dv, dv-released, nce, fd"):
            MIEstimator(LocalNet(8), GlobalNet(4, 8), "DV")
