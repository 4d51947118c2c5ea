-- Questions that the API asks. They run on read-only connections, each in one read transaction.

-- name: job
-- One job by its row. State comes from the view, so that it is defined once. A job that is being pruned has no roots.
SELECT j.job_no, j.job_id, j.name, j.trace_parent, v.state, j.submitted_ns, j.first_started_ns, j.last_stopped_ns,
       j.compute_duration_ns, j.queued_count, j.running_count, j.computed_count, j.failed_count, j.skipped_count,
       j.failed_optional_count
FROM job_records j JOIN jobs v ON v.job_no = j.job_no
WHERE j.job_id = ? AND j.first_root_no IS NOT NULL

-- name: query_jobs
-- Jobs that match all filters (NULL: no filter; lists as JSON arrays), newest first.
-- The name pattern is a LIKE pattern with \ as escape character.
SELECT j.job_no, j.job_id, j.name, j.trace_parent, v.state, j.submitted_ns, j.first_started_ns, j.last_stopped_ns,
       j.compute_duration_ns, j.queued_count, j.running_count, j.computed_count, j.failed_count, j.skipped_count,
       j.failed_optional_count
FROM job_records j JOIN jobs v ON v.job_no = j.job_no
WHERE j.submitted_ns BETWEEN :first_ns AND :last_ns
  AND j.job_id BETWEEN :first_id AND :last_id AND j.first_root_no IS NOT NULL
  AND (:states IS NULL OR v.state IN (SELECT value FROM json_each(:states)))
  AND (:name IS NULL OR j.name LIKE :name ESCAPE '\')
  AND (:task_states IS NULL OR EXISTS (
    SELECT 1 FROM json_each(:task_states) s
    WHERE CASE s.value WHEN 1 THEN j.queued_count WHEN 2 THEN j.running_count WHEN 3 THEN j.computed_count
          WHEN 4 THEN j.failed_count WHEN 5 THEN j.skipped_count WHEN 6 THEN j.failed_optional_count ELSE 0 END > 0))
  AND (:clusters IS NULL OR EXISTS (
    SELECT 1 FROM task_records t JOIN cluster_records c ON c.cluster_no = t.cluster_no
    WHERE t.job_no = j.job_no AND c.slug IN (SELECT value FROM json_each(:clusters))))
ORDER BY j.job_id DESC

-- name: progress_of_job
-- Progress of one job: its labels in the order of first use.
SELECT label, sum(total), sum(done) FROM progress_records WHERE job_no = ? GROUP BY label ORDER BY min(task_no), label

-- name: progress_of_jobs
SELECT job_no, label, sum(total), sum(done) FROM progress_records
WHERE job_no IN (SELECT value FROM json_each(?))
GROUP BY job_no, label ORDER BY job_no, min(task_no), label

-- name: trace_of_job
SELECT r.trace_no, r.trace_id FROM trace_records r JOIN job_records j ON j.job_no = r.job_no
WHERE j.job_id = ? AND j.first_root_no IS NOT NULL

-- name: find_task_no
SELECT task_no FROM task_records WHERE task_id = ?

-- name: spans_of_trace
-- Spans of a job (of one task, unless NULL) by start. The key of span_records gives the order.
SELECT s.start_ns, s.start_ns + s.duration_ns, s.span_id, s.parent_span_id, s.name, s.status_code, s.status_message,
       s.attributes, t.task_id, s.resource_no
FROM span_records s LEFT JOIN task_records t ON t.task_no = s.task_no
WHERE s.trace_no = :trace_no AND (:task_no IS NULL OR s.task_no = :task_no)
  AND (:include_open OR s.duration_ns IS NOT NULL)
ORDER BY s.start_ns, s.span_id

-- name: events_of_trace
SELECT span_id, time_ns, name, attributes FROM event_records WHERE trace_no = ?
ORDER BY time_ns, span_id, event_no

-- name: log_events_of_trace
-- Log records that count as events of their span.
SELECT l.span_id, l.time_ns, l.severity_text, l.body, l.attributes, CASE WHEN l.has_task_id THEN t.task_id END
FROM log_records l LEFT JOIN task_records t ON t.task_no = l.task_no
WHERE l.trace_no = ? AND l.is_span_event
ORDER BY l.time_ns, l.log_no

-- name: logs_of_trace
-- Log records of a job (of one task, unless NULL) with a severity number in the JSON array of numbers, by time.
SELECT l.time_ns, l.severity_number, l.severity_text, l.body, l.span_id, l.attributes,
       CASE WHEN l.has_task_id THEN t.task_id END, l.resource_no
FROM log_records l LEFT JOIN task_records t ON t.task_no = l.task_no
WHERE l.trace_no = :trace_no AND (:task_no IS NULL OR l.task_no = :task_no)
  AND (:severities IS NULL OR l.severity_number IN (SELECT value FROM json_each(:severities)))
ORDER BY l.time_ns, l.log_no

-- name: resources
SELECT resource_no, attributes FROM resource_records

-- name: clusters
SELECT slug, name, deletable, description FROM cluster_records WHERE deleted_ns IS NULL ORDER BY cluster_no

-- name: cluster
SELECT slug, name, deletable, description FROM cluster_records WHERE slug = ? AND deleted_ns IS NULL

-- name: tasks_of_job
-- Tasks of a job in the order of submission, for the diagram.
SELECT t.task_no, t.task_id, coalesce(t.display, i.name), t.state, t.parent_no, t.group_no
FROM task_records t JOIN identifier_records i ON i.identifier_no = t.identifier_no
WHERE t.job_no = ?
ORDER BY t.task_no

-- name: group_dependencies_of_job
SELECT DISTINCT t.group_no, d.depends_on_no
FROM task_records t JOIN group_dependency_records d ON d.group_no = t.group_no
WHERE t.job_no = ?
ORDER BY t.group_no, d.depends_on_no
