"""Submitted notebooks graded: each in a process of its own, which is believed nothing; verdicts are made outside of it.

notebook reads a file, needed picks what an answer needs of it, worker runs that inside the walls of jail, remote hands
the graders of week6.checks a function that asks the worker over a pipe (wire), marking makes the verdicts, and table,
pages and picture show them. command is `week6 grade`.
"""
