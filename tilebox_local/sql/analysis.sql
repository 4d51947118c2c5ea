-- What several analyses ask.

-- name: analyzed_job
-- One job with its trace, and what tells whether anything was added since: spans, open spans, attempts that have ended.
-- Uses job_records' unique index and the key of span_records.
SELECT j.job_no, r.trace_no, j.name, v.state, j.submitted_ns, j.first_started_ns, j.last_stopped_ns, j.compute_duration_ns,
       j.canceled, j.queued_count, j.running_count, j.failed_count
FROM job_records j
JOIN jobs v ON v.job_no = j.job_no
JOIN trace_records r ON r.job_no = j.job_no
WHERE j.job_id = ? AND j.first_root_no IS NOT NULL

-- name: trace_size
-- How many spans a trace has, and how many of them are open: never the same again after a span was added or has ended.
SELECT (SELECT count(*) FROM span_records WHERE trace_no = :trace_no),
       (SELECT count(*) FROM span_records INDEXED BY span_records_open
        WHERE trace_no = :trace_no AND duration_ns IS NULL)
