"""From verdicts to numbers: pure functions of scores, each with its source.

scores        arranged by condition, prompt set and prompt; unscored is counted, never zero
summaries     what is reported of one condition
intervals, comparisons, flips, bounds   means, shares, differences, worst cases
confirmation  the best of several, without the winner's curse
tiers, transfer   one tier of prompts against another
agreement, judge_noise   raters among each other, a judge with itself
"""
