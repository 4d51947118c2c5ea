-- tilebox-local: the store. One SQLite file in WAL mode holds jobs, tasks, spans, events and logs.
--
-- This file is the only DDL. It runs once, in one transaction, when a store is created; later versions change an
-- existing store by tilebox_local/storage/migrations/NNNN_*.sql.
--
-- How to read it
--   People read the views at the end: jobs, tasks, spans, events, logs, runners, writers, incidents, and those that
--   answer questions: attempts, span_durations, task_durations, bottlenecks, critical_path, queue_waits, concurrency,
--   runner_use, stragglers, failures, trends. They show hex ids, ISO 8601 times in UTC, durations in milliseconds and state names,
--   and stay compatible from version to version.
--   The engine writes the tables named *_records. They are packed: numbers instead of names, signed 64-bit span ids,
--   16-byte BLOBs for UUIDs and trace ids. They may change between versions.
--
-- Conventions
--   *_ns       an instant: nanoseconds since 1970-01-01T00:00:00 UTC, from the wall clock.
--   *_boot_ns  nanoseconds of the boot clock (CLOCK_BOOTTIME); only comparable within one boot of one machine.
--   *_duration_ns, duration_ns   a length of time in nanoseconds, from the monotonic clock.
--   *_no       the row's number in this file; meaningless outside of it.
--   attributes JSON object. Values: string, number, boolean, null, array, object. What JSON cannot hold is tagged:
--              {"$int": "9223372036854775808"}, {"$float": "NaN" | "Infinity" | "-Infinity"}, {"$bytes": "<base64>"};
--              an object whose first key starts with "$" is kept as {"$object": {...}}. NULL is the empty object.
--              What is too long is cut, and says so: text (64 Ki characters) ends with "… (N characters)", N before the
--              cut; an array (10,000 items, with all below it) ends with the item {"$cut": <items left out>}; bytes
--              (64 KiB) are {"$bytes": "<base64>", "$cut": <bytes left out>}, objects (as arrays) are
--              {"$object": {...}, "$cut": <keys left out>}. Of attributes that are longer than 1 MiB altogether, each
--              is cut to 1,000 characters of text, or of its JSON as text.
--   Booleans   0 or 1.
--   Only features of SQLite 3.37 are used, so that older tools can read the file.
--
-- Foreign keys join the small tables of the engine. Telemetry tables have none: a lookup per span and column would
-- double the cost of a span, and a trace may name parents that never arrive.

-- ---------------------------------------------------------------------------------------------------------------
-- The file itself
-- ---------------------------------------------------------------------------------------------------------------

-- Facts about the file, one row each: 'created_ns', 'store_id' (UUID text).
CREATE TABLE store_records (
  key   TEXT NOT NULL PRIMARY KEY,
  value ANY  NOT NULL
) STRICT, WITHOUT ROWID;

-- How many transactions there were: one row, counted up by each. Who commits notes the number beside the file, too, in
-- <file>.lock, so that commits that are missing later are noticed.
CREATE TABLE commit_records (
  commit_key INTEGER PRIMARY KEY CHECK (commit_key = 1),
  commit_no  INTEGER NOT NULL
) STRICT;

INSERT INTO commit_records (commit_key, commit_no) VALUES (1, 0);

-- Processes that have written to this file. Statistics are of this process, as of last_seen_ns.
CREATE TABLE writer_records (
  writer_no         INTEGER PRIMARY KEY,
  host              TEXT    NOT NULL,             -- host name
  pid               INTEGER NOT NULL,             -- process id, within pid_namespace
  process_start     TEXT    NOT NULL,             -- start time of the process as the kernel gives it; '' unknown
  boot_id           TEXT    NOT NULL,             -- names the boot that *_boot_ns and pid belong to; '' unknown
  pid_namespace     TEXT    NOT NULL,             -- pids of two namespaces cannot be compared; '' unknown
  opened_ns         INTEGER NOT NULL,             -- when the process first wrote
  last_seen_ns      INTEGER NOT NULL,             -- a commit of it, at most a second before its last one
  ended_ns          INTEGER,                      -- closed the file, or was last seen before it died; NULL: neither
  has_crashed       INTEGER NOT NULL DEFAULT 0,   -- 1: died without closing the file; see incident_records
  queued_count      INTEGER NOT NULL DEFAULT 0,   -- records (spans and logs) that wait in its memory
  written_count     INTEGER NOT NULL DEFAULT 0,   -- spans, events and logs
  dropped_count     INTEGER NOT NULL DEFAULT 0,   -- because the queue was full, or came after close()
  quarantined_count INTEGER NOT NULL DEFAULT 0,   -- rows of this writer in quarantine_records
  redacted_count    INTEGER NOT NULL DEFAULT 0,   -- secrets replaced by [REDACTED:rule]
  transaction_count INTEGER NOT NULL DEFAULT 0,
  failed_transaction_count INTEGER NOT NULL DEFAULT 0,  -- tried again, unless a caller was told
  lock_wait_count   INTEGER NOT NULL DEFAULT 0,   -- times that another process was writing
  lock_wait_duration_ns INTEGER NOT NULL DEFAULT 0,  -- altogether
  max_lag_duration_ns INTEGER NOT NULL DEFAULT 0  -- longest time from taking records from the queue to their commit
) STRICT;

-- Serves: processes that may have died.
CREATE INDEX writer_records_open ON writer_records (writer_no) WHERE ended_ns IS NULL;

-- Telemetry that could not be stored as it came: what it was and why. Its neighbours were stored.
CREATE TABLE quarantine_records (
  quarantine_no INTEGER PRIMARY KEY,
  writer_no     INTEGER NOT NULL REFERENCES writer_records,
  time_ns       INTEGER NOT NULL,                 -- when it was refused
  kind          TEXT    NOT NULL,                 -- 'span', 'event' or 'log'
  reason        TEXT    NOT NULL,                 -- the error
  content       TEXT    NOT NULL                  -- readable form, cut at 64 KiB
) STRICT;

-- The flight recorder: what went wrong, kept when the telemetry it is about has been pruned. Kinds:
--   'crash'        a process died without closing the file; one row per task that it was running, else one row
--   'runner lost'  a task was taken from a runner whose process may live: it did not extend its lease, or did not report
--   'tail lost'    commits that had happened are missing: power failure, damaged log, or an older copy of the file
--   'gap'          records were dropped: the disk refused them or could not keep up
CREATE TABLE incident_records (
  incident_no   INTEGER PRIMARY KEY,
  time_ns       INTEGER NOT NULL,                 -- when it was noticed
  kind          TEXT    NOT NULL,
  message       TEXT    NOT NULL,                 -- for people
  writer_no     INTEGER REFERENCES writer_records,  -- the process that it is about; NULL: none
  last_seen_ns  INTEGER,                          -- last sign of life: heartbeat, commit, span or log
  runner_no     INTEGER REFERENCES runner_records,  -- NULL: no runner
  task_no       INTEGER,                          -- NULL: no task was running
  attempt       INTEGER,                          -- of the task
  task_name     TEXT,
  trace_no      INTEGER,                          -- of the span
  span_id       INTEGER,                          -- deepest span that was open; NULL: none
  span_path     TEXT,                             -- names of the open spans down to it: 'task/Tile > read > warp'
  log_time_ns   INTEGER,                          -- last log record of the task, or of the process; NULL: none
  log_body      TEXT
) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- Who: resources, runners, clusters
-- ---------------------------------------------------------------------------------------------------------------

-- OpenTelemetry resources: the attributes of a process that produces telemetry, stored once per writer and service. Two
-- processes may have the same ones: pid 1 of a container before and after it was started again.
CREATE TABLE resource_records (
  resource_no INTEGER PRIMARY KEY,
  attributes  TEXT NOT NULL,                      -- JSON; service.name, service.instance.id, host.name, process.pid ...
  writer_no   INTEGER REFERENCES writer_records,  -- the process; NULL: it does not write itself
  UNIQUE (attributes, writer_no)
) STRICT;

-- Serves: the resources of a process that has died.
CREATE INDEX resource_records_writer ON resource_records (writer_no);

-- Instrumentation scopes: which library made a span or a log record. Row 1 is the tracer of this package.
CREATE TABLE scope_records (
  scope_no INTEGER PRIMARY KEY,
  name     TEXT NOT NULL,
  version  TEXT NOT NULL DEFAULT '',
  UNIQUE (name, version)
) STRICT;

INSERT INTO scope_records (scope_no, name) VALUES (1, 'tilebox.com/observability');

-- Named pools that tasks are assigned to and runners serve.
CREATE TABLE cluster_records (
  cluster_no  INTEGER PRIMARY KEY,
  slug        TEXT    NOT NULL,                   -- key in the API: [A-Za-z0-9-]{1,100}
  name        TEXT    NOT NULL,
  description TEXT,                               -- NULL: none given
  deletable   INTEGER NOT NULL DEFAULT 1,
  deleted_ns  INTEGER                             -- NULL: exists; set instead of deleting the row, tasks refer to it
) STRICT;

CREATE UNIQUE INDEX cluster_records_by_slug ON cluster_records (slug) WHERE deleted_ns IS NULL;

INSERT INTO cluster_records (cluster_no, slug, name, deletable) VALUES (1, 'default', 'Default', 0);

-- Runners: they claim and execute tasks; a process may have several. A runner is dead when its process is gone or its
-- leases ran out.
CREATE TABLE runner_records (
  runner_no         INTEGER PRIMARY KEY,
  resource_no       INTEGER NOT NULL REFERENCES resource_records,
  cluster_no        INTEGER NOT NULL REFERENCES cluster_records,
  writer_no         INTEGER NOT NULL REFERENCES writer_records,  -- its process
  started_ns        INTEGER NOT NULL,
  last_seen_ns      INTEGER NOT NULL,             -- last claim, report or heartbeat
  stopped_ns        INTEGER                       -- stopped, or was last seen before it died; NULL: neither
) STRICT;

-- ---------------------------------------------------------------------------------------------------------------
-- What: jobs and tasks
-- ---------------------------------------------------------------------------------------------------------------

