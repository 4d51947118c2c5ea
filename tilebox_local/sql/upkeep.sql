-- Upkeep: snapshot, prune, check and recover. Questions run on read-only connections; what deletes runs in slices.

-- name: begin_snapshot
-- A read transaction begins with the first read.
SELECT count(*) FROM store_records

-- check: each query returns one line of text for each row that breaks a rule that the engine and the writer keep.
-- A job that is being pruned (its first_root_no is NULL) is left out where its tasks are counted.

-- name: check_job_counts
-- The counters of a job are the numbers of its tasks in each state.
SELECT printf('job %d counts %d/%d/%d/%d/%d/%d tasks queued/running/computed/failed/skipped/failed optional, but has '
    || '%d/%d/%d/%d/%d/%d', j.job_no, j.queued_count, j.running_count, j.computed_count, j.failed_count,
  j.skipped_count, j.failed_optional_count, t.queued, t.running, t.computed, t.failed, t.skipped, t.failed_optional)
FROM job_records j
LEFT JOIN (
  SELECT job_no, sum(state = 1) AS queued, sum(state = 2) AS running, sum(state = 3) AS computed,
         sum(state = 4) AS failed, sum(state = 5) AS skipped, sum(state = 6) AS failed_optional
  FROM task_records GROUP BY job_no
) t ON t.job_no = j.job_no
WHERE j.first_root_no IS NOT NULL
  AND (j.queued_count, j.running_count, j.computed_count, j.failed_count, j.skipped_count, j.failed_optional_count)
    IS NOT (coalesce(t.queued, 0), coalesce(t.running, 0), coalesce(t.computed, 0), coalesce(t.failed, 0),
            coalesce(t.skipped, 0), coalesce(t.failed_optional, 0))

-- name: check_roots
-- The root tasks of a job are those that it names.
SELECT printf('job %d says its root tasks are %d to %d, but they are %s to %s', j.job_no, j.first_root_no,
  j.last_root_no, coalesce(t.first_no, 'none'), coalesce(t.last_no, 'none'))
FROM job_records j
LEFT JOIN (
  SELECT job_no, min(task_no) AS first_no, max(task_no) AS last_no
  FROM task_records WHERE parent_no IS NULL GROUP BY job_no
) t ON t.job_no = j.job_no
WHERE j.first_root_no IS NOT NULL AND (j.first_root_no, j.last_root_no) IS NOT (t.first_no, t.last_no)

-- name: check_children
-- A task names its children and counts those that are not settled.
SELECT printf('task %d says it has children %s to %s, %d of them unsettled, but has %s to %s, %d unsettled', p.task_no,
  coalesce(p.first_child_no, 'none'), coalesce(p.last_child_no, 'none'), p.unsettled_count,
  coalesce(c.first_no, 'none'), coalesce(c.last_no, 'none'), coalesce(c.unsettled, 0))
FROM task_records p
JOIN job_records j ON j.job_no = p.job_no
LEFT JOIN (
  SELECT parent_no, min(task_no) AS first_no, max(task_no) AS last_no,
         sum(NOT (state IN (3, 5, 6) AND unsettled_count = 0)) AS unsettled
  FROM task_records WHERE parent_no IS NOT NULL GROUP BY parent_no
) c ON c.parent_no = p.task_no
WHERE j.first_root_no IS NOT NULL
  AND (p.first_child_no, p.last_child_no, p.unsettled_count)
    IS NOT (c.first_no, c.last_no, coalesce(c.unsettled, 0))

-- name: check_group_counts
-- A group that others wait for counts its tasks that are not settled.
SELECT printf('group %d counts %s unsettled tasks, but has %d', g.group_no, coalesce(g.unsettled_count, 'no'),
  coalesce(t.unsettled, 0))
