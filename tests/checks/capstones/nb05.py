"""Answers to 5.6, one step of PPO."""

import copy

import torch

from tests.checks.capstones.altered import altered
from week6.checks.nb05 import answer_mask, ppo_step
from week6.checks.nb05 import token_rewards as ours
from week6.log_probs import response_log_probs
from week6.machine.optim import make_optimizer
from week6.sampling import sample
from week6.sequences import Rollout


def wrong(*changes, **names):
    return altered(ppo_step, *changes, **names)


# --- right ------------------------------------------------------------------------------------------------------------


def with_loops(actor, optimizer, reference, reward, prompts, prompt_mask, config, generator):
    """Rewards, GAE and whitening token by token; a plain loss, gradients not clipped."""
    actor.train(False)
    y = sample(actor.policy, prompts, prompt_mask, config.max_new_tokens, config.temperature, generator)
    with torch.no_grad():
        scores = torch.where(y.finished, reward(y), config.unfinished_penalty)
        old, values = actor(y, config.temperature)
        batch = (y.prompts, y.prompt_mask, y.responses, y.response_mask)
        ref = response_log_probs(reference, *batch, temperature=config.temperature)
    rewards, advantages = torch.zeros_like(values), torch.zeros_like(values)
    for i, length in enumerate(y.response_mask.sum(1).tolist()):
        for t in range(length):
            rewards[i, t] = -config.beta * (old[i, t] - ref[i, t]) + (scores[i] if t == length - 1 else 0)
        ahead = 0.0
        for t in reversed(range(length)):
            following = values[i, t + 1] if t + 1 < length else 0.0
            ahead = rewards[i, t] + config.gamma * following - values[i, t] + config.gamma * config.lam * ahead
            advantages[i, t] = ahead
    returns = advantages + values
    real = advantages[y.response_mask]
    whitened = (advantages - real.mean()) / real.std(correction=0)
    for _ in range(config.epochs):
        for part in range(config.minibatches):
            rows = torch.arange(part, len(y), config.minibatches)
            now, v = actor(y.rows(rows), config.temperature)
            a, keep, r = whitened[rows], y.response_mask[rows], returns[rows]
            rho = torch.exp(now - old[rows])
            policy = -torch.minimum(rho * a, rho.clamp(1 - config.clip, 1 + config.clip) * a)
            near = values[rows] + (v - values[rows]).clamp(-config.clip, config.clip)
            value = 0.5 * torch.maximum((v - r) ** 2, (near - r) ** 2)
            optimizer.zero_grad()
            (policy[keep].mean() + config.value_coef * value[keep].mean()).backward()
            optimizer.step()
    return dict(
        answers=y, scores=scores, ref_log_probs=ref, values=values, rewards=rewards, advantages=advantages,
        returns=returns, whitened=whitened,
    )  # fmt: skip


def with_an_optimizer_of_its_own(actor, optimizer, reference, reward, prompts, prompt_mask, config, generator):
    """Leaves the optimizer aside, and whitens each minibatch in the loss of exercise 5.3."""
    own = make_optimizer(actor, config.learning_rate, eps=1e-5)
    step = altered(
        ppo_step,
        (
            "policy_loss, _ = clipped_policy_loss(log_probs, part.log_probs, whitened[rows], mask[rows], config.clip)",
            "loss = update_loss(log_probs, new_values, part.log_probs, values[rows], advantages[rows], returns[rows], "
            "mask[rows], config.clip, config.value_coef)",
        ),
        (
            "value_loss, _ = clipped_value_loss(new_values, values[rows], returns[rows], mask[rows], config.clip)",
            "pass",
        ),
        ("descend(policy_loss + config.value_coef * value_loss, actor, optimizer)", "descend(loss, actor, optimizer)"),
    )
    return step(actor, own, reference, reward, prompts, prompt_mask, config, generator)