-- One execution of a workflow. Its state follows from the task counts, see the view `jobs`.
CREATE TABLE job_records (
  job_no            INTEGER PRIMARY KEY,
  job_id            BLOB    NOT NULL UNIQUE,      -- 16 bytes: 48-bit ms of submitted_ns, 80 random bits
  name              TEXT    NOT NULL,
  trace_parent      TEXT    NOT NULL,             -- W3C traceparent of the span job/<name>, verbatim
  submitted_ns      INTEGER NOT NULL,
  first_root_no     INTEGER,                      -- its root tasks have consecutive numbers; NULL: it is being pruned
  last_root_no      INTEGER,
  canceled          INTEGER NOT NULL DEFAULT 0,   -- 1: queued tasks are withheld (canceled, or a task failed)
  queued_count      INTEGER NOT NULL DEFAULT 0,   -- tasks by state; this and the rest is kept by the triggers below
  running_count     INTEGER NOT NULL DEFAULT 0,
  computed_count    INTEGER NOT NULL DEFAULT 0,
  failed_count      INTEGER NOT NULL DEFAULT 0,
  skipped_count     INTEGER NOT NULL DEFAULT 0,
  failed_optional_count INTEGER NOT NULL DEFAULT 0,
  first_started_ns  INTEGER,                      -- NULL: no task has started; kept when the job is retried
  last_stopped_ns   INTEGER,                      -- NULL: no task has stopped
  compute_duration_ns INTEGER NOT NULL DEFAULT 0, -- sum of the run times of all attempts that ended
  -- job_id as people write it; computed when it is read
  job_id_text       TEXT GENERATED ALWAYS AS (
    lower(substr(hex(job_id), 1, 8) || '-' || substr(hex(job_id), 9, 4) || '-' || substr(hex(job_id), 13, 4) || '-'
      || substr(hex(job_id), 17, 4) || '-' || substr(hex(job_id), 21))) VIRTUAL
) STRICT;

-- Serves: what people ask the views about one job.
CREATE UNIQUE INDEX job_records_by_job_id_text ON job_records (job_id_text);

CREATE INDEX job_records_by_submitted ON job_records (submitted_ns);

-- Serves: the jobs of one name over time.
CREATE INDEX job_records_by_name ON job_records (name, submitted_ns);

