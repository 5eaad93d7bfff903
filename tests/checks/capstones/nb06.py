"""Answers to 6.6, the training loop of DPO."""

import torch
import torch.nn.functional as F

from tests.checks.capstones.altered import altered
from week6.checks.nb06 import train_on_pairs
from week6.dpo import pair_log_probs
from week6.log_probs import response_log_probs
from week6.machine.optim import make_optimizer


def wrong(*changes, **names):
    return altered(train_on_pairs, *changes, **names)


# --- right ------------------------------------------------------------------------------------------------------------


def with_an_optimizer_of_its_own(policy, reference, optimizer, pairs, config, seed):
    """Own optimizer, own shuffling, two forward passes, no clipping; gives a list in place of a generator."""
    policy.train(False)
    own = make_optimizer(policy, config.learning_rate)
    order = torch.Generator().manual_seed(seed)

    def log_prob(model, rows, kind):
        batch = pairs.rows(rows)
        answer = getattr(batch, kind), getattr(batch, f"{kind}_mask")
        return response_log_probs(model, batch.prompts, batch.prompt_mask, *answer).sum(1)

    everything = torch.arange(len(pairs))
    with torch.no_grad():
        ref = {kind: log_prob(reference, everything, kind) for kind in ("chosen", "rejected")}
    history, waiting = [], []
    for _ in range(config.steps):
        while len(waiting) < config.batch_size:
            waiting += torch.randperm(len(pairs), generator=order).tolist()
        rows, waiting = torch.tensor(waiting[: config.batch_size]), waiting[config.batch_size :]
        won, lost = (config.beta * (log_prob(policy, rows, kind) - ref[kind][rows]) for kind in ("chosen", "rejected"))
        loss = F.softplus(lost - won).mean()
        history.append(
            dict(loss=loss.detach(), margin=(won - lost).detach().mean(), accuracy=(won > lost).double().mean(),
                 chosen_reward=won.detach().mean(), rejected_reward=lost.detach().mean())
        )  # fmt: skip
        own.zero_grad()
        loss.backward()
        own.step()
    return history


def in_halves(policy, reference, optimizer, pairs, config, seed):
    """The reference asked when a pair is first met, and remembered; gradients summed up over halves of the batch."""
    policy.eval()
    known = torch.full((2, len(pairs)), torch.nan)
    generator, rows = torch.Generator().manual_seed(seed + 1), torch.empty(0, dtype=torch.long)
    for _ in range(config.steps):
        if len(rows) < config.batch_size:
            rows = torch.randperm(len(pairs), generator=generator)
        batch, rows = rows[: config.batch_size], rows[config.batch_size :]
        new = batch[known[0, batch].isnan()]
        if len(new):
            with torch.no_grad():
                known[:, new] = torch.stack(pair_log_probs(reference, pairs.rows(new)))
        optimizer.zero_grad()
        rewards = []
        for half in batch.chunk(2):
            of_half = config.beta * (torch.stack(pair_log_probs(policy, pairs.rows(half))) - known[:, half])
            (-(of_half[0] - of_half[1]).sigmoid().log().sum() / len(batch)).backward()
            rewards.append(of_half.detach())
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        won, lost = torch.cat(rewards, 1)
        yield {
            "loss": float(F.softplus(lost - won).mean()),
            "margin": float((won - lost).mean()),
            "accuracy": float((won > lost).float().mean()),
            "chosen_reward": float(won.mean()),
            "rejected_reward": float(lost.mean()),
        }


RIGHT = {"own optimizer and order": with_an_optimizer_of_its_own, "in halves": in_halves}

# --- wrong ------------------------------------------------------------------------------------------------------------

LOSS = "preference_loss(chosen, rejected, ref_chosen[rows], ref_rejected[rows], config.beta).mean()"
ASKED = "chosen, rejected = pair_log_probs(policy, pairs.rows(rows))"
FIXED = "ref_chosen, ref_rejected = reference_log_probs(reference, pairs)"


def means(model, pairs):
    answers = ((pairs.chosen, pairs.chosen_mask), (pairs.rejected, pairs.rejected_mask))
    return [response_log_probs(model, pairs.prompts, pairs.prompt_mask, *a).sum(1) / a[1].sum(1) for a in answers]


