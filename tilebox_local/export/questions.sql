-- Questions with parameters that people ask a store, in SQLite's SQL and on the views alone: for `tilebox-local sql @name`,
-- datasette's canned queries and docs/schema.md. Each has a title, what it gives, and its parameters.
--
-- Names that are compared by GLOB are patterns: * any characters, ? one, [abc] one of these.

-- name: recent_failures
-- title: Jobs that failed last
-- The newest failed jobs, with the span of each that failed first, which is most often the cause.
SELECT j.submitted_at, j.name AS job_name, f.name AS failed, f.exception_type, f.exception_message, f.failed_at, j.job_id
FROM (SELECT * FROM jobs WHERE state = 'FAILED' ORDER BY submitted_at DESC LIMIT 50) j
LEFT JOIN (
  SELECT *, row_number() OVER (PARTITION BY job_id ORDER BY failed_ns, start_ns DESC) AS place
  FROM failures WHERE job_id IN (SELECT job_id FROM jobs WHERE state = 'FAILED' ORDER BY submitted_at DESC LIMIT 50)
) f ON f.job_id = j.job_id AND f.place = 1
ORDER BY j.submitted_at DESC;

-- name: flaky_tasks
-- title: Tasks that needed more than one attempt
-- By name and version, over all jobs: how many tasks were tried again, and how many attempts that took.
SELECT name, version, count(1) AS tasks, sum(attempts > 1) AS retried, 1.0 * sum(attempts > 1) / count(1) AS share,
  sum(max(attempts - 1, 0)) AS additional_attempts, sum(state = 'FAILED') AS failed
FROM tasks GROUP BY name, version HAVING sum(attempts > 1) > 0
ORDER BY share DESC, name, version;

-- name: error_rates
-- title: Which part of the spans of a job failed, over time
-- For the names of which any failed: ended and failed spans by twentieth of the time in which spans ended.
-- :job_id  id of the job
WITH
ended AS MATERIALIZED (
  SELECT name, status, end_ns, min(end_ns) OVER () AS first_ns, max(end_ns) OVER () AS last_ns
  FROM spans WHERE job_id = :job_id AND end_ns IS NOT NULL),
placed AS (
  SELECT name, status, first_ns, (last_ns - first_ns) / 20 + 1 AS width_ns,
    (end_ns - first_ns) / ((last_ns - first_ns) / 20 + 1) AS slot
  FROM ended WHERE name IN (SELECT name FROM ended WHERE status = 'ERROR'))
SELECT name, strftime('%Y-%m-%dT%H:%M:%S', (first_ns + slot * width_ns) / 1000000000, 'unixepoch')
    || printf('.%09dZ', (first_ns + slot * width_ns) % 1000000000) AS start_time,
  width_ns / 1e6 AS duration_ms, count(1) AS count, sum(status = 'ERROR') AS failed,
  1.0 * sum(status = 'ERROR') / count(1) AS rate
FROM placed GROUP BY name, slot ORDER BY name, slot;

-- name: slowest_spans
-- title: The longest spans of a job
-- Those that have ended, the longest first, with what they are about.
-- :job_id  id of the job
SELECT name, duration_ms, status, start_time, attributes, span_id, task_id, runner
FROM spans WHERE job_id = :job_id AND duration_ns IS NOT NULL
ORDER BY duration_ns DESC LIMIT 100;

-- name: search_spans
-- title: Spans of a job by name, attribute and length
-- The longest first; open ones last, as if they had no length yet.
-- :job_id     id of the job
-- :name       pattern of the name; may be empty
-- :attribute  key of an attribute that the span has; may be empty
-- :value      value of this attribute, as text; may be empty
-- :min_ms     least length in ms; may be empty
SELECT s.name, s.duration_ms, s.status, s.start_time, s.attributes, s.span_id, s.task_id, s.runner
FROM spans s
WHERE s.job_id = :job_id
  AND (coalesce(:name, '') = '' OR s.name GLOB :name)
  AND (coalesce(:min_ms, '') = '' OR s.duration_ms >= CAST(:min_ms AS REAL))
  AND (coalesce(:attribute, '') = '' OR EXISTS (
    SELECT 1 FROM json_each(s.attributes) a
    WHERE a.key = :attribute AND (coalesce(:value, '') = '' OR CASE a.type WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
      ELSE CAST(a.value AS TEXT) END = :value)))
ORDER BY s.duration_ns DESC LIMIT 1000;

-- name: search_logs
-- title: Log records of a job by text
-- Messages that contain a text, whatever the case of ASCII letters, in the order of time.
-- :job_id  id of the job
-- :text    text that the message contains
SELECT time, severity, body, attributes, logger, span_id, task_id, runner
FROM logs WHERE job_id = :job_id AND instr(lower(body), lower(:text)) > 0
ORDER BY time_ns LIMIT 1000;

-- name: spans_without_child
-- title: Spans of a job that lack a child
-- What should have happened and did not: the spans of a name that have no child of another one.
-- :job_id  id of the job
-- :parent  pattern of the name
-- :child   pattern of the child's name
SELECT name, start_time, duration_ms, status, attributes, span_id, task_id, runner
FROM spans
WHERE job_id = :job_id AND name GLOB :parent AND span_id NOT IN (
  SELECT parent_span_id FROM spans WHERE job_id = :job_id AND name GLOB :child AND parent_span_id IS NOT NULL)
ORDER BY start_ns LIMIT 1000;

-- name: time_by_attribute
-- title: How long spans of a name take, by the value of an attribute
-- Ended spans; p50 and p95 are nearest ranks, as in span_durations.
-- :job_id     id of the job
-- :name       name of the spans
-- :attribute  key of the attribute
WITH
chosen AS (
  SELECT a.value AS value, s.duration_ns
  FROM spans s, json_each(s.attributes) a
  WHERE s.job_id = :job_id AND s.name = :name AND s.duration_ns IS NOT NULL AND a.key = :attribute),
