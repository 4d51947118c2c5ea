-- The engine: every change of a job or task. Each statement is guarded by the state it expects; they run inside write
-- transactions only (BEGIN IMMEDIATE), so nothing can change between two statements of one transition.
-- States: 1 QUEUED, 2 RUNNING, 3 COMPUTED, 4 FAILED, 5 SKIPPED, 6 FAILED_OPTIONAL.

-- name: insert_job
INSERT INTO job_records (job_id, name, trace_parent, submitted_ns)
VALUES (:job_id, :name, :trace_parent, :submitted_ns)
ON CONFLICT (job_id) DO NOTHING
RETURNING job_no

-- name: trace_no_of_job
SELECT trace_no FROM trace_records WHERE job_no = ?

-- name: insert_group
INSERT INTO group_records (job_no, unsettled_count, dependency_count) VALUES (?, ?, ?) RETURNING group_no

-- name: insert_group_dependency
INSERT INTO group_dependency_records (depends_on_no, group_no) VALUES (?, ?)

-- name: insert_task
INSERT INTO task_records
  (task_id, job_no, parent_no, group_no, branch_no, identifier_no, cluster_no, state, ready, optional, max_retries,
   submitted_ns, ready_ns, input, display)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)

-- name: find_identifier
SELECT identifier_no FROM identifier_records WHERE name = ? AND major = ? AND minor = ?

-- name: insert_identifier
INSERT INTO identifier_records (name, major, minor) VALUES (?, ?, ?) RETURNING identifier_no

-- name: identifiers_of_name
-- Versions of a task that a runner of (major, minor) can run, the newest first.
SELECT identifier_no, minor FROM identifier_records WHERE name = ? AND major = ? AND minor <= ? ORDER BY minor DESC

-- name: last_identifier
SELECT max(identifier_no) FROM identifier_records

-- name: find_cluster_no
SELECT cluster_no FROM cluster_records WHERE slug = ? AND deleted_ns IS NULL

-- name: oldest_claimable
-- Oldest claimable task of one cluster and identifier. Uses task_records_claimable: one seek, whatever is queued.
SELECT task_no FROM task_records WHERE ready = 1 AND cluster_no = ? AND identifier_no = ? ORDER BY task_no LIMIT 1

-- name: oldest_claimable_between
-- The same among tasks that were submitted together.
SELECT task_no FROM task_records
WHERE ready = 1 AND cluster_no = ? AND identifier_no = ? AND task_no BETWEEN ? AND ?
ORDER BY task_no LIMIT 1

-- name: children_of
SELECT first_child_no, last_child_no, parent_no FROM task_records WHERE task_no = ?

-- name: roots_of
SELECT first_root_no, last_root_no FROM job_records WHERE job_no = ?

-- name: claim_task
-- QUEUED -> RUNNING. The attempt number is the token that a later report must show.
UPDATE task_records
   SET state = 2, ready = 0, attempt = attempt + 1, runner_no = :runner_no, started_ns = :now_ns,
       lease_expires_boot_ns = :lease_expires_boot_ns
 WHERE task_no = :task_no AND state = 1 AND ready = 1

-- name: claimed_task
-- What has just been claimed. As RETURNING of the UPDATE it would take twice as long.
SELECT task_no, attempt, task_id, identifier_no, input, display, retry_count, started_ns, parent_no, job_no
FROM task_records WHERE task_no = ?

-- name: job_of_task
-- What a runner needs to know of the job of a task it has claimed; none of it ever changes.
SELECT j.job_id, j.name, j.trace_parent, j.submitted_ns,
       (SELECT r.trace_no FROM trace_records r WHERE r.job_no = j.job_no)
FROM job_records j WHERE j.job_no = ?

-- name: task_for_report
-- The task that a runner reports on, if the report is about its current attempt.
SELECT task_no, job_no, parent_no, group_no, branch_no, state, optional, max_retries, retry_count,
       retry_budget_start, crash_count, attempt, started_ns, unsettled_count, cluster_no
FROM task_records
WHERE task_no = ?

-- name: end_attempt
-- RUNNING -> any state but RUNNING, for one attempt only: a late report of a lost attempt matches no row.
UPDATE task_records
   SET state = :state, ready = :ready, ready_ns = CASE WHEN :ready THEN :now_ns ELSE ready_ns END,
       stopped_ns = :stopped_ns, lease_expires_boot_ns = NULL,
       display = coalesce(:display, display),
       retry_count = retry_count + :retries, crash_count = crash_count + :crashes
 WHERE task_no = :task_no AND state = 2 AND attempt = :attempt

