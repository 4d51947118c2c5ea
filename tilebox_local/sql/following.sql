-- What is new in a store since somebody looked. Keys first, which cost a seek per trace; then what is shown of new ones.
-- The columns of `follow_spans` and `follow_logs` behind the keys are those of the views.

-- name: follow_log_keys
-- Keys of the log records of some traces from an instant on. A seek per trace into the key of log_records.
SELECT l.trace_no, l.time_ns, l.log_no
FROM trace_records t CROSS JOIN log_records l ON l.trace_no = t.trace_no
WHERE t.trace_no BETWEEN :first_trace AND :last_trace AND l.time_ns >= :from_ns AND l.severity_number >= :level

-- name: follow_span_keys
-- Keys and ends of the spans of some traces that have ended since an instant, as far as they started since another one.
SELECT s.trace_no, s.start_ns, s.span_id, s.start_ns + s.duration_ns
FROM trace_records t CROSS JOIN span_records s ON s.trace_no = t.trace_no
WHERE t.trace_no BETWEEN :first_trace AND :last_trace AND s.start_ns >= :from_ns
  AND s.start_ns + s.duration_ns >= :since_ns

-- name: follow_late_span_keys
-- The same of the traces in a JSON array, whenever the spans have started. Reads all spans of these traces.
SELECT s.trace_no, s.start_ns, s.span_id, s.start_ns + s.duration_ns
FROM json_each(:traces) k CROSS JOIN span_records s ON s.trace_no = k.value
WHERE s.start_ns + s.duration_ns >= :since_ns

-- name: follow_open_keys
-- Keys of open spans, by span_records_open.
SELECT trace_no, start_ns, span_id FROM span_records
WHERE duration_ns IS NULL AND trace_no BETWEEN :first_trace AND :last_trace

-- name: follow_ended_keys
-- Those of a JSON array of keys that have ended. One seek each.
SELECT s.trace_no, s.start_ns, s.span_id, s.start_ns + s.duration_ns
FROM json_each(:keys) k CROSS JOIN span_records s
  ON s.trace_no = json_extract(k.value, '$[0]') AND s.start_ns = json_extract(k.value, '$[1]')
  AND s.span_id = json_extract(k.value, '$[2]')
WHERE s.duration_ns IS NOT NULL

-- name: follow_spans
-- The spans of a JSON array of keys, as in the view `spans`. One seek each.
SELECT
  s.name,
  s.duration_ns / 1e6 AS duration_ms,
  CASE s.status_code WHEN 0 THEN 'UNSET' WHEN 1 THEN 'OK' WHEN 2 THEN 'ERROR' END AS status,
  s.status_message,
  strftime('%Y-%m-%dT%H:%M:%S', s.start_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', s.start_ns % 1000000000) AS start_time,
  strftime('%Y-%m-%dT%H:%M:%S', (s.start_ns + s.duration_ns) / 1000000000, 'unixepoch')
    || printf('.%09dZ', (s.start_ns + s.duration_ns) % 1000000000) AS end_time,
  lower(hex(t.trace_id)) AS trace_id,
  printf('%016x', s.span_id) AS span_id,
  CASE WHEN s.parent_span_id IS NOT NULL THEN printf('%016x', s.parent_span_id) END AS parent_span_id,
  CASE s.kind WHEN 1 THEN 'INTERNAL' WHEN 2 THEN 'SERVER' WHEN 3 THEN 'CLIENT' WHEN 4 THEN 'PRODUCER'
    WHEN 5 THEN 'CONSUMER' ELSE 'UNSPECIFIED' END AS kind,
  CASE WHEN s.task_no IS NOT NULL AND json_type(s.attributes, '$.task_id') IS NULL
    THEN json_set(coalesce(s.attributes, '{}'), '$.task_id',
      (SELECT k.task_id_text FROM task_records k WHERE k.task_no = s.task_no))
    ELSE coalesce(s.attributes, '{}') END AS attributes,
  s.links,
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = s.task_no) AS task_id,
  j.name AS job_name,
  j.job_id_text AS job_id,
  (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
   WHERE r.resource_no = s.resource_no) AS runner,
  (SELECT c.name FROM scope_records c WHERE c.scope_no = s.scope_no) AS scope,
  s.start_ns,
  s.start_ns + s.duration_ns AS end_ns,
  s.duration_ns,
  t.job_no
FROM json_each(:keys) k
CROSS JOIN span_records s
  ON s.trace_no = json_extract(k.value, '$[0]') AND s.start_ns = json_extract(k.value, '$[1]')
  AND s.span_id = json_extract(k.value, '$[2]')
