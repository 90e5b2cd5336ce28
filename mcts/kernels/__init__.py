"""The compiled part of the search: functions over flat arrays of records, none of which knows a class of ours.

`layout` draws the memory; `descend` walks to leaves, `expand` makes nodes of answers, `reroot` keeps a subtree, `moves`
reads results, `cache` remembers evaluations, `rows` and `softmax` serve them; `bound` fixes their argument types.
"""
