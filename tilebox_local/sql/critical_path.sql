-- The chain of attempts that decided when a job ended, and what it would be worth to make a part of it free. By the job
-- only: task_records_by_job, and the keys of the other tables.

-- name: critical_path
SELECT step, task_id, name, attempt, outcome, runner, delay_ms, queue_wait_ms, run_ms, share, started_ns, stopped_ns
FROM critical_path WHERE job_no = ? ORDER BY step

-- name: ended_tasks
-- Tasks of a job that have ended: where they belong, and how long from being claimable to their end, of which they ran.
SELECT t.task_no, t.parent_no, t.group_no, a.name, max(a.stopped_ns) - min(a.ready_ns), sum(a.stopped_ns - a.started_ns)
FROM attempts a JOIN task_records t ON t.task_no = a.task_no
WHERE a.job_no = ? AND t.state NOT IN (1, 2) AND a.stopped_ns IS NOT NULL
GROUP BY t.task_no
ORDER BY t.task_no

-- name: running_levels
-- How many attempts of a job ran, from each instant on.
SELECT time_ns, sum(sum(change)) OVER (ORDER BY time_ns)
FROM (
  SELECT started_ns AS time_ns, 1 AS change FROM attempts WHERE job_no = :job_no
  UNION ALL
  SELECT stopped_ns, -1 FROM attempts WHERE job_no = :job_no AND stopped_ns IS NOT NULL)
GROUP BY time_ns
ORDER BY time_ns

-- name: count_runners_of_job
SELECT count(DISTINCT runner_no) FROM attempts WHERE job_no = ?
