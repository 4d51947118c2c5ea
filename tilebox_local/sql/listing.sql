-- What the command line lists. The columns are those of the views.

-- name: list_jobs
-- Jobs that match all filters (NULL: no filter; states as a JSON array, the name as a GLOB pattern). A scan of the jobs
-- that were submitted in the interval, by job_records_by_submitted.
SELECT v.*
FROM job_records r JOIN jobs v ON v.job_no = r.job_no
WHERE r.submitted_ns BETWEEN :since_ns AND :until_ns
  AND (:states IS NULL OR v.state IN (SELECT value FROM json_each(:states)))
  AND (:name IS NULL OR v.name GLOB :name)
ORDER BY
  CASE :sort WHEN 'name' THEN v.name END,
  CASE :sort WHEN 'elapsed' THEN v.elapsed_ms WHEN 'compute' THEN v.compute_ms WHEN 'tasks' THEN v.tasks
    WHEN 'failed' THEN v.failed END DESC,
  r.job_id DESC
LIMIT :limit

-- name: jobs_by_beginning
-- Jobs whose id, as text, begins with :first; :last is the text behind all of these. By job_records_by_job_id_text.
SELECT job_no, job_id, job_id_text, name FROM job_records
WHERE job_id_text >= :first AND job_id_text < :last AND first_root_no IS NOT NULL
ORDER BY job_id_text LIMIT :limit

-- name: newest_job
-- From the end of job_records_by_job_id_text: "g" comes after all hex digits.
SELECT job_no, job_id, job_id_text, name FROM job_records
WHERE job_id_text < 'g' AND first_root_no IS NOT NULL
ORDER BY job_id_text DESC LIMIT 1

-- name: newest_job_of_name
-- From the end of the name's part of job_records_by_name.
SELECT job_no, job_id, job_id_text, name FROM job_records
WHERE name = ? AND first_root_no IS NOT NULL
ORDER BY submitted_ns DESC LIMIT 1

-- name: view_job
SELECT * FROM jobs WHERE job_no = ?

-- name: list_tasks_named
-- Ids of the tasks of a job by the beginning of their id, or by a GLOB pattern for the name of their class or their label.
SELECT t.task_id_text
FROM task_records t JOIN identifier_records i ON i.identifier_no = t.identifier_no
WHERE t.job_no = :job_no
  AND (substr(t.task_id_text, 1, length(:text)) = :text OR i.name GLOB :text OR t.display GLOB :text)

-- name: list_spans
-- The newest spans of a job by start, newest first. Reads the job's part of span_records backwards.
SELECT * FROM spans
WHERE job_no = :job_no AND start_ns >= :since_ns
  AND (:name IS NULL OR name GLOB :name)
  AND (:status IS NULL OR (duration_ms IS NULL) = (:status = 'OPEN') AND (:status = 'OPEN' OR status = :status))
  AND (:min_ns IS NULL OR duration_ns >= :min_ns)
  AND (:tasks IS NULL OR task_id IN (SELECT value FROM json_each(:tasks)))
ORDER BY start_ns DESC
LIMIT :limit

-- name: view_span
-- One span of a job. Reads those that start with it.
SELECT * FROM spans WHERE job_no = :job_no AND start_ns = :start_ns AND span_id = :span_id

-- name: list_logs
-- The newest log records of a job, newest first; the name is that of the logger. Reads the job's part of log_records.
SELECT * FROM logs
WHERE job_no = :job_no AND time_ns >= :since_ns AND severity_number >= :level
  AND (:name IS NULL OR logger GLOB :name)
  AND (:tasks IS NULL OR task_id IN (SELECT value FROM json_each(:tasks)))
ORDER BY time_ns DESC
LIMIT :limit

-- name: waterfall_spans
-- The shape of a trace: what places a span in the tree and on the time axis, nothing else.
SELECT start_ns, span_id, parent_span_id, start_ns + duration_ns, status_code = 2
FROM span_records WHERE trace_no = ? ORDER BY start_ns, span_id

-- name: waterfall_details
-- What a line of the waterfall shows of a span, for a JSON array of [start_ns, span_id]. One seek each.
SELECT s.start_ns, s.span_id, s.name, s.status_message,
       (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
        WHERE r.resource_no = s.resource_no)
FROM json_each(:spans) k
CROSS JOIN span_records s
  ON s.trace_no = :trace_no AND s.start_ns = json_extract(k.value, '$[0]') AND s.span_id = json_extract(k.value, '$[1]')

-- name: waterfall_exceptions
-- The exceptions of some spans of a trace (JSON array of ids), oldest first. A scan of the trace's events.
SELECT span_id, json_extract(attributes, '$."exception.type"'), json_extract(attributes, '$."exception.message"')
FROM event_records
WHERE trace_no = :trace_no AND name = 'exception' AND span_id IN (SELECT value FROM json_each(:spans))
ORDER BY time_ns, event_no

-- name: waterfall_logs
-- The first log records of each of some spans (JSON array of ids), and how many each has. A scan of the trace's records.
SELECT span_id, time_ns, severity_text, body, record_count
FROM (
  SELECT span_id, time_ns, log_no, severity_text, body,
         row_number() OVER (PARTITION BY span_id ORDER BY time_ns, log_no) AS position,
         count(*) OVER (PARTITION BY span_id) AS record_count
  FROM log_records
  WHERE trace_no = :trace_no AND span_id IN (SELECT value FROM json_each(:spans)))
WHERE position <= :limit
ORDER BY time_ns, log_no

-- name: trace_of_job_no
SELECT trace_no FROM trace_records WHERE job_no = ?
