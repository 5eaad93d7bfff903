"""The checks of the equations in the notebooks can fail: with one sign, factor or index altered, they do.

A row names a notebook, a fragment of its source that occurs once, and what to put in its place. The cell with the
fragment then runs, with the check that follows it and the earlier cells whose names they need; an AssertionError must
come. Unaltered, the same cells must pass.
"""

import dataclasses
import dis
import types

import jupytext
import matplotlib.pyplot as plt
import pytest

from tools.build_notebooks import ROOT, solution_text


@dataclasses.dataclass(frozen=True)
class Alteration:
    notebook: str
    fragment: str
    altered: str


ALTERATIONS: list[Alteration] = [
    Alteration("01_bradley_terry", "gumbel_cdf(delta + grid), grid)", "gumbel_cdf(grid - delta), grid)"),
    Alteration("01_bradley_terry", "combined = torch.exp(-small) * ", "combined = "),
    Alteration("01_bradley_terry", "1 / (1 + torch.exp(torch.tensor(-delta", "1 / (1 + torch.exp(torch.tensor(delta"),
    Alteration("01_bradley_terry", "p / (1 - p), torch.exp(r_a - r_b)", "p / (1 - p), torch.exp(r_b - r_a)"),
    Alteration("01_bradley_terry", "torch.tensor(delta / s)", "torch.tensor(delta * s)"),
    Alteration(
        "01_bradley_terry",
        "softmax[i] * torch.exp(-math.exp(-z) * rewards.exp().sum())",
        "softmax[i] * torch.exp(-math.exp(-z) * rewards[i].exp())",
    ),
    Alteration("01_bradley_terry", "probability(rewards[2], rewards[0])", "probability(rewards[0], rewards[2])"),
    Alteration("01_bradley_terry", "assert_close(slope, -torch.sigmoid(-d))", "assert_close(slope, -torch.sigmoid(d))"),
    Alteration("01_bradley_terry", "(torch.sigmoid(d) * torch.sigmoid(-d)).detach()", "torch.sigmoid(-d).detach()"),
    Alteration("01_bradley_terry", "-wins.sum() * as_list", "-as_list"),
    Alteration(
        "01_bradley_terry",
        "assert_close(lost, -torch.sigmoid(r_i - r_j)",
        "assert_close(lost, -torch.sigmoid(r_j - r_i)",
    ),
    Alteration(
        "01_bradley_terry", "assert_close(H, nu - torch.diag(nu.sum(1)))", "assert_close(H, nu + torch.diag(nu.sum(1)))"
    ),
    Alteration("01_bradley_terry", "v @ H @ v, -0.5 *", "v @ H @ v, -1.0 *"),
    Alteration("01_bradley_terry", "weights = wins.sum(dim=1) / rate", "weights = wins.sum(dim=0) / rate"),
    Alteration("01_bradley_terry", "torch.diag(nu.sum(1)) - nu\n", "torch.diag(nu.sum(1)) + nu\n"),
    Alteration("01_bradley_terry", "math.log(24 * 0.05 * k)", "math.log(12 * 0.05 * k)"),
    Alteration("01_bradley_terry", "- l2 / 2 * r.square().sum() for", "- l2 * r.square().sum() for"),
    Alteration("01_bradley_terry", "probability(three, three.roll(-1))", "probability(three, three[[1, 2, 1]])"),
    Alteration("01_bradley_terry", "(entropy + divergence)", "(entropy - divergence)"),
    Alteration("01_bradley_terry", "10 ** (-(elo[:, None]", "10 ** ((elo[:, None]"),
    Alteration("00_alignment", "abs(sum(parts.values()) - total)", "abs(max(parts.values()) - total)"),
    Alteration("00_alignment", "by_chance = p1 * p2 + (1 - p1) * (1 - p2)", "by_chance = p1 * p2"),
    Alteration("00_alignment", "many**2 + (1 - many) ** 2, 1 - 2 * many", "many**2 + (1 - many) ** 2, 1 - many"),
    Alteration("02_reward_model", "naive == last_index(mask) - 1", "naive == last_index(mask)"),
    Alteration("02_reward_model", "best_judge - ceiling(p)", "best_judge - (p**2 + (1 - p) ** 2).mean()"),
    Alteration("02_reward_model", "(3, 2)), F.pad(mask, (3, 2)))", "(3, 2)), F.pad(mask, (2, 3)))"),
    Alteration("02_reward_model", "generator=g) / math.sqrt(d + 1)", "generator=g) / (d + 1)"),
    Alteration("02_reward_model", "loss(both[:32], both[32:])", "loss(both[32:], both[:32])"),
    Alteration("02_reward_model", "agree * p_label + (1 - agree) * (1 - p_label)", "agree * p_label"),
    Alteration("02_reward_model", "assert_close(after, (before - mu) / s", "assert_close(after, (before + mu) / s"),
    Alteration("02_reward_model", "(u - u.mean()) / u.std(correction=0)", "u - u.mean()"),
    Alteration("03_rlhf_objective", "p * (q / p - 1), 0.0)", "p * (q / p + 1), 0.0)"),
    Alteration(
        "03_rlhf_objective",
        "(toy_reward_rows - beta * (log_pi - toy_ref_rows))",
        "(toy_reward_rows + beta * (log_pi - toy_ref_rows))",
    ),
    Alteration(
        "03_rlhf_objective",
        "(log_pi - toy_ref_rows - toy_reward_rows / beta)",
        "(log_pi - toy_ref_rows - toy_reward_rows * beta)",
    ),
    Alteration("03_rlhf_objective", "(toy_reward_rows / beta).exp() / Z", "(toy_reward_rows / beta).exp()"),
    Alteration(
        "03_rlhf_objective",
        "beta * kl_divergence(log_pi, pi_star.log())",
        "beta * kl_divergence(pi_star.log(), log_pi)",
    ),
    Alteration("03_rlhf_objective", "(J_star - J) / beta", "(J_star - J) * beta"),
    Alteration(
        "03_rlhf_objective",
        "(toy_reward[:5, None] - toy_reward[None, :5]) / b",
        "(toy_reward[:5, None] - toy_reward[None, :5]) * b",
    ),
    Alteration("03_rlhf_objective", "assert_close(dR / dD, betas", "assert_close(dR / dD, 1 / betas"),
    Alteration("03_rlhf_objective", "(2 * h * betas), -D", "(2 * h * betas), -R"),
    Alteration("03_rlhf_objective", "up_to**4 - below**4", "up_to**3 - below**3"),
    Alteration(
        "03_rlhf_objective",
        "integral, torch.tensor(math.log(n) - (n - 1) / n)",
        "integral, torch.tensor(math.log(n) - 1 / n)",
    ),
    Alteration("03_rlhf_objective", "log_zs[:, None] + distance(everything)", "log_zs[:, None] - distance(everything)"),
    Alteration(
        "03_rlhf_objective", "assert_close(expected(log_pi, d_t[:, t])", "assert_close(expected(log_pi, d_t[:, t - 1])"
    ),
    Alteration("03_rlhf_objective", "expected(log_pi, r_t.sum(-1))", "expected(log_pi, r_t[:, -1])"),
    Alteration("03_rlhf_objective", "u - 1 - u.log()", "u - 1 + u.log()"),
    Alteration("03_rlhf_objective", "(p5 * (-d5).exp() * log_policy())", "(p5 * d5.exp() * log_policy())"),
    Alteration("03_rlhf_objective", "(q * can).sum(-1) - 1)", "0 * q.sum(-1))"),
    Alteration("03_rlhf_objective", "(from_here * tokens)", "(d_t * tokens)"),
    Alteration("03_rlhf_objective", "(d_t * tokens).sum(1)))  # (30), right", "(from_here * tokens).sum(1)))"),
    Alteration("03_rlhf_objective", "toy_reward[:5] > log_z_one", "toy_reward[:5] > 1"),
    Alteration("03_rlhf_objective", "assert_close(g3, grad_kl_other)", "assert_close(g3, grad_kl)"),
    Alteration("03_rlhf_objective", "uniform), math.log(N) - entropy", "uniform), math.log(N) + entropy"),
    Alteration("03_rlhf_objective", "torch.zeros(5).double())  # (29), k1", "grad_kl)  # (29), k1"),
    Alteration("04_policy_gradients_ppo", "step_1 = reward @ grad_probs", "step_1 = -reward @ grad_probs"),
    Alteration("04_policy_gradients_ppo", "step_2 = probs[:, None] * grad_log_probs", "step_2 = grad_log_probs"),
    Alteration("04_policy_gradients_ppo", "by_formula[n, t, row, word] += 1", "by_formula[n, t, row, word] += 2"),
    Alteration("04_policy_gradients_ppo", "loss = -(reward[sampled] *", "loss = (reward[sampled] *"),
    Alteration(
        "04_policy_gradients_ppo",
        "best_b = ((probs * reward * squares).sum() / (probs * squares).sum())",
        "best_b = ((probs * reward).sum() / probs.sum())",
    ),
    Alteration("04_policy_gradients_ppo", "for s in range(t):", "for s in range(t + 1):"),
    Alteration("04_policy_gradients_ppo", "given_prefix(pay + next_of(values))", "given_prefix(pay - next_of(values))"),
    Alteration("04_policy_gradients_ppo", "lam ** (k - 1) * ahead(t, k) for k", "lam**k * ahead(t, k) for k"),
    Alteration("04_policy_gradients_ppo", "gamma**k * v[:, t + k] if", "gamma ** (k - 1) * v[:, t + k] if"),
    Alteration("04_policy_gradients_ppo", "answer_ratio = ratio.prod(dim=1)", "answer_ratio = ratio.sum(dim=1)"),
    Alteration("04_policy_gradients_ppo", "objective(theta_new) - J)", "J - objective(theta_new))"),
    Alteration(
        "04_policy_gradients_ppo",
        "torch.minimum(rho * td_error, by_28 * td_error)",
        "torch.maximum(rho * td_error, by_28 * td_error)",
    ),
    Alteration(
        "04_policy_gradients_ppo", "(ratio - 1 - ratio.log()).sum(dim=1)", "(ratio - 1 - ratio.log()).mean(dim=1)"
    ),
    Alteration(
        "04_policy_gradients_ppo", "reward_to_go(pay, mask, gamma), scores", "reward_to_go(pay, mask, 1.0), scores"
    ),
    Alteration("04_policy_gradients_ppo", "by_hand = 0.5 * torch", "by_hand = 1.0 * torch"),
    Alteration(
        "04_policy_gradients_ppo",
        "k3 = answer_ratio - 1 - answer_ratio.log()",
        "k3 = answer_ratio - 1 + answer_ratio.log()",
    ),
    Alteration(
        "04_policy_gradients_ppo",
        "shape_rewards(reward, log_probs.detach(), reference,",
        "shape_rewards(reward, reference, log_probs.detach(),",
    ),
    Alteration("06_dpo", "log_ref + reward / beta - Z.log()", "log_ref + reward / beta + Z.log()"),
    Alteration("06_dpo", "beta * (log_star - log_ref) + beta * Z.log()", "beta * (log_star - log_ref)"),
    Alteration("06_dpo", "its_reward = beta * (any_policy - log_ref)", "its_reward = beta * (log_ref - any_policy)"),
    Alteration(
        "06_dpo", "torch.tensor([False, False, True, True, True])", "torch.tensor([False, True, True, True, True])"
    ),
    Alteration(
        "06_dpo", "reward.gather(1, w) - reward.gather(1, lose)", "reward.gather(1, lose) - reward.gather(1, w)"
    ),
    Alteration("06_dpo", "pw + f / beta, pl + f / beta, rw", "pw + f / beta, pl - f / beta, rw"),
    Alteration("06_dpo", "flat + lengths / beta * (quality + c)  # (11)", "flat + (quality + c) / beta  # (11)"),
    Alteration("06_dpo", "by_autograd[0], -beta * weights", "by_autograd[0], beta * weights"),
    Alteration("06_dpo", "-beta * torch.sigmoid(-beta * h.detach())", "-beta * torch.sigmoid(beta * h.detach())"),
    Alteration("06_dpo", "full_loss(any_policy), noise + excess", "full_loss(any_policy), noise - excess"),
    Alteration("06_dpo", "(chosen + rejected) / 2, -beta *", "(chosen + rejected) / 2, -"),
    Alteration("06_dpo", "(chosen - rejected) / 2 - beta *", "(chosen - rejected) / 2 + beta *"),
    Alteration(
        "06_dpo",
        "kl_from_reference = kl_divergence(log_ref, log_pi)",
        "kl_from_reference = kl_divergence(log_pi, log_ref)",
    ),
    Alteration("06_dpo", "math.log((1 - e) / e) / b", "math.log((1 - e) / e) * b"),
    Alteration("06_dpo", "torch.tensor([1 / (2 * b)]", "torch.tensor([1 / b]"),
    Alteration(
        "06_dpo",
        "kl_divergence(q_experts, log_ref) - kl_divergence",
        "kl_divergence(q_experts, log_ref) + kl_divergence",
    ),
    Alteration("05_ppo", "scored = token_log_probs(z / temperature", "scored = token_log_probs(z * temperature"),
    Alteration("05_ppo", "[sum(row[:t]) for t in range(len(row))]", "[sum(row[: t + 1]) for t in range(len(row))]"),
    Alteration("05_ppo", "k1 = short.log_probs.sum(1) - ref_log_probs", "k1 = short.log_probs.sum(1) + ref_log_probs"),
    Alteration("05_ppo", "[s if done else penalty for", "[s if done else s + penalty for"),
    Alteration("05_ppo", "assert_close(by_log_prob, -white / n,", "assert_close(by_log_prob, -advantages / n,"),
    Alteration("05_ppo", "by_value, 0.1 * (values - returns) / n", "by_value, 0.1 * (returns - values) / n"),
    Alteration("05_ppo", "math.log(2) / math.log(1 + 0.2 * 256 / 10_000)", "math.log(2) / math.log(1 + 256 / 10_000)"),
    Alteration("08_chatbot", "by_hand = (counted / total)", "by_hand = (1 / total).expand(counted.shape)"),
    Alteration("08_chatbot", "(z.softmax(-1) - nn.functional.one_hot(targets, z", "(nn.functional.one_hot(targets, z"),
    Alteration("08_chatbot", "** 2).sum(1).div(M_ * (M_ - 1)).sqrt()", "** 2).sum(1).div(M_ - 1).sqrt()"),
    Alteration("08_chatbot", "share = (4 + 4 + 4) / TRAINED", "share = (2 + 4 + 4) / TRAINED"),
    Alteration("08_chatbot", "x @ W.T + scale * (x @ A.T) @ B.T", "x @ W.T + (x @ A.T) @ B.T"),
    Alteration("08_chatbot", "RANK * (m.in_features + m.out_features)", "RANK * m.in_features"),
    Alteration("08_chatbot", '(policies["sft"], c, 2 * config.n_layer *', '(policies["sft"], c, config.n_layer *'),
    Alteration("08_chatbot", "torch.arange(5), 2 * 3 * 2 * 8)", "torch.arange(5), 2 * 3 * 4 * 8)"),
    Alteration("08_chatbot", "c.masked_fill(~m, -100)", "c.masked_fill(m, -100)"),
    Alteration("07_frontier", "(2 * p - 1) / math.sqrt(2 * p * (1 - p))", "(2 * p - 1) / math.sqrt(p * (1 - p))"),
    Alteration("08_chatbot", "pi ** (1 / T) / (pi ** (1 / T)).sum()", "pi**T / (pi**T).sum()"),
    Alteration("07_frontier", "(ref + rewards / prices[:, None])", "(ref + rewards * prices[:, None])"),
    Alteration("07_frontier", "+ beta * k - reward, beta * distance", "+ beta * k - reward, distance"),
    Alteration("07_frontier", "n / (log_star.exp() * w).sum()", "n / (log_ref.exp() * w).sum()"),
    Alteration("07_frontier", "(2 * p + 1.96**2 / n) * end", "(2 * p - 1.96**2 / n) * end"),
    Alteration("07_frontier", "1.96**2 * end * (1 - end) / n", "1.96**2 * p * (1 - p) / n"),
    Alteration("07_frontier", "alpha_g / (2 * beta_g))", "alpha_g / beta_g)"),
    Alteration("07_frontier", "(alpha_g / beta_g - 1).exp()", "(alpha_g / beta_g).exp()"),
    Alteration("09_verifiable_rewards", "(K - 1) / K * true_gradient", "true_gradient"),
    Alteration("09_verifiable_rewards", "(advantages * log_pi).mean(1)", "(advantages * log_pi).sum(1)"),
    Alteration("09_verifiable_rewards", "unbiased, truth, abs_tol=1e-6", "plugged_in, truth, abs_tol=1e-6"),
    Alteration("09_verifiable_rewards", "c * (K - c) / (K**2 * spread)", "c * (K - c) / K**2"),
    Alteration("09_verifiable_rewards", "(2 * p.sqrt().arcsin()).sum()", "p.sqrt().arcsin().sum()"),
    Alteration("09_verifiable_rewards", "* log_pi[groups] / length[groups]).mean(1)", "* log_pi[groups]).mean(1)"),
    Alteration("09_verifiable_rewards", "(right - p_now) / length", "right / length"),
    Alteration("09_verifiable_rewards", "sum(part * m for part, m in", "sum(part for part, m in"),
    Alteration("09_verifiable_rewards", "(log_star.exp() * verdict).sum(-1))  # (14)", "verdict.mean(-1))"),
    Alteration("09_verifiable_rewards", "kl_divergence(log_star, log_ref))  # (15)", "nats.double() + 0.01)"),
    Alteration("09_verifiable_rewards", "verdict - 0.5 * (log_star - log_ref)", "verdict - (log_star - log_ref)"),
    Alteration("09_verifiable_rewards", "torch.logit(p_now) + 0.98 / 0.5", "torch.logit(p_now) + 1.0 / 0.5"),
]