-- name: keep_attempt
-- Before end_attempt, for an attempt after which the task goes back to the queue.
INSERT INTO attempt_records (job_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns)
SELECT job_no, task_no, attempt, :outcome, runner_no, coalesce(ready_ns, submitted_ns), started_ns, :stopped_ns
FROM task_records WHERE task_no = :task_no

-- name: keep_failed_attempts
-- Before requeue_failed.
INSERT INTO attempt_records (job_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns)
SELECT job_no, task_no, attempt, 4, runner_no, coalesce(ready_ns, submitted_ns), started_ns, stopped_ns
FROM task_records WHERE job_no = ? AND state = 4

-- name: adopt_children
UPDATE task_records SET unsettled_count = ?, first_child_no = ?, last_child_no = ? WHERE task_no = ?

-- name: adopt_roots
UPDATE job_records SET first_root_no = ?, last_root_no = ? WHERE job_no = ?

-- name: last_task
SELECT max(task_no) FROM task_records

-- name: task_to_settle
SELECT unsettled_count, parent_no, group_no FROM task_records WHERE task_no = ?

-- name: unsettled_in_group
SELECT unsettled_count FROM group_records WHERE group_no = ?

-- name: settle_in_group
UPDATE group_records SET unsettled_count = unsettled_count - 1 WHERE group_no = ?

-- name: groups_waiting_for
SELECT group_no FROM group_dependency_records WHERE depends_on_no = ? ORDER BY group_no

-- name: settle_dependency
UPDATE group_records SET dependency_count = dependency_count - 1 WHERE group_no = ? RETURNING dependency_count

-- name: release_group
-- The dependencies of the group are settled, the last one by :task_no: its queued tasks may be claimed, unless the job
-- is canceled.
UPDATE task_records
   SET ready = NOT :is_canceled, ready_ns = CASE WHEN :is_canceled THEN ready_ns ELSE :now_ns END,
       released_by_no = :task_no
 WHERE group_no = :group_no AND state = 1 AND ready = 0

-- name: settle_child
UPDATE task_records SET unsettled_count = unsettled_count - 1 WHERE task_no = ?

-- name: mark_branch_failed
UPDATE task_records SET branch_failed = 1 WHERE task_no = ?

-- name: is_job_canceled
SELECT canceled FROM job_records WHERE job_no = ?

-- name: display_of_task
SELECT display FROM task_records WHERE task_no = ?

-- name: branch_failed
SELECT branch_failed FROM task_records WHERE task_no = ?

-- name: skip_queued_in_branch
-- QUEUED -> SKIPPED for what still waits in a failed optional branch.
UPDATE task_records SET state = 5, ready = 0 WHERE branch_no = ? AND state = 1 RETURNING task_no

-- name: cancel_job
UPDATE job_records SET canceled = 1 WHERE job_no = ? AND NOT canceled RETURNING job_no

-- name: withhold_queued
UPDATE task_records SET ready = 0 WHERE job_no = ? AND ready = 1

-- name: uncancel_job
UPDATE job_records SET canceled = 0 WHERE job_no = ?

-- name: requeue_failed
-- FAILED -> QUEUED, with a new budget of retries.
UPDATE task_records
   SET state = 1, retry_budget_start = retry_count, crash_count = 0
 WHERE job_no = ? AND state = 4
RETURNING task_no

-- name: release_queued
-- After a retry: what is queued and has no unsettled dependency may be claimed again.
UPDATE task_records SET ready = 1, ready_ns = :now_ns
 WHERE job_no = :job_no AND state = 1 AND ready = 0
   AND (SELECT dependency_count FROM group_records g WHERE g.group_no = task_records.group_no) = 0

-- name: is_job_finished
SELECT queued_count + running_count + failed_count = 0 FROM job_records WHERE job_no = ?

-- name: delete_progress
DELETE FROM progress_records WHERE job_no = ? AND task_no = ?

-- name: insert_progress
INSERT INTO progress_records (job_no, task_no, label, total, done) VALUES (?, ?, ?, ?, ?)

-- name: extend_lease
UPDATE task_records SET lease_expires_boot_ns = :lease_expires_boot_ns
 WHERE task_no = :task_no AND state = 2 AND attempt = :attempt

