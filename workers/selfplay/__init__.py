"""The self-play loop of one worker, the same for every evaluator and every pool.

`worker` drives its `group`s of games; `evaluators` and `direct` say where rows are evaluated, `row_kernels` does so
without a network; `game_scheduler` knows which games are next, `control_pipe` is the line to the supervisor, `job` what
a worker is told, `warm` and `stagger` prepare it.
"""
