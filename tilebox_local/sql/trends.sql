-- Trends: the jobs of one name over time. Jobs, tasks and attempts only; spans are never read. docs/analysis.md defines
-- what the columns mean; the view `trends` of schema.sql asks the same of all jobs of a name.

-- name: jobs_of_name
-- Which are the newest jobs of a name? Newest first.
--   :name; :first_ns, :last_ns: submitted from, to (both included, ns UTC); :limit: at most so many.
--   -> number, id as text, submitted (ns UTC), state, elapsed (ns, NULL: nothing has stopped), compute (ns), tasks,
--      failed tasks (also optional ones)
-- Index: job_records_by_name gives selection and order.
SELECT j.job_no, v.job_id, j.submitted_ns, v.state, max(0, j.last_stopped_ns - j.first_started_ns),
       j.compute_duration_ns, v.tasks, v.failed + v.failed_optional
FROM job_records j JOIN jobs v ON v.job_no = j.job_no
WHERE j.name = :name AND j.submitted_ns BETWEEN :first_ns AND :last_ns
ORDER BY j.submitted_ns DESC, j.job_no DESC
LIMIT :limit

-- name: completed_jobs_before
-- Which completed jobs of the name came before one of its jobs? Newest first; columns as in jobs_of_name.
--   :name; :submitted_ns, :job_no: of the job; :limit: at most so many.
-- Index: job_records_by_name gives selection and order; jobs that did not complete are read and left out.
SELECT j.job_no, v.job_id, j.submitted_ns, v.state, max(0, j.last_stopped_ns - j.first_started_ns),
       j.compute_duration_ns, v.tasks, v.failed + v.failed_optional
FROM job_records j JOIN jobs v ON v.job_no = j.job_no
WHERE j.name = :name AND (j.submitted_ns, j.job_no) < (:submitted_ns, :job_no)
  AND v.state = 'COMPLETED' AND j.last_stopped_ns IS NOT NULL
ORDER BY j.submitted_ns DESC, j.job_no DESC
LIMIT :limit

-- name: has_job_of_name
-- Is there a job of this name? Index: job_records_by_name.
SELECT EXISTS (SELECT 1 FROM job_records WHERE name = ? AND first_root_no IS NOT NULL)

-- name: waits_of_jobs
-- How long did the attempts of each job wait to be claimed, and how often was a task claimed again?
--   :jobs: JSON array of job numbers -> job number, wait (ns; sum over the attempts that have started), retries
-- Index: task_records_by_job, the key of attempt_records. The last attempt of a task is in task_records, unless the
-- task went back to the queue after it.
SELECT w.job_no, CAST(total(w.wait_ns) AS INTEGER), sum(w.retries)
FROM (
  SELECT t.job_no, max(0, t.attempt - 1) AS retries,
    CASE WHEN t.attempt > 0 AND t.state <> 1 AND NOT EXISTS (
        SELECT 1 FROM attempt_records a WHERE a.job_no = t.job_no AND a.task_no = t.task_no AND a.attempt = t.attempt)
      THEN max(0, t.started_ns - coalesce(t.ready_ns, t.submitted_ns)) ELSE 0 END AS wait_ns
  FROM json_each(:jobs) j CROSS JOIN task_records t ON t.job_no = j.value
  UNION ALL
  SELECT a.job_no, 0, max(0, a.started_ns - a.ready_ns)
  FROM json_each(:jobs) j CROSS JOIN attempt_records a ON a.job_no = j.value
) w
GROUP BY w.job_no

-- name: steps_of_jobs
-- How long did the attempts of each step (the tasks of one name, in all versions) run?
--   :jobs: JSON array of job numbers -> job number, step, attempts that ended, median and sum of their run times (ns)
-- Index: task_records_by_job, the key of attempt_records.
WITH runs AS (
  SELECT t.job_no, t.identifier_no, max(0, t.stopped_ns - t.started_ns) AS run_ns
  FROM json_each(:jobs) j CROSS JOIN task_records t ON t.job_no = j.value
  WHERE t.attempt > 0 AND t.state NOT IN (1, 2) AND t.stopped_ns IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM attempt_records a WHERE a.job_no = t.job_no AND a.task_no = t.task_no AND a.attempt = t.attempt)
  UNION ALL
  SELECT a.job_no, t.identifier_no, max(0, a.stopped_ns - a.started_ns)
  FROM json_each(:jobs) j CROSS JOIN attempt_records a ON a.job_no = j.value JOIN task_records t ON t.task_no = a.task_no
),
ranked AS (
  SELECT r.job_no, i.name, r.run_ns,
    row_number() OVER (PARTITION BY r.job_no, i.name ORDER BY r.run_ns) AS position,
    count(*) OVER (PARTITION BY r.job_no, i.name) AS attempts
  FROM runs r JOIN identifier_records i ON i.identifier_no = r.identifier_no
)
SELECT job_no, name, attempts,
       sum(run_ns) FILTER (WHERE position IN ((attempts + 1) / 2, (attempts + 2) / 2)) / (2 - attempts % 2),
       sum(run_ns)
FROM ranked
GROUP BY job_no, name
ORDER BY name, job_no
