"""Analysis: why a job took as long as it did, what failed, what changed. One module per question.

Functions of read-only connections, computed in SQL (`sql/*.sql`, named like the module) or on columns of numbers; never
write. What the words mean, with formulas and units, is in docs/analysis.md.
"""
