-- Search: spans by what they are, logs by what they say, spans by how they lie to each other. Each statement reads the
-- traces from :first_trace_no to :last_trace_no: one trace for one job, all of them for the whole store.

-- name: search_traces
-- Which traces belong to jobs, newest first. Columns: number of the trace. A scan of trace_records.
SELECT t.trace_no FROM trace_records t JOIN job_records j ON j.job_no = t.job_no
WHERE j.first_root_no IS NOT NULL
ORDER BY j.job_id DESC

-- name: search_spans
-- Which spans match all conditions (NULL: none). Columns: the key of each span, by start, at most :limit (-1: all).
-- first_ns, last_ns: ns UTC, both included. min_duration_ns, max_duration_ns: open spans match neither.
-- status: 0 to 2 as status_code, -1 open. direction: 1 oldest first, -1 newest first.
-- wanted: JSON array of [key, op, kind, value]; kind is "number", "text", or JSON's name of any other type. Each must
-- hold for the attribute of that key, which is there. with_task_id: 1 if one of them is about task_id.
-- Uses the primary keys of trace_records and span_records.
WITH wanted AS MATERIALIZED (
  SELECT json_extract(value, '$[0]') AS key, json_extract(value, '$[1]') AS op, json_extract(value, '$[2]') AS kind,
         json_extract(value, '$[3]') AS value
  FROM json_each(:wanted)
)
SELECT s.trace_no, s.start_ns, s.span_id
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN span_records s ON s.trace_no = t.trace_no
WHERE t.trace_no BETWEEN :first_trace_no AND :last_trace_no AND (t.job_no IS NULL OR j.first_root_no IS NOT NULL)
  AND s.start_ns BETWEEN :first_ns AND :last_ns
  AND (:name IS NULL OR s.name GLOB :name)
  AND (:min_duration_ns IS NULL OR s.duration_ns >= :min_duration_ns)
  AND (:max_duration_ns IS NULL OR s.duration_ns <= :max_duration_ns)
  AND (:status IS NULL OR CASE WHEN s.duration_ns IS NULL THEN -1 ELSE s.status_code END = :status)
  AND (:runner IS NULL OR s.resource_no IN (
    SELECT resource_no FROM resource_records WHERE json_extract(attributes, '$."service.instance.id"') = :runner))
  AND (:task IS NULL OR :task = (
    SELECT i.name FROM task_records k JOIN identifier_records i ON i.identifier_no = k.identifier_no
    WHERE k.task_no = s.task_no))
  AND (:wanted IS NULL OR NOT EXISTS (
    SELECT 1 FROM wanted w
    WHERE NOT EXISTS (
      SELECT 1 FROM json_each(CASE
        WHEN :with_task_id AND s.task_no IS NOT NULL AND json_type(s.attributes, '$.task_id') IS NULL
        THEN json_set(coalesce(s.attributes, '{}'), '$.task_id',
          (SELECT k.task_id_text FROM task_records k WHERE k.task_no = s.task_no))
        ELSE s.attributes END) a
      WHERE a.key = w.key AND CASE w.op
        WHEN 'exists' THEN 1
        WHEN 'contains' THEN CASE a.type
          WHEN 'text' THEN w.kind = 'text' AND instr(a.value, w.value) > 0
          WHEN 'array' THEN EXISTS (
            SELECT 1 FROM json_each(a.value) i
            WHERE w.kind = CASE WHEN i.type IN ('integer', 'real') THEN 'number' ELSE i.type END
              AND (w.kind IN ('null', 'true', 'false') OR i.value = w.value))
          ELSE 0 END
        WHEN '=' THEN w.kind = CASE WHEN a.type IN ('integer', 'real') THEN 'number' ELSE a.type END
          AND (w.kind IN ('null', 'true', 'false') OR a.value = w.value)
        WHEN 'in' THEN EXISTS (
          SELECT 1 FROM json_each(w.value) i
          WHERE CASE WHEN i.type IN ('integer', 'real') THEN 'number' ELSE i.type END
              = CASE WHEN a.type IN ('integer', 'real') THEN 'number' ELSE a.type END
            AND (i.type IN ('null', 'true', 'false') OR i.value = a.value))
        WHEN '!=' THEN w.kind <> CASE WHEN a.type IN ('integer', 'real') THEN 'number' ELSE a.type END
          OR (w.kind NOT IN ('null', 'true', 'false') AND a.value <> w.value)
        ELSE CASE w.kind
          WHEN 'text' THEN a.type = 'text' AND CASE w.op
            WHEN '<' THEN a.value < w.value WHEN '<=' THEN a.value <= w.value
            WHEN '>' THEN a.value > w.value WHEN '>=' THEN a.value >= w.value END
          ELSE CASE a.type
            WHEN 'integer' THEN a.value
            WHEN 'real' THEN a.value
            WHEN 'object' THEN CASE a.value  -- what JSON cannot hold is tagged
              WHEN '{"$float":"Infinity"}' THEN 9e999
              WHEN '{"$float":"-Infinity"}' THEN -9e999
              ELSE CAST(json_extract(a.value, '$."$int"') AS REAL) END
            END BETWEEN
              CASE WHEN w.op IN ('>', '>=') THEN w.value ELSE -9e999 END
              AND CASE WHEN w.op IN ('<', '<=') THEN w.value ELSE 9e999 END
            AND (w.op IN ('<=', '>=') OR a.value <> w.value) END
        END)))