FROM group_records g
JOIN job_records j ON j.job_no = g.job_no
LEFT JOIN (
  SELECT group_no, sum(NOT (state IN (3, 5, 6) AND unsettled_count = 0)) AS unsettled
  FROM task_records GROUP BY group_no
) t ON t.group_no = g.group_no
WHERE j.first_root_no IS NOT NULL
  AND (g.unsettled_count IS NOT NULL
    OR EXISTS (SELECT 1 FROM group_dependency_records d WHERE d.depends_on_no = g.group_no))
  AND g.unsettled_count IS NOT coalesce(t.unsettled, 0)

-- name: check_group_dependencies
-- A group counts the groups that it waits for and that are not settled.
SELECT printf('group %d waits for %d groups, but %d of them are unsettled', g.group_no, g.dependency_count,
  coalesce(d.unsettled, 0))
FROM group_records g
JOIN job_records j ON j.job_no = g.job_no
LEFT JOIN (
  SELECT e.group_no, sum(o.unsettled_count > 0) AS unsettled
  FROM group_dependency_records e JOIN group_records o ON o.group_no = e.depends_on_no
  GROUP BY e.group_no
) d ON d.group_no = g.group_no
WHERE j.first_root_no IS NOT NULL AND g.dependency_count <> coalesce(d.unsettled, 0)

-- name: check_ready
-- A task may be claimed if and only if it is queued, nothing is left that it waits for, and its job is not canceled.
SELECT printf('task %d in state %d has ready = %d, though it waits for %d groups and its job has canceled = %d',
  t.task_no, t.state, t.ready, g.dependency_count, j.canceled)
FROM task_records t
JOIN group_records g ON g.group_no = t.group_no
JOIN job_records j ON j.job_no = t.job_no
WHERE j.first_root_no IS NOT NULL
  AND t.ready <> (t.state = 1 AND g.dependency_count = 0 AND NOT j.canceled)

-- name: check_running
-- A task has a lease if and only if it is running, and then a runner and a start.
SELECT printf('task %d in state %d has lease %s, runner %s, start %s', task_no, state,
  coalesce(lease_expires_boot_ns, 'none'), coalesce(runner_no, 'none'), coalesce(started_ns, 'none'))
FROM task_records
WHERE (state = 2) <> (lease_expires_boot_ns IS NOT NULL)
   OR (state = 2 AND (runner_no IS NULL OR started_ns IS NULL OR attempt < 1))

-- name: check_states
SELECT printf('task %d has the unknown state %d', task_no, state) FROM task_records WHERE state NOT BETWEEN 1 AND 6

-- name: check_families
-- A task, its parent and its group belong to the same job; parents come before children.
SELECT printf('task %d of job %d has group %d of job %s and parent %s of job %s', t.task_no, t.job_no, t.group_no,
  coalesce(g.job_no, 'none'), coalesce(t.parent_no, 'none'), coalesce(p.job_no, 'none'))
FROM task_records t
LEFT JOIN group_records g ON g.group_no = t.group_no
LEFT JOIN task_records p ON p.task_no = t.parent_no
WHERE g.job_no IS NOT t.job_no
   OR (t.parent_no IS NOT NULL AND (p.job_no IS NOT t.job_no OR t.parent_no >= t.task_no))

-- name: check_job_traces
SELECT printf('job %d has no trace', job_no) FROM job_records j
WHERE NOT EXISTS (SELECT 1 FROM trace_records r WHERE r.job_no = j.job_no)

-- name: check_span_traces
-- The trace of each span is known; else no view shows the span. Looks at the first span of each trace only.
WITH RECURSIVE used(trace_no) AS (
  SELECT min(trace_no) FROM span_records
  UNION ALL
  SELECT (SELECT min(trace_no) FROM span_records WHERE trace_no > used.trace_no) FROM used WHERE trace_no IS NOT NULL
)
SELECT printf('there are spans of trace %d, which does not exist', trace_no) FROM used
WHERE trace_no NOT IN (SELECT trace_no FROM trace_records)

-- name: check_event_traces
WITH RECURSIVE used(trace_no) AS (
  SELECT min(trace_no) FROM event_records
  UNION ALL
  SELECT (SELECT min(trace_no) FROM event_records WHERE trace_no > used.trace_no) FROM used WHERE trace_no IS NOT NULL
)
SELECT printf('there are events of trace %d, which does not exist', trace_no) FROM used
WHERE trace_no NOT IN (SELECT trace_no FROM trace_records)