-- Names and versions of tasks, stored once. A runner of (name, major, minor') runs tasks with minor <= minor'.
CREATE TABLE identifier_records (
  identifier_no INTEGER PRIMARY KEY,
  name          TEXT    NOT NULL,
  major         INTEGER NOT NULL,
  minor         INTEGER NOT NULL,
  UNIQUE (name, major, minor)
) STRICT;

-- Tasks that were submitted together with the same dependencies. A group is settled when all of its tasks are, each
-- with all of its descendants; dependencies are counted between groups, so that 1,000 tasks that depend on 1,000
-- others are one edge.
CREATE TABLE group_records (
  group_no          INTEGER PRIMARY KEY,
  job_no            INTEGER NOT NULL REFERENCES job_records,
  unsettled_count   INTEGER,                      -- tasks of the group that are not settled; NULL: no group waits for it
  dependency_count  INTEGER NOT NULL              -- groups it depends on that are not settled
) STRICT;

-- Which group waits for which.
CREATE TABLE group_dependency_records (
  depends_on_no INTEGER NOT NULL REFERENCES group_records,
  group_no      INTEGER NOT NULL REFERENCES group_records,
  PRIMARY KEY (depends_on_no, group_no)
) STRICT, WITHOUT ROWID;

CREATE INDEX group_dependency_records_by_group ON group_dependency_records (group_no);

-- One unit of work. States and their changes:
--   1 QUEUED           -> 2 (claimed), 5 (its optional branch failed)
--   2 RUNNING          -> 3 (computed), 4 or 6 (failed for good), 1 (retried, released, or its runner died),
--                         5 (instead of 1, if its optional branch has failed meanwhile)
--   3 COMPUTED         its own code finished; its subtree may still run
--   4 FAILED           -> 1 (the job is retried)
--   5 SKIPPED          will not run
--   6 FAILED_OPTIONAL  failed, but the job goes on
-- A task is settled when it is COMPUTED, SKIPPED or FAILED_OPTIONAL and all of its children are settled.
CREATE TABLE task_records (
  task_no           INTEGER PRIMARY KEY,
  task_id           BLOB    NOT NULL UNIQUE,      -- 16 bytes, like job_id; ascending in submission order
  job_no            INTEGER NOT NULL REFERENCES job_records,
  parent_no         INTEGER REFERENCES task_records,  -- task that submitted this one; NULL: root task
  group_no          INTEGER NOT NULL REFERENCES group_records,
  branch_no         INTEGER REFERENCES task_records,  -- innermost optional ancestor; NULL: none
  identifier_no     INTEGER NOT NULL REFERENCES identifier_records,
  cluster_no        INTEGER NOT NULL REFERENCES cluster_records,
  state             INTEGER NOT NULL,             -- 1 to 6, see above
  ready             INTEGER NOT NULL,             -- 1: may be claimed (QUEUED, dependencies settled, job not canceled)
  optional          INTEGER NOT NULL DEFAULT 0,   -- 1: its failure does not fail the job
  branch_failed     INTEGER NOT NULL DEFAULT 0,   -- 1: a task of the branch below this optional task has failed
  unsettled_count   INTEGER NOT NULL DEFAULT 0,   -- children that are not settled
  first_child_no    INTEGER,                      -- its children have consecutive numbers; NULL: it has none
  last_child_no     INTEGER,
  max_retries       INTEGER NOT NULL DEFAULT 0,
  retry_count       INTEGER NOT NULL DEFAULT 0,   -- failures of its own code that were retried
  retry_budget_start INTEGER NOT NULL DEFAULT 0,  -- retry_count when the job was last retried; the budget counts from there
  crash_count       INTEGER NOT NULL DEFAULT 0,   -- executions lost with their runner
  attempt           INTEGER NOT NULL DEFAULT 0,   -- claims so far; a report must name the current one to count
  runner_no         INTEGER REFERENCES runner_records, -- last runner; NULL: never claimed
  lease_expires_boot_ns INTEGER,                  -- NULL unless RUNNING
  submitted_ns      INTEGER NOT NULL,
  ready_ns          INTEGER,                      -- when it last became claimable; NULL: never was
  released_by_no    INTEGER,                      -- task whose end settled its last dependency; NULL: it waited for none
  started_ns        INTEGER,                      -- start of the last attempt; NULL: never claimed
  stopped_ns        INTEGER,                      -- end of the last ended attempt; NULL: none
  input             BLOB    NOT NULL,             -- at most 2,048 bytes, mostly JSON
  display           TEXT,                         -- label for people, at most 1,024 characters; NULL: none
  -- task_id as people write it; computed when it is read
  task_id_text      TEXT GENERATED ALWAYS AS (
    lower(substr(hex(task_id), 1, 8) || '-' || substr(hex(task_id), 9, 4) || '-' || substr(hex(task_id), 13, 4) || '-'
      || substr(hex(task_id), 17, 4) || '-' || substr(hex(task_id), 21))) VIRTUAL
) STRICT;

-- Serves: claim the oldest claimable task of a cluster and an identifier, of all or among the children of one task.
CREATE INDEX task_records_claimable ON task_records (cluster_no, identifier_no, task_no) WHERE ready = 1;
-- Serves: leases that ran out, tasks of dead runners.
CREATE INDEX task_records_running ON task_records (lease_expires_boot_ns) WHERE state = 2;
-- Serves: tasks of a job in submission order.
CREATE INDEX task_records_by_job ON task_records (job_no, task_no);
-- Serves: release the tasks of a group whose dependencies are settled.
CREATE INDEX task_records_waiting ON task_records (group_no) WHERE state = 1 AND ready = 0;
-- Serves: skip what is queued in a failed optional branch.
CREATE INDEX task_records_queued_in_branch ON task_records (branch_no) WHERE state = 1 AND branch_no IS NOT NULL;

CREATE TRIGGER task_records_inserted AFTER INSERT ON task_records BEGIN
  UPDATE job_records
     SET queued_count  = queued_count  + (new.state = 1),
         skipped_count = skipped_count + (new.state = 5)
   WHERE job_no = new.job_no;
END;

CREATE TRIGGER task_records_changed_state AFTER UPDATE OF state ON task_records WHEN new.state <> old.state BEGIN
  UPDATE job_records
     SET queued_count    = queued_count    + (new.state = 1) - (old.state = 1),
         running_count   = running_count   + (new.state = 2) - (old.state = 2),
         computed_count  = computed_count  + (new.state = 3) - (old.state = 3),
         failed_count    = failed_count    + (new.state = 4) - (old.state = 4),
         skipped_count   = skipped_count   + (new.state = 5) - (old.state = 5),
         failed_optional_count = failed_optional_count + (new.state = 6) - (old.state = 6),
         -- a claim starts the job, the end of an attempt adds its run time
         first_started_ns = CASE WHEN new.state = 2 THEN coalesce(first_started_ns, new.started_ns)
                                 ELSE first_started_ns END,
         last_stopped_ns  = CASE WHEN old.state = 2 THEN max(coalesce(last_stopped_ns, 0), new.stopped_ns)
                                 ELSE last_stopped_ns END,
         compute_duration_ns = compute_duration_ns
           + CASE WHEN old.state = 2 THEN max(0, new.stopped_ns - new.started_ns) ELSE 0 END
   WHERE job_no = new.job_no;
END;

-- Attempts of tasks that went back to the queue. The last attempt of each task is in task_records.
CREATE TABLE attempt_records (
  job_no     INTEGER NOT NULL REFERENCES job_records,
  task_no    INTEGER NOT NULL REFERENCES task_records,
  attempt    INTEGER NOT NULL,                    -- 1: the first
  outcome    INTEGER NOT NULL,                    -- 4 FAILED (its code raised), 7 LOST (with its runner), 8 RELEASED (given back)
  runner_no  INTEGER REFERENCES runner_records,
  ready_ns   INTEGER NOT NULL,                    -- when it became claimable
  started_ns INTEGER NOT NULL,
  stopped_ns INTEGER NOT NULL,
  PRIMARY KEY (job_no, task_no, attempt)
) STRICT, WITHOUT ROWID;

-- Progress that the last attempt of each task reported; the job's is the sum per label.
CREATE TABLE progress_records (
  job_no  INTEGER NOT NULL REFERENCES job_records,
  task_no INTEGER NOT NULL REFERENCES task_records,
  label   TEXT    NOT NULL,                       -- '': the job's own, shown without a label
  total   INTEGER NOT NULL,
  done    INTEGER NOT NULL,
  PRIMARY KEY (job_no, task_no, label)
) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------------------------
-- Telemetry: traces, spans, events, logs
-- ---------------------------------------------------------------------------------------------------------------

-- A trace, as far as one job is concerned: a job that a task submits continues the trace of that task, but its spans
-- are its own. Telemetry outside of any job has one row per trace id. Row 0 stands for "no trace".
CREATE TABLE trace_records (
  trace_no INTEGER PRIMARY KEY,
  trace_id BLOB    NOT NULL,                      -- 16 bytes
  job_no   INTEGER REFERENCES job_records         -- NULL: not the trace of a job
) STRICT;

CREATE INDEX trace_records_by_trace_id ON trace_records (trace_id);
CREATE UNIQUE INDEX trace_records_by_job ON trace_records (job_no) WHERE job_no IS NOT NULL;

INSERT INTO trace_records (trace_no, trace_id) VALUES (0, x'00000000000000000000000000000000');

-- Spans. The key makes delivering a span twice a no-op, and keeps a job's spans together in the order of time, so
-- that neither needs a second index (one on the random span id would cost more than the insert itself).
CREATE TABLE span_records (
  trace_no       INTEGER NOT NULL,
  start_ns       INTEGER NOT NULL,
  span_id        INTEGER NOT NULL,                -- 8 bytes, as a signed integer
  parent_span_id INTEGER,                         -- NULL: root of the trace
  duration_ns    INTEGER,                         -- NULL: still open
  name           TEXT    NOT NULL,
  kind           INTEGER NOT NULL DEFAULT 1,      -- OTLP SpanKind: 1 internal, 2 server, 3 client, 4 producer, 5 consumer
  status_code    INTEGER NOT NULL DEFAULT 0,      -- OTLP StatusCode: 0 unset, 1 ok, 2 error
  status_message TEXT,                            -- NULL: none
  task_no        INTEGER,                         -- task that was running; NULL: none. Stands for the attribute task_id
  resource_no    INTEGER NOT NULL,
  scope_no       INTEGER NOT NULL DEFAULT 1,
  attributes     TEXT,                            -- JSON, with task_id only if code set another one; NULL: none
  links          TEXT,                            -- JSON array of {"trace_id", "span_id", "attributes"}; NULL: none
  trace_state    TEXT,                            -- W3C tracestate; NULL: none
  dropped_attributes_count INTEGER NOT NULL DEFAULT 0,  -- over the limit of 128
  dropped_events_count     INTEGER NOT NULL DEFAULT 0,
  dropped_links_count      INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (trace_no, start_ns, span_id)
) STRICT, WITHOUT ROWID;

-- Serves: what runs now; what a dead runner left open.
CREATE INDEX span_records_open ON span_records (trace_no, task_no) WHERE duration_ns IS NULL;

-- Serves: what a dead process left open; which processes have open spans, without a look at each span.
CREATE INDEX span_records_open_resource ON span_records (resource_no) WHERE duration_ns IS NULL;

-- Events that code added to a span. Log records that count as events of their span are in log_records only.
CREATE TABLE event_records (
  trace_no   INTEGER NOT NULL,
  time_ns    INTEGER NOT NULL,
  span_id    INTEGER NOT NULL,
  event_no   INTEGER NOT NULL,                    -- position among the events of the span
  name       TEXT    NOT NULL,
  attributes TEXT,                                -- JSON; NULL: none
  PRIMARY KEY (trace_no, time_ns, span_id, event_no)
) STRICT, WITHOUT ROWID;

-- Log records.
CREATE TABLE log_records (
  trace_no        INTEGER NOT NULL,               -- 0: emitted outside of any span
  time_ns         INTEGER NOT NULL,
  log_no          INTEGER NOT NULL,               -- writer_no * 2^40 + the writer's count: unique, delivered twice is stored once
  span_id         INTEGER,                        -- NULL: outside of any span
  severity_number INTEGER NOT NULL,               -- OTLP: 5-8 debug, 9-12 info, 13-16 warn, 17-20 error, 21-24 fatal; 0: below debug
  severity_text   TEXT    NOT NULL,
  body            TEXT    NOT NULL,
  task_no         INTEGER,                        -- task that was running; NULL: none
  has_task_id     INTEGER NOT NULL DEFAULT 0,     -- 1: the attribute task_id belongs to it, and is kept as task_no only
  is_span_event   INTEGER NOT NULL DEFAULT 0,     -- 1: also the event log.message of its span
  resource_no     INTEGER NOT NULL,
  scope_no        INTEGER NOT NULL,               -- the logger's name
  attributes      TEXT,                           -- JSON, without task_id, trace_id and span_id; NULL: none
  PRIMARY KEY (trace_no, time_ns, log_no)
) STRICT, WITHOUT ROWID;

-- ---------------------------------------------------------------------------------------------------------------
-- Views for people
--
-- The key of the telemetry tables begins with the trace, so their views look up the traces first (CROSS JOIN keeps the
-- order): what is asked of one job or one trace reads nothing else. DuckDB rewrites the text of a view for SQLite; it
-- knows no ON behind CROSS JOIN, and makes of count with an asterisk what SQLite does not know.
-- ---------------------------------------------------------------------------------------------------------------

-- Columns of the views. A word means the same in every view, unless it stands here with the view's name.
--
--   Any view
--     job_id              UUID of the job; NULL: outside of any job
--     job_name            name of the job
--     task_id             UUID of the task; NULL: outside of any task
--     trace_id            32 hex digits
--     span_id             16 hex digits
--     parent_span_id      16 hex digits; NULL: no parent; it may be a span that never arrived
--     runner              UUID of the runner (its service.instance.id)
--     name                name of what the row is about
--     version             of the task, such as v1.0
--     attributes          JSON object
--     state               of the job or task, as in Tilebox
--     failed              how many failed
--     attempt             1: the first attempt of the task
--     attempts            how many
--     retries             attempts that followed on a failed one
--     duration_ms         length, in ms; NULL: not ended
--     queue_wait_ms       from when it could be claimed to its claim, in ms
--     run_ms              from the claim to the end, in ms
--     count               how many have ended
--     open                how many have not ended
--     share               part of the whole, 0 to 1
--     total_ms            sum of the durations, in ms
--     self_ms             part of it in which no child was open, in ms
--     mean_ms             mean duration, in ms
--     p50_ms              median duration, in ms; percentiles are nearest ranks
--     p95_ms              95th percentile, in ms
--     p99_ms              99th percentile, in ms
--     max_ms              the longest, in ms
--     start_time          when it started
--     end_time            when it ended; NULL: it is open
--     time                when
--     submitted_at        when it was submitted
--     ready_at            when it could be claimed: its dependencies were settled, or it was back in the queue
--     started_at          when its first attempt started
--     stopped_at          when it stopped; NULL: it has not
--     last_seen_at        last sign of life
--     host                name of the machine
--     pid                 process id
--     *_ns                the same instant or length as an integer, in ns; instants since 1970-01-01T00:00:00 UTC
--     *_no                number of the row in this file
--   jobs
--     elapsed_ms          from the first start to the last stop, in ms
--     compute_ms          run times of all ended attempts, in ms
--     tasks               tasks of the job
--     queued, running, computed, skipped, failed_optional   tasks in this state
--   tasks
--     tasks.started_at    when its last attempt started
--     display             text that the task shows of itself
--     input               its arguments, JSON as a rule
--     cluster             slug of the cluster that may run it
--     tasks.duration_ms   run time of the last attempt, in ms; NULL: not ended
--     tasks.queue_wait_ms   of the last attempt, in ms
--     crashes             attempts that were lost with their runner
--     max_retries         retries that are allowed
--     optional            1: the job goes on if it fails
--     parent_id           UUID of the task that submitted it; NULL: a root task
--   spans, logs, events
--     status              UNSET, OK or ERROR
--     status_message      why it failed
--     kind                INTERNAL, SERVER, CLIENT, PRODUCER, CONSUMER or UNSPECIFIED
--     links               JSON array of links to other spans; NULL: none
--     scope               the library that made it
--     severity            TRACE, DEBUG, INFO, WARN, ERROR or FATAL
--     severity_number     1 to 24, as in OpenTelemetry
--     body                the message
--     logger              name of the logger
--   runners, writers, incidents
--     service             its service.name
--     runners.cluster     slug of the cluster that it serves
--     runners.started_at  when it started
--     has_crashed         1: its process died without closing the file
--     running_tasks       tasks that it runs now
--     opened_at           when the process first wrote
--     ended_at            when it closed the file, or was last seen before it died; NULL: neither
--     writers.queued      records that wait in its memory
--     written             spans, events and logs that it stored
--     dropped             records that were dropped: the queue was full
--     quarantined         records that could not be stored as they came, see quarantine_records
--     redacted            secrets that were replaced
--     transactions, failed_transactions   how many
--     lock_waits          times that another process was writing
--     lock_wait_ms        altogether, in ms
--     max_lag_ms          longest time from taking records from the queue to their commit, in ms
--     incidents.kind      crash, runner lost, tail lost or gap
--     message             for people
--     task_name           name of the task that was running
--     span_path           names of the open spans, down to the deepest
--     last_log            the last message before
--     last_log_at         when that was
--     unseen_ms           from the last sign of life to when it was noticed, in ms
--   attempts, queue_waits
--     outcome             how the attempt ended; see attempts
--     attempts.started_at   when it was claimed
--     wait_ms             waits of all attempts, in ms
--     mean_wait_ms, p50_wait_ms, p95_wait_ms, max_wait_ms   of one attempt, in ms
--     queue_waits.run_ms  run times of all attempts, in ms
--     wait_share          wait_ms / (wait_ms + run_ms)
--     retry_cost_ms       run time of attempts that failed and were tried again, in ms
--     lost                attempts that were lost with their runner
--     lost_cost_ms        their run time, and the time until the loss was noticed, in ms
--     released            attempts that a runner gave back
--     released_cost_ms    their run time, in ms
--   critical_path, concurrency, runner_use, stragglers
--     step                1: the first step of the path
--     delay_ms            from the end of the step before until the task could be claimed, in ms
--     critical_path.started_at, stragglers.started_at   when the attempt was claimed
--     critical_path.run_ms   from the claim to the end, in ms; NULL: it runs
--     concurrency.running   attempts that run from this instant on
--     concurrency.queued    tasks that could be claimed from this instant on
--     concurrency.duration_ms   until the next row of the job, in ms
--     busy_ms             while at least one of its attempts ran, in ms
--     idle_ms             the rest of the time from the job's first start to its last stop, in ms
--     longest_idle_ms     the longest gap, in ms
--     utilization         busy_ms / (busy_ms + idle_ms)
--     median_ms           of the attempts of its task, in ms
--     fence_ms            what is above it is unusual, in ms
--   failures, bottlenecks, trends
--     failures.kind       task: the span of an attempt of a task; span: any other
--     failed_at           when the span ended
--     exception_type, exception_message, stacktrace   of the last exception that was recorded in the span
--     basis               what is ranked: self_time, critical_path or queue_wait
--     rank                1: the most; counts within a job and basis
--     bottlenecks.count   spans, steps or attempts
--     bottlenecks.duration_ms   time spent there, in ms
--     number              1: the oldest job of this name
--     trends.retries      attempts beyond the first of each task, whatever ended the one before
--     trends.queue_wait_ms   waits of all attempts of the job, in ms
--     error_rate          failed / tasks
--     history             completed jobs of this name before it that it is compared with, at most 30
--     median_elapsed_ms   their median, in ms
--     elapsed_ratio       elapsed_ms / median_elapsed_ms
--     percentile_rank     percentage of them that took less time; those that took as long count half
--     slower_p            exact p of being so slow by chance, see docs/analysis.md

-- Jobs with state and statistics.
CREATE VIEW jobs AS
SELECT
  j.job_id_text AS job_id,
  j.name,
  CASE                                            -- contract: the first that applies
    WHEN j.canceled AND j.failed_count > 0 THEN 'FAILED'
    WHEN j.canceled THEN 'CANCELED'
    WHEN j.first_started_ns IS NULL THEN 'SUBMITTED'
    WHEN j.queued_count + j.running_count + j.failed_count = 0 THEN 'COMPLETED'
    WHEN j.running_count > 0 THEN 'RUNNING'
    WHEN j.computed_count > 0 AND j.queued_count > 0 THEN 'STARTED'
    ELSE 'RUNNING'
  END AS state,
  strftime('%Y-%m-%dT%H:%M:%S', j.submitted_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', j.submitted_ns % 1000000000) AS submitted_at,
  strftime('%Y-%m-%dT%H:%M:%S', j.first_started_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', j.first_started_ns % 1000000000) AS started_at,
  strftime('%Y-%m-%dT%H:%M:%S', j.last_stopped_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', j.last_stopped_ns % 1000000000) AS stopped_at,
  (j.last_stopped_ns - j.first_started_ns) / 1e6 AS elapsed_ms,
  j.compute_duration_ns / 1e6 AS compute_ms,
  j.queued_count + j.running_count + j.computed_count + j.failed_count + j.skipped_count
    + j.failed_optional_count AS tasks,
  j.queued_count AS queued, j.running_count AS running, j.computed_count AS computed, j.failed_count AS failed,
  j.skipped_count AS skipped, j.failed_optional_count AS failed_optional,
  (SELECT lower(hex(t.trace_id)) FROM trace_records t WHERE t.job_no = j.job_no) AS trace_id,
  j.job_no
FROM job_records j
WHERE j.first_root_no IS NOT NULL;

-- Tasks with the times of their last attempt.
CREATE VIEW tasks AS
SELECT
  t.task_id_text AS task_id,
  i.name,
  printf('v%d.%d', i.major, i.minor) AS version,
  CASE t.state WHEN 1 THEN 'QUEUED' WHEN 2 THEN 'RUNNING' WHEN 3 THEN 'COMPUTED' WHEN 4 THEN 'FAILED'
    WHEN 5 THEN 'SKIPPED' WHEN 6 THEN 'FAILED_OPTIONAL' END AS state,
  t.display,
  CAST(t.input AS TEXT) AS input,
  c.slug AS cluster,
  strftime('%Y-%m-%dT%H:%M:%S', t.submitted_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', t.submitted_ns % 1000000000) AS submitted_at,
  strftime('%Y-%m-%dT%H:%M:%S', t.started_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', t.started_ns % 1000000000) AS started_at,
  CASE WHEN t.state NOT IN (1, 2) THEN strftime('%Y-%m-%dT%H:%M:%S', t.stopped_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', t.stopped_ns % 1000000000) END AS stopped_at,
  CASE WHEN t.state NOT IN (1, 2) THEN (t.stopped_ns - t.started_ns) / 1e6 END AS duration_ms,
  (t.started_ns - t.ready_ns) / 1e6 AS queue_wait_ms,
  t.attempt AS attempts, t.retry_count AS retries, t.crash_count AS crashes, t.max_retries, t.optional,
  j.name AS job_name,
  j.job_id_text AS job_id,
  (SELECT p.task_id_text FROM task_records p WHERE p.task_no = t.parent_no) AS parent_id,
  t.runner_no, t.task_no, t.job_no
FROM task_records t
JOIN identifier_records i ON i.identifier_no = t.identifier_no
JOIN cluster_records c ON c.cluster_no = t.cluster_no
JOIN job_records j ON j.job_no = t.job_no;

-- Spans, with their job, task and runner. end_time and duration_ms are NULL while a span is open.
CREATE VIEW spans AS
SELECT
  s.name,
  s.duration_ns / 1e6 AS duration_ms,
  CASE s.status_code WHEN 0 THEN 'UNSET' WHEN 1 THEN 'OK' WHEN 2 THEN 'ERROR' END AS status,
  s.status_message,
  strftime('%Y-%m-%dT%H:%M:%S', s.start_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', s.start_ns % 1000000000) AS start_time,
  strftime('%Y-%m-%dT%H:%M:%S', (s.start_ns + s.duration_ns) / 1000000000, 'unixepoch')
    || printf('.%09dZ', (s.start_ns + s.duration_ns) % 1000000000) AS end_time,
  lower(hex(t.trace_id)) AS trace_id,
  printf('%016x', s.span_id) AS span_id,
  CASE WHEN s.parent_span_id IS NOT NULL THEN printf('%016x', s.parent_span_id) END AS parent_span_id,
  CASE s.kind WHEN 1 THEN 'INTERNAL' WHEN 2 THEN 'SERVER' WHEN 3 THEN 'CLIENT' WHEN 4 THEN 'PRODUCER'
    WHEN 5 THEN 'CONSUMER' ELSE 'UNSPECIFIED' END AS kind,
  CASE WHEN s.task_no IS NOT NULL AND json_type(s.attributes, '$.task_id') IS NULL
    THEN json_set(coalesce(s.attributes, '{}'), '$.task_id',
      (SELECT k.task_id_text FROM task_records k WHERE k.task_no = s.task_no))
    ELSE coalesce(s.attributes, '{}') END AS attributes,
  s.links,
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = s.task_no) AS task_id,
  j.name AS job_name,
  j.job_id_text AS job_id,
  (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
   WHERE r.resource_no = s.resource_no) AS runner,
  (SELECT c.name FROM scope_records c WHERE c.scope_no = s.scope_no) AS scope,
  s.start_ns,
  s.start_ns + s.duration_ns AS end_ns,
  s.duration_ns,
  t.job_no
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN span_records s
WHERE s.trace_no = t.trace_no;

-- Log records, with their job, task and runner.
CREATE VIEW logs AS
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', l.time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', l.time_ns % 1000000000) AS time,
  l.severity_text AS severity,
  l.body,
  CASE WHEN l.has_task_id AND json_type(l.attributes, '$.task_id') IS NULL
    THEN json_set(coalesce(l.attributes, '{}'), '$.task_id',
      (SELECT k.task_id_text FROM task_records k WHERE k.task_no = l.task_no))
    ELSE coalesce(l.attributes, '{}') END AS attributes,
  CASE WHEN l.trace_no <> 0 THEN lower(hex(t.trace_id)) END AS trace_id,
  CASE WHEN l.span_id IS NOT NULL THEN printf('%016x', l.span_id) END AS span_id,
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = l.task_no) AS task_id,
  j.name AS job_name,
  j.job_id_text AS job_id,
  (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
   WHERE r.resource_no = l.resource_no) AS runner,
  (SELECT c.name FROM scope_records c WHERE c.scope_no = l.scope_no) AS logger,
  l.severity_number,
  l.time_ns,
  t.job_no
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN log_records l
WHERE l.trace_no = t.trace_no;

-- Events of spans: those that code added, and log.message for each log record that was emitted while a span was active.
-- log.message has time (to the microsecond), body, level (Python's name), trace_id and span_id, then the attributes of
-- the record, but not its exception: that is in the view logs. (query_spans shows the last 128 events of each span.)
CREATE VIEW events AS
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', e.time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', e.time_ns % 1000000000) AS time,
  e.name,
  coalesce(e.attributes, '{}') AS attributes,
  lower(hex(t.trace_id)) AS trace_id,
  printf('%016x', e.span_id) AS span_id,
  j.name AS job_name,
  j.job_id_text AS job_id,
  e.time_ns,
  t.job_no
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN event_records e
WHERE e.trace_no = t.trace_no
UNION ALL
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', m.time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', m.time_ns % 1000000000),
  'log.message',
  CASE WHEN coalesce(json_type(m.own, '$.time'), json_type(m.own, '$.body'), json_type(m.own, '$.level')) IS NULL
    THEN substr(m.general, 1, length(m.general) - 1)
      || CASE m.own WHEN '{}' THEN '}' ELSE ',' || substr(m.own, 2) END
    ELSE json_patch(m.general, m.own) END,        -- would take NULL for "remove", so only where a key is there twice
  m.trace_id,
  m.span_id,
  m.job_name,
  m.job_id,
  m.time_ns,
  m.job_no
FROM (
  SELECT
    l.time_ns,
    lower(hex(t.trace_id)) AS trace_id,
    printf('%016x', l.span_id) AS span_id,
    j.name AS job_name,
    j.job_id_text AS job_id,
    t.job_no,
    json_patch(
      json_object(
        'time', strftime('%Y-%m-%dT%H:%M:%S', l.time_ns / 1000000000, 'unixepoch')
          || printf('.%06dZ', l.time_ns % 1000000000 / 1000),
        'body', l.body,
        'level', CASE l.severity_text WHEN 'WARN' THEN 'WARNING' WHEN 'FATAL' THEN 'CRITICAL' ELSE l.severity_text END,
        'trace_id', lower(hex(t.trace_id)),
        'span_id', printf('%016x', l.span_id)),
      json_object('task_id', (
        SELECT k.task_id_text FROM task_records k
        WHERE k.task_no = l.task_no AND l.has_task_id AND json_type(l.attributes, '$.task_id') IS NULL))) AS general,
    json_remove(coalesce(l.attributes, '{}'), '$."exception.type"', '$."exception.message"',
      '$."exception.stacktrace"') AS own
  FROM trace_records t
  LEFT JOIN job_records j ON j.job_no = t.job_no
  CROSS JOIN log_records l
  WHERE l.trace_no = t.trace_no AND l.is_span_event
) m;

-- Runners, and what each of them is doing.
CREATE VIEW runners AS
SELECT
  json_extract(s.attributes, '$."service.instance.id"') AS runner,
  json_extract(s.attributes, '$."service.name"') AS service,
  w.host,
  w.pid,
  c.slug AS cluster,
  strftime('%Y-%m-%dT%H:%M:%S', r.started_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', r.started_ns % 1000000000) AS started_at,
  strftime('%Y-%m-%dT%H:%M:%S', r.last_seen_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', r.last_seen_ns % 1000000000) AS last_seen_at,
  strftime('%Y-%m-%dT%H:%M:%S', r.stopped_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', r.stopped_ns % 1000000000) AS stopped_at,
  w.has_crashed,
  (SELECT count(1) FROM task_records t WHERE t.state = 2 AND t.runner_no = r.runner_no) AS running_tasks,
  s.attributes,
  r.runner_no
FROM runner_records r
JOIN writer_records w ON w.writer_no = r.writer_no
JOIN resource_records s ON s.resource_no = r.resource_no
JOIN cluster_records c ON c.cluster_no = r.cluster_no;

-- Processes that have written to this file, and how they fared.
CREATE VIEW writers AS
SELECT
  w.host,
  w.pid,
  strftime('%Y-%m-%dT%H:%M:%S', w.opened_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', w.opened_ns % 1000000000) AS opened_at,
  strftime('%Y-%m-%dT%H:%M:%S', w.last_seen_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', w.last_seen_ns % 1000000000) AS last_seen_at,
  strftime('%Y-%m-%dT%H:%M:%S', w.ended_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', w.ended_ns % 1000000000) AS ended_at,
  w.has_crashed,
  w.queued_count AS queued, w.written_count AS written, w.dropped_count AS dropped, w.quarantined_count AS quarantined,
  w.redacted_count AS redacted, w.transaction_count AS transactions, w.failed_transaction_count AS failed_transactions,
  w.lock_wait_count AS lock_waits, w.lock_wait_duration_ns / 1e6 AS lock_wait_ms,
  w.max_lag_duration_ns / 1e6 AS max_lag_ms,
  w.writer_no
FROM writer_records w;

-- What went wrong, oldest first as it is stored: crashes and what was going on, lost commits, dropped records.
CREATE VIEW incidents AS
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', i.time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', i.time_ns % 1000000000) AS time,
  i.kind,
  i.message,
  w.host,
  w.pid,
  i.task_name,
  (SELECT t.task_id_text FROM task_records t WHERE t.task_no = i.task_no) AS task_id,
  i.attempt,
  i.span_path,
  i.log_body AS last_log,
  strftime('%Y-%m-%dT%H:%M:%S', i.log_time_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', i.log_time_ns % 1000000000) AS last_log_at,
  strftime('%Y-%m-%dT%H:%M:%S', i.last_seen_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', i.last_seen_ns % 1000000000) AS last_seen_at,
  (i.time_ns - i.last_seen_ns) / 1e6 AS unseen_ms,
  i.runner_no,
  i.incident_no
FROM incident_records i
LEFT JOIN writer_records w ON w.writer_no = i.writer_no;

-- Attempts of tasks: each claim, how long the task had been claimable before, how long it ran, and how that ended.
-- outcome: COMPUTED, FAILED, FAILED_OPTIONAL, SKIPPED (it failed, and so had its optional branch), LOST (with its
-- runner), RELEASED (given back by its runner), RUNNING.
CREATE VIEW attempts AS
SELECT
  t.task_id_text AS task_id,
  i.name,
  printf('v%d.%d', i.major, i.minor) AS version,
  coalesce(a.attempt, t.attempt) AS attempt,
  CASE coalesce(a.outcome, t.state) WHEN 2 THEN 'RUNNING' WHEN 3 THEN 'COMPUTED' WHEN 4 THEN 'FAILED'
    WHEN 5 THEN 'SKIPPED' WHEN 6 THEN 'FAILED_OPTIONAL' WHEN 7 THEN 'LOST' WHEN 8 THEN 'RELEASED' END AS outcome,
  (SELECT json_extract(s.attributes, '$."service.instance.id"') FROM runner_records r
   JOIN resource_records s ON s.resource_no = r.resource_no
   WHERE r.runner_no = CASE p.value WHEN 'last' THEN t.runner_no ELSE a.runner_no END) AS runner,
  strftime('%Y-%m-%dT%H:%M:%S', coalesce(a.ready_ns, t.ready_ns, t.submitted_ns) / 1000000000, 'unixepoch')
    || printf('.%09dZ', coalesce(a.ready_ns, t.ready_ns, t.submitted_ns) % 1000000000) AS ready_at,
  strftime('%Y-%m-%dT%H:%M:%S', coalesce(a.started_ns, t.started_ns) / 1000000000, 'unixepoch')
    || printf('.%09dZ', coalesce(a.started_ns, t.started_ns) % 1000000000) AS started_at,
  CASE WHEN a.outcome IS NOT NULL OR t.state <> 2
    THEN strftime('%Y-%m-%dT%H:%M:%S', coalesce(a.stopped_ns, t.stopped_ns) / 1000000000, 'unixepoch')
      || printf('.%09dZ', coalesce(a.stopped_ns, t.stopped_ns) % 1000000000) END AS stopped_at,
  (coalesce(a.started_ns, t.started_ns) - coalesce(a.ready_ns, t.ready_ns, t.submitted_ns)) / 1e6 AS queue_wait_ms,
  CASE WHEN a.outcome IS NOT NULL OR t.state <> 2
    THEN (coalesce(a.stopped_ns, t.stopped_ns) - coalesce(a.started_ns, t.started_ns)) / 1e6 END AS duration_ms,
  j.name AS job_name,
  j.job_id_text AS job_id,
  coalesce(a.ready_ns, t.ready_ns, t.submitted_ns) AS ready_ns,
  coalesce(a.started_ns, t.started_ns) AS started_ns,
  CASE WHEN a.outcome IS NOT NULL OR t.state <> 2 THEN coalesce(a.stopped_ns, t.stopped_ns) END AS stopped_ns,
  t.identifier_no,
  CASE p.value WHEN 'last' THEN t.runner_no ELSE a.runner_no END AS runner_no,
  t.task_no,
  t.job_no
FROM task_records t
JOIN identifier_records i ON i.identifier_no = t.identifier_no
JOIN job_records j ON j.job_no = t.job_no
-- Two sources, in a join: what is asked of one job reaches the tables through a join, but not through UNION ALL.
CROSS JOIN json_each('["earlier", "last"]') p
LEFT JOIN attempt_records a ON p.value = 'earlier' AND a.job_no = t.job_no AND a.task_no = t.task_no
WHERE CASE p.value
  WHEN 'earlier' THEN a.attempt IS NOT NULL
  -- A task in the queue has its last attempt among the earlier ones; so has one that was skipped there.
  ELSE t.attempt > 0 AND t.state <> 1 AND NOT (t.state = 5 AND EXISTS (
    SELECT 1 FROM attempt_records b WHERE b.job_no = t.job_no AND b.task_no = t.task_no AND b.attempt = t.attempt))
  END;

-- ---------------------------------------------------------------------------------------------------------------
-- Analysis: views that answer a question about a job; docs/analysis.md has the formulas
--
-- Each looks up the job (or the trace) first and then works out what is asked for it alone, which it hands on as a JSON
-- array: so `WHERE job_id = '...'` reads nothing of other jobs. Without such a condition they work through all jobs.
-- Times are added up by total(): after a clock that began in 1970 their sum may not fit into an integer.
-- ---------------------------------------------------------------------------------------------------------------

-- How long spans take, by name. count is of those that have ended; open ones have no length yet. self_ms is the time in
-- which no child was open. Percentiles are nearest ranks: 95 % of the durations are at most p95_ms. share is the part
-- of all self time of the trace.
CREATE VIEW span_durations AS
SELECT
  json_extract(r.value, '$[0]') AS name,
  json_extract(r.value, '$[1]') AS count,
  json_extract(r.value, '$[2]') AS open,
  json_extract(r.value, '$[3]') AS failed,
  json_extract(r.value, '$[4]') / 1e6 AS total_ms,
  json_extract(r.value, '$[5]') / 1e6 AS self_ms,
  json_extract(r.value, '$[4]') / 1e6 / json_extract(r.value, '$[1]') AS mean_ms,
  json_extract(r.value, '$[6]') / 1e6 AS p50_ms,
  json_extract(r.value, '$[7]') / 1e6 AS p95_ms,
  json_extract(r.value, '$[8]') / 1e6 AS p99_ms,
  json_extract(r.value, '$[9]') / 1e6 AS max_ms,
  json_extract(r.value, '$[5]') / json_extract(r.value, '$[10]') AS share,
  j.name AS job_name,
  j.job_id_text AS job_id,
  lower(hex(t.trace_id)) AS trace_id,
  t.job_no,
  t.trace_no
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN json_each((
  WITH
  -- Every span as the head of its family, and once more as a child in the family of its parent. A child that is still
  -- open covers its parent up to the parent's end.
  families(family_id, is_child, start_ns, end_ns, name, status_code) AS (
    SELECT span_id, 0, start_ns, start_ns + duration_ns, name, status_code FROM span_records WHERE trace_no = t.trace_no
    UNION ALL
    SELECT parent_span_id, 1, start_ns, coalesce(start_ns + duration_ns, 9223372036854775807), NULL, NULL
    FROM span_records WHERE trace_no = t.trace_no AND parent_span_id IS NOT NULL
    ORDER BY 1, 2, 3),
  -- What each child adds to the union of the children's intervals, as far as it is inside of the head's own.
  members AS (
    SELECT family_id, is_child, start_ns, end_ns, name, status_code,
      CASE WHEN is_child
        THEN max(0, min(end_ns, head_end_ns) - max(start_ns, head_start_ns, coalesce(reached_ns, 0))) END AS added_ns
    FROM (
      SELECT family_id, is_child, start_ns, end_ns, name, status_code,
        first_value(start_ns) OVER (PARTITION BY family_id ORDER BY is_child, start_ns) AS head_start_ns,
        first_value(CASE WHEN NOT is_child THEN end_ns END) OVER (PARTITION BY family_id ORDER BY is_child, start_ns)
          AS head_end_ns,
        max(CASE WHEN is_child THEN end_ns END) OVER (PARTITION BY family_id ORDER BY is_child, start_ns
          ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS reached_ns
      FROM families)
    ORDER BY family_id),
  measured AS (
    SELECT name, status_code, end_ns - start_ns AS duration_ns,
      max(0, end_ns - start_ns - coalesce(covered_ns, 0)) AS self_ns
    FROM (SELECT *, sum(added_ns) OVER (PARTITION BY family_id) AS covered_ns FROM members)
    WHERE NOT is_child
    ORDER BY name, duration_ns IS NULL, duration_ns LIMIT -1),
  ranked AS (
    SELECT name, duration_ns, self_ns, status_code,
      row_number() OVER (PARTITION BY name ORDER BY duration_ns IS NULL, duration_ns) AS place,
      count(duration_ns) OVER (PARTITION BY name) AS ended
    FROM measured ORDER BY name LIMIT -1)
  SELECT json_group_array(json_array(name, ended, still_open, failed, total_ns, self_ns, p50_ns, p95_ns,
    p99_ns, max_ns, all_self_ns))
  FROM (
    SELECT name, ended, count(1) - ended AS still_open, sum(status_code = 2) AS failed,
      total(duration_ns) AS total_ns, total(self_ns) AS self_ns,
      max(CASE WHEN place = (ended * 50 + 99) / 100 THEN duration_ns END) AS p50_ns,
      max(CASE WHEN place = (ended * 95 + 99) / 100 THEN duration_ns END) AS p95_ns,
      max(CASE WHEN place = (ended * 99 + 99) / 100 THEN duration_ns END) AS p99_ns,
      max(duration_ns) AS max_ns,
      total(total(self_ns)) OVER () AS all_self_ns
    FROM ranked GROUP BY name)
)) r
WHERE t.trace_no <> 0;

-- The same by task: how long attempts run. failed counts lost ones, too; share is the part of the job's compute time.
CREATE VIEW task_durations AS
SELECT
  (SELECT i.name FROM identifier_records i WHERE i.identifier_no = json_extract(r.value, '$[0]')) AS name,
  (SELECT printf('v%d.%d', i.major, i.minor) FROM identifier_records i
   WHERE i.identifier_no = json_extract(r.value, '$[0]')) AS version,
  json_extract(r.value, '$[1]') AS count,
  json_extract(r.value, '$[2]') AS open,
  json_extract(r.value, '$[3]') AS failed,
  json_extract(r.value, '$[4]') / 1e6 AS total_ms,
  json_extract(r.value, '$[4]') / 1e6 / json_extract(r.value, '$[1]') AS mean_ms,
  json_extract(r.value, '$[5]') / 1e6 AS p50_ms,
  json_extract(r.value, '$[6]') / 1e6 AS p95_ms,
  json_extract(r.value, '$[7]') / 1e6 AS p99_ms,
  json_extract(r.value, '$[8]') / 1e6 AS max_ms,
  json_extract(r.value, '$[4]') / json_extract(r.value, '$[9]') AS share,
  j.name AS job_name,
  j.job_id_text AS job_id,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH
  runs AS (
    SELECT identifier_no, task_no, attempt, outcome, ready_ns, started_ns, stopped_ns
    FROM attempts WHERE job_no = j.job_no),
  ranked AS (
    SELECT identifier_no, stopped_ns - started_ns AS duration_ns, outcome,
      row_number() OVER (PARTITION BY identifier_no ORDER BY stopped_ns IS NULL, stopped_ns - started_ns) AS place,
      count(stopped_ns) OVER (PARTITION BY identifier_no) AS ended
    FROM runs)
  SELECT json_group_array(json_array(identifier_no, ended, still_open, failed, total_ns, p50_ns, p95_ns, p99_ns, max_ns,
    all_ns))
  FROM (
    SELECT identifier_no, ended, count(1) - ended AS still_open,
      sum(outcome IN ('FAILED', 'FAILED_OPTIONAL', 'LOST')) AS failed,
      total(duration_ns) AS total_ns,
      max(CASE WHEN place = (ended * 50 + 99) / 100 THEN duration_ns END) AS p50_ns,
      max(CASE WHEN place = (ended * 95 + 99) / 100 THEN duration_ns END) AS p95_ns,
      max(CASE WHEN place = (ended * 99 + 99) / 100 THEN duration_ns END) AS p99_ns,
      max(duration_ns) AS max_ns,
      total(total(duration_ns)) OVER () AS all_ns
    FROM ranked GROUP BY identifier_no)
)) r
WHERE j.first_root_no IS NOT NULL;

-- Where tasks wait, and what it costs that attempts fail or are lost, by task. A wait is the time from when a task
-- could be claimed to its claim; wait_share is the part of waiting in waiting and running. retry_cost_ms is the run
-- time of attempts that failed and were tried again, lost_cost_ms that of attempts that were lost with their runner,
-- and the time until that was noticed; released_cost_ms that of attempts that a runner gave back.
CREATE VIEW queue_waits AS
SELECT
  (SELECT i.name FROM identifier_records i WHERE i.identifier_no = json_extract(r.value, '$[0]')) AS name,
  (SELECT printf('v%d.%d', i.major, i.minor) FROM identifier_records i
   WHERE i.identifier_no = json_extract(r.value, '$[0]')) AS version,
  json_extract(r.value, '$[1]') AS attempts,
  json_extract(r.value, '$[2]') / 1e6 AS wait_ms,
  json_extract(r.value, '$[2]') / 1e6 / json_extract(r.value, '$[1]') AS mean_wait_ms,
  json_extract(r.value, '$[3]') / 1e6 AS p50_wait_ms,
  json_extract(r.value, '$[4]') / 1e6 AS p95_wait_ms,
  json_extract(r.value, '$[5]') / 1e6 AS max_wait_ms,
  json_extract(r.value, '$[6]') / 1e6 AS run_ms,
  json_extract(r.value, '$[2]') / (json_extract(r.value, '$[2]') + json_extract(r.value, '$[6]')) AS wait_share,
  json_extract(r.value, '$[7]') AS retries,
  json_extract(r.value, '$[8]') / 1e6 AS retry_cost_ms,
  json_extract(r.value, '$[9]') AS lost,
  json_extract(r.value, '$[10]') / 1e6 AS lost_cost_ms,
  json_extract(r.value, '$[11]') AS released,
  json_extract(r.value, '$[12]') / 1e6 AS released_cost_ms,
  j.name AS job_name,
  j.job_id_text AS job_id,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH
  runs AS (
    SELECT identifier_no, task_no, attempt, outcome, ready_ns, started_ns, stopped_ns
    FROM attempts WHERE job_no = j.job_no),
  waits AS (
    SELECT identifier_no, task_no, attempt, outcome, max(0, started_ns - ready_ns) AS wait_ns, stopped_ns,
      max(0, coalesce(stopped_ns - started_ns, 0)) AS run_ns, ready_ns
    FROM runs),
  ranked AS (
    SELECT identifier_no, outcome, wait_ns, run_ns,
      -- When the task was claimable again: for a task that still waits, its row says.
      coalesce(lead(ready_ns) OVER (PARTITION BY task_no ORDER BY attempt),
        (SELECT k.ready_ns FROM task_records k WHERE k.task_no = waits.task_no)) - stopped_ns AS until_noticed_ns,
      lead(attempt) OVER (PARTITION BY task_no ORDER BY attempt) IS NOT NULL AS was_repeated,
      row_number() OVER (PARTITION BY identifier_no ORDER BY wait_ns) AS place,
      count(1) OVER (PARTITION BY identifier_no) AS n
    FROM waits)
  SELECT json_group_array(json_array(identifier_no, n, wait_ns, p50_ns, p95_ns, max_ns, run_ns, retries, retry_ns, lost,
    lost_ns, released, released_ns))
  FROM (
    SELECT identifier_no, n, total(wait_ns) AS wait_ns,
      max(CASE WHEN place = (n * 50 + 99) / 100 THEN wait_ns END) AS p50_ns,
      max(CASE WHEN place = (n * 95 + 99) / 100 THEN wait_ns END) AS p95_ns,
      max(wait_ns) AS max_ns, total(run_ns) AS run_ns,
      sum(outcome = 'FAILED' AND was_repeated) AS retries,
      total(CASE WHEN outcome = 'FAILED' AND was_repeated THEN run_ns END) AS retry_ns,
      sum(outcome = 'LOST') AS lost,
      total(CASE WHEN outcome = 'LOST' THEN run_ns + max(0, until_noticed_ns) END) AS lost_ns,
      sum(outcome = 'RELEASED') AS released,
      total(CASE WHEN outcome = 'RELEASED' THEN run_ns END) AS released_ns
    FROM ranked GROUP BY identifier_no)
)) r
WHERE j.first_root_no IS NOT NULL;

-- The chain of attempts that decided when a job ended: the one that stopped last (while the job runs: of those that
-- run, the one that started first), before it what released its task (the end of a dependency, else of the task that
-- submitted it), and so on to a root. The times add up to the time from submission to the last stop: delay_ms from the
-- end of the step before until the task could be claimed (large after a lost runner, or a failure that was retried by
-- hand), queue_wait_ms until it was claimed, run_ms until it stopped (NULL: it runs). share is the part of the three in
-- the whole.
CREATE VIEW critical_path AS
SELECT
  json_extract(r.value, '$[0]') AS step,          -- 1: the first
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = json_extract(r.value, '$[1]')) AS task_id,
  (SELECT i.name FROM task_records k JOIN identifier_records i ON i.identifier_no = k.identifier_no
   WHERE k.task_no = json_extract(r.value, '$[1]')) AS name,
  json_extract(r.value, '$[2]') AS attempt,
  json_extract(r.value, '$[3]') AS outcome,
  (SELECT json_extract(s.attributes, '$."service.instance.id"') FROM runner_records n
   JOIN resource_records s ON s.resource_no = n.resource_no
   WHERE n.runner_no = json_extract(r.value, '$[4]')) AS runner,
  json_extract(r.value, '$[5]') / 1e6 AS delay_ms,
  json_extract(r.value, '$[6]') / 1e6 AS queue_wait_ms,
  json_extract(r.value, '$[7]') / 1e6 AS run_ms,
  json_extract(r.value, '$[8]') AS share,
  strftime('%Y-%m-%dT%H:%M:%S', json_extract(r.value, '$[9]') / 1000000000, 'unixepoch')
    || printf('.%09dZ', json_extract(r.value, '$[9]') % 1000000000) AS started_at,
  strftime('%Y-%m-%dT%H:%M:%S', json_extract(r.value, '$[10]') / 1000000000, 'unixepoch')
    || printf('.%09dZ', json_extract(r.value, '$[10]') % 1000000000) AS stopped_at,
  j.name AS job_name,
  j.job_id_text AS job_id,
  json_extract(r.value, '$[9]') AS started_ns,
  json_extract(r.value, '$[10]') AS stopped_ns,
  json_extract(r.value, '$[11]') AS ready_ns,
  json_extract(r.value, '$[4]') AS runner_no,
  json_extract(r.value, '$[1]') AS task_no,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH RECURSIVE
  chain(distance, task_no) AS (
    SELECT 0, (SELECT t.task_no FROM task_records t WHERE t.job_no = j.job_no AND t.attempt > 0
               ORDER BY t.state = 2 DESC, CASE WHEN t.state = 2 THEN -t.started_ns ELSE t.stopped_ns END DESC,
                 t.task_no DESC
               LIMIT 1)
    UNION ALL
    SELECT distance + 1,
      (SELECT coalesce((SELECT b.task_no FROM task_records b WHERE b.task_no = t.released_by_no), t.parent_no)
       FROM task_records t WHERE t.task_no = chain.task_no)
    FROM chain WHERE task_no IS NOT NULL
    LIMIT 1000000),                               -- a damaged file may have a circle
  links AS (
    SELECT c.distance, a.task_no, a.attempt, a.outcome, a.runner_no, a.ready_ns, a.started_ns, a.stopped_ns
    FROM chain c CROSS JOIN attempts a WHERE a.task_no = c.task_no),
  steps AS (
    SELECT row_number() OVER in_order AS step, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns,
      ready_ns - coalesce(lag(stopped_ns) OVER in_order, j.submitted_ns) AS delay_ns
    FROM links WINDOW in_order AS (ORDER BY distance DESC, attempt))
  SELECT json_group_array(json_array(step, task_no, attempt, outcome, runner_no, delay_ns, started_ns - ready_ns,
    stopped_ns - started_ns,
    1.0 * (delay_ns + coalesce(stopped_ns, started_ns) - ready_ns) / nullif(whole_ns, 0),
    started_ns, stopped_ns, ready_ns))
  FROM (SELECT *, max(coalesce(stopped_ns, started_ns)) OVER () - j.submitted_ns AS whole_ns FROM steps ORDER BY step)
)) r
WHERE j.first_root_no IS NOT NULL;


-- How many tasks of a job ran and how many could have been claimed, from each instant on until the next row of the job.
CREATE VIEW concurrency AS
SELECT
  strftime('%Y-%m-%dT%H:%M:%S', json_extract(r.value, '$[0]') / 1000000000, 'unixepoch')
    || printf('.%09dZ', json_extract(r.value, '$[0]') % 1000000000) AS time,
  json_extract(r.value, '$[1]') AS running,
  json_extract(r.value, '$[2]') AS queued,
  json_extract(r.value, '$[3]') / 1e6 AS duration_ms,  -- NULL: the last row
  j.name AS job_name,
  j.job_id_text AS job_id,
  json_extract(r.value, '$[0]') AS time_ns,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH
  runs AS (
    SELECT identifier_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns
    FROM attempts WHERE job_no = j.job_no),
  changes(time_ns, running, queued) AS (
    SELECT ready_ns, 0, 1 FROM runs
    UNION ALL SELECT started_ns, 1, -1 FROM runs
    UNION ALL SELECT stopped_ns, -1, 0 FROM runs WHERE stopped_ns IS NOT NULL
    UNION ALL SELECT k.ready_ns, 0, 1 FROM task_records k WHERE k.job_no = j.job_no AND k.state = 1 AND k.ready = 1)
  SELECT json_group_array(json_array(time_ns, running, queued, duration_ns))
  FROM (
    SELECT time_ns, sum(sum(running)) OVER in_order AS running, sum(sum(queued)) OVER in_order AS queued,
      lead(time_ns) OVER in_order - time_ns AS duration_ns
    FROM changes GROUP BY time_ns WINDOW in_order AS (ORDER BY time_ns))
)) r
WHERE j.first_root_no IS NOT NULL;

-- What each runner did for a job, between the first start and the last stop of the job's attempts: busy_ms is the union
-- of its attempts (one that still runs counts until the last stop), idle_ms the rest, longest_idle_ms the longest gap.
CREATE VIEW runner_use AS
SELECT
  (SELECT json_extract(s.attributes, '$."service.instance.id"') FROM runner_records n
   JOIN resource_records s ON s.resource_no = n.resource_no
   WHERE n.runner_no = json_extract(r.value, '$[0]')) AS runner,
  json_extract(r.value, '$[1]') AS attempts,
  json_extract(r.value, '$[2]') AS failed,
  json_extract(r.value, '$[3]') / 1e6 AS busy_ms,
  (json_extract(r.value, '$[4]') - json_extract(r.value, '$[3]')) / 1e6 AS idle_ms,
  1.0 * json_extract(r.value, '$[3]') / nullif(json_extract(r.value, '$[4]'), 0) AS utilization,
  json_extract(r.value, '$[5]') / 1e6 AS longest_idle_ms,
  j.name AS job_name,
  j.job_id_text AS job_id,
  json_extract(r.value, '$[0]') AS runner_no,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH
  runs AS (
    SELECT identifier_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns
    FROM attempts WHERE job_no = j.job_no),
  timed AS (
    SELECT runner_no, task_no, outcome, started_ns, min(started_ns) OVER () AS first_ns,
      max(coalesce(stopped_ns, started_ns)) OVER () AS last_ns, stopped_ns
    FROM runs),
  -- reached_ns: how far the attempts before this one reach; the first one follows on the start of the job.
  busy AS (
    SELECT runner_no, outcome, started_ns, coalesce(stopped_ns, last_ns) AS stopped_ns, first_ns, last_ns,
      coalesce(max(coalesce(stopped_ns, last_ns)) OVER (PARTITION BY runner_no ORDER BY started_ns, task_no
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), first_ns) AS reached_ns
    FROM timed WHERE runner_no IS NOT NULL)
  SELECT json_group_array(json_array(runner_no, attempts, failed, busy_ns, whole_ns, longest_ns))
  FROM (
    SELECT runner_no, count(1) AS attempts, sum(outcome IN ('FAILED', 'FAILED_OPTIONAL', 'LOST')) AS failed,
      sum(max(0, stopped_ns - max(started_ns, reached_ns))) AS busy_ns,
      last_ns - first_ns AS whole_ns,
      max(max(max(0, started_ns - reached_ns)), last_ns - max(stopped_ns)) AS longest_ns
    FROM busy GROUP BY runner_no)
)) r
WHERE j.first_root_no IS NOT NULL;

-- Attempts that took unusually long for their task: above Tukey's fence, Q3 + 1.5 * (Q3 - Q1), and twice the median, of
-- at least five ended attempts of the task in the job. Quartiles are nearest ranks.
CREATE VIEW stragglers AS
SELECT
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = json_extract(r.value, '$[0]')) AS task_id,
  (SELECT i.name FROM task_records k JOIN identifier_records i ON i.identifier_no = k.identifier_no
   WHERE k.task_no = json_extract(r.value, '$[0]')) AS name,
  json_extract(r.value, '$[1]') AS attempt,
  (SELECT json_extract(s.attributes, '$."service.instance.id"') FROM runner_records n
   JOIN resource_records s ON s.resource_no = n.resource_no
   WHERE n.runner_no = json_extract(r.value, '$[2]')) AS runner,
  json_extract(r.value, '$[3]') / 1e6 AS duration_ms,
  json_extract(r.value, '$[4]') / 1e6 AS median_ms,
  json_extract(r.value, '$[5]') / 1e6 AS fence_ms,
  strftime('%Y-%m-%dT%H:%M:%S', json_extract(r.value, '$[6]') / 1000000000, 'unixepoch')
    || printf('.%09dZ', json_extract(r.value, '$[6]') % 1000000000) AS started_at,
  j.name AS job_name,
  j.job_id_text AS job_id,
  json_extract(r.value, '$[6]') AS started_ns,
  j.job_no
