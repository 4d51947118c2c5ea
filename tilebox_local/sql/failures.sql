-- What failed, and how often. By the trace (the key of span_records) and by the job.

-- name: failed_spans
-- Failed spans, and the attempt of their task, by time.
SELECT s.name,
       s.task_no IS NOT NULL AND s.name GLOB 'task/*' AND json_type(s.attributes, '$."identifier.name"') = 'text',
       t.task_id_text,
       (SELECT max(a.attempt) FROM attempts a
        WHERE a.job_no = t.job_no AND a.task_no = s.task_no AND a.started_ns <= s.start_ns),
       s.start_ns + coalesce(s.duration_ns, 0) AS failed_ns, s.duration_ns, s.status_message,
       (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
        WHERE r.resource_no = s.resource_no),
       s.span_id, s.parent_span_id, s.task_no, t.state, t.attempt
FROM span_records s
LEFT JOIN task_records t ON t.task_no = s.task_no
WHERE s.trace_no = :trace_no AND s.status_code = 2
ORDER BY failed_ns, s.start_ns DESC, s.span_id

-- name: exceptions_of_trace
-- Exceptions that were recorded in spans, by time.
SELECT span_id, json_extract(attributes, '$."exception.type"'), json_extract(attributes, '$."exception.message"'),
       json_extract(attributes, '$."exception.stacktrace"')
FROM event_records WHERE trace_no = ? AND name = 'exception'
ORDER BY time_ns, span_id, event_no

-- name: skipped_in_branches
-- Tasks of a job that were skipped, by the failed task of their optional branch.
SELECT f.task_no, count(*)
FROM task_records f JOIN task_records s ON s.job_no = f.job_no AND s.branch_no = f.branch_no AND s.state = 5
WHERE f.job_no = ? AND f.state = 6 AND NOT f.optional
GROUP BY f.task_no

-- name: failed_tasks_without_span
-- Tasks of a job that failed for good and left no failed span: runners of other languages may record none.
SELECT i.name, t.task_id_text, t.attempt, t.stopped_ns, t.stopped_ns - t.started_ns, t.display,
       (SELECT json_extract(s.attributes, '$."service.instance.id"') FROM runner_records r
        JOIN resource_records s ON s.resource_no = r.resource_no WHERE r.runner_no = t.runner_no), t.task_no
FROM task_records t JOIN identifier_records i ON i.identifier_no = t.identifier_no
WHERE t.job_no = :job_no AND t.state IN (4, 6)
  AND t.task_no NOT IN (SELECT s.task_no FROM span_records s
                        WHERE s.trace_no = :trace_no AND s.status_code = 2 AND s.task_no IS NOT NULL)
ORDER BY t.stopped_ns, t.task_no

-- name: error_rates
-- Ended and failed spans by name and slot of time, for names with at least one failure.
SELECT name, (end_ns - :from_ns) / :width_ns AS slot, count(*), sum(is_failed)
FROM (
  SELECT name, max(:from_ns, start_ns + duration_ns) AS end_ns, status_code = 2 AS is_failed
  FROM span_records WHERE trace_no = :trace_no AND duration_ns IS NOT NULL)
WHERE name IN (SELECT name FROM span_records WHERE trace_no = :trace_no AND status_code = 2)
GROUP BY name, slot
ORDER BY name, slot

-- name: span_times
-- When the first ended span of a trace ended, and the last one.
SELECT min(start_ns + duration_ns), max(start_ns + duration_ns) FROM span_records
WHERE trace_no = ? AND duration_ns IS NOT NULL
