-- Why some spans of a name take longer than others. By the trace (the key of span_records) and by the job.

-- name: spans_of_name
-- Ended spans of a name by start: start and duration in ns, resource, parent, task, attributes.
SELECT start_ns, duration_ns, resource_no, parent_span_id, task_no, attributes
FROM span_records
WHERE trace_no = :trace_no AND name = :name AND duration_ns IS NOT NULL
ORDER BY start_ns, span_id

-- name: has_name
-- Whether a job has spans of a name, open ones included.
SELECT EXISTS (SELECT 1 FROM span_records WHERE trace_no = :trace_no AND name = :name)

-- name: parents_of_name
-- Id and name of the spans that are parents of spans of a name; of several with one id, the earliest comes last.
SELECT span_id, name FROM span_records
WHERE trace_no = :trace_no
  AND span_id IN (SELECT parent_span_id FROM span_records WHERE trace_no = :trace_no AND name = :name)
ORDER BY start_ns DESC

-- name: inputs_of_job
-- Task and input (bytes, mostly JSON) of each task of a job. Uses task_records_by_job.
SELECT task_no, input FROM task_records WHERE job_no = :job_no

-- name: runs_of_job
-- Task, start and stop in ns of each attempt of a job; NULL: it runs. Uses task_records_by_job.
SELECT task_no, started_ns, stopped_ns FROM attempts WHERE job_no = :job_no AND started_ns IS NOT NULL
ORDER BY started_ns