def with_a_sampler_of_its_own(actor, optimizer, reference, reward, prompts, prompt_mask, config, generator):
    """Samples token by token, from a forward pass over the whole row each time."""

    @torch.no_grad()
    def own_sample(policy, prompts, prompt_mask, max_new_tokens, temperature, generator):
        ids, real = prompts, prompt_mask
        eos = policy.config.eos_token_id
        alive = torch.ones(len(ids), dtype=torch.bool)
        for _ in range(max_new_tokens):
            places = (real.long().cumsum(1) - 1).clamp(min=0)
            logits = policy(input_ids=ids, attention_mask=real.long(), position_ids=places).logits[:, -1]
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
            token[~alive] = eos
            ids, real = torch.cat([ids, token], 1), torch.cat([real, alive[:, None]], 1)
            alive = alive & (token[:, 0] != eos)
        responses = ids[:, prompts.shape[1] :]
        mask = answer_mask(responses, eos)
        log_probs = response_log_probs(policy, prompts, prompt_mask, responses, mask, temperature)
        return Rollout(prompts, prompt_mask, responses, mask, log_probs, (responses == eos).any(1))

    step = altered(ppo_step, sample=own_sample)
    return step(actor, optimizer, reference, reward, prompts, prompt_mask, config, generator)


RIGHT = {
    "loops over tokens": with_loops,
    "own optimizer, loss of 5.3": with_an_optimizer_of_its_own,
    "own sampler": with_a_sampler_of_its_own,
}

# --- wrong ------------------------------------------------------------------------------------------------------------

SAMPLED = "config.max_new_tokens, config.temperature, generator)"
PAID = "scores, answers.finished, answers.log_probs, ref_log_probs, mask, config.beta, config.unfinished_penalty"
SHAPED = f"token_rewards(\n        {PAID}\n    )"
POLICY_LOSS = "clipped_policy_loss(log_probs, part.log_probs, whitened[rows], mask[rows], config.clip)"
VALUE_LOSS = "clipped_value_loss(new_values, values[rows], returns[rows], mask[rows], config.clip)"
WHITE = "masked_whiten(advantages, mask)"
DOWN = "descend(policy_loss + config.value_coef * value_loss, actor, optimizer)"


@torch.no_grad()
def likeliest(policy, prompts, prompt_mask, max_new_tokens, temperature, generator):
    """Greedy answers: logits so large that nothing else is ever drawn, but noted as the policy has them."""
    sharp = copy.deepcopy(policy)
    sharp.lm_head.weight = torch.nn.Parameter(100 * policy.lm_head.weight)
    y = sample(sharp, prompts, prompt_mask, max_new_tokens, temperature, generator)
    batch = (y.prompts, y.prompt_mask, y.responses, y.response_mask)
    return Rollout(*batch, response_log_probs(policy, *batch, temperature), y.finished)


def hides_the_eos(policy, *arguments):
    y = sample(policy, *arguments)
    mask = y.responses != policy.config.eos_token_id
    mask[:, 0] = True
    return Rollout(y.prompts, y.prompt_mask, y.responses, mask, y.log_probs * mask, y.finished)


def in_the_last_column(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0.0)
    rewards[:, -1] += torch.where(finished, scores, penalty)
    return rewards


