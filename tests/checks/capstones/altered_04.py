"""Answers to the capstone of notebook 04 that are the course's own but for a place or two."""

from tests.checks.capstones.altered import altered
from week6.checks.capstone_04 import train_by_ppo

BATCH_DRAWN = """            old = language.log_probs(policy)
            y = torch.multinomial(old"""
MISTAKES = {
    "critic by token": altered(
        train_by_ppo,
        ("old_values = critic[language.rows[y]]", "old_values = critic[language.tokens[y]]"),
        ("value_loss(critic[language.rows[y]]", "value_loss(critic[language.tokens[y]]"),
    ),
    "drawn by the mean log-probability": altered(
        train_by_ppo, ("old.sum(1).exp()", "(old.sum(1) / language.mask.sum(1)).exp()")
    ),
    "samples one iteration old": altered(
        train_by_ppo,
        (
            "    for _ in range(iterations):\n",
            "    now = language.log_probs(policy).detach()\n    for _ in range(iterations):\n",
        ),
        (
            BATCH_DRAWN,
            BATCH_DRAWN.replace(
                "            y = torch.multinomial(old",
                "            before, now = now, old\n            y = torch.multinomial(before",
            ),
        ),
    ),
    "advantages anew at each step": altered(
        train_by_ppo,
        (
            "            policy_loss, _",
            "            raw_advantages, returns = gae(rewards, critic.detach()[language.rows[y]], mask)\n"
            "            advantages = masked_whiten(raw_advantages, mask)\n            policy_loss, _",
        ),
    ),
    "quotient of log-probabilities": altered(
        train_by_ppo,
        (
            "loss(language.log_probs(policy)[y], old,",
            "loss((language.log_probs(policy)[y].where(mask, -1.0) / old.where(mask, -1.0)).log(), 0 * old,",
        ),
    ),
    "starts at zeros": altered(train_by_ppo, ("reference.clone()", "reference.mul(0)")),
    "the reference itself is trained": altered(train_by_ppo, ("language.reference.clone()", "language.reference")),
    "yields the policy of before": altered(
        train_by_ppo,
        ("            y = torch", "            noted = policy.detach().clone()\n            y = torch"),
        ('"policy": policy.detach().clone()', '"policy": noted'),
    ),
    "bad tokens left out of the gain": altered(
        train_by_ppo, ("old, advantages, mask, clip)", "old, advantages.clamp(min=0), mask, clip)")
    ),
    "rare tokens preferred in the loss": altered(
        train_by_ppo,
        (
            "(policy_loss + value_loss)",
            "(policy_loss + value_loss + 0.3 * language.log_probs(policy)[y][mask].mean())",
        ),
    ),
    "a leash in the loss": altered(
        train_by_ppo,
        (
            "(policy_loss + value_loss)",
            "(policy_loss + value_loss + beta * (language.log_probs(policy)[y] - ref)[mask].square().mean())",
        ),
    ),
    "old log-probabilities of the first batch's policy": altered(
        train_by_ppo, ("language.log_probs(policy)[y], old, adv", "language.log_probs(policy)[y], ref, adv")
    ),
    "policy set back before the steps": altered(
        train_by_ppo,
        (
            "        for _ in range(epochs):\n",
            "        policy.data.copy_(language.reference)\n        for _ in range(epochs):\n",
        ),
    ),
}
RECOGNISED = {
    "bad tokens left out of the gain": "one sign of the advantages",
    "rare tokens preferred in the loss": "a constant beside the advantages",
    "a leash in the loss": "the leash in the loss",
    "old log-probabilities of the first batch's policy": "ratio to the reference",
    "policy set back before the steps": "right on the first batch only",
    "critic by token": "values of other tokens",
    "one advantage an answer": "one advantage an answer",
    "score minus the batch's mean": "the score less a mean",
    "score over β": "all of it times a number",
    "absolute log-ratio": "another estimate of the KL",
    "half of the squared log-ratio": "another estimate of the KL",
    "drawn by the mean log-probability": "other probabilities",
    "samples one iteration old": "samples one iteration old",
    "advantages anew at each step": "advantages anew at each step",
    "quotient of log-probabilities": "another ratio",
    "clipped above only": "no clip",
    "starts at zeros": "another start",
    "the reference itself is trained": "no leash",
    "rewards so far": "the past for the future",
    "yields the policy of before": "the policy of before",
}

# --- written after the symptoms and the tolerances --------------------------------------------------------------------

UNSEEN = {
    "mask of the first answers": altered(
        train_by_ppo, ("language.mask[y]", "language.mask[torch.arange(128) % len(language.mask)]")
    ),
    "rewards clipped": altered(train_by_ppo, ("mask, beta)\n", "mask, beta).clamp(-1, 1)\n")),
    "score added to the leash before the mask": altered(
        train_by_ppo,
        (
            "shape_rewards(language.scores[y], old, ref, mask, beta)",
            "shape_rewards(language.scores[y] * mask.sum(1), old, ref, mask, beta)",
        ),
    ),
    "leash against a fixed table of zeros": altered(
        train_by_ppo,
        ("language.log_probs(language.reference)[y]", "language.log_probs(torch.zeros_like(language.reference))[y]"),
    ),
    "advantages summed over the batch": altered(
        train_by_ppo, ("masked_whiten(raw_advantages, mask)", "masked_whiten(raw_advantages.cumsum(0), mask)")
    ),
    "gae without the old values in the returns": altered(
        train_by_ppo,
        (
            "        advantages = masked",
            "        returns = raw_advantages + critic.detach().mean()\n        advantages = masked",
        ),
    ),
    "policy and old swapped": altered(
        train_by_ppo,
        (
            "clipped_policy_loss(language.log_probs(policy)[y], old,",
            "clipped_policy_loss(2 * old - language.log_probs(policy)[y], old,",
        ),
    ),
    "eight times the same gradient": altered(
        train_by_ppo,
        (
            "            optimizer.zero_grad()\n",
            "            optimizer.zero_grad()\n            policy.data.copy_(policy.data)\n",
        ),
        (
            "language.log_probs(policy)[y], old, adv",
            "old + (language.log_probs(policy)[y] - language.log_probs(policy)[y].detach()), old, adv",
        ),
    ),
    "critic halves": altered(train_by_ppo, ("(policy_loss + value_loss)", "(policy_loss + 0.0 * value_loss)")),
    "values of the end token": altered(
        train_by_ppo,
        (
            "old_values = critic[language.rows[y]]",
            "old_values = critic[language.rows[y]] * (torch.arange(mask.shape[1]) < mask.sum(1, keepdim=True) - 1)",
        ),
    ),
    "learning rate by iteration": altered(
        train_by_ppo,
        (
            "    for _ in range(iterations):\n",
            "    for i in range(iterations):\n        optimizer.param_groups[0]['lr'] = 0.1 * 0.5**i\n",
        ),
    ),
}
