"""What the instruments of a wrong training by DPO show, and which idea is likely wrong."""

from week6.checks.dpo_symptoms_start import OF_THE_START
from week6.checks.dpo_symptoms_update import OF_THE_UPDATE

SYMPTOMS = (*OF_THE_START, *OF_THE_UPDATE)