def without_zero_grad(loss, model, optimizer):
    loss.backward()
    optimizer.step()


MISTAKES = {
    "dropout left on": wrong(("policy.eval()", "pass")),
    "no reference": wrong(
        (LOSS, LOSS.replace("ref_chosen[rows]", "0 * ref_chosen[rows]").replace("ref_rej", "0 * ref_rej"))
    ),
    "reference asked is the policy": wrong(
        (ASKED, f"{ASKED}\n        ref_chosen, ref_rejected = reference_log_probs(policy, pairs)")
    ),
    "reference with gradient": wrong((LOSS, LOSS.replace("ref_chosen[rows], ref_rejected[rows]", "chosen, rejected"))),
    "swapped": wrong((ASKED, ASKED.replace("chosen, rejected =", "rejected, chosen ="))),
    "upwards": wrong(("descend(loss, policy", "descend(-loss, policy")),
    "means": wrong(
        (FIXED, FIXED.replace("reference_log_probs", "means")),
        (ASKED, ASKED.replace("pair_log_probs", "means")),
        means=means,
    ),
    "β forgotten": wrong((LOSS, LOSS.replace("config.beta", "1.0"))),
    "β of the paper": wrong((LOSS, LOSS.replace("config.beta", "0.1"))),
    "rejected detached": wrong((LOSS, LOSS.replace("chosen, rejected,", "chosen, rejected.detach(),"))),
    "nothing moves": wrong(("descend(loss, policy, optimizer)", "loss.backward()")),
    "reference at every step": wrong((ASKED, f"{ASKED}\n        {FIXED}")),
    "the same minibatch": wrong(("config.batch_size, step, seed)", "config.batch_size, 0, seed)")),
    "metrics after the update": wrong(
        ("        descend(loss, policy, optimizer)\n", ""),
        (
            "        chosen_reward =",
            "        descend(loss, policy, optimizer)\n        with torch.no_grad():\n"
            f"            {ASKED}\n        loss = {LOSS}\n        chosen_reward =",
        ),
    ),
    "margins in nats": wrong(
        ("reward_inside(chosen.detach(), ref_chosen[rows], config.beta)", "chosen.detach() - ref_chosen[rows]"),
        ("reward_inside(rejected.detach(), ref_rejected[rows], config.beta)", "rejected.detach() - ref_rejected[rows]"),
    ),
    "the reference is trained": wrong(
        (FIXED, f"{FIXED}\n    reference.requires_grad_(True)"),
        ("pair_log_probs(policy, pairs.rows(rows))", "pair_log_probs(reference, pairs.rows(rows))"),
        (
            "descend(loss, policy, optimizer)",
            "descend(loss, reference, torch.optim.Adam(reference.parameters(), 1e-3))",
        ),
    ),
    "one step only": wrong(("range(config.steps)", "range(1)")),
    "reference twice": wrong(
        (LOSS, LOSS.replace("ref_chosen[rows], ref_rejected[rows]", "2 * ref_chosen[rows], 2 * ref_rejected[rows]"))
    ),
    "references crossed": wrong(
        (LOSS, LOSS.replace("ref_chosen[rows], ref_rejected[rows]", "ref_rejected[rows], ref_chosen[rows]"))
    ),
    "sum of losses": wrong((LOSS, LOSS.replace(".mean()", ".sum()"))),
    "reference of other rows": wrong(
        (
            LOSS,
            LOSS.replace("ref_chosen[rows], ref_rejected[rows]", "ref_chosen[: len(rows)], ref_rejected[: len(rows)]"),
        )
    ),
    "sigmoid without log": wrong(
        (LOSS, "-torch.sigmoid(config.beta * (chosen - rejected - ref_chosen[rows] + ref_rejected[rows])).mean()")
    ),
    "hinge": wrong(
        (LOSS, "torch.relu(1 - config.beta * (chosen - rejected - ref_chosen[rows] + ref_rejected[rows])).mean()")
    ),
    "reference rewards swapped": wrong(
        (
            "reward_inside(chosen.detach(), ref_chosen[rows], config.beta)",
            "reward_inside(chosen.detach(), ref_rejected[rows], config.beta)",
        )
    ),
    "β twice": wrong((LOSS, LOSS.replace("config.beta", "config.beta**2"))),
    "half of the steps": wrong(("range(config.steps)", "range(config.steps // 2)")),
    "chosen twice": wrong((LOSS, LOSS.replace("chosen, rejected,", "chosen, chosen,"))),
    "two steps a batch": wrong(
        (
            "        descend(loss, policy, optimizer)\n",
            f"        descend(loss, policy, optimizer)\n        {ASKED}\n        descend({LOSS}, policy, optimizer)\n",
        )
    ),
    "gradients add up": wrong(descend=without_zero_grad),
    "accuracy of losses": wrong(("(margin > 0)", "(margin < 0)")),
    "a constant yielded": wrong(('"margin": margin.mean().item()', '"margin": 0.0')),
    "first pairs only": wrong(("minibatch(len(pairs),", "minibatch(config.batch_size,")),
}
RECOGNISED = {
    "dropout left on": "dropout",
    "no reference": "no reference",
    "reference asked is the policy": "the reference is the policy",
    "reference with gradient": "the reference is the policy",
    "swapped": "references crossed",
    "upwards": "upwards",
    "means": "means",
    "β forgotten": "β",
    "β of the paper": "β",
    "rejected detached": "chosen only",
    "nothing moves": "nothing moves",
    "reference at every step": "the reference asked again and again",
    "the same minibatch": "always the same pairs",
    "metrics after the update": "metrics after the update",
    "margins in nats": "rewards without β",
    "the reference is trained": "the reference is trained",
    "one step only": "too few steps",
    "reference twice": "an unbalanced margin",
    "references crossed": "references crossed",
    "sum of losses": "a sum of losses",
    "reference of other rows": "not log 2 at the start",
    "sigmoid without log": "no logarithm",
    "hinge": "a loss of another kind",
    "β twice": "β",
    "half of the steps": "too few steps",
    "chosen twice": "an unbalanced margin",
    "two steps a batch": "several steps a batch",
    "gradients add up": "gradients add up",
    "accuracy of losses": "accuracy turned round",
    "a constant yielded": "a metric of zero",
    "first pairs only": "always the same pairs",
    "reference rewards swapped": "the chosen reward alone",
}


