"""Every function that week6 exports, called with what it does not expect: a ValueError that names an argument, or a
result without NaN. Never another exception, never a NaN without a word.

One good call of each function is spoilt in one argument at a time, in every way below.
"""

import functools
import inspect
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import week6
from tests.tiny import ragged, ragged_pairs, tiny_gpt2, words_tokenizer
from week6.group import GRPOConfig, group_policy_loss, grpo_advantages, mean_over, rloo_advantages
from week6.sequences import Pairs, Rollout
from week6.verifiable import best_success, coin_kl, pass_at_k

GENERATOR = torch.Generator().manual_seed(0)
B, T, N = 3, 4, 5


def reals(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def shares(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(sum(shape)))


def logs(*shape):
    return reals(*shape).log_softmax(-1)


def mask():
    return torch.arange(T) < torch.tensor([[4], [2], [3]])


@functools.cache
def model():
    return tiny_gpt2(dtype=torch.float32)


@functools.cache
def tokenizer():
    return words_tokenizer("hi there you")


def rollout():
    prompts, prompt_mask, responses, response_mask = ragged([1, 3, 2], [4, 2, 3])
    return Rollout(prompts, prompt_mask, responses, response_mask, -shares(B, T), torch.ones(B, dtype=torch.bool))


def pairs():
    return ragged_pairs([1, 3, 2], [4, 2, 3], [2, 3, 1])


def demonstrations():
    return pairs().stacked()


def batch():
    return dict(
        zip(("prompts", "prompt_mask", "responses", "response_mask"), ragged([1, 3, 2], [4, 2, 3]), strict=True)
    )


def four():
    names = ("policy_chosen", "policy_rejected", "ref_chosen", "ref_rejected")
    return {name: reals(B) - i for i, name in enumerate(names)}


def optimizer(trained):
    return week6.make_optimizer(trained, 1e-6)


def actor():
    return week6.PolicyWithValue(model())


def training(config, **more):
    trained = more.get("policy", more.get("model"))
    return {"optimizer": optimizer(trained), "config": config, "seed": 0, "start": 0, **more}


def update_of(acting):
    return {
        "actor": acting, "optimizer": optimizer(acting), "rollout": rollout(), "old_values": reals(B, T),
        "advantages": reals(B, T), "returns": reals(B, T), "config": week6.PPOConfig(batch_size=3),
        "generator": GENERATOR,
    }  # fmt: skip


def descent_of(trained):
    loss = sum((p**2).sum() for p in trained.parameters())
    return {"loss": loss, "model": trained, "optimizer": optimizer(trained), "max_norm": 1.0}


CALLS = {
    "preference_probability": lambda: {"reward_a": reals(B), "reward_b": reals(B) + 1},
    "bradley_terry_loss": lambda: {"chosen": reals(B), "rejected": reals(B) + 1, "margin": reals(B)},
    "plackett_luce_log_prob": lambda: {"rewards": reals(B, N)},
    "fit_bradley_terry": lambda: {"wins": torch.ones(3, 3) - torch.eye(3), "l2": 0.1},
    "sample_preferences": lambda: {"reward_a": reals(B), "reward_b": reals(B) + 1, "generator": GENERATOR},
    "bayes_accuracy": lambda: {"probability": shares(B)},
    "kl_divergence": lambda: {"log_p": logs(B, N), "log_q": logs(B, N).flip(0), "dim": -1},
    "kl_estimators": lambda: {"log_probs": -shares(B), "ref_log_probs": -shares(B) - 1},
    "optimal_policy": lambda: {"ref_log_probs": logs(B, N), "rewards": reals(B, N), "beta": 0.5},
    "rlhf_objective": lambda: {
        "log_probs": logs(B, N), "ref_log_probs": logs(B, N).flip(0), "rewards": reals(B, N), "beta": 0.5,
    },
    "best_of_n_policy": lambda: {"ref_log_probs": logs(B, N), "rewards": reals(B, N), "n": 4},
    "best_of_n_kl_bound": lambda: {"n": 4},
    "rloo_advantages": lambda: {"rewards": reals(B, N)},
    "grpo_advantages": lambda: {"rewards": reals(B, N), "eps": 1e-4},
    "group_policy_loss": lambda: {
        "log_probs": -shares(B, T), "old_log_probs": -shares(B, T), "advantages": reals(B), "mask": mask(),
        "clip_low": 0.2, "clip_high": 0.3, "mean": "token",
    },
    "mean_over": lambda: {"x": reals(B, T), "mask": mask(), "mean": "answer"},
    "pass_at_k": lambda: {"correct": torch.tensor([0, 2, 4]), "n": 4, "k": 2},
    "best_success": lambda: {"p": shares(B), "beta": 0.5},
    "coin_kl": lambda: {"q": shares(B), "p": shares(B).flip(0)},
    "position_ids": lambda: {"attention_mask": mask()},
    "token_log_probs": lambda: {"logits": reals(B, T, N), "tokens": torch.arange(B * T).reshape(B, T) % N},
    "response_log_probs": lambda: {"model": model(), **batch(), "temperature": 0.7},
    "masked_mean": lambda: {"x": reals(B, T), "mask": mask(), "dim": 1},
    "masked_whiten": lambda: {"x": reals(B, T), "mask": mask(), "shift_mean": True},
    "sft_loss": lambda: {"log_probs": -shares(B, T), "mask": mask()},
    "implicit_reward": lambda: {"log_probs": -shares(B), "ref_log_probs": -shares(B) - 1, "beta": 0.5},
    "dpo_loss": lambda: {**four(), "beta": 0.5, "label_smoothing": 0.1, "variant": "sigmoid"},
    "dpo_gradient_weight": lambda: {"chosen_rewards": reals(B), "rejected_rewards": reals(B) + 1},
    "pair_log_probs": lambda: {"model": model(), "pairs": pairs()},
    "shape_rewards": lambda: {
        "scores": reals(B), "log_probs": -shares(B, T), "ref_log_probs": -shares(B, T) - 1, "mask": mask(), "beta": 0.5,
    },
    "gae": lambda: {"rewards": reals(B, T), "values": reals(B, T) + 1, "mask": mask(), "gamma": 0.9, "lam": 0.8},
    "clipped_policy_loss": lambda: {
        "log_probs": -shares(B, T), "old_log_probs": -shares(B, T) - 0.1, "advantages": reals(B, T), "mask": mask(),
        "clip": 0.2,
    },
    "clipped_value_loss": lambda: {
        "values": reals(B, T), "old_values": reals(B, T) + 1, "returns": reals(B, T) - 1, "mask": mask(), "clip": 0.2,
    },
    "AdaptiveKL": lambda: {"beta": 0.1, "target": 6.0, "horizon": 1000},
    "PolicyWithValue": lambda: {"causal_lm": model()},
    "RewardModel": lambda: {"causal_lm": model()},
    "ppo_update": lambda: update_of(actor()),
    "train_sft": lambda: training(week6.SFTConfig(1, 2), policy=model(), demonstrations=demonstrations()),
    "train_dpo": lambda: training(week6.DPOConfig(1, 2), policy=model(), reference=model(), pairs=pairs()),
    "train_reward_model": lambda: training(
        week6.RewardConfig(1, 2), model=week6.RewardModel(model()), pairs=pairs()
    ),
    "last_token_index": lambda: {"attention_mask": mask()},
    "score": lambda: {"model": week6.RewardModel(model()), "answers": demonstrations()},
    "pair_scores": lambda: {"model": week6.RewardModel(model()), "pairs": pairs()},
    "pair_agreement": lambda: {"model": week6.RewardModel(model()), "pairs": pairs(), "batch_size": 2},
    "pair_accuracy": lambda: {"model": week6.RewardModel(model()), "pairs": pairs(), "batch_size": 2},
    "expected_accuracy": lambda: {"agreement": torch.tensor([1.0, 0.5, 0.0]), "probability": shares(B)},
    "sample": lambda: {
        "model": model(), **{k: batch()[k] for k in ("prompts", "prompt_mask")}, "max_new_tokens": 3,
        "temperature": 0.7, "generator": GENERATOR,
    },
    "left_pad": lambda: {"rows": [[2, 3], [4]], "pad_id": 0},
    "right_pad": lambda: {"rows": [[2, 3], [4]], "pad_id": 0},
    "encode_prompts": lambda: {"tokenizer": tokenizer(), "prompts": ["hi", "hi there"]},
    "encode_demonstrations": lambda: {"tokenizer": tokenizer(), "prompts": ["hi ", "you "], "answers": ["hi", "you"]},
    "encode_pairs": lambda: {
        "tokenizer": tokenizer(), "prompts": ["hi ", "you "], "chosen": ["hi", "you"], "rejected": ["you", "hi"],
    },
    "pair_rollouts": lambda: {
        "first": rollout(), "second": rollout(), "first_preferred": torch.tensor([True, False, True]),
    },
    "decode": lambda: {"tokenizer": tokenizer(), "responses": batch()["responses"], "response_mask": mask()},
    "expected_dpo_loss": lambda: {
        "log_probs": logs(N), "ref_log_probs": logs(N).flip(0), "rewards": reals(N), "beta": 1.0,
    },
    "ExactWorld": lambda: {"vocab": ["a", "b"], "length": 2, "reward": len},
    "make_optimizer": lambda: {"model": model(), "learning_rate": 1e-3, "eps": 1e-8},
    "descend": lambda: descent_of(model()),
    "generator_for": lambda: {"seed": 1, "step": 2, "device": "cpu"},
    "minibatch": lambda: {"n": 5, "batch_size": 2, "step": 3, "seed": 0},
}  # fmt: skip
ELSEWHERE = {
    "train_ppo",  # its arguments are those of the functions above
    "small_world",  # takes nothing
    "DPOConfig", "PPOConfig", "RewardConfig", "SFTConfig",  # bounds of settings: tests/run/test_setting.py
    "DPOOutput", "Demonstrations", "ExactReport", "Pairs", "Rollout",  # hold what they are given
}  # fmt: skip
OURS = {
    f.__name__: f
    for f in (rloo_advantages, grpo_advantages, group_policy_loss, mean_over, pass_at_k, best_success, coin_kl)
}


def function(name):
    return OURS.get(name) or getattr(week6, name)


def spoil_tensor(x):
    """Other dtypes, ranks, sizes and values; a tensor that stands for the first, one for any, element too."""
    x = x.detach()
    if x.ndim == 0:
        yield from (x, x[None], x.long(), x.bool(), x.to(torch.complex64), x.item(), None, "text")
        return
    yield from (
        x.double(),
        x.to(torch.bfloat16),
        x.half(),
        x.long(),
        x.bool(),
        x.to(torch.complex64),
        x.to(torch.uint8),
    )
    yield from (x[0], x[None], x[:0], x[..., :0], x[:1], x.transpose(0, -1), x.sum(), torch.cat([x, x]))
    yield x.new_zeros([0] * x.ndim)
    yield from (x.tolist(), x.numpy(), None, "text", 3, 0.5, True, [x], object())
    for value in (math.nan, math.inf, -math.inf, 1e30, -1e30, -1, 7, 10**9):
        for index in (0, -1, slice(None)):
            other = x.clone().float() if not x.dtype.is_floating_point and not math.isfinite(value) else x.clone()
            if other.dtype == torch.bool or (not other.dtype.is_floating_point and abs(value) > 10**18):
                other = other.double()
            other.view(-1)[index] = value
            yield other
    if x.dtype.is_floating_point:
        yield x.exp()
    else:
        yield torch.where(x.bool(), 0.5, 0.0)


def spoil(value):
    if isinstance(value, torch.Tensor):
        yield from spoil_tensor(value)
    elif isinstance(value, bool):
        yield from ()
    elif isinstance(value, int | float):
        yield from (
            0,
            -1,
            0.5,
            -0.5,
            1.5,
            math.nan,
            math.inf,
            -math.inf,
            10**30,
            "0.1",
            "text",
            None,
            [1],
            np.array([1, 2]),
        )
        yield from (
            True,
            torch.tensor(0.5),
            torch.tensor([0.5]),
            torch.tensor(math.nan),
            np.float64(0.3),
            1 + 2j,
            object(),
        )
    elif isinstance(value, str):
        yield from ("", "no such", None, 3, [value], b"x")
    elif isinstance(value, list):
        yield from ([], [None], value[:1], [*value, value[0]], value + [3], value + [None], "text", 3, None, {}, {1: 2})
        yield from (
            [[]],
            [["a"]],
            [[1.5]],
            [[math.nan]],
            [[10**30]],
            np.array([1, 2]),
            reals(2, 2),
            [reals(2)],
            iter(value),
        )
    elif isinstance(value, Rollout | Pairs):
        yield from (None, 3, "text", {}, vars(value), [value], value.rows(slice(0, 0)), value.rows(slice(0, 1)))
    else:
        yield from (None, 3, "text", {}, [value], object(), reals(2))
        if isinstance(value, torch.nn.Module):
            yield from (torch.nn.Linear(2, 2), week6.RewardModel(model()), week6.PolicyWithValue(model()))


def numbers_in(result):
    if isinstance(result, torch.Tensor):
        yield result
    elif isinstance(result, dict):
        yield from numbers_in(list(result.values()))
    elif isinstance(result, (tuple, list)):
        for part in result:
            yield from numbers_in(part)
    elif isinstance(result, float):
        yield torch.tensor(result)


def judge(name, arguments):
    """None if the call behaves, else what it did."""
    with torch.random.fork_rng():
        try:
            result = function(name)(**arguments)
            if inspect.isgenerator(result):
                result = list(result)
        except ValueError as error:
            text = str(error)
            names = set(inspect.signature(function(name)).parameters) | {"loss", "gradient", "logits", "n", "rows"}
            if names & set(re.findall(r"\w+", text.split(":")[0])) and re.search("got|expected", text):
                return None
            return f"ValueError without an argument: {text}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    if any(x.is_floating_point() and x.isnan().any() for x in numbers_in(result)):
        return "NaN without a word"
    return None


def test_every_exported_function_is_called():
    named = {name for name in week6.__all__ if callable(getattr(week6, name))}
    assert named == (set(CALLS) - set(OURS)) | ELSEWHERE


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_expected_is_a_value_error_or_right(name):
    assert judge(name, CALLS[name]()) is None and function(name)(**CALLS[name]()) is not None
    wrong = []
    for argument, value in CALLS[name]().items():
        for other in spoil(value):
            if verdict := judge(name, CALLS[name]() | {argument: other}):
                wrong.append(f"{argument} = {other!r:.80}: {verdict:.200}")
    assert not wrong, f"{len(wrong)} wrong\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_finite_is_told_by_its_own_name(name):
    for argument, value in CALLS[name]().items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            for bad in (math.nan, math.inf):
                other = value.clone()
                other.view(-1)[0] = bad
                try:
                    function(name)(**CALLS[name]() | {argument: other})
                except ValueError as error:
                    assert argument in str(error).partition(":")[0], f"{argument} = {other}: {error}"


@pytest.mark.parametrize("name", CALLS)
def test_no_count_is_below_nothing(name):
    """Sizes and steps; an axis may be counted from the end; seed, step and pad only name something."""
    for argument, value in CALLS[name]().items():
        if type(value) is int and argument not in ("dim", "seed", "step", "pad_id"):
            with pytest.raises(ValueError, match=rf"^[\w, ]*\b{argument}\b.*: got .*-1"):
                result = function(name)(**CALLS[name]() | {argument: -1})
                list(result) if inspect.isgenerator(result) else None


SAID_BY_NOBODY = {
    "dpo_loss": (week6.DPOConfig, {"beta": 0.1, "label_smoothing": 0}),  # Rafailov et al. 2023, appendix B
    "gae": (week6.PPOConfig, {"gamma": 1, "lam": 0.95}),  # Stiennon et al. 2020; Schulman et al. 2017, table 3
    "clipped_policy_loss": (week6.PPOConfig, {"clip": 0.2}),  # Schulman et al. 2017, table 3
    "clipped_value_loss": (week6.PPOConfig, {"clip": 0.2}),
    "sample": (week6.PPOConfig, {"temperature": 1}),  # the policy as it is
    "response_log_probs": (week6.PPOConfig, {"temperature": 1}),
    "group_policy_loss": (GRPOConfig, {"clip_low": 0.2, "clip_high": 0.2, "mean": "answer"}),  # Shao et al. 2024
}


@pytest.mark.parametrize("name", SAID_BY_NOBODY)
def test_where_nothing_is_said_a_function_and_its_config_mean_what_was_published(name):
    config, published = SAID_BY_NOBODY[name]
    parameters = inspect.signature(function(name)).parameters
    for argument, value in published.items():
        assert parameters[argument].default == getattr(config(), argument) == value


def test_grpo_has_its_own_leash_and_updates_once():
    """Shao et al. 2024, section 4.2; the other configs have the leash of DPO."""
    assert (GRPOConfig().beta, GRPOConfig().epochs, GRPOConfig().minibatches, GRPOConfig().temperature) == (
        0.04,
        1,
        1,
        1,
    )
    assert week6.PPOConfig().beta == week6.DPOConfig().beta


SIZES = st.lists(st.integers(0, 3), max_size=3)
VALUES = st.sampled_from([0.0, 1.0, -1.0, 0.5, -3.0, 1e4, -1e4, math.nan, math.inf, -math.inf, 1e38])
TENSORS = [name for name in CALLS if all(isinstance(x, torch.Tensor | float | int) for x in CALLS[name]().values())]


@pytest.mark.parametrize("name", TENSORS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_tensors_are_a_value_error_or_right(name, data):
    """All tensors at once: drawn shapes, one for all more often than not, and drawn values."""
    common = data.draw(SIZES)
    arguments = CALLS[name]()
    for argument, value in arguments.items():
        if isinstance(value, torch.Tensor):
            shape = data.draw(st.one_of(st.just(list(value.shape)), st.just(common), SIZES))
            drawn = data.draw(st.lists(VALUES, min_size=math.prod(shape), max_size=math.prod(shape)))
            arguments[argument] = torch.tensor(drawn, dtype=torch.float32).reshape(shape)
            if not value.dtype.is_floating_point:
                arguments[argument] = arguments[argument].nan_to_num(0, 3, -2).clamp(-2, 5).to(value.dtype)
    assert judge(name, arguments) is None


def world():
    return week6.ExactWorld(["a", "b"], 2, len)


METHODS = {
    "sequence": lambda: world().words(None),
    "n": lambda: world().prompts(None),
    "seed": lambda: world().new_policy(None),
    "policy": lambda: world().log_probs(None),
    "responses": lambda: world().index(torch.tensor([[0, 2]])),
    "rollout": lambda: world().score(None),
    "reference": lambda: world().sample_pairs(None, 3, GENERATOR),
    "input_ids": lambda: week6.RewardModel(model())(reals(2, 3), torch.ones(2, 3).bool()),
    "scores": lambda: week6.RewardModel(model()).calibrate([1.0, 2.0]),
    "answers": lambda: week6.PolicyWithValue(model())(None),
    "prompts": lambda: week6.encode_prompts(tokenizer(), ["\ud800"]),
    "rejected": lambda: week6.bradley_terry_loss(reals(3), reals(3).to_sparse()),
    "chosen": lambda: week6.bradley_terry_loss(reals(3).to("meta"), reals(3)),
    "log_probs": lambda: week6.sft_loss(torch.nested.nested_tensor([reals(2), reals(3)]), mask()),
}


@pytest.mark.parametrize("argument", METHODS)
def test_methods_and_odd_tensors_name_the_argument_too(argument):
    with pytest.raises(ValueError, match=f"^{argument}: (got|row 1) .*expected "):
        METHODS[argument]()


class TestKnownMistakes:
    """Calls that run in many programs and mean something else."""

    def test_log_probs_per_token_are_no_sums(self):
        with pytest.raises(
            ValueError, match=r"policy_chosen: got a tensor of float32 and shape \(3, 5\), expected .*\(B,\)"
        ):
            week6.dpo_loss(*(reals(3, 5) for _ in range(4)))

    def test_probabilities_are_no_logs(self):
        p = torch.tensor([0.5, 0.5])
        with pytest.raises(ValueError, match="log_p: got probabilities that sum to 3.297, expected 1"):
            week6.kl_divergence(p, p)

    def test_an_optimizer_of_another_model_would_train_nothing(self):
        for name in ("train_sft", "train_dpo", "train_reward_model"):
            with pytest.raises(ValueError, match="optimizer: got one of other weights, expected one of the model's"):
                list(function(name)(**CALLS[name]() | {"optimizer": optimizer(tiny_gpt2())}))
        with pytest.raises(ValueError, match="optimizer: got one of other weights"):
            week6.descend(sum(p.sum() for p in model().parameters()), model(), optimizer(tiny_gpt2()))

    def test_a_model_whose_weights_are_all_frozen(self):
        frozen = week6.RewardModel(model()).requires_grad_(False)
        own = torch.optim.AdamW(frozen.parameters())
        with pytest.raises(ValueError, match="model: got one without a weight that can be trained"):
            list(week6.train_reward_model(**CALLS["train_reward_model"]() | {"model": frozen, "optimizer": own}))

    def test_a_policy_is_not_its_own_leash(self):
        acting, asked = actor(), [batch()[name] for name in ("prompts", "prompt_mask")]
        for reference in (acting, acting.policy):
            steps = week6.train_ppo(
                acting, reference, len, *asked, optimizer(acting), week6.AdaptiveKL(1, 1, 9), week6.PPOConfig(), 0
            )
            with pytest.raises(ValueError, match="reference: got the policy that is trained, expected a frozen copy"):
                next(steps)

    def test_what_stands_at_padding_does_not_count(self):
        arguments = CALLS["clipped_policy_loss"]()
        right, stats = week6.clipped_policy_loss(**arguments)
        spoilt = {k: x.masked_fill(~mask(), math.nan) if k not in ("mask", "clip") else x for k, x in arguments.items()}
        again, same = week6.clipped_policy_loss(**spoilt)
        assert again == right and same == stats

    @pytest.mark.parametrize("margin", [math.nan, math.inf, torch.tensor([0.0, math.nan, 0.0])])
    def test_margins(self, margin):
        with pytest.raises(ValueError, match="margin: got 1 (NaN|infinite) values"):
            week6.bradley_terry_loss(reals(3), reals(3), margin)

    def test_lists_and_arrays_are_named(self):
        for other in ([1.0, 2.0, 3.0], np.ones(3)):
            with pytest.raises(
                ValueError, match="rejected: got (list|ndarray) .*, expected a tensor of floating-point"
            ):
                week6.bradley_terry_loss(reals(3), other)
        with pytest.raises(ValueError, match="beta: got str '0.1', expected a number"):
            week6.implicit_reward(reals(3), reals(3), "0.1")

    def test_a_score_that_is_no_number_is_said(self):
        reward_model = week6.RewardModel(tiny_gpt2())
        for scores, words in ((torch.tensor([1.0, math.nan]), "1 NaN values"), (torch.ones(3), "without spread")):
            with pytest.raises(ValueError, match=f"scores: got .*{words}"):
                reward_model.calibrate(scores)
