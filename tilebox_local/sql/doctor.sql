-- What `client.doctor()` asks. Read-only connections.

-- name: newest_incidents
SELECT i.incident_no, i.time_ns, i.kind, i.message, i.last_seen_ns, w.host, w.pid,
       (SELECT json_extract(r.attributes, '$."service.instance.id"')
        FROM runner_records n JOIN resource_records r ON r.resource_no = n.resource_no
        WHERE n.runner_no = i.runner_no) AS runner,
       i.task_name, (SELECT t.task_id_text FROM task_records t WHERE t.task_no = i.task_no) AS task_id, i.attempt,
       (SELECT j.job_id_text FROM task_records t JOIN job_records j ON j.job_no = t.job_no
        WHERE t.task_no = i.task_no) AS job_id,
       i.span_path, printf('%016x', i.span_id) AS span_id, i.log_body, i.log_time_ns
FROM incident_records i LEFT JOIN writer_records w ON w.writer_no = i.writer_no
ORDER BY i.incident_no DESC
LIMIT ?

-- name: writer_totals
SELECT count(*), coalesce(sum(dropped_count), 0), coalesce(sum(quarantined_count), 0), coalesce(sum(has_crashed), 0),
       coalesce(max(max_lag_duration_ns), 0)
FROM writer_records

-- name: count_open_spans
SELECT count(*) FROM span_records INDEXED BY span_records_open WHERE duration_ns IS NULL
