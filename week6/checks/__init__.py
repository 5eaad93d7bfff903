"""Graders: one module a notebook (`nb00`, `nb01`, …) over one engine.

In a notebook: `from week6.checks import nb01 as check`, then `check.q1(my_function)`, `check.q1.hint()`,
`check.q1.solution()`, `loss = check.q1.or_ours(my_function)`.
"""
