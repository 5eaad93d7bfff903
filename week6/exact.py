"""The exact world: a language small enough to enumerate, in which every claim of the course can be checked.

A few words, sentences of fixed length, all of them listed; the policy is a real GPT-2 module over just these words.
For any policy the expected reward, the KL, the objective and the distance to the optimum are sums, not estimates.
"""

import copy
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from week6.dpo import DPOConfig, dpo_loss, train_dpo
from week6.log_probs import response_forward
from week6.machine import validate as check
from week6.machine.optim import generator_for, make_optimizer
from week6.objective import kl_divergence, optimal_policy, rlhf_objective
from week6.ppo import AdaptiveKL, PolicyWithValue, PPOConfig, train_ppo
from week6.preferences import preference_probability, sample_preferences
from week6.sequences import Pairs, Rollout, join_pairs


class ExactReport(NamedTuple):
    """Exact figures of one policy."""

    reward: float
    """E_π[r], reward units."""
    kl: float
    """KL(π ‖ π_ref), nats."""
    objective: float
    """J(π) = reward − β·kl, reward units."""
    gap: float
    """KL(π ‖ π*) = (J(π*) − J(π))/β, nats: 0 at the optimum only."""


class ExactWorld:
    """All sentences of `length` words over `vocab`, each with its reward.

    Attributes: `sequences` (N, T) token ids in lexicographic order, N = len(vocab)^length; `rewards` (N,) in float64.
    Token id i is word i. Word 0 also serves as the start token (the prompt): so the policy's vocabulary is exactly
    the world's, and its probabilities sum to 1 over the sentences. There is no EOS: all sentences have one length.
    """

    @check.arguments
    def __init__(self, vocab: Sequence[str], length: int, reward: Callable[[tuple[str, ...]], float]) -> None:
        check.texts(vocab=vocab)
        if len(set(vocab)) != len(vocab) or len(vocab) < 2:
            raise ValueError(f"vocab: got {list(vocab)}, expected at least two different words")
        check.whole("length", length)
        if len(vocab) ** length > 10_000:
            raise ValueError(
                f"vocab, length: got {len(vocab)}^{length} = {len(vocab) ** length} sentences, expected at most 10000"
            )
        self.vocab, self.length = list(vocab), length
        self.sequences: Int[Tensor, "N T"] = torch.tensor(
            list(itertools.product(range(len(self.vocab)), repeat=length))
        )
        scores = [reward(self.words(row)) for row in self.sequences]
        for row, score in zip(self.sequences, scores, strict=True):
            check.number(f"reward of {' '.join(self.words(row))}", score)
        self.rewards: Float[Tensor, " N"] = torch.tensor(list(map(float, scores)), dtype=torch.float64)
        check.no_nan(rewards=self.rewards)

    @check.arguments
    def words(self, sequence: Int[Tensor, " T"]) -> tuple[str, ...]:
        """The words of one row of token ids."""
        return tuple(self.vocab[i] for i in sequence.tolist())

    @check.arguments
    def prompts(self, n: int) -> tuple[Int[Tensor, "n 1"], Bool[Tensor, "n 1"]]:
        """The start token as n prompts, with their mask."""
        check.whole("n", n)
        return torch.zeros(n, 1, dtype=torch.long), torch.ones(n, 1, dtype=torch.bool)

    @check.arguments
    def new_policy(self, seed: int) -> GPT2LMHeadModel:
        """A freshly initialised GPT-2 of two layers and width 32 over this vocabulary, without dropout.

        Larger initial weights than GPT-2's own make it a reference with likes and dislikes, not a uniform one.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = GPT2Config(
                vocab_size=len(self.vocab),
                n_positions=self.length + 1,
                n_embd=32,
                n_layer=2,
                n_head=2,
                resid_pdrop=0.0,
                embd_pdrop=0.0,
                attn_pdrop=0.0,
                initializer_range=0.1,
                bos_token_id=0,
                eos_token_id=None,
            )
            policy = GPT2LMHeadModel(config)
        policy.eval()  # type: ignore[no-untyped-call]
        return policy

    @check.arguments
    def log_probs(self, policy: nn.Module) -> Float[Tensor, " N"]:
        """log π(y) of every sentence, in nats; differentiable; exp sums to 1."""
        # Sentences that differ in the last word only stand together; one forward pass of the first serves all of them.
        first = self.sequences[:: len(self.vocab)]
        mask = torch.ones_like(first, dtype=torch.bool)
        logits: Float[Tensor, "N/V T V"] = response_forward(policy, *self.prompts(len(first)), first, mask).logits
        log_p = logits.log_softmax(-1)
        beginning = log_p[:, :-1].gather(-1, first[:, :-1].unsqueeze(-1)).sum((1, 2))
        return (beginning.unsqueeze(1) + log_p[:, -1]).flatten()

    @check.arguments
    def index(self, responses: Int[Tensor, "B T"]) -> Int[Tensor, " B"]:
        """Row of each sentence in `sequences`."""
        if responses.shape[1] != self.length:
            raise ValueError(f"responses: got shape {tuple(responses.shape)}, expected (B, {self.length})")
        if ((responses < 0) | (responses >= len(self.vocab))).any():
            raise ValueError(f"responses: got tokens outside 0 to {len(self.vocab) - 1}, expected words of this world")
        place_value = len(self.vocab) ** torch.arange(self.length - 1, -1, -1)
        return (responses * place_value).sum(-1)

    @check.arguments
    def score(self, rollout: Rollout) -> Float[Tensor, " B"]:
        """The true reward of sampled sentences, for PPO."""
        return self.rewards[self.index(rollout.responses)].float()

    def report(self, policy: nn.Module | Tensor, reference: nn.Module | Tensor, beta: float) -> ExactReport:
        """Exact reward, KL, objective and gap to the optimum; policies as modules or as log-probabilities (N,).

        Raises ValueError for β ≤ 0 and for log-probabilities of another shape or that do not sum to 1.
        """
        with torch.no_grad():
            log_p, log_ref = self._exact("policy", policy), self._exact("reference", reference)
            best, _ = optimal_policy(log_ref, self.rewards, beta)
            return ExactReport(
                reward=float((log_p.exp() * self.rewards).sum()),
                kl=float(kl_divergence(log_p, log_ref)),
                objective=float(rlhf_objective(log_p, log_ref, self.rewards, beta)),
                gap=float(kl_divergence(log_p, best)),
            )

    def _exact(self, name: str, policy: nn.Module | Tensor) -> Float[Tensor, " N"]:
        """Log-probabilities in float64, freed of the fp32 rounding of their sum."""
        log_probs = policy if isinstance(policy, Tensor) else self.log_probs(policy)
        check.same_shape(rewards=self.rewards, **{name: log_probs})
        check.log_probabilities(name, log_probs)
        return log_probs.double().log_softmax(-1)

    @check.arguments
    def sample_pairs(self, reference: nn.Module, n: int, generator: torch.Generator) -> Pairs:
        """n pairs of sentences drawn from `reference` and labelled by Bradley–Terry annotators with the true reward."""
        with torch.no_grad():
            probabilities = self.log_probs(reference).exp()
        first, second = torch.multinomial(probabilities, 2 * n, replacement=True, generator=generator).chunk(2)
        keep = sample_preferences(self.rewards[first], self.rewards[second], generator)
        mask = torch.ones(n, self.length, dtype=torch.bool)
        return Pairs(
            *self.prompts(n),
            chosen=self.sequences[torch.where(keep, first, second)],
            chosen_mask=mask,
            rejected=self.sequences[torch.where(keep, second, first)],
            rejected_mask=mask,
        )


@check.arguments
def expected_dpo_loss(
    log_probs: Float[Tensor, " N"], ref_log_probs: Float[Tensor, " N"], rewards: Float[Tensor, " N"], beta: float
) -> Float[Tensor, ""]:
    """DPO's loss averaged over all N² pairs of answers and over the annotators: no sampling error.

        (2/N²) Σ_{a,b} p(a ≻ b) · L_DPO(chosen a, rejected b)

    Every pair of answers has weight, so the minimiser is π* itself: DPO with full coverage and infinite data.
    """
    check.same_shape(log_probs=log_probs, ref_log_probs=ref_log_probs, rewards=rewards)
    check.finite(log_probs - ref_log_probs + rewards, log_probs=log_probs, ref_log_probs=ref_log_probs, rewards=rewards)
    n = len(rewards)
    a, b = (i.flatten() for i in torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij"))
    loss = dpo_loss(log_probs[a], log_probs[b], ref_log_probs[a], ref_log_probs[b], beta).loss
    return 2 * (preference_probability(rewards[a], rewards[b]) * loss).mean()


def train_exact_ppo(world: ExactWorld, reference: GPT2LMHeadModel, config: PPOConfig, seed: int) -> GPT2LMHeadModel:
    """A copy of `reference` after PPO on the true reward, β fixed."""
    actor = PolicyWithValue(copy.deepcopy(reference))
    optimizer = make_optimizer(actor, config.learning_rate, eps=1e-5)
    controller = AdaptiveKL(config.beta, 1.0, config.horizon)  # without config.target_kl the target is unread
    prompts = world.prompts(config.batch_size)
    for _ in train_ppo(actor, reference, world.score, *prompts, optimizer, controller, config, seed):
        pass
    policy: GPT2LMHeadModel = actor.policy
    return policy


def train_exact_dpo(
    world: ExactWorld, reference: GPT2LMHeadModel, config: DPOConfig, n_pairs: int, seed: int, rounds: int = 1
) -> GPT2LMHeadModel:
    """A copy of `reference` after DPO on labelled pairs of sampled sentences.

    The pairs of the first round come from π_ref. A further round adds as many from the policy so far, which gives
    sentences that π_ref rarely says but π* often, and goes on training on all of them.
    """
    policy = copy.deepcopy(reference)
    pairs = world.sample_pairs(reference, n_pairs, generator_for(seed, 0))
    for i in range(rounds):
        if i > 0:
            pairs = join_pairs([pairs, world.sample_pairs(policy, n_pairs, generator_for(seed, i))])
        for _ in train_dpo(policy, reference, make_optimizer(policy, config.learning_rate), pairs, config, seed):
            pass
    return policy


def small_world() -> ExactWorld:
    """The course's standard world: six words, sentences of four, a taste for politeness; N = 1296."""

    def reward(words: tuple[str, ...]) -> float:
        sentence = " ".join(words)
        return (
            1.0 * (words[0] == "please")
            + 1.5 * ("thank you" in sentence)
            - 1.5 * ("go away" in sentence)
            - 0.5 * sum(a == b for a, b in itertools.pairwise(words))
        )

    return ExactWorld(["please", "thank", "you", "help", "go", "away"], 4, reward)
