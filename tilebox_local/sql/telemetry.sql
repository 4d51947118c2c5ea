-- Writing telemetry. Where a statement says ":rows", the writer puts "(?,?,...)" for as many rows as it has: SQLite then
-- runs one step for hundreds of rows, without holding Python's global lock.

-- name: insert_spans
-- A span may be written open first and completed later; one that is complete does not change any more.
INSERT INTO span_records
  (trace_no, start_ns, span_id, parent_span_id, duration_ns, name, task_no, resource_no, scope_no, attributes)
VALUES :rows
ON CONFLICT (trace_no, start_ns, span_id) DO UPDATE SET
  duration_ns = excluded.duration_ns, name = excluded.name, attributes = excluded.attributes
WHERE duration_ns IS NULL

-- name: insert_full_spans
-- Spans with anything beyond the columns that every span has.
INSERT INTO span_records
  (trace_no, start_ns, span_id, parent_span_id, duration_ns, name, task_no, resource_no, scope_no, attributes, kind,
   status_code, status_message, links, trace_state, dropped_attributes_count, dropped_events_count,
   dropped_links_count)
VALUES :rows
ON CONFLICT (trace_no, start_ns, span_id) DO UPDATE SET
  duration_ns = excluded.duration_ns, name = excluded.name, status_code = excluded.status_code,
  attributes = excluded.attributes, status_message = excluded.status_message, links = excluded.links,
  dropped_attributes_count = excluded.dropped_attributes_count,
  dropped_events_count = excluded.dropped_events_count, dropped_links_count = excluded.dropped_links_count
WHERE duration_ns IS NULL

-- name: insert_events
INSERT INTO event_records (trace_no, time_ns, span_id, event_no, name, attributes)
VALUES :rows
ON CONFLICT DO NOTHING

-- name: delete_dropped_events
-- Of a span that was written while it was open and got more events than it may keep since.
DELETE FROM event_records WHERE trace_no = ? AND span_id = ? AND event_no < ?

-- name: insert_logs
INSERT INTO log_records
  (trace_no, time_ns, log_no, span_id, severity_number, severity_text, body, task_no, has_task_id, is_span_event,
   resource_no, scope_no, attributes)
VALUES :rows
ON CONFLICT DO NOTHING

-- name: insert_quarantine
INSERT INTO quarantine_records (writer_no, time_ns, kind, reason, content) VALUES (?, ?, ?, ?, ?)

-- name: insert_writer
INSERT INTO writer_records (host, pid, process_start, boot_id, pid_namespace, opened_ns, last_seen_ns)
VALUES (:host, :pid, :process_start, :boot_id, :pid_namespace, :now_ns, :now_ns)
RETURNING writer_no

-- name: writer_seen
-- What the process says about itself; the counts since it opened the file.
UPDATE writer_records
   SET last_seen_ns = :now_ns, ended_ns = :ended_ns, queued_count = :queued_count, written_count = :written_count,
       dropped_count = :dropped_count, quarantined_count = :quarantined_count, redacted_count = :redacted_count,
       transaction_count = :transaction_count, failed_transaction_count = :failed_transaction_count,
       lock_wait_count = :lock_wait_count, lock_wait_duration_ns = :lock_wait_duration_ns,
       max_lag_duration_ns = :max_lag_duration_ns
 WHERE writer_no = :writer_no

-- name: count_commit
-- In every transaction; also what a commit with synchronous=FULL carries when nothing else is to be written. RETURNING
-- would take ten times as long.
INSERT INTO commit_records (commit_key, commit_no) VALUES (1, 1)
    ON CONFLICT (commit_key) DO UPDATE SET commit_no = commit_no + 1

-- name: commit_no
-- 0 if the row is lost.
SELECT coalesce((SELECT commit_no FROM commit_records WHERE commit_key = 1), 0)

-- name: store_id
SELECT value FROM store_records WHERE key = 'store_id'

-- name: insert_incident
INSERT INTO incident_records
  (time_ns, kind, message, writer_no, last_seen_ns, runner_no, task_no, attempt, task_name, trace_no, span_id, span_path,
   log_time_ns, log_body)
VALUES (:time_ns, :kind, :message, :writer_no, :last_seen_ns, :runner_no, :task_no, :attempt, :task_name, :trace_no,
        :span_id, :span_path, :log_time_ns, :log_body)
RETURNING incident_no

-- name: extend_gap
-- Records are still being dropped.
UPDATE incident_records SET time_ns = ?, message = ? WHERE incident_no = ?

-- name: find_jobless_traces
SELECT trace_id, trace_no FROM trace_records WHERE job_no IS NULL AND trace_id IN (VALUES :rows)

-- name: next_trace_no
SELECT max(trace_no) + 1 FROM trace_records

-- name: insert_traces
INSERT INTO trace_records (trace_no, trace_id) VALUES :rows

-- name: find_trace
-- Where a span belongs that continues a span of another process: to the only job of its trace, or to the one of
-- several that has the parent span. A scan of those traces, once per continued trace.
SELECT r.trace_no FROM trace_records r
WHERE r.trace_id = :trace_id
ORDER BY
  (SELECT count(*) FROM trace_records o WHERE o.trace_id = :trace_id) > 1
    AND NOT EXISTS (SELECT 1 FROM span_records s WHERE s.trace_no = r.trace_no AND s.span_id = :parent_span_id),
  r.job_no IS NULL,
  r.trace_no
LIMIT 1

-- name: insert_trace
INSERT INTO trace_records (trace_id, job_no) VALUES (?, ?) RETURNING trace_no

-- name: find_resource
SELECT resource_no FROM resource_records WHERE attributes = ? AND writer_no = ?

-- name: insert_resource
INSERT INTO resource_records (attributes, writer_no) VALUES (?, ?) RETURNING resource_no

-- name: find_scope
SELECT scope_no FROM scope_records WHERE name = ? AND version = ?

-- name: insert_scope
INSERT INTO scope_records (name, version) VALUES (?, ?) RETURNING scope_no
