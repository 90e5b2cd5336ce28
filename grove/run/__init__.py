"""One run on disk: `settings` and `preset` say what was asked for, `folder` keeps it, `lock` guards it.

`interrupts` ends a run from outside, `summary` tells its figures.
"""