-- name: check_log_traces
WITH RECURSIVE used(trace_no) AS (
  SELECT min(trace_no) FROM log_records
  UNION ALL
  SELECT (SELECT min(trace_no) FROM log_records WHERE trace_no > used.trace_no) FROM used WHERE trace_no IS NOT NULL
)
SELECT printf('there are log records of trace %d, which does not exist', trace_no) FROM used
WHERE trace_no NOT IN (SELECT trace_no FROM trace_records)

-- name: check_open_spans
-- A span is not open for ever: its task is running, or the runner may still end it.
SELECT printf('span %016x of trace %d is open, though task %d is in state %d and its runner has stopped', s.span_id,
  s.trace_no, s.task_no, t.state)
FROM span_records s INDEXED BY span_records_open
JOIN task_records t ON t.task_no = s.task_no
JOIN runner_records r ON r.runner_no = t.runner_no
WHERE s.duration_ns IS NULL AND t.state <> 2 AND r.stopped_ns IS NOT NULL

-- name: check_span_references
-- Reads all spans.
SELECT printf('span %016x of trace %d names resource %d and scope %d, one of which does not exist', span_id, trace_no,
  resource_no, scope_no)
FROM span_records
WHERE resource_no NOT IN (SELECT resource_no FROM resource_records)
   OR scope_no NOT IN (SELECT scope_no FROM scope_records)

-- name: check_log_references
-- Reads all log records.
SELECT printf('log record %d of trace %d names resource %d and scope %d, one of which does not exist', log_no, trace_no,
  resource_no, scope_no)
FROM log_records
WHERE resource_no NOT IN (SELECT resource_no FROM resource_records)
   OR scope_no NOT IN (SELECT scope_no FROM scope_records)

-- name: check_attributes
-- What is not JSON makes the views fail. Reads everything.
SELECT printf('attributes or links of span %016x of trace %d are not JSON', span_id, trace_no) FROM span_records
WHERE NOT (json_valid(coalesce(attributes, '{}')) AND json_valid(coalesce(links, '[]')))
UNION ALL
SELECT printf('attributes of event %d of span %016x of trace %d are not JSON', event_no, span_id, trace_no)
FROM event_records WHERE NOT json_valid(coalesce(attributes, '{}'))
UNION ALL
SELECT printf('attributes of log record %d of trace %d are not JSON', log_no, trace_no)
FROM log_records WHERE NOT json_valid(coalesce(attributes, '{}'))
UNION ALL
SELECT printf('attributes of resource %d are not JSON', resource_no) FROM resource_records
WHERE NOT json_valid(attributes)

-- name: objects
-- Tables, indexes, triggers and views of the file.
SELECT name FROM sqlite_schema

-- prune: what may go. These run on read-only connections; what they find is looked at again before it is deleted.

-- name: prunable_jobs
-- Jobs that have ended, the one that ended first before the others: no task runs, and queued ones, if any,
-- are withheld. Those with the largest numbers must stay, since SQLite would give their numbers out again: a runner that
-- has lost its task could then report on another one.
SELECT job_no, max(submitted_ns, coalesce(last_stopped_ns, 0)) AS ended_ns,
  job_no IN (
    SELECT max(job_no) FROM job_records
    UNION ALL SELECT job_no FROM task_records WHERE task_no = (SELECT max(task_no) FROM task_records)
    UNION ALL SELECT job_no FROM group_records WHERE group_no = (SELECT max(group_no) FROM group_records)
    UNION ALL SELECT coalesce(job_no, 0) FROM trace_records
              WHERE trace_no = (SELECT max(trace_no) FROM trace_records)) AS must_stay
FROM job_records
WHERE first_root_no IS NOT NULL AND running_count = 0 AND (canceled OR queued_count + failed_count = 0)
ORDER BY ended_ns, job_no

