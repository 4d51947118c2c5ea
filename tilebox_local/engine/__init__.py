"""The engine: every change of jobs, tasks, clusters and runners.

Functions here take the write connection and must run inside a transaction of the writer (`Store.transact`), so that a
transition, the telemetry appended before it, and what follows from it commit together or not at all.
"""