FROM job_records j
CROSS JOIN json_each((
  WITH
  runs AS (
    SELECT identifier_no, task_no, attempt, outcome, runner_no, ready_ns, started_ns, stopped_ns
    FROM attempts WHERE job_no = j.job_no),
  ranked AS (
    SELECT *, stopped_ns - started_ns AS duration_ns,
      row_number() OVER (PARTITION BY identifier_no ORDER BY stopped_ns - started_ns) AS place,
      count(1) OVER (PARTITION BY identifier_no) AS n
    FROM runs WHERE stopped_ns IS NOT NULL),
  fenced AS (
    SELECT *,
      max(CASE WHEN place = (n + 1) / 2 THEN duration_ns END) OVER (PARTITION BY identifier_no) AS median_ns,
      max(CASE WHEN place = (n * 3 + 3) / 4 THEN duration_ns END) OVER (PARTITION BY identifier_no) AS q3_ns,
      max(CASE WHEN place = (n + 3) / 4 THEN duration_ns END) OVER (PARTITION BY identifier_no) AS q1_ns
    FROM ranked WHERE n >= 5)
  SELECT json_group_array(json_array(task_no, attempt, runner_no, duration_ns, median_ns,
    q3_ns + (q3_ns - q1_ns) * 3 / 2, started_ns))
  FROM (SELECT * FROM fenced
        WHERE duration_ns > q3_ns + (q3_ns - q1_ns) * 3 / 2 AND duration_ns > 2 * median_ns ORDER BY duration_ns DESC)
)) r
WHERE j.first_root_no IS NOT NULL;

