"""The drawings of notebook 02 show the numbers that came in."""

import numpy as np
import torch

from week6.pictures import scores


def test_loss_beside_accuracy_under_its_ceiling():
    left, right = scores.training([0.7, 0.5], {0: 0.5, 9: 0.8}, ceiling=0.9).axes
    assert left.get_lines()[0].get_ydata().tolist() == [0.7, 0.5]
    assert set(left.get_lines()[1].get_ydata()) == {np.log(2)}
    accuracy, ceiling, _ = right.get_lines()
    assert accuracy.get_xydata().tolist() == [[0, 0.5], [9, 0.8]]
    assert ceiling.get_label() == "Bayes ceiling" and set(ceiling.get_ydata()) == {0.9}


def test_a_box_for_each_kind_on_one_scale_for_all_groups():
    given = {"harmless": {"help": [1.0, 2.0, 6.0], "rude": [-1.0, 0.0, 1.0]}, "harmful": {"refuse": [9.0, 10.0, 11.0]}}
    panels = scores.scores_by_kind(given, "score").axes
    for axes, (group, kinds) in zip(panels, given.items(), strict=True):
        assert axes.get_title() == f"{group} requests"
        assert [label.get_text() for label in axes.get_xticklabels()] == list(kinds)
        medians = [set(line.get_ydata()) for line in axes.get_lines() if line.get_linewidth() == 2]
        assert medians == [{float(np.median(values))} for values in kinds.values()]
    assert panels[0].get_ylim() == panels[1].get_ylim() and panels[0].get_ylabel() == "score"


def test_politeness_has_a_line_for_gold_and_one_for_the_score():
    (axes,) = scores.politeness(torch.tensor([1.0, 2.0, 0.5]), [1.0, 2.5, 2.6]).axes
    gold, score = axes.get_lines()
    assert (gold.get_label(), gold.get_ydata().tolist()) == ("gold reward", [1.0, 2.0, 0.5])
    assert (score.get_label(), score.get_ydata().tolist()) == ("score of the reward model", [1.0, 2.5, 2.6])
    assert gold.get_linestyle() != score.get_linestyle()
