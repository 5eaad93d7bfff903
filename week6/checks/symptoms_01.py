"""The symptoms of notebook 01's capstone, in the order in which they are looked for."""

from week6.checks.symptoms_01_end import OF_THE_END, STOPPED_TOO_EARLY
from week6.checks.symptoms_01_table import OF_THE_TABLE
from week6.checks.symptoms_01_top import BY_PARTS, OF_THE_TOP

SYMPTOMS = (*OF_THE_TABLE, *OF_THE_TOP, *OF_THE_END, *BY_PARTS, STOPPED_TOO_EARLY)