# --- written after the symptoms and the tolerances --------------------------------------------------------------------

LOG_SIGMA = "torch.nn.functional.logsigmoid"
MARGIN = "config.beta * (chosen - rejected - ref_chosen[rows] + ref_rejected[rows])"

UNSEEN = {
    "margin squared": wrong((LOSS, f"-torch.nn.functional.logsigmoid({MARGIN} ** 2).mean()")),
    "exponential loss": wrong((LOSS, f"torch.exp(-{MARGIN}).mean()")),
    "loss of the mean margin": wrong((LOSS, f"-torch.nn.functional.logsigmoid(({MARGIN}).mean())")),
    "label smoothing": wrong(
        (
            LOSS,
            f"-(0.9 * {LOG_SIGMA}({MARGIN}) + 0.1 * {LOG_SIGMA}(-{MARGIN})).mean()",
        )
    ),
    "SFT on the chosen answers": wrong((LOSS, "-chosen.mean()")),
    "DPO with SFT": wrong((LOSS, f"{LOSS} - 0.1 * chosen.mean()")),
    "weights decay": wrong(
        (
            "descend(loss, policy, optimizer)",
            "descend(loss + 0.1 * sum(w.square().sum() for w in policy.parameters()), policy, optimizer)",
        )
    ),
    "head only": wrong(
        (
            "policy.eval()",
            "policy.eval(); [w.requires_grad_(False) for n, w in policy.named_parameters() if n[-1] == 's']",
        )
    ),
    "double the steps": wrong(("range(config.steps)", "range(2 * config.steps)")),
    "half of the batch": wrong(("config.batch_size, step", "config.batch_size // 2, step")),
    "loss per β": wrong((LOSS, f"{LOSS} / config.beta")),
    "accuracy of the chosen reward": wrong(("(margin > 0)", "(chosen_reward > 0)")),
    "sum of the rewards for the margin": wrong(
        ('"margin": margin.mean().item()', '"margin": (chosen_reward + rejected_reward).mean().item()')
    ),
    "rewards without the reference": wrong(
        ("reward_inside(chosen.detach(), ref_chosen[rows], config.beta)", "config.beta * chosen.detach()")
    ),
}