-- Failed spans, with the last exception that was recorded in each. kind is 'task' for the span of a task's attempt.
CREATE VIEW failures AS
SELECT
  CASE WHEN f.task_no IS NOT NULL AND substr(f.name, 1, 5) = 'task/' AND json_type(f.attributes, '$."identifier.name"') = 'text'
    THEN 'task' ELSE 'span' END AS kind,
  f.name,
  strftime('%Y-%m-%dT%H:%M:%S', (f.start_ns + coalesce(f.duration_ns, 0)) / 1000000000, 'unixepoch')
    || printf('.%09dZ', (f.start_ns + coalesce(f.duration_ns, 0)) % 1000000000) AS failed_at,
  json_extract(f.exception, '$."exception.type"') AS exception_type,
  json_extract(f.exception, '$."exception.message"') AS exception_message,
  json_extract(f.exception, '$."exception.stacktrace"') AS stacktrace,
  f.status_message,
  f.duration_ns / 1e6 AS duration_ms,
  (SELECT k.task_id_text FROM task_records k WHERE k.task_no = f.task_no) AS task_id,
  (SELECT json_extract(r.attributes, '$."service.instance.id"') FROM resource_records r
   WHERE r.resource_no = f.resource_no) AS runner,
  lower(hex(f.trace_id)) AS trace_id,
  printf('%016x', f.span_id) AS span_id,
  CASE WHEN f.parent_span_id IS NOT NULL THEN printf('%016x', f.parent_span_id) END AS parent_span_id,
  f.job_name,
  f.job_id,
  f.start_ns + coalesce(f.duration_ns, 0) AS failed_ns,
  f.start_ns,
  f.task_no,
  f.job_no