ORDER BY s.start_ns * :direction, s.trace_no, s.span_id * :direction
LIMIT :limit

-- name: found_spans
-- What is shown of spans. keys: JSON array of [trace_no, start_ns, span_id]. One row per key, in their order. Uses the
-- primary key of span_records.
SELECT j.job_id_text, j.name, t.trace_id, s.span_id, s.parent_span_id, s.name, s.start_ns, s.duration_ns, s.status_code,
       s.status_message, k.task_id_text, json_extract(r.attributes, '$."service.instance.id"'), s.attributes
FROM json_each(:keys) f
CROSS JOIN span_records s ON s.trace_no = json_extract(f.value, '$[0]')
  AND s.start_ns = json_extract(f.value, '$[1]') AND s.span_id = json_extract(f.value, '$[2]')
LEFT JOIN trace_records t ON t.trace_no = s.trace_no
LEFT JOIN job_records j ON j.job_no = t.job_no
LEFT JOIN task_records k ON k.task_no = s.task_no
LEFT JOIN resource_records r ON r.resource_no = s.resource_no
ORDER BY f.key

-- name: search_logs
-- Which log records may match a text. Columns: the key of each, and its text; by trace, then time.
-- first_ns, last_ns: ns UTC, both included. min_severity: OTLP number. pattern: LIKE, a word that a match has if all of
-- its text is ASCII; NULL: none. Text with other characters is not excluded by it, since these may fold to ASCII.
-- (length() ends at U+0000, so text with one counts as not ASCII, too.)
-- Uses the primary keys of trace_records and log_records, which give the order.
SELECT l.trace_no, l.time_ns, l.log_no, l.body
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN log_records l ON l.trace_no = t.trace_no
WHERE t.trace_no BETWEEN :first_trace_no AND :last_trace_no AND (t.job_no IS NULL OR j.first_root_no IS NOT NULL)
  AND l.time_ns BETWEEN :first_ns AND :last_ns
  AND l.severity_number >= :min_severity
  AND (:pattern IS NULL OR l.body LIKE :pattern OR octet_length(l.body) <> length(l.body))
ORDER BY t.trace_no, l.time_ns, l.log_no

-- name: found_logs
-- What is shown of log records. keys: JSON array of [trace_no, time_ns, log_no]. One row per key, in their order. Uses
-- the primary key of log_records.
SELECT j.job_id_text, j.name, l.time_ns, l.severity_text, l.body, CASE WHEN l.trace_no <> 0 THEN t.trace_id END, l.span_id,
       k.task_id_text, json_extract(r.attributes, '$."service.instance.id"'), c.name, l.attributes
FROM json_each(:keys) f
CROSS JOIN log_records l ON l.trace_no = json_extract(f.value, '$[0]')
  AND l.time_ns = json_extract(f.value, '$[1]') AND l.log_no = json_extract(f.value, '$[2]')
LEFT JOIN trace_records t ON t.trace_no = l.trace_no
LEFT JOIN job_records j ON j.job_no = t.job_no
LEFT JOIN task_records k ON k.task_no = l.task_no
LEFT JOIN resource_records r ON r.resource_no = l.resource_no
LEFT JOIN scope_records c ON c.scope_no = l.scope_no
ORDER BY f.key

-- name: structure_child
-- Pairs of a span and its child, by name (GLOB). Columns: start_ns and span_id of both; by key of the first, then the
-- second. The parent of a span is the earliest of its trace that has the id; a span that names itself has none.
-- Uses the primary key of span_records.
WITH span AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY start_ns, span_id) AS no, start_ns, span_id, parent_span_id, name
  FROM span_records WHERE trace_no = :trace_no
), first AS MATERIALIZED (  -- of each id
  SELECT span_id, min(no) AS no FROM span GROUP BY span_id
)
SELECT a.start_ns, a.span_id, b.start_ns, b.span_id
FROM span b
CROSS JOIN first f ON f.span_id = b.parent_span_id
CROSS JOIN span a ON a.no = f.no
WHERE b.name GLOB :b AND a.name GLOB :a AND a.no <> b.no
ORDER BY a.no, b.no
LIMIT :limit

-- name: structure_no_child
-- Spans without a child of a name. Parameters, columns and order as above; the second pair is NULL.
WITH span AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY start_ns, span_id) AS no, start_ns, span_id, parent_span_id, name
  FROM span_records WHERE trace_no = :trace_no
), first AS MATERIALIZED (
  SELECT span_id, min(no) AS no FROM span GROUP BY span_id
)
SELECT a.start_ns, a.span_id, NULL, NULL
FROM span a
WHERE a.name GLOB :a AND a.no NOT IN (
  SELECT f.no FROM span b CROSS JOIN first f ON f.span_id = b.parent_span_id WHERE b.name GLOB :b AND f.no <> b.no)
