"""Shaped rewards, GAE and the adaptive controller against TRL 0.11.4, whose results `make oracle-ppo` recorded.

Where the conventions differ, the difference is stated in the test and undone there:
- TRL leaves numbers at padding (the KL penalty, whitened zeros); ours are 0 there. Compared on real tokens.
- TRL returns advantages whitened only, with the unbiased variance n/(n − 1); ours whitens with the biased one.
Tolerance: sums of at most 12 fp32 terms of size ≤ 10 in another order, so a few units of 1e-7 · 10.
"""

import json
import math
from pathlib import Path

import pytest
import torch

from week6 import ppo
from week6.log_probs import masked_whiten

RECORD = json.loads((Path(__file__).parent / "trl_0_11_4.json").read_text())
ROUNDING = {"rtol": 1e-5, "atol": 5e-6}


@pytest.fixture(params=RECORD["cases"], ids=lambda case: f"gamma={case['gamma']},lam={case['lam']}")
def case(request):
    tensors = {k: torch.tensor(v) for k, v in request.param.items() if isinstance(v, list)}
    return {**request.param, **tensors, "mask": tensors["mask"].bool()}


def assert_equal_on(mask, ours, theirs):
    torch.testing.assert_close(ours[mask], theirs[mask], **ROUNDING)


def test_the_record_is_of_that_version_and_ragged():
    assert RECORD["versions"]["trl"] == "0.11.4"
    for case in RECORD["cases"]:
        lengths = {sum(row) for row in case["mask"]}
        assert (
            len(lengths) > 2 and any(row[0] == 0 for row in case["mask"]) and any(row[-1] == 0 for row in case["mask"])
        )


def test_shaped_rewards(case):
    ours = ppo.shape_rewards(case["scores"], case["log_probs"], case["ref_log_probs"], case["mask"], case["beta"])
    assert_equal_on(case["mask"], ours, case["rewards"])
    assert (ours[~case["mask"]] == 0).all()


def test_advantages_and_returns(case):
    mask = case["mask"]
    advantages, returns = ppo.gae(case["rewards"], case["values"], mask, case["gamma"], case["lam"])
    assert_equal_on(mask, returns, case["returns"])
    # their advantages before whitening, from their own identity returns = A + V
    assert_equal_on(mask, advantages, case["returns"] - case["values"])
    n = int(mask.sum())
    assert_equal_on(mask, masked_whiten(advantages, mask) * math.sqrt((n - 1) / n), case["whitened_advantages"])


def test_adaptive_kl():
    record = RECORD["adaptive_kl"]
    controller = ppo.AdaptiveKL(record["beta"], record["target"], record["horizon"])
    betas = [controller.update(kl, n) for kl, n in record["updates"]]
    assert betas == pytest.approx(record["betas"], rel=1e-12)  # float64 on both sides