def code_cells(source):
    """The code of a percent source, cell by cell, as in the solution edition."""
    cells = [cell for cell in jupytext.reads(source, fmt="py:percent").cells if cell.cell_type == "code"]
    return [solution_text(cell.source) for cell in cells if "student-only" not in cell.metadata.get("tags", [])]


def needed(cells, target, chosen):
    """The chosen cells and `target`, with the cells that define what these use, of those that these need, and so on."""
    chosen, wanted = {target, *chosen}, set()
    for i in reversed(range(target + 1)):
        used, defined = names(cells[i])
        if i in chosen or defined & wanted:
            chosen.add(i)
            wanted = (wanted - defined) | used
    return sorted(chosen)


def names(code):
    """What a cell uses from the cells before it, and what it defines."""
    used, defined = set(), set()
    pending = [compile(code, "cell", "exec")]
    while pending:  # the cell first, then the functions in it
        for instruction in dis.get_instructions(pending.pop(0)):
            if instruction.opname == "STORE_NAME":
                defined.add(instruction.argval)
            elif instruction.opname in ("LOAD_NAME", "LOAD_GLOBAL") and instruction.argval not in defined:
                used.add(instruction.argval)
            elif isinstance(instruction.argval, types.CodeType):
                pending.append(instruction.argval)
    return used, defined