FROM (
  SELECT s.*, t.trace_id, t.job_no, j.name AS job_name, j.job_id_text AS job_id,
    (SELECT e.attributes FROM event_records e
     WHERE e.trace_no = s.trace_no AND e.span_id = s.span_id AND e.name = 'exception'
       AND e.time_ns BETWEEN s.start_ns AND s.start_ns + coalesce(s.duration_ns, 0)
     ORDER BY e.time_ns DESC, e.event_no DESC LIMIT 1) AS exception
  FROM trace_records t
  LEFT JOIN job_records j ON j.job_no = t.job_no
  CROSS JOIN span_records s
  WHERE s.trace_no = t.trace_no AND s.status_code = 2) f;

-- Where the time went, by three measures (basis): 'self_time' of spans by name, 'critical_path' (run time of tasks on it,
-- and what was spent there otherwise: '(queue wait)' and '(delay)') and 'queue_wait' of tasks. rank counts from 1 within a
-- job and basis; share is of the job's self time, of the critical path, of all waits.
CREATE VIEW bottlenecks AS
SELECT
  json_extract(r.value, '$[0]') AS basis,
  json_extract(r.value, '$[1]') AS rank,
  json_extract(r.value, '$[2]') AS name,
  json_extract(r.value, '$[3]') AS count,
  json_extract(r.value, '$[4]') AS duration_ms,
  json_extract(r.value, '$[5]') AS share,
  j.name AS job_name,
  j.job_id_text AS job_id,
  lower(hex(t.trace_id)) AS trace_id,
  t.job_no,
  t.trace_no
