"""Measure the speed that the project promises, as ratios within one run.

Absolute times say more about the machine than about the code, so what is compared is timed
alternately in one process and given as a ratio. A file holds the cases of one family, named in its
CASES. To add a case: write a function that returns rows, and put it there.
"""
