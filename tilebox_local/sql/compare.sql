-- Comparing two jobs. Paths and self times are computed from these rows in analysis/span_tree.py: a window function for
-- the self time alone takes SQLite four times as long as reading the spans.

-- name: job_to_compare
-- Which job is this, and how did it go?
--   ?: its id (16 bytes)
--   -> number, id as text, name, state, elapsed (ns, NULL: nothing has stopped), compute (ns), tasks, failed tasks (also
--      optional ones), number of its trace
-- Index: the unique one of job_id.
SELECT j.job_no, v.job_id, j.name, v.state, max(0, j.last_stopped_ns - j.first_started_ns), j.compute_duration_ns,
       v.tasks, v.failed + v.failed_optional, t.trace_no
FROM job_records j JOIN jobs v ON v.job_no = j.job_no LEFT JOIN trace_records t ON t.job_no = j.job_no
WHERE j.job_id = ?

-- name: spans_to_compare
-- What are the spans of a trace, by start?
--   ?: number of the trace
--   -> start (ns UTC), span id, parent span id (0: none), duration (ns; -1: still open), name, 1 if it failed, number of
--      its task (0: none)
-- Index: the key of span_records.
SELECT start_ns, span_id, coalesce(parent_span_id, 0), CASE WHEN duration_ns IS NULL THEN -1 ELSE max(0, duration_ns) END,
       name, status_code = 2, coalesce(task_no, 0)
FROM span_records
WHERE trace_no = ?
ORDER BY start_ns, span_id

-- name: tasks_to_compare
-- Which task submitted which?
--   ?: number of the job -> number, number of the task that submitted it (0: none), name; ascending by number
-- Index: task_records_by_job.
SELECT t.task_no, coalesce(t.parent_no, 0), i.name
FROM task_records t JOIN identifier_records i ON i.identifier_no = t.identifier_no
WHERE t.job_no = ?
ORDER BY t.task_no