FROM trace_records t
LEFT JOIN job_records j ON j.job_no = t.job_no
CROSS JOIN json_each((
  WITH
  spent(basis, name, count, duration_ms, whole_ms) AS (
    SELECT 'self_time', name, count, self_ms, self_ms / share FROM span_durations WHERE trace_no = t.trace_no
    UNION ALL
    SELECT 'critical_path', name, sum(steps), sum(spent_ms), sum(sum(spent_ms)) OVER ()
    FROM (
      SELECT name, 1 AS steps, run_ms AS spent_ms FROM critical_path WHERE job_no = t.job_no
      UNION ALL
      SELECT '(queue wait)', queue_wait_ms > 0, queue_wait_ms FROM critical_path WHERE job_no = t.job_no
      UNION ALL
      SELECT '(delay)', delay_ms > 0, delay_ms FROM critical_path WHERE job_no = t.job_no)
    GROUP BY name
    UNION ALL
    SELECT 'queue_wait', name || ' ' || version, attempts, wait_ms, sum(wait_ms) OVER ()
    FROM queue_waits WHERE job_no = t.job_no)
  SELECT json_group_array(json_array(basis, rank, name, count, duration_ms, duration_ms / whole_ms))
  FROM (SELECT *, rank() OVER (PARTITION BY basis ORDER BY duration_ms DESC) AS rank FROM spent WHERE duration_ms > 0)
)) r
WHERE t.trace_no <> 0;

