"""What the instruments of a wrong step of PPO show, and which idea is likely wrong."""

from week6.checks.ppo_symptoms_advantages import OF_THE_ADVANTAGES
from week6.checks.ppo_symptoms_gradients import OF_THE_GRADIENTS
from week6.checks.ppo_symptoms_rewards import OF_THE_REWARDS
from week6.checks.ppo_symptoms_update import OF_THE_UPDATE

SYMPTOMS = (*OF_THE_REWARDS, *OF_THE_ADVANTAGES, *OF_THE_UPDATE, *OF_THE_GRADIENTS)