-- name: half_pruned_jobs
-- Jobs that an interrupted prune has left.
SELECT job_no FROM job_records WHERE first_root_no IS NULL

-- name: jobless_traces
-- Traces of no job, by number, with the time of the last span, event or log record in them. Those with an open span are
-- in use. Three seeks each. The trace with the largest number stays, like jobs.
SELECT r.trace_no,
  max(coalesce((SELECT max(start_ns) FROM span_records s WHERE s.trace_no = r.trace_no), 0),
      coalesce((SELECT max(time_ns) FROM event_records e WHERE e.trace_no = r.trace_no), 0),
      coalesce((SELECT max(time_ns) FROM log_records l WHERE l.trace_no = r.trace_no), 0)) AS ended_ns
FROM trace_records r
WHERE r.trace_no > :after AND r.trace_no < (SELECT max(trace_no) FROM trace_records) AND r.job_no IS NULL
  AND NOT EXISTS (SELECT 1 FROM span_records o WHERE o.duration_ns IS NULL AND o.trace_no = r.trace_no)
ORDER BY r.trace_no
LIMIT :limit

-- name: log_outside_of_traces
-- Time of a later log record that is outside of traces, so many after an instant.
SELECT time_ns FROM log_records WHERE trace_no = 0 AND time_ns >= ? ORDER BY time_ns, log_no LIMIT 1 OFFSET ?

-- name: last_log_outside_of_traces
SELECT max(time_ns) FROM log_records WHERE trace_no = 0

-- name: next_span_trace
-- With the two below: numbers of all traces that have telemetry, one after the other, one seek each.
SELECT min(trace_no) FROM span_records WHERE trace_no > ?

-- name: next_event_trace
SELECT min(trace_no) FROM event_records WHERE trace_no > ?

-- name: next_log_trace
SELECT min(trace_no) FROM log_records WHERE trace_no > ?

-- name: trace_exists
SELECT EXISTS (SELECT 1 FROM trace_records WHERE trace_no = ?)

-- name: size_of_spans
-- How many spans a prune would delete, and about how many bytes they take.
SELECT count(*), coalesce(sum(60 + length(name) + coalesce(length(attributes), 0) + coalesce(length(links), 0)
  + coalesce(length(status_message), 0)), 0)
FROM span_records WHERE trace_no = :trace_no AND start_ns < :before_ns

-- name: size_of_events
SELECT count(*), coalesce(sum(40 + length(name) + coalesce(length(attributes), 0)), 0)
FROM event_records WHERE trace_no = :trace_no AND time_ns < :before_ns

-- name: size_of_logs
SELECT count(*), coalesce(sum(60 + length(body) + coalesce(length(attributes), 0)), 0)
FROM log_records WHERE trace_no = :trace_no AND time_ns >= :from_ns AND time_ns < :before_ns

-- name: size_of_tasks
SELECT count(*), coalesce(sum(200 + length(input) + coalesce(length(display), 0)), 0)
FROM task_records WHERE job_no = ?

-- prune: deleting, in write transactions that take some milliseconds each.

-- name: mark_half_pruned
-- From here on nobody finds the job, so that nobody can retry what is being deleted. NULL if it has been retried.
UPDATE job_records SET first_root_no = NULL, last_root_no = NULL
 WHERE job_no = ? AND running_count = 0 AND (canceled OR queued_count + failed_count = 0)
RETURNING job_no

-- name: span_to_prune_to
-- With the three below: the last row of the next slice; no row if fewer are left.
SELECT start_ns, span_id FROM span_records WHERE trace_no = ? ORDER BY start_ns, span_id LIMIT 1 OFFSET ?

-- name: event_to_prune_to
SELECT time_ns, span_id FROM event_records WHERE trace_no = ? ORDER BY time_ns, span_id LIMIT 1 OFFSET ?

-- name: log_to_prune_to
SELECT time_ns, log_no FROM log_records WHERE trace_no = ? ORDER BY time_ns, log_no LIMIT 1 OFFSET ?

