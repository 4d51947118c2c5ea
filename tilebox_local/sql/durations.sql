-- How long spans and tasks take. docs/analysis.md has the definitions. Each statement reads one trace or one job, by the
-- key of span_records or through task_records_by_job. Times of many spans are added up by total(): their sum may not fit
-- into an integer.

-- name: span_counts
-- By name: spans, those that have ended, failed ones, their summed and their longest duration. Of the spans with even or
-- odd ids (:half is 0 or 1), so that two cores can work.
SELECT name, count(*), count(duration_ns), sum(status_code = 2), total(duration_ns), max(duration_ns)
FROM span_records WHERE trace_no = :trace_no AND span_id & 1 = :half
GROUP BY name

-- name: span_covers
-- By name of ended spans that have children: how long at least one child was open, in all of them together. The rest of
-- their duration is self time. Of the parents with even or odd ids. As in the view span_durations, in a form that needs
-- one sort of the spans: a GROUP BY of what is sorted already needs none, and LIMIT -1 keeps SQLite from dropping the
-- ORDER BY.
WITH
-- Children by parent and start; reached_ns is how far the ones before reach. An open child covers the rest.
children AS NOT MATERIALIZED (
  SELECT parent_span_id, start_ns, end_ns, reached_ns
  FROM (
    SELECT parent_span_id, start_ns, end_ns,
      ifnull(max(end_ns) OVER (PARTITION BY parent_span_id ORDER BY start_ns
                               ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), start_ns) AS reached_ns
    FROM (SELECT parent_span_id, start_ns, ifnull(start_ns + duration_ns, 4611686018427387904) AS end_ns
          FROM span_records WHERE trace_no = :trace_no AND parent_span_id & 1 = :half  -- NULL is neither
          ORDER BY parent_span_id, start_ns))
  ORDER BY parent_span_id LIMIT -1),
-- The union of each parent's children is made of pieces, one for each child that reaches further than those before it.
unions AS MATERIALIZED (
  SELECT parent_span_id, sum(max(0, end_ns - max(start_ns, reached_ns))) AS length_ns,
    min(start_ns) AS first_start_ns, min(end_ns) AS first_end_ns,
    max(CASE WHEN end_ns > reached_ns OR start_ns = reached_ns THEN max(start_ns, reached_ns) END) AS last_start_ns,
    max(end_ns) AS last_end_ns
  FROM children
  GROUP BY parent_span_id)
-- At most the first and the last piece stick out of most parents, so that it is known by how much. The others, with clocks
-- that were set back or children that outlive them, are listed as a JSON array, for span_covers_by_piece.
SELECT name,
  total(length_ns - max(0, start_ns - first_start_ns) - max(0, last_end_ns - end_ns)) FILTER (WHERE is_plain),
  json_group_array(json_array(start_ns, span_id, end_ns - start_ns)) FILTER (WHERE NOT is_plain)
FROM (
  SELECT s.name, s.span_id, s.start_ns, s.start_ns + s.duration_ns AS end_ns, u.length_ns, u.first_start_ns, u.last_end_ns,
    u.first_end_ns >= s.start_ns AND u.last_start_ns <= s.start_ns + s.duration_ns AS is_plain
  FROM unions u JOIN span_records s ON s.span_id = u.parent_span_id
  WHERE s.trace_no = :trace_no AND s.duration_ns IS NOT NULL)
GROUP BY name

-- name: span_covers_by_piece
-- The same for some ended spans, a JSON array of [start_ns, span_id, duration]: each piece cut to its parent.
SELECT name, total(max(0, min(child_end_ns, end_ns) - max(child_start_ns, start_ns, reached_ns)))
FROM (
  SELECT p.name, p.start_ns, p.end_ns, c.start_ns AS child_start_ns,
    ifnull(c.start_ns + c.duration_ns, 4611686018427387904) AS child_end_ns,
    ifnull(max(ifnull(c.start_ns + c.duration_ns, 4611686018427387904)) OVER (
      PARTITION BY p.span_id, p.start_ns ORDER BY c.start_ns ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING),
      c.start_ns) AS reached_ns
  FROM (
    SELECT s.name, s.span_id, s.start_ns, s.start_ns + s.duration_ns AS end_ns
    FROM json_each(:spans) e CROSS JOIN span_records s
      ON s.trace_no = :trace_no AND s.start_ns = json_extract(e.value, '$[0]') AND s.span_id = json_extract(e.value, '$[1]')) p
  JOIN span_records c ON c.parent_span_id = p.span_id
  WHERE c.trace_no = :trace_no)
GROUP BY name

-- name: children_of_spans
-- Children of the spans with the ids of a JSON array, by parent and start: parent, start and end. An open child covers
-- the rest.
SELECT parent_span_id, start_ns, ifnull(start_ns + duration_ns, 4611686018427387904)
FROM span_records
WHERE trace_no = :trace_no AND parent_span_id IN (SELECT value FROM json_each(:ids))
ORDER BY parent_span_id, start_ns

-- name: span_percentiles
-- By name of ended spans: nearest-rank percentiles 50, 95 and 99.
SELECT name,
  max(CASE WHEN place = (ended * 50 + 99) / 100 THEN duration_ns END),
  max(CASE WHEN place = (ended * 95 + 99) / 100 THEN duration_ns END),
  max(CASE WHEN place = (ended * 99 + 99) / 100 THEN duration_ns END)
FROM (
  SELECT name, duration_ns, row_number() OVER (PARTITION BY name ORDER BY duration_ns) AS place,
    count(*) OVER (PARTITION BY name) AS ended
  FROM (SELECT name, duration_ns FROM span_records WHERE trace_no = :trace_no AND duration_ns IS NOT NULL
        ORDER BY name, duration_ns))
GROUP BY name

-- name: task_durations
SELECT 'task', name, version, count, open, failed, total_ms, total_ms, mean_ms, p50_ms, p95_ms, p99_ms, max_ms, share
FROM task_durations WHERE job_no = :job_no