-- Jobs among those of the same name: how long each took, compared with the up to 30 completed jobs before it. Filter by
-- name, then nothing else is read. docs/analysis.md, "Trends", defines the columns; compared are completed jobs only.
CREATE VIEW trends AS
SELECT
  c.job_id,
  c.name,
  c.number,                                       -- of the job within its name, by time of submission; 1: the oldest
  c.state,
  strftime('%Y-%m-%dT%H:%M:%S', c.submitted_ns / 1000000000, 'unixepoch')
    || printf('.%09dZ', c.submitted_ns % 1000000000) AS submitted_at,
  c.elapsed_ns / 1e6 AS elapsed_ms,
  c.compute_ns / 1e6 AS compute_ms,
  ((SELECT total(max(0, t.started_ns - t.ready_ns)) FROM task_records t
    WHERE t.job_no = c.job_no AND t.attempt > 0 AND t.state <> 1 AND NOT EXISTS (
      SELECT 1 FROM attempt_records a WHERE a.job_no = t.job_no AND a.task_no = t.task_no AND a.attempt = t.attempt))
    + (SELECT total(max(0, a.started_ns - a.ready_ns)) FROM attempt_records a WHERE a.job_no = c.job_no))
    / 1e6 AS queue_wait_ms,
  c.tasks,
  c.failed,
  c.failed * 1.0 / nullif(c.tasks, 0) AS error_rate,
  (SELECT coalesce(sum(max(0, t.attempt - 1)), 0) FROM task_records t WHERE t.job_no = c.job_no) AS retries,
  c.history,                                      -- completed jobs before it, at most 30
  c.median_ns / 1e6 AS median_elapsed_ms,         -- of these
  CASE WHEN c.is_completed AND c.median_ns > 0 THEN c.elapsed_ns * 1.0 / c.median_ns END AS elapsed_ratio,
  CASE WHEN c.is_completed AND c.history > 0 THEN
    (SELECT 100.0 * sum((h.value < c.elapsed_ns) + (h.value <= c.elapsed_ns)) / (2 * c.history)
     FROM json_each(c.elapsed_before) h) END AS percentile_rank,
  CASE WHEN c.is_completed AND c.history > 0 THEN
    (SELECT (1.0 + sum(h.value >= c.elapsed_ns)) / (1 + c.history)
     FROM json_each(c.elapsed_before) h) END AS slower_p,
  c.job_no
FROM (
  SELECT b.*, json_array_length(b.elapsed_before) AS history,
    (SELECT sum(m.value) / count(1)               -- of the middle one, or the two in the middle
     FROM (SELECT h.value, row_number() OVER (ORDER BY h.value) AS position, count(1) OVER () AS count
           FROM json_each(b.elapsed_before) h) m
     WHERE m.position IN ((m.count + 1) / 2, (m.count + 2) / 2)) AS median_ns
  FROM (
    -- A completed job is at its number among the completed ones, any other at that of the next completed one.
    SELECT p.*, json_group_array(p.elapsed_ns) FILTER (WHERE p.is_completed) OVER (
      PARTITION BY p.name ORDER BY p.position RANGE BETWEEN 30 PRECEDING AND 1 PRECEDING) AS elapsed_before
    FROM (
      SELECT n.*,
        row_number() OVER by_time AS number,
        sum(n.is_completed) OVER by_time + NOT n.is_completed AS position
      FROM (
        SELECT v.job_id, j.name, v.state,
          v.state = 'COMPLETED' AND j.last_stopped_ns IS NOT NULL AS is_completed, j.submitted_ns,
          max(0, j.last_stopped_ns - j.first_started_ns) AS elapsed_ns, j.compute_duration_ns AS compute_ns,
          v.tasks, v.failed + v.failed_optional AS failed, j.job_no
        FROM job_records j JOIN jobs v ON v.job_no = j.job_no
      ) n
      WINDOW by_time AS (PARTITION BY n.name ORDER BY n.submitted_ns, n.job_no ROWS UNBOUNDED PRECEDING)
    ) p
  ) b
) c;