-- name: task_to_prune_to
-- Backwards: children have larger numbers than their parents. The first task after the slice, and its group.
SELECT task_no, group_no FROM task_records WHERE job_no = ? ORDER BY task_no DESC LIMIT 1 OFFSET ?

-- name: prune_spans
DELETE FROM span_records
WHERE trace_no = :trace_no AND (start_ns, span_id) <= (:last_ns, :last_no) AND start_ns < :before_ns

-- name: prune_events
DELETE FROM event_records
WHERE trace_no = :trace_no AND (time_ns, span_id) <= (:last_ns, :last_no) AND time_ns < :before_ns

-- name: prune_logs
DELETE FROM log_records
WHERE trace_no = :trace_no AND (time_ns, log_no) <= (:last_ns, :last_no) AND time_ns < :before_ns

-- name: groups_to_prune
-- Groups whose tasks are all among the last ones of the job, as a JSON array: tasks of a group have consecutive numbers.
SELECT json_group_array(DISTINCT group_no) FROM task_records
WHERE job_no = :job_no AND task_no > :task_no AND group_no <> :group_no

-- name: prune_progress
DELETE FROM progress_records WHERE job_no = ? AND task_no > ?

-- name: prune_attempts
DELETE FROM attempt_records WHERE job_no = ? AND task_no > ?

-- name: prune_dependencies
DELETE FROM group_dependency_records WHERE group_no IN (SELECT value FROM json_each(?))

-- name: prune_dependents
DELETE FROM group_dependency_records WHERE depends_on_no IN (SELECT value FROM json_each(?))

-- name: prune_tasks
DELETE FROM task_records WHERE job_no = ? AND task_no > ?

-- name: prune_groups
DELETE FROM group_records WHERE group_no IN (SELECT value FROM json_each(?))

-- name: prune_trace_of_job
DELETE FROM trace_records WHERE job_no = ?

-- name: prune_job
DELETE FROM job_records WHERE job_no = ?

-- name: prune_jobless_trace
-- Unless somebody has added to it meanwhile.
DELETE FROM trace_records
WHERE trace_no = :trace_no AND job_no IS NULL
  AND NOT EXISTS (SELECT 1 FROM span_records s WHERE s.trace_no = :trace_no)
  AND NOT EXISTS (SELECT 1 FROM event_records e WHERE e.trace_no = :trace_no)
  AND NOT EXISTS (SELECT 1 FROM log_records l WHERE l.trace_no = :trace_no)

-- recover: make a whole of the rows that were found. These run on the new file, before anybody else sees it.

-- name: tables
SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'

-- name: stored_columns
-- Columns that records of a table have, in their order, with their position in the primary key (0: none) and default.
SELECT name, type, "notnull", pk, dflt_value FROM pragma_table_xinfo(?) WHERE hidden <> 2

-- name: foreign_keys
SELECT "from", "table" FROM pragma_foreign_key_list(?)

-- name: table_roots
SELECT name, rootpage FROM sqlite_schema WHERE type = 'table'

-- name: drop_impossible_tasks
DELETE FROM task_records WHERE state NOT BETWEEN 1 AND 6 OR ready NOT IN (0, 1)

-- name: mend_groups
-- A group belongs to the job of most of its tasks; what it says itself counts as one of them.
UPDATE group_records SET job_no = (
  SELECT t.job_no FROM task_records t WHERE t.group_no = group_records.group_no
  GROUP BY t.job_no ORDER BY count(*) + (t.job_no = group_records.job_no) DESC LIMIT 1)
WHERE group_no IN (SELECT t.group_no FROM task_records t JOIN group_records g USING (group_no) WHERE g.job_no <> t.job_no)
RETURNING job_no

-- name: drop_misplaced_tasks
-- Tasks whose group is of another job, as most of its tasks say.
DELETE FROM task_records
WHERE EXISTS (SELECT 1 FROM group_records g WHERE g.group_no = task_records.group_no AND g.job_no <> task_records.job_no)

-- name: drop_progress_of_no_task
DELETE FROM progress_records
WHERE NOT EXISTS (
  SELECT 1 FROM task_records t WHERE t.task_no = progress_records.task_no AND t.job_no = progress_records.job_no)