ORDER BY a.no
LIMIT :limit

-- name: structure_descendant
-- Spans with the nearest span of a name above them. Parameters, columns and order as above. Since each span has one
-- parent, the walk from the roots meets each span once, and none whose parents form a cycle.
WITH RECURSIVE span AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY start_ns, span_id) AS no, start_ns, span_id, parent_span_id, name
  FROM span_records WHERE trace_no = :trace_no
), first AS MATERIALIZED (
  SELECT span_id, min(no) AS no FROM span GROUP BY span_id
), node AS MATERIALIZED (
  SELECT s.no, s.start_ns, s.span_id, nullif(f.no, s.no) AS parent_no, s.name GLOB :a AS is_a, s.name GLOB :b AS is_b
  FROM span s LEFT JOIN first f ON f.span_id = s.parent_span_id
), tree (no, above, is_a) AS (  -- above: the nearest A, without the span itself
  SELECT no, NULL, is_a FROM node WHERE parent_no IS NULL
  UNION ALL
  SELECT n.no, CASE WHEN t.is_a THEN t.no ELSE t.above END, n.is_a FROM tree t CROSS JOIN node n ON n.parent_no = t.no
)
SELECT a.start_ns, a.span_id, b.start_ns, b.span_id
FROM tree t
CROSS JOIN node b ON b.no = t.no
CROSS JOIN node a ON a.no = t.above
WHERE b.is_b
ORDER BY a.no, b.no
LIMIT :limit

-- name: structure_no_descendant
-- Spans without a span of a name anywhere below them. Parameters, columns and order as above.
WITH RECURSIVE span AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY start_ns, span_id) AS no, start_ns, span_id, parent_span_id, name
  FROM span_records WHERE trace_no = :trace_no
), first AS MATERIALIZED (
  SELECT span_id, min(no) AS no FROM span GROUP BY span_id
), node AS MATERIALIZED (
  SELECT s.no, s.start_ns, s.span_id, nullif(f.no, s.no) AS parent_no, s.name GLOB :a AS is_a, s.name GLOB :b AS is_b
  FROM span s LEFT JOIN first f ON f.span_id = s.parent_span_id
), walk (no, above, is_a, is_b) AS (
  SELECT no, NULL, is_a, is_b FROM node WHERE parent_no IS NULL
  UNION ALL
  SELECT n.no, CASE WHEN t.is_a THEN t.no ELSE t.above END, n.is_a, n.is_b
  FROM walk t CROSS JOIN node n ON n.parent_no = t.no
), tree AS MATERIALIZED (
  SELECT no, above, is_a, is_b FROM walk
), has (no) AS (  -- A with B below: the nearest one above each B, and so on up; each once
  SELECT above FROM tree WHERE is_b AND above IS NOT NULL
  UNION
  SELECT t.above FROM has h CROSS JOIN tree t ON t.no = h.no WHERE t.above IS NOT NULL
)
SELECT a.start_ns, a.span_id, NULL, NULL
FROM tree t
CROSS JOIN node a ON a.no = t.no
WHERE t.is_a AND t.no NOT IN (SELECT no FROM has)
ORDER BY a.no
LIMIT :limit

-- name: structure_follower
-- Spans with the next span of a name below the same parent: the first to start at or after the end of the other. Roots
-- count as siblings. Parameters, columns and order as above; spans that are open are followed by none.
-- One line per end of an A and start of a B, from the last to the first: the latest B that was passed is the next one.
-- What takes no time is not followed by itself, nor by what comes before it in the order of keys.
WITH span AS MATERIALIZED (
  SELECT row_number() OVER (ORDER BY start_ns, span_id) AS no, start_ns, span_id, parent_span_id, duration_ns, name
  FROM span_records WHERE trace_no = :trace_no
), first AS MATERIALIZED (
  SELECT span_id, min(no) AS no FROM span GROUP BY span_id
), node AS MATERIALIZED (
  SELECT s.no, s.start_ns, s.duration_ns, coalesce(nullif(f.no, s.no), 0) AS parent_no,
         s.name GLOB :a AS is_a, s.name GLOB :b AS is_b
  FROM span s LEFT JOIN first f ON f.span_id = s.parent_span_id
), moment AS (
  SELECT parent_no, start_ns + max(duration_ns, 0) AS time_ns, CASE WHEN duration_ns > 0 THEN 0 ELSE no END AS place,
         no AS a_no, NULL AS b_no
  FROM node WHERE is_a AND duration_ns IS NOT NULL
  UNION ALL
  SELECT parent_no, start_ns, no, NULL, no FROM node WHERE is_b
), followed AS (
  SELECT a_no, min(b_no) OVER (
    PARTITION BY parent_no ORDER BY time_ns DESC, place DESC, a_no IS NULL ROWS UNBOUNDED PRECEDING) AS b_no
  FROM moment
)
SELECT a.start_ns, a.span_id, b.start_ns, b.span_id
FROM followed p
CROSS JOIN span a ON a.no = p.a_no
CROSS JOIN span b ON b.no = p.b_no
ORDER BY a.no
LIMIT :limit
