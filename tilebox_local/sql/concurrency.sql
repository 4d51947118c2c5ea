-- How much went on at the same time. By the job, and by the key of span_records.

-- name: end_of_job
-- The last instant at which a task of the job is known to have become claimable, started or stopped.
SELECT max(max(ready_ns, started_ns, coalesce(stopped_ns, 0))) FROM attempts WHERE job_no = ?

-- name: concurrency_slots
-- Tasks that ran, tasks that could have been claimed, and open spans, over time: for each slot of :width_ns from :from_ns
-- to :until_ns the mean (as an area: level times ns) and the highest level.
WITH RECURSIVE
edges(time_ns) AS (
  SELECT :from_ns
  UNION ALL
  SELECT time_ns + :width_ns FROM edges WHERE time_ns + :width_ns < :until_ns),
changes(time_ns, running, queued, spans) AS (
  SELECT time_ns, 0, 0, 0 FROM edges
  UNION ALL SELECT ready_ns, 0, 1, 0 FROM attempts WHERE job_no = :job_no
  UNION ALL SELECT started_ns, 1, -1, 0 FROM attempts WHERE job_no = :job_no
  UNION ALL SELECT stopped_ns, -1, 0, 0 FROM attempts WHERE job_no = :job_no AND stopped_ns IS NOT NULL
  UNION ALL SELECT ready_ns, 0, 1, 0 FROM task_records WHERE job_no = :job_no AND state = 1 AND ready = 1
  UNION ALL SELECT start_ns, 0, 0, 1 FROM span_records WHERE trace_no = :trace_no
  UNION ALL SELECT start_ns + duration_ns, 0, 0, -1 FROM span_records WHERE trace_no = :trace_no AND duration_ns IS NOT NULL),
levels AS (
  SELECT at_ns, sum(sum(running)) OVER in_order AS running, sum(sum(queued)) OVER in_order AS queued,
    sum(sum(spans)) OVER in_order AS spans,
    min(lead(at_ns, 1, :until_ns) OVER in_order, :until_ns) - at_ns AS length_ns
  -- What began before the first slot counts from there on.
  FROM (SELECT max(time_ns, :from_ns) AS at_ns, running, queued, spans FROM changes)
  GROUP BY at_ns WINDOW in_order AS (ORDER BY at_ns))
SELECT (at_ns - :from_ns) / :width_ns AS slot, total(running * length_ns), max(running), total(queued * length_ns), max(queued),
  total(spans * length_ns), max(spans)
FROM levels WHERE at_ns < :until_ns
GROUP BY slot ORDER BY slot

-- name: runner_use
SELECT runner, attempts, failed, busy_ms, idle_ms, utilization, longest_idle_ms FROM runner_use WHERE job_no = ?
ORDER BY busy_ms DESC, runner

-- name: stragglers
SELECT task_id, name, attempt, runner, duration_ms, median_ms, fence_ms, started_ns FROM stragglers WHERE job_no = ?
ORDER BY duration_ms DESC, task_id