def outcomes(source, fragment, altered):
    """Errors of the check of the altered cell, and then of the cell as it is; None where there is no error.

    The check is the first cell, from the altered one on, that asserts something.
    """
    cells = code_cells(source)
    places = [i for i, cell in enumerate(cells) if fragment in cell]
    assert [cells[i].count(fragment) for i in places] == [1], f"{fragment!r} must occur once, it is in cells {places}"
    place = places[0]
    check = next(i for i in range(place, len(cells)) if "assert" in cells[i])
    order = needed(cells, check, [place])
    before, rest = ([cells[i] for i in order if (i >= place) == later] for later in (False, True))
    found = []
    for first in (rest[0].replace(fragment, altered), rest[0]):
        # A namespace of its own, not a copy: what a cell gives a new value, the functions of earlier cells must see.
        namespace: dict = {"__name__": "notebook", "display": lambda *_: None}
        assert execute(before, namespace) is None
        found.append(execute([first, *rest[1:]], namespace))
    return found


def execute(cells, namespace):
    try:
        for cell in cells:
            exec(compile(cell, "cell", "exec"), namespace)
    except AssertionError as error:
        return error
    finally:
        plt.close("all")
    return None


@pytest.mark.parametrize("row", ALTERATIONS, ids=lambda row: f"{row.notebook}: {row.altered}")
def test_an_altered_equation_fails_its_check(row, monkeypatch):
    monkeypatch.delenv("WEEK6_STRICT", raising=False)
    source = (ROOT / "solutions" / f"{row.notebook}.py").read_text()
    of_altered, of_original = outcomes(source, row.fragment, row.altered)
    assert of_original is None, f"fails without being altered: {of_original}"
    assert of_altered is not None, "the altered equation passes"


EXAMPLE = """\
# %%
import torch

# %%
raise RuntimeError("a long training run that the check does not need")

# %%
x = torch.tensor([1.0, 2.0])

# %%
y = 2 * x

# %%
print("no check here")

# %%
torch.testing.assert_close(y, x + x)
"""


@pytest.mark.parametrize("altered", ["3 * x", "2 + x", "2 * x.flip(0)"])
def test_harness_sees_an_altered_equation(altered):
    of_altered, of_original = outcomes(EXAMPLE, "2 * x", altered)
    assert isinstance(of_altered, AssertionError) and of_original is None


def test_harness_sees_a_check_that_cannot_fail_and_one_that_always_does():
    assert outcomes(EXAMPLE, "2 * x", "x * 2") == [None, None]
    assert all(outcomes(EXAMPLE.replace("x + x", "x"), "2 * x", "3 * x"))


def test_harness_refuses_a_fragment_that_is_not_there_or_twice():
    for fragment in ("z", "x + x) # no", "torch"):
        with pytest.raises(AssertionError, match="must occur once"):
            outcomes(EXAMPLE, fragment, "")
