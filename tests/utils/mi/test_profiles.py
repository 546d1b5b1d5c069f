"""Differences of layers and their signs against Student's t by hand, and the file."""

import math
import statistics

import pytest

from common.errors import InputError
from utils.mi.profiles import compare, profile, read_profile, write_profile


def test_the_interval_is_students():
    first, second = [0.9, 0.7, 0.8], [0.5, 0.5, 0.3]
    found = compare(first, second)
    differences = [0.4, 0.2, 0.5]
    assert found["delta"] == pytest.approx(statistics.mean(differences))
    half = 4.302653 * statistics.stdev(differences) / math.sqrt(3)  # t with 2 degrees of freedom
    assert found["interval"] == pytest.approx((1.1 / 3 - half, 1.1 / 3 + half), abs=1e-6)
    assert found["sign"] == 0  # -0.013 to 0.746


def test_a_sign_needs_an_interval_that_leaves_out_0():
    assert compare([0.9, 0.8, 0.9], [0.5, 0.4, 0.4])["sign"] == 1
    assert compare([0.5, 0.4, 0.4], [0.9, 0.8, 0.9])["sign"] == -1
    assert compare([0.9, 0.1, 0.9], [0.5, 0.5, 0.4])["sign"] == 0  # the seeds disagree
    assert compare([0.9], [0.1]) == {"delta": 0.8, "interval": None, "sign": 0}


def test_a_network_against_itself_has_no_difference():
    values = [{"a": 0.3, "b": 0.5}, {"a": 0.2, "b": 0.9}]
    found = profile({"adversarial": values, "control": values})
    for entry in found.values():
        assert (entry["delta"], entry["interval"], entry["sign"]) == (0, (0, 0), 0)


def test_the_control_is_compared_and_without_one_the_natural_network():
    one, two, three = ([{"a": value, "b": 0.0}] for value in (0.1, 0.5, 0.7))
    whole = profile({"natural": one, "adversarial": two, "control": three})["a"]
    assert whole["delta"] == pytest.approx(-0.2) and whole["natural"] == [0.1]
    assert profile({"natural": one, "adversarial": two})["a"]["delta"] == pytest.approx(0.4)
    assert "delta" not in profile({"natural": one, "control": three})["a"]
    assert "delta" not in profile({"adversarial": two})["a"]


def test_the_loss_is_the_difference_to_the_next_layer():
    found = profile({"natural": [{"a": 0.3, "b": 0.5, "c": 0.1}, {"a": 0.5, "b": 0.5, "c": 0.2}]})
    assert found["a"]["loss"]["natural"] == pytest.approx(-0.1)
    assert found["b"]["loss"]["natural"] == pytest.approx(0.35)
    assert "loss" not in found["c"]


def test_the_way_through_a_file(tmp_path):
    path = tmp_path / "profile.json"
    found = profile({"adversarial": [{"a": 1.0}, {"a": 2.0}], "control": [{"a": 0.9}, {"a": 1.9}]})
    write_profile(path, {"unit": found}, {"dataset": "digits"})
    layer = read_profile(path, "unit")["a"]
    assert (layer.sign, layer.adversarial) == (1, 1.5)
    with pytest.raises(InputError, match="has no quantity 'activation'; it has unit"):
        read_profile(path, "activation")
    write_profile(path, {"unit": profile({"natural": [{"a": 1.0}]})}, {})
    with pytest.raises(InputError, match="holds no signs of layers"):
        read_profile(path, "unit")