def one_slot_late(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    rewards = torch.where(mask, -beta * (log_probs - ref_log_probs), 0.0)
    wider = torch.nn.functional.pad(rewards, (0, 1))
    wider[torch.arange(len(mask)), mask.sum(1)] += torch.where(finished, scores, penalty)
    return wider[:, :-1]


def without_zero_grad(loss, actor, optimizer):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(actor.parameters(), 1.0)
    optimizer.step()


def kl_at_the_end(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    k1 = torch.where(mask, log_probs - ref_log_probs, 0.0).sum(1)
    rewards = torch.zeros_like(log_probs)
    rewards[torch.arange(len(mask)), mask.sum(1) - 1] = torch.where(finished, scores, penalty) - beta * k1
    return rewards


def of_whole_answers(log_probs, old_log_probs, advantages, mask, clip):
    """One ratio an answer, for all of its tokens."""
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0).sum(1, keepdim=True).exp()
    worse = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    return worse[mask].mean(), {}


def whitened_by_row(advantages, mask):
    rows = [(a - a[m].mean()) / (a[m].std(correction=0) + 1e-4) * m for a, m in zip(advantages, mask, strict=True)]
    return torch.stack(rows)


@torch.no_grad()
def too_cool(policy, prompts, prompt_mask, max_new_tokens, temperature, generator):
    """Samples at half the temperature, noted as if they were at the whole."""
    y = sample(policy, prompts, prompt_mask, max_new_tokens, temperature / 2, generator)
    batch = (y.prompts, y.prompt_mask, y.responses, y.response_mask)
    return Rollout(*batch, response_log_probs(policy, *batch, temperature), y.finished)


def only_increases_charged(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    charged = torch.maximum(log_probs - ref_log_probs, torch.zeros_like(log_probs))
    return ours(scores, finished, charged, torch.zeros_like(charged), mask, beta, penalty)


def paid_by_length(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    return ours(scores / mask.sum(1), finished, log_probs, ref_log_probs, mask, beta, penalty)


MISTAKES = {
    "dropout left on": wrong(("actor.eval()", "pass")),
    "sampled at temperature 1": wrong((SAMPLED, "config.max_new_tokens, 1.0, generator)")),
    "the reference gives the answers": wrong(("sample(actor.policy", "sample(reference")),
    "greedy": wrong(sample=likeliest),
    "ids != pad": wrong(sample=hides_the_eos),
    "reference at temperature 1": wrong(
        ("answers.responses, mask, config.temperature\n", "answers.responses, mask\n"),
    ),
    "policy for reference": wrong(("    reference, answers.prompts", "    actor.policy, answers.prompts")),
    "sign of the KL": wrong(("answers.log_probs, ref_log_probs,", "ref_log_probs, answers.log_probs,")),
    "no leash": wrong((PAID, PAID.replace("config.beta", "0.0"))),
    "score one slot late": wrong(token_rewards=one_slot_late),
    "score in the last column": wrong(token_rewards=in_the_last_column),
    "no penalty": wrong((PAID, PAID.replace("answers.finished", "torch.ones_like(answers.finished)"))),
    "default γ and λ": wrong(("mask, config.gamma, config.lam)", "mask)")),
    "returns from whitened advantages": wrong(
        (f"whitened = {WHITE}", f"whitened = {WHITE}\n    returns = whitened + values"),
    ),
    "not whitened": wrong((WHITE, "advantages")),
    "whitened over padding": wrong((WHITE, WHITE.replace("mask)", "torch.ones_like(mask))"))),
    "gradient through the values": wrong(
        ("        _, values = actor(answers, config.temperature)\n", ""),
        ("    rewards = token", "    _, values = actor(answers, config.temperature)\n    rewards = token"),
        ("descend(", "descend_and_keep("),
        descend_and_keep=lambda loss, actor, optimizer: (
            optimizer.zero_grad(),
            loss.backward(retain_graph=True),
            optimizer.step(),
        ),
    ),  # fmt: skip
    "nothing moves": wrong((DOWN, "pass")),
    "old policy follows": wrong((POLICY_LOSS, POLICY_LOSS.replace("part.log_probs", "log_probs.detach()"))),
    "upwards": wrong((DOWN, DOWN.replace("descend(", "descend(-(").replace("value_loss,", "value_loss),"))),
    "policy loss subtracted": wrong((DOWN, DOWN.replace("policy_loss +", "-policy_loss +"))),
    "no value loss": wrong((DOWN, DOWN.replace(" + config.value_coef * value_loss", ""))),
    "value loss unscaled": wrong((DOWN, DOWN.replace("config.value_coef * ", ""))),
    "one pass": wrong(("range(config.epochs)", "range(1)")),
    "gradients add up": wrong(descend=without_zero_grad),
    "clip not handed on": wrong(
        (POLICY_LOSS, POLICY_LOSS.replace(", config.clip", "")), (VALUE_LOSS, VALUE_LOSS.replace(", config.clip", ""))
    ),
    "update at temperature 1": wrong(("actor(part, config.temperature)", "actor(part)")),
    "rows of another minibatch": wrong((POLICY_LOSS, POLICY_LOSS.replace("whitened[rows]", "whitened[: len(rows)]"))),
    "unfinished earn 0": wrong((PAID, PAID.replace("config.unfinished_penalty", "0.0"))),
    "penalty added to the score": wrong(
        ("= reward(answers)", "= reward(answers) - 2.0 * ~answers.finished"),
        (PAID, PAID.replace("answers.finished", "torch.ones_like(answers.finished)")),
    ),
    "KL at the last token": wrong(token_rewards=kl_at_the_end),
    "β forgotten": wrong((PAID, PAID.replace("config.beta", "1.0"))),
    "values stay 0": wrong(("_, values = actor(answers, config.temperature)", "values = 0 * ref_log_probs")),
    "values and log-probabilities swapped": wrong(("_, values = actor", "values, _ = actor")),
    "ratio upside down": wrong(
        (POLICY_LOSS, POLICY_LOSS.replace("log_probs, part.log_probs", "part.log_probs, log_probs"))
    ),
    "bad tokens wanted": wrong((POLICY_LOSS, POLICY_LOSS.replace("whitened[rows]", "-whitened[rows]"))),
    "returns are the rewards": wrong((VALUE_LOSS, VALUE_LOSS.replace("returns[rows]", "rewards[rows]"))),
    "returns whitened": wrong(
        (f"whitened = {WHITE}", f"whitened = {WHITE}\n    returns = masked_whiten(returns, mask)")
    ),
    "whitened by row": wrong(masked_whiten=whitened_by_row),
    "ratio of whole answers": wrong(clipped_policy_loss=of_whole_answers),
    "dropout on in the update": wrong((f"whitened = {WHITE}", f"whitened = {WHITE}\n    actor.train()")),
    "old values follow": wrong(
        (VALUE_LOSS, VALUE_LOSS.replace("values[rows], returns", "new_values.detach(), returns"))
    ),
    "two descents": wrong(
        (
            DOWN,
            "descend(policy_loss, actor, optimizer); descend(config.value_coef * "
            "clipped_value_loss(actor(part, config.temperature)[1], values[rows], returns[rows], "
            "mask[rows], config.clip)[0], actor, optimizer)",
        )
    ),
    "last minibatch only": wrong(("range(config.epochs)", "range(config.epochs - 1)")),
    "sampled too cool": wrong(sample=too_cool),
    "scores whitened": wrong(
        ("= reward(answers)", "= reward(answers)\n        scores = (scores - scores.mean()) / scores.std()")
    ),
    "score divided by the length": wrong(token_rewards=paid_by_length),
    "only increases charged": wrong(token_rewards=only_increases_charged),
    "advantages are returns": wrong((f"whitened = {WHITE}", f"advantages = returns\n    whitened = {WHITE}")),
    "λ is 1": wrong(("mask, config.gamma, config.lam)", "mask, config.gamma, 1.0)")),
    "values of the next token": wrong(("    rewards = token", "    values = values.roll(-1, 1)\n    rewards = token")),
    "half of the answers": wrong(("torch.randperm(len(answers)", "torch.randperm(len(answers) // 2")),
    "KL in the loss as well": wrong(
        (
            DOWN,
            DOWN.replace(
                "policy_loss +", "policy_loss + config.beta * (log_probs - ref_log_probs[rows]).sum(1).mean() +"
            ),
        )
    ),
    "no step of the optimizer": wrong((DOWN, "(policy_loss + config.value_coef * value_loss).backward()")),
    "advantages cut off at 1": wrong((f"= {WHITE}", f"= {WHITE}.clamp(-1, 1)")),
    "reference made anew": wrong(
        ("            reference, answers.prompts", "            copy.deepcopy(actor.policy), answers.prompts"),
        copy=copy,
    ),
    "sum for mean": wrong((DOWN, DOWN.replace("policy_loss +", "policy_loss * mask[rows].sum() +"))),
    "mask of ones": wrong(("mask = answers.response_mask", "mask = torch.ones_like(answers.response_mask)")),
    "bad tokens left out": wrong(("whitened[rows], mask", "whitened[rows].clamp(min=0), mask")),
    "steps of another optimizer": wrong(
        (
            "    for _ in range(config.epochs):\n",
            "    optimizer = torch.optim.SGD(actor.parameters(), lr=0.01)\n    for _ in range(config.epochs):\n",
        )
    ),
}
RECOGNISED = {
    "rows of another minibatch": "policy loss: something else",
    "ratio of whole answers": "policy loss: something else",
    "old values follow": "the critic's loss in later passes",
    "half of the answers": "policy loss: answers weighed differently",
    "bad tokens left out": "policy loss: one sign of the advantages",
    "steps of another optimizer": "right gradients, other steps",
    "returns are the rewards": "the critic's targets",
    "dropout left on": "dropout",
    "sampled at temperature 1": "temperature of sampling",
    "the reference gives the answers": "sampled from the reference",
    "greedy": "no samples",
    "ids != pad": "EOS hidden",
    "reference at temperature 1": "reference at another temperature",
    "policy for reference": "policy for reference",
    "sign of the KL": "sign of the KL",
    "no leash": "no leash",
    "score one slot late": "score one slot late",
    "score in the last column": "score in the last column",
    "no penalty": "unfinished answers",
    "default γ and λ": "γ and λ",
    "returns from whitened advantages": "returns from whitened advantages",
    "not whitened": "not whitened",
    "whitened over padding": "whitened over padding",
    "gradient through the values": "gradient through the targets",
    "nothing moves": "nothing moves",
    "old policy follows": "old policy follows",
    "upwards": "upwards",
    "policy loss subtracted": "upwards",
    "no value loss": "critic not trained",
    "value loss unscaled": "coefficient of the value loss",
    "one pass": "one pass",
    "gradients add up": "gradients add up",
    "clip not handed on": "clip",
    "update at temperature 1": "update at another temperature",
    "unfinished earn 0": "unfinished answers",
    "penalty added to the score": "unfinished answers",
    "KL at the last token": "shares of the tokens",
    "β forgotten": "price of KL",
    "values stay 0": "no critic",
    "ratio upside down": "policy loss: the sign",
    "bad tokens wanted": "policy loss: the sign",
    "dropout on in the update": "dropout",
    "whitened by row": "each answer whitened by itself",
    "two descents": "too many steps",
    "last minibatch only": "one pass",
    "sampled too cool": "sampled too cool",
    "scores whitened": "scores standardised",
    "score divided by the length": "score by length",
    "only increases charged": "another estimator",
    "advantages are returns": "returns for advantages",
    "λ is 1": "one of γ and λ",
    "values of the next token": "values of another token",
    "KL in the loss as well": "a penalty in the loss as well",
    "no step of the optimizer": "nothing moves",
    "advantages cut off at 1": "whitened otherwise",
    "reference made anew": "policy for reference",
    "sum for mean": "a sum over tokens",
    "mask of ones": "score in the last column",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------


def leash_upwards_only_at_the_end(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    rewards = ours(scores, finished, log_probs, ref_log_probs, mask, 0.0, penalty)
    return rewards - beta * torch.where(mask, log_probs - ref_log_probs, 0.0).mean(1, keepdim=True) * mask


def doubled_penalty(scores, finished, log_probs, ref_log_probs, mask, beta, penalty):
    return ours(
        scores + torch.where(finished, 0.0, penalty),
        torch.ones_like(finished),
        log_probs,
        ref_log_probs,
        mask,
        beta,
        penalty,
    )


def clip_on_one_side(log_probs, old_log_probs, advantages, mask, clip):
    ratio = (log_probs - old_log_probs).exp()
    return torch.maximum(-advantages * ratio, -advantages * ratio.clamp(max=1 + clip))[mask].mean(), {}


def log_ratio_for_ratio(log_probs, old_log_probs, advantages, mask, clip):
    d = log_probs - old_log_probs
    return torch.maximum(-advantages * d, -advantages * d.clamp(-clip, clip))[mask].mean(), {}


UNSEEN = {
    "lukewarm": wrong((SAMPLED, "config.max_new_tokens, 0.8 * config.temperature, generator)")),
    "answers cut at four tokens": wrong((SAMPLED, SAMPLED.replace("config.max_new_tokens", "4"))),
    "scores with the sign turned": wrong(("= reward(answers)", "= -reward(answers)")),
    "scores cut off": wrong(("= reward(answers)", "= reward(answers).clamp(-0.5, 0.5)")),
    "mean log-ratio at every token": wrong(token_rewards=leash_upwards_only_at_the_end),
    "penalty added": wrong(token_rewards=doubled_penalty),
    "half of β": wrong((PAID, PAID.replace("config.beta", "config.beta / 2"))),
    "γ and λ swapped": wrong(("mask, config.gamma, config.lam)", "mask, config.lam, config.gamma)")),
    "Monte Carlo": wrong(("mask, config.gamma, config.lam)", "mask, 1.0, 1.0)")),
    "whitened twice as wide": wrong((f"= {WHITE}", f"= 2 * {WHITE}")),
    "clip on one side": wrong(clipped_policy_loss=clip_on_one_side),
    "log-ratio for ratio": wrong(clipped_policy_loss=log_ratio_for_ratio),
    "critic on advantages": wrong((VALUE_LOSS, VALUE_LOSS.replace("returns[rows]", "advantages[rows]"))),
    "entropy bonus": wrong(
        (DOWN, DOWN.replace("policy_loss +", "policy_loss + 0.01 * log_probs[mask[rows]].mean() +"))
    ),
    "double passes": wrong(("range(config.epochs)", "range(2 * config.epochs)")),
    "rewards for advantages in the loss": wrong((POLICY_LOSS, POLICY_LOSS.replace("whitened[rows]", "rewards[rows]"))),
}