JOIN trace_records t ON t.trace_no = s.trace_no
LEFT JOIN job_records j ON j.job_no = t.job_no
WHERE (:name IS NULL OR s.name GLOB :name)
  AND (:status IS NULL OR s.status_code = CASE :status WHEN 'UNSET' THEN 0 WHEN 'OK' THEN 1 WHEN 'ERROR' THEN 2 END)
  AND (:min_ns IS NULL OR s.duration_ns >= :min_ns)
  AND (:task IS NULL OR s.task_no IN (
    SELECT k.task_no FROM task_records k JOIN identifier_records i ON i.identifier_no = k.identifier_no
    WHERE k.task_no = s.task_no
      AND (substr(k.task_id_text, 1, length(:task)) = :task OR i.name GLOB :task OR k.display GLOB :task)))
ORDER BY end_ns, s.start_ns, s.span_id

-- name: follow_logs
-- The log records of a JSON array of keys, as in the view `logs`. One seek each.
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', l.time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', l.time_ns % 1000000000) AS time,
  l.severity_text AS severity,
  l.body,
  CASE WHEN l.has_task_id AND json_type(l.attributes, '$.task_id') IS NULL
    THEN json_set(coalesce(l.attributes, '{}'), '$.task_id',
      (SELECT k.task_id_text FROM task_records k WHERE k.task_no = l.task_no))
    ELSE coalesce(l.attributes, '{}') END AS attributes,
  CASE WHEN l.trace_no <> 0 THEN lower(hex(t.trace_id)) END AS trace_id,
  CASE WHEN l.span_id IS NOT NULL THEN printf('%016x', l.span_id) END AS span_id,
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = l.task_no) AS task_id,
  j.name AS job_name,
  j.job_id_text AS job_id,
  (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
   WHERE r.resource_no = l.resource_no) AS runner,
  (SELECT c.name FROM scope_records c WHERE c.scope_no = l.scope_no) AS logger,
  l.severity_number,
  l.time_ns,
  t.job_no
FROM json_each(:keys) k
CROSS JOIN log_records l
  ON l.trace_no = json_extract(k.value, '$[0]') AND l.time_ns = json_extract(k.value, '$[1]')
  AND l.log_no = json_extract(k.value, '$[2]')
JOIN trace_records t ON t.trace_no = l.trace_no
LEFT JOIN job_records j ON j.job_no = t.job_no
WHERE (:name IS NULL OR (SELECT c.name FROM scope_records c WHERE c.scope_no = l.scope_no) GLOB :name)
  AND (:task IS NULL OR l.task_no IN (
    SELECT k.task_no FROM task_records k JOIN identifier_records i ON i.identifier_no = k.identifier_no
    WHERE k.task_no = l.task_no
      AND (substr(k.task_id_text, 1, length(:task)) = :task OR i.name GLOB :task OR k.display GLOB :task)))
ORDER BY l.time_ns, l.log_no

-- name: follow_jobs
-- What changes of a job when anything of its tasks does: of the jobs that go on, that have done anything since an
-- instant, or that are in a JSON array. A scan of job_records.
SELECT job_no, (queued_count || ' ' || running_count || ' ' || computed_count || ' ' || failed_count || ' '
         || skipped_count || ' ' || failed_optional_count || ' ' || canceled || ' ' || compute_duration_ns || ' '
         || coalesce(last_stopped_ns, 0)),
       submitted_ns, coalesce(first_started_ns, submitted_ns), coalesce(last_stopped_ns, submitted_ns)
FROM job_records
WHERE first_root_no IS NOT NULL AND (:job_no IS NULL OR job_no = :job_no)
  AND (queued_count + running_count > 0 OR submitted_ns >= :since_ns OR last_stopped_ns >= :since_ns
    OR job_no IN (SELECT value FROM json_each(:known)))

-- name: follow_job_rows
SELECT * FROM jobs WHERE job_no IN (SELECT value FROM json_each(:jobs))

-- name: follow_tasks
-- What changes of the tasks of the jobs in a JSON array, and when it did. By task_records_by_job.
SELECT task_no, state, attempt,
       CASE state WHEN 1 THEN max(submitted_ns, coalesce(ready_ns, 0), coalesce(stopped_ns, 0)) WHEN 2 THEN started_ns
         ELSE coalesce(stopped_ns, submitted_ns) END
FROM task_records WHERE job_no IN (SELECT value FROM json_each(:jobs))

-- name: follow_task_rows
SELECT * FROM tasks WHERE task_no IN (SELECT value FROM json_each(:tasks))

-- name: traces_of_jobs
SELECT trace_no FROM trace_records WHERE job_no IN (SELECT value FROM json_each(:jobs))