ranked AS (
  SELECT *, row_number() OVER (PARTITION BY value ORDER BY duration_ns) AS place,
    count(1) OVER (PARTITION BY value) AS spans
  FROM chosen)
SELECT value, max(spans) AS count, sum(duration_ns) / 1e6 AS total_ms, avg(duration_ns) / 1e6 AS mean_ms,
  max(CASE WHEN place = (spans * 50 + 99) / 100 THEN duration_ns END) / 1e6 AS p50_ms,
  max(CASE WHEN place = (spans * 95 + 99) / 100 THEN duration_ns END) / 1e6 AS p95_ms,
  max(duration_ns) / 1e6 AS max_ms
FROM ranked GROUP BY value ORDER BY total_ms DESC;

-- name: why_slow
-- title: Which attribute values slow spans have
-- For each value of each attribute that at least 5 ended spans of the name have, and at least 5 have not: how many of
-- them are slow (above the 90th percentile), the part of all slow ones among them (recall), and Cliff's delta of their
-- durations against those of the others (effect: 1 if each is longer). client.jobs().why_slow() looks at more than
-- attributes, and tests what it finds against chance; this does not.
-- :job_id  id of the job
-- :name    name of the spans
WITH
chosen AS (
  SELECT start_ns, span_id, duration_ns, attributes, count(1) OVER () AS spans,
    row_number() OVER (ORDER BY duration_ns) AS place,
    rank() OVER (ORDER BY duration_ns) + (count(1) OVER (PARTITION BY duration_ns) - 1) / 2.0 AS midrank
  FROM spans WHERE job_id = :job_id AND name = :name AND duration_ns IS NOT NULL),
measured AS (
  SELECT *, duration_ns > (SELECT duration_ns FROM chosen WHERE place = (spans * 90 + 99) / 100) AS is_slow
  FROM chosen),
by_value AS (
  SELECT a.key, a.value, max(m.spans) AS spans, count(1) AS count, sum(m.is_slow) AS slow, sum(m.midrank) AS rank_sum,
    avg(m.duration_ns) / 1e6 AS mean_ms
  FROM measured m, json_each(m.attributes) a
  WHERE a.key <> 'task_id'
  GROUP BY a.key, CASE WHEN a.type IN ('integer', 'real') THEN 'number' ELSE a.type END, a.value
  HAVING count(1) >= 5 AND max(m.spans) - count(1) >= 5)
SELECT key, value, count, slow, 1.0 * slow / count AS precision,
  1.0 * slow / (SELECT sum(is_slow) FROM measured) AS recall,
  2 * (rank_sum - count * (count + 1) / 2.0) / (1.0 * count * (spans - count)) - 1 AS effect, mean_ms
FROM by_value ORDER BY effect DESC, key LIMIT 100;

-- name: compare_jobs
-- title: What changed from one job to another
-- Self time of spans by name in both, the largest difference first. contribution is the part of the whole difference.
-- client.jobs().compare() does it by place in the trace, and says which differences are more than chance.
-- :job_a  id of the job before
-- :job_b  id of the job after
SELECT name,
  CASE WHEN sum(job_id = :job_a) = 0 THEN 'added' WHEN sum(job_id = :job_b) = 0 THEN 'missing' ELSE '' END AS verdict,
  sum(CASE WHEN job_id = :job_a THEN count + open END) AS a_count,
  sum(CASE WHEN job_id = :job_b THEN count + open END) AS b_count,
  sum(CASE WHEN job_id = :job_a THEN self_ms END) AS a_self_ms,
  sum(CASE WHEN job_id = :job_b THEN self_ms END) AS b_self_ms,
  max(CASE WHEN job_id = :job_a THEN p50_ms END) AS a_p50_ms,
  max(CASE WHEN job_id = :job_b THEN p50_ms END) AS b_p50_ms,
  total(CASE WHEN job_id = :job_b THEN self_ms ELSE -self_ms END) AS difference_ms,
  total(CASE WHEN job_id = :job_b THEN self_ms ELSE -self_ms END)
    / nullif(sum(total(CASE WHEN job_id = :job_b THEN self_ms ELSE -self_ms END)) OVER (), 0) AS contribution
FROM span_durations WHERE job_id IN (:job_a, :job_b) AND :job_a <> :job_b
GROUP BY name ORDER BY abs(difference_ms) DESC, name;

-- name: trace_tree
-- title: The trace of a job, indented
-- Spans below their parents, siblings by start; those without a parent, or whose parent never arrived, are roots.
-- :job_id  id of the job
WITH RECURSIVE
known AS MATERIALIZED (
  SELECT span_id, CASE WHEN parent_span_id IN (SELECT span_id FROM spans WHERE job_id = :job_id) THEN parent_span_id
    ELSE '' END AS parent_span_id, name, start_ns, duration_ms, status, task_id
  FROM spans WHERE job_id = :job_id),
tree(span_id, depth, name, start_ns, duration_ms, status, task_id) AS (
  SELECT span_id, 0, name, start_ns, duration_ms, status, task_id FROM known WHERE parent_span_id = ''
  UNION ALL
  SELECT k.span_id, tree.depth + 1, k.name, k.start_ns, k.duration_ms, k.status, k.task_id
  FROM tree CROSS JOIN known k WHERE k.parent_span_id = tree.span_id AND tree.depth < 100
  ORDER BY 2 DESC, 4)
SELECT printf('%*s%s', 2 * depth, '', name) AS span, duration_ms, status,
  (start_ns - (SELECT min(start_ns) FROM known)) / 1e6 AS after_ms, span_id, task_id
FROM tree LIMIT 10000;