-- name: running_tasks
-- Few rows at any time: one per task that runs now. Uses task_records_running.
SELECT t.task_no, t.attempt, t.lease_expires_boot_ns, t.runner_no, r.stopped_ns, w.writer_no,
       w.host, w.pid, w.process_start, w.boot_id, w.pid_namespace
FROM task_records t
LEFT JOIN runner_records r ON r.runner_no = t.runner_no
LEFT JOIN writer_records w ON w.writer_no = r.writer_no
WHERE t.state = 2

-- name: suspect_writers
-- Processes that have not said that they are done, and those of open spans: few. Uses writer_records_open, and one seek
-- in span_records_open_resource for each resource that has open spans, however many they are.
WITH RECURSIVE open_resources(resource_no) AS (
  SELECT min(resource_no) FROM span_records INDEXED BY span_records_open_resource WHERE duration_ns IS NULL
  UNION ALL
  SELECT (SELECT min(s.resource_no) FROM span_records s INDEXED BY span_records_open_resource
          WHERE s.duration_ns IS NULL AND s.resource_no > open_resources.resource_no)
  FROM open_resources WHERE resource_no IS NOT NULL)
SELECT writer_no, ended_ns, host, pid, process_start, boot_id, pid_namespace
FROM writer_records
WHERE writer_no IN (
  SELECT writer_no FROM writer_records WHERE ended_ns IS NULL
  UNION
  SELECT r.writer_no FROM open_resources o JOIN resource_records r ON r.resource_no = o.resource_no)

-- name: open_spans_of_process
-- Uses span_records_open_resource.
SELECT s.trace_no, s.start_ns, s.span_id, s.parent_span_id, s.name
FROM resource_records r
CROSS JOIN span_records s INDEXED BY span_records_open_resource ON s.resource_no = r.resource_no
WHERE r.writer_no = :writer_no AND s.duration_ns IS NULL
ORDER BY s.start_ns, s.span_id

-- name: last_sign_in_trace
-- The newest time among the spans that a process has stored in a trace since an instant. Looks at the newest :limit
-- spans: a process is in writer_records with a time that is a second old at most, and this one is newer, if any is.
SELECT max(start_ns + coalesce(duration_ns, 0))
FROM (SELECT start_ns, duration_ns, resource_no FROM span_records
      WHERE trace_no = :trace_no AND start_ns >= :start_ns ORDER BY start_ns DESC LIMIT :limit)
WHERE resource_no IN (SELECT resource_no FROM resource_records WHERE writer_no = :writer_no)

-- name: last_log_in_trace
-- The newest log record that a process has emitted in a trace since an instant, if it is among the newest :limit.
SELECT time_ns, body
FROM (SELECT time_ns, log_no, body, resource_no FROM log_records
      WHERE trace_no = :trace_no AND time_ns >= :start_ns ORDER BY time_ns DESC, log_no DESC LIMIT :limit)
WHERE resource_no IN (SELECT resource_no FROM resource_records WHERE writer_no = :writer_no)
ORDER BY time_ns DESC, log_no DESC LIMIT 1

-- name: last_log_of_attempt
-- The newest log record of a task since its attempt began, if it is among the newest :limit of the trace.
SELECT time_ns, body
FROM (SELECT l.time_ns, l.log_no, l.body, l.task_no
      FROM task_records t JOIN trace_records r ON r.job_no = t.job_no
      CROSS JOIN log_records l ON l.trace_no = r.trace_no AND l.time_ns >= t.started_ns
      WHERE t.task_no = :task_no ORDER BY l.time_ns DESC, l.log_no DESC LIMIT :limit)
WHERE task_no = :task_no
ORDER BY time_ns DESC, log_no DESC LIMIT 1

-- name: name_of_task
SELECT i.name FROM task_records t JOIN identifier_records i ON i.identifier_no = t.identifier_no WHERE t.task_no = ?

-- name: writer_last_seen
SELECT last_seen_ns FROM writer_records WHERE writer_no = ?

-- name: writer_crashed
UPDATE writer_records SET ended_ns = :last_seen_ns, has_crashed = 1 WHERE writer_no = :writer_no AND ended_ns IS NULL

-- name: runners_crashed
UPDATE runner_records SET stopped_ns = last_seen_ns WHERE writer_no = ? AND stopped_ns IS NULL

