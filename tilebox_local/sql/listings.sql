-- What the command line lists. By the views, whose columns are the keys of its JSON; NULL: no filter.

-- name: list_jobs
-- Newest first. Uses job_records_by_submitted through the view.
SELECT v.job_id, v.name, v.state, v.submitted_at, v.started_at, v.stopped_at, v.elapsed_ms, v.compute_ms, v.tasks, v.queued,
       v.running, v.computed, v.failed, v.skipped, v.failed_optional, v.trace_id
FROM job_records j JOIN jobs v ON v.job_no = j.job_no
WHERE (:state IS NULL OR v.state = :state)
  AND (:name IS NULL OR j.name GLOB :name)
  AND j.submitted_ns BETWEEN :since_ns AND :until_ns
ORDER BY j.submitted_ns DESC, j.job_no DESC
LIMIT :limit

-- name: list_spans
-- Of one job, by start.
SELECT name, duration_ms, status, status_message, start_time, end_time, trace_id, span_id, parent_span_id, kind, attributes,
       task_id, job_name, job_id, runner, scope
FROM spans
WHERE job_id = :job_id
  AND (:name IS NULL OR name GLOB :name)
  AND (:status IS NULL OR status = :status)
  AND (:is_open IS NULL OR (duration_ns IS NULL) = :is_open)
  AND (:task IS NULL OR task_id = :task)
  AND (:min_duration_ns IS NULL OR duration_ns >= :min_duration_ns)
  AND start_ns BETWEEN :since_ns AND :until_ns
ORDER BY start_ns, span_id
LIMIT :limit

-- name: list_logs
-- Of one job, by time.
SELECT time, severity, body, attributes, trace_id, span_id, task_id, job_name, job_id, runner, logger, severity_number
FROM logs
WHERE job_id = :job_id
  AND severity_number >= :severity_number
  AND (:task IS NULL OR task_id = :task)
  AND time_ns BETWEEN :since_ns AND :until_ns
ORDER BY time_ns
LIMIT :limit

-- name: waterfall_spans
-- What a picture of a trace needs, by start.
SELECT s.span_id, s.parent_span_id, s.name, s.start_ns, s.start_ns + s.duration_ns, s.resource_no, s.status_code = 2,
       s.status_message
FROM span_records s
WHERE s.trace_no = ?
ORDER BY s.start_ns, s.span_id

-- name: waterfall_logs
-- Log records that were emitted inside of spans, by time.
SELECT span_id, time_ns, severity_text, body FROM log_records
WHERE trace_no = ? AND span_id IS NOT NULL
ORDER BY time_ns, log_no

-- name: runner_names
SELECT resource_no, json_extract(attributes, '$."service.instance.id"') FROM resource_records
