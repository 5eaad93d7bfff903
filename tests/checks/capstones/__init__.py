"""Answers to the capstones, right and wrong, one module a notebook.

RIGHT       right solutions in another style than the course's
MISTAKES    wrong ones, each complete and plausible
RECOGNISED  which symptom each of MISTAKES is told, where it is told one
UNSEEN      wrong ones that were written after the symptoms and the tolerances
"""