-- name: open_spans_of_task
-- Uses span_records_open, which an UPDATE of duration_ns could not.
SELECT trace_no, start_ns, span_id, parent_span_id, name FROM span_records INDEXED BY span_records_open
WHERE duration_ns IS NULL AND task_no = :task_no
  AND trace_no = (SELECT trace_no FROM trace_records r JOIN task_records t ON t.job_no = r.job_no
                  WHERE t.task_no = :task_no)

-- name: end_open_span
-- Nobody else will end it.
UPDATE span_records
   SET duration_ns = max(0, :end_ns - start_ns), status_code = 2, status_message = :message
 WHERE trace_no = :trace_no AND start_ns = :start_ns AND span_id = :span_id

-- name: insert_runner
INSERT INTO runner_records
  (resource_no, cluster_no, writer_no, started_ns, last_seen_ns)
VALUES (:resource_no, :cluster_no, :writer_no, :now_ns, :now_ns)
RETURNING runner_no

-- name: runner_seen
UPDATE runner_records SET last_seen_ns = ? WHERE runner_no = ?

-- name: runner_stopped
UPDATE runner_records SET last_seen_ns = :now_ns, stopped_ns = :now_ns WHERE runner_no = :runner_no

-- name: last_sign_of_attempt
-- When a runner was last seen to work on a task: its heartbeat, and the spans and logs of the attempt that are stored.
-- NULL: never. Looks at the newest :limit spans and logs of the trace since the attempt began.
SELECT max(seen_ns) FROM (
  SELECT last_seen_ns AS seen_ns FROM runner_records WHERE runner_no = :runner_no
  UNION ALL
  SELECT start_ns + coalesce(duration_ns, 0)
  FROM (SELECT s.start_ns, s.duration_ns, s.task_no
        FROM task_records t JOIN trace_records r ON r.job_no = t.job_no
        CROSS JOIN span_records s ON s.trace_no = r.trace_no AND s.start_ns >= t.started_ns
        WHERE t.task_no = :task_no ORDER BY s.start_ns DESC LIMIT :limit)
  WHERE task_no = :task_no
  UNION ALL
  SELECT time_ns
  FROM (SELECT l.time_ns, l.task_no
        FROM task_records t JOIN trace_records r ON r.job_no = t.job_no
        CROSS JOIN log_records l ON l.trace_no = r.trace_no AND l.time_ns >= t.started_ns
        WHERE t.task_no = :task_no ORDER BY l.time_ns DESC LIMIT :limit)
  WHERE task_no = :task_no
)

-- name: insert_cluster
INSERT INTO cluster_records (slug, name, description) VALUES (?, ?, ?)
ON CONFLICT (slug) WHERE deleted_ns IS NULL DO NOTHING
RETURNING cluster_no

-- name: update_cluster
UPDATE cluster_records
   SET name = coalesce(:name, name),
       description = CASE WHEN :changes_description THEN nullif(:description, '') ELSE description END
 WHERE slug = :slug AND deleted_ns IS NULL

-- name: delete_cluster
UPDATE cluster_records SET deleted_ns = ? WHERE slug = ? AND deletable AND deleted_ns IS NULL

-- name: cluster_has_open_tasks
-- Claimable tasks are one seek away; the partial indexes over running and waiting tasks are scanned.
SELECT EXISTS (SELECT 1 FROM task_records WHERE ready = 1 AND cluster_no = :cluster_no)
    OR EXISTS (SELECT 1 FROM task_records WHERE state = 2 AND cluster_no = :cluster_no)
    OR EXISTS (SELECT 1 FROM task_records WHERE state = 1 AND ready = 0 AND cluster_no = :cluster_no)

-- name: find_job_no
-- Not a job that is being pruned: it has lost its roots, so that nothing can be done with it.
SELECT job_no FROM job_records WHERE job_id = ? AND first_root_no IS NOT NULL

-- name: unrunnable_tasks
-- Kinds of claimable tasks of a cluster, for the hint that no runner here can run them.
SELECT DISTINCT i.name, i.major, i.minor
FROM identifier_records i
WHERE EXISTS (SELECT 1 FROM task_records t
              WHERE t.ready = 1 AND t.cluster_no = ? AND t.identifier_no = i.identifier_no)

-- name: identifier
SELECT name, major, minor FROM identifier_records WHERE identifier_no = ?
