"""The symptoms of notebook 08's capstone: what a mistake does to texts, mask, model, answers and figures."""

from week6.checks.symptoms_08_answers import OF_THE_ANSWERS
from week6.checks.symptoms_08_texts import OF_THE_TEXTS
from week6.checks.symptoms_08_training import OF_THE_TRAINING

SYMPTOMS = (*OF_THE_TEXTS, *OF_THE_TRAINING, *OF_THE_ANSWERS)