-- name: drop_attempts_of_no_task
DELETE FROM attempt_records
WHERE NOT EXISTS (
  SELECT 1 FROM task_records t WHERE t.task_no = attempt_records.task_no AND t.job_no = attempt_records.job_no)

-- name: jobs_of_lost_dependencies
-- Jobs with a group that waits for a group that is not there. (What the others wait for cannot have been theirs.)
SELECT DISTINCT t.job_no FROM group_dependency_records d JOIN task_records t ON t.group_no = d.group_no
WHERE d.depends_on_no NOT IN (SELECT group_no FROM task_records)

-- name: drop_lost_dependencies
DELETE FROM group_dependency_records
WHERE group_no NOT IN (SELECT group_no FROM task_records) OR depends_on_no NOT IN (SELECT group_no FROM task_records)

-- name: drop_empty_groups
DELETE FROM group_records WHERE group_no NOT IN (SELECT group_no FROM task_records)

-- name: lost_groups
SELECT group_no, min(job_no) FROM task_records WHERE group_no NOT IN (SELECT group_no FROM group_records)
GROUP BY group_no

-- name: add_group
INSERT INTO group_records (group_no, job_no, unsettled_count, dependency_count) VALUES (?, ?, NULL, 0)

-- name: lost_jobs
-- Jobs that have tasks or progress, but no row, with what tells of them.
SELECT t.job_no, min(t.submitted_ns), min(t.started_ns), max(t.stopped_ns), min(lower(hex(r.trace_id)))
FROM task_records t LEFT JOIN trace_records r ON r.job_no = t.job_no
WHERE t.job_no NOT IN (SELECT job_no FROM job_records)
GROUP BY t.job_no

-- name: add_job
INSERT INTO job_records (job_no, job_id, name, trace_parent, submitted_ns, first_started_ns, last_stopped_ns, canceled)
VALUES (?, ?, ?, ?, ?, ?, ?, 1)

-- name: orphan_parents
-- A task whose parent is lost becomes a root task of its job.
UPDATE task_records SET parent_no = NULL
WHERE parent_no IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM task_records p
                  WHERE p.task_no = task_records.parent_no AND p.job_no = task_records.job_no
                    AND p.task_no < task_records.task_no)

-- name: orphan_branches
UPDATE task_records SET branch_no = NULL
WHERE branch_no IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM task_records p
                  WHERE p.task_no = task_records.branch_no AND p.job_no = task_records.job_no
                    AND p.task_no < task_records.task_no)

-- name: orphan_traces
-- Their job has left nothing else.
UPDATE trace_records SET job_no = NULL WHERE job_no IS NOT NULL AND job_no NOT IN (SELECT job_no FROM job_records)

-- name: jobs_without_trace
SELECT job_no, trace_parent FROM job_records WHERE job_no NOT IN
  (SELECT job_no FROM trace_records WHERE job_no IS NOT NULL)

-- name: lost_traces
-- Traces that have telemetry but no row, with the job of a task in them.
SELECT u.trace_no,
  coalesce(
    (SELECT t.job_no FROM span_records s JOIN task_records t ON t.task_no = s.task_no
     WHERE s.trace_no = u.trace_no LIMIT 1),
    (SELECT t.job_no FROM log_records l JOIN task_records t ON t.task_no = l.task_no
     WHERE l.trace_no = u.trace_no LIMIT 1))
FROM (
  SELECT trace_no FROM span_records UNION SELECT trace_no FROM event_records UNION SELECT trace_no FROM log_records
) u
WHERE u.trace_no NOT IN (SELECT trace_no FROM trace_records)

-- name: add_trace
INSERT INTO trace_records (trace_no, trace_id, job_no) VALUES (?, ?, ?)

-- name: used_resources
SELECT resource_no FROM span_records UNION SELECT resource_no FROM log_records

-- name: used_scopes
SELECT scope_no FROM span_records UNION SELECT scope_no FROM log_records

