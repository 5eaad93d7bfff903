"""What the course's methods take beside other libraries, measured: `python -m tools.bench [PART ...]`.

Every measurement is a race of sides that do the same work: a process each, with one start, the same weights, tokens,
precision, optimizer and learning rates. They take turns, one step each, and which begins changes from round to round,
so that what else the machine does meets all of them alike. Before a step is timed their numbers must be equal: losses,
or sampled tokens. Ratios are medians over rounds, each of two steps that stood side by side.

- `cases`: what the work is, a model's shape and rows of so many tokens; `models` makes them, at random, for all sides
- `turns`: the processes, their turns, their clocks; `run` makes one measurement
- `ours`, `theirs`, `trl_ppo`: the sides: week6, TRL 1.16 and `generate`, the PPO of TRL 1.12.0
- `parts`: what is measured, by name, and how good it is wanted
- `report`: the tables and the picture
"""
