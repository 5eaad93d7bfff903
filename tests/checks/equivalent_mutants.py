"""Mutants that do the same as the reference, with the reason. Key: question, and the changed line as it then reads."""

EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "nb00.q6",
        "probability = (forecast(tokens) / temperature).softmax(1)",
    ): "the last of two axes is axis 1",
    ("nb00.q6", "borders = probability.cumsum(1)[:, :-1]"): "the last of two axes is axis 1",
    ("nb00.q6", "token = (borders <= numbers[:, t:t + 1]).sum(1)"): "the last of two axes is axis 1",
    ("nb00.q6", "token = (borders < numbers[:, t:t + 1]).sum(-1)"): "a random number falls on no border",
    ("nb01.q2", "log_sum_of_rest = rewards.flip(-1).logcumsumexp(-1)"): "a sum over the places has no order",
    (
        "nb01.q5",
        "step_size = 2 / (wins + wins.T).sum(dim=1).min()",
    ): "gradient ascent with another step that still arrives",
    ("nb01.q5", "step_size = 2 / wins.T.sum(dim=1).max()"): "gradient ascent with another step that still arrives",
    ("nb01.q5", "step_size = 2 / wins.sum(dim=1).max()"): "gradient ascent with another step that still arrives",
    (
        "nb01.q5",
        "step_size = 3 / (wins + wins.T).sum(dim=1).max()",
    ): "gradient ascent with another step that still arrives",
    ("nb01.q5", "return (wins - expected).mean(dim=1)"): "gradient ascent with another step that still arrives",
    (
        "nb01.q5",
        "step_size = 2 / (wins + wins.T).sum(dim=0).max()",
    ): "the number of comparisons is the same in both directions",
    ("nb01.q5", "def fit_strengths(wins, steps=501):"): "one more step, long after it has arrived",
    (
        "nb02.q1",
        "columns = torch.arange((attention_mask == 0).to(attention_mask.dtype).shape[1], device=attention_mask.device)",
    ): "the shape of a mask is that of its opposite",
    (
        "nb02.q1",
        "columns = torch.arange(attention_mask.shape[1], device=(attention_mask == 0).to(attention_mask.dtype).device)",
    ): "the device of a mask is that of its opposite",
    ("nb02.q1", "return (attention_mask.long() * columns).argmax(1)"): "the last of two axes is axis 1",
    ("nb02.q4", "return torch.maximum(1 - probability, probability).mean()"): "a maximum has no order",
    ("nb02.q6", "seen = look(v)"): "a look takes no gradient",
    ("nb02.q6", "best, best_at, lowest = (v.clone(), step, seen)"): "the gradient of what is kept is not asked for",
    ("nb03.q1", "return (p * torch.where(p > 0, log_p - log_q, 1.0)).sum(dim)"): "times p, which is 0 there",
    ("nb03.q2", "return (p * torch.where(p > 0, log_p - log_q, 1.0)).sum(dim)"): "times p, which is 0 there",
    ("nb04.q2", "rewards, values = (torch.where(real, rewards, 1), torch.where(real, values, 0))"): (
        "the advantage is set to 0 at padding afterwards, and the reward of a padded token enters nothing else"
    ),
    ("nb04.q3", "return masked_mean(torch.maximum(clipped, unclipped), mask)"): "a maximum has no order",
    (
        "nb04.q5",
        "total, count = (x.sum(), mask.sum())",
    ): "masked_whiten calls masked_mean without dim, so what stands behind `else` is never used",
    ("nb04.q5", "total, count = (x.sum(), mask.sum()) if dim is None else (x.mean(dim), mask.sum(dim))"): (
        "masked_whiten calls masked_mean without dim, so what stands behind `else` is never used"
    ),
    (
        "nb04.q5",
        "total, count = (x.sum(), mask.sum()) if dim is None else (x.sum(dim), (mask == 0).to(mask.dtype).sum(dim))",
    ): "masked_whiten calls masked_mean without dim, so what stands behind `else` is never used",
    ("nb04.q5", "total, count = (x.sum(), mask.sum()) if dim is None else (x.sum(dim), mask.mean(dim))"): (
        "masked_whiten calls masked_mean without dim, so what stands behind `else` is never used"
    ),
    ("nb04.q5", "total, count = (x.sum(dim), mask.sum(dim))"): "x.sum(None) sums over everything",
    ("nb04.q5", "white = (x - mean) * torch.rsqrt(variance + 2e-08)"): (
        "the small number only keeps the root from 0; its exact size and place are left free"
    ),
    ("nb05.q4", "error = min(max(-0.2, kl / target - 1), 0.2)"): "the larger of two numbers has no order",
    ("nb06.q1", "return torch.where(response_mask[:, 1:], of_tokens, 0.0).sum(1)"): "the last of two axes is axis 1",
    ("nb08.q2", "begun = (tokens == assistant_id).long().cumsum(1)"): "tokens have two axes: the last is 1",
    ("nb08.q2", "ended = (tokens == end_id).long().cumsum(1)"): "tokens have two axes: the last is 1",
    ("nb08.q2", "return torch.cat([before, inside[:, :-1]], dim=1)"): "tokens have two axes: the last is 1",
    (
        "nb07.q3",
        "return float(betas[torch.where(allowed, reward.sum(0), -torch.inf).argmax()])",
    ): "the highest sum over the seeds is the highest mean",
    (
        "nb09.q3",
        "surrogate = torch.maximum(-advantage * ratio.clamp(1 - clip_low, 1 + clip_high), -advantage * ratio)",
    ): "the larger of two numbers has no order",
    (
        "nb10.q3",
        "loss = (log_ref.exp() * (wins * torch.sigmoid(-u) + (1 - wins) * torch.sigmoid(u))).mean()",
    ): "Adam's steps do not depend on the size of the loss",
    ("nb10.q3", "return theta.log_softmax(-1)"): "the same numbers, with a gradient that nobody takes",
}