-- name: tasks_to_recount
-- Children before their parents.
SELECT task_no, job_no, parent_no, group_no, state, unsettled_count, first_child_no, last_child_no FROM task_records
ORDER BY task_no DESC

-- name: recount_task
UPDATE task_records SET unsettled_count = ?, first_child_no = ?, last_child_no = ? WHERE task_no = ?

-- name: groups_to_recount
SELECT group_no, job_no, unsettled_count, dependency_count FROM group_records

-- name: dependencies_to_recount
SELECT depends_on_no, group_no FROM group_dependency_records

-- name: recount_group
UPDATE group_records SET unsettled_count = ?, dependency_count = ? WHERE group_no = ?

-- name: stop_impossible_attempts
-- A task cannot be running without a runner and a lease: it waits to be claimed again.
UPDATE task_records SET state = 1, lease_expires_boot_ns = NULL
WHERE state = 2 AND (lease_expires_boot_ns IS NULL OR runner_no IS NULL OR started_ns IS NULL OR attempt < 1)

-- name: clear_leases
UPDATE task_records SET lease_expires_boot_ns = NULL WHERE state <> 2 AND lease_expires_boot_ns IS NOT NULL

-- name: jobs_to_recount
-- Jobs whose counters or roots are not those of their tasks.
SELECT j.job_no, j.first_root_no IS NULL,
  (j.queued_count, j.running_count, j.computed_count, j.failed_count, j.skipped_count, j.failed_optional_count)
    IS NOT (coalesce(t.queued, 0), coalesce(t.running, 0), coalesce(t.computed, 0), coalesce(t.failed, 0),
            coalesce(t.skipped, 0), coalesce(t.failed_optional, 0))
  OR (j.first_root_no, j.last_root_no) IS NOT (t.first_root_no, t.last_root_no)
FROM job_records j
LEFT JOIN (
  SELECT job_no, sum(state = 1) AS queued, sum(state = 2) AS running, sum(state = 3) AS computed,
         sum(state = 4) AS failed, sum(state = 5) AS skipped, sum(state = 6) AS failed_optional,
         min(iif(parent_no IS NULL, task_no, NULL)) AS first_root_no,
         max(iif(parent_no IS NULL, task_no, NULL)) AS last_root_no
  FROM task_records GROUP BY job_no
) t ON t.job_no = j.job_no

-- name: recount_job
UPDATE job_records SET
  (queued_count, running_count, computed_count, failed_count, skipped_count, failed_optional_count,
   first_root_no, last_root_no) =
  (SELECT coalesce(sum(state = 1), 0), coalesce(sum(state = 2), 0), coalesce(sum(state = 3), 0),
          coalesce(sum(state = 4), 0), coalesce(sum(state = 5), 0), coalesce(sum(state = 6), 0),
          min(iif(parent_no IS NULL, task_no, NULL)), max(iif(parent_no IS NULL, task_no, NULL))
   FROM task_records t WHERE t.job_no = job_records.job_no)
WHERE job_no = ?

-- name: withhold_job
-- What was lost may have been what its tasks waited for.
UPDATE job_records SET canceled = 1
WHERE job_no = ? AND NOT canceled AND queued_count + running_count + failed_count > 0
RETURNING job_no

-- name: set_ready
UPDATE task_records SET ready = NOT ready, ready_ns = coalesce(ready_ns, submitted_ns)
WHERE ready <> (state = 1
  AND (SELECT dependency_count FROM group_records g WHERE g.group_no = task_records.group_no) = 0
  AND NOT (SELECT canceled FROM job_records j WHERE j.job_no = task_records.job_no))

-- name: end_lost_spans
UPDATE span_records SET duration_ns = 0, status_code = 2, status_message = 'interrupted: found open after a recovery.'
WHERE duration_ns IS NULL AND EXISTS (
  SELECT 1 FROM task_records t JOIN runner_records r ON r.runner_no = t.runner_no
  WHERE t.task_no = span_records.task_no AND t.state <> 2 AND r.stopped_ns IS NOT NULL)
