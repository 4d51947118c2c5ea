-- Waits of tasks, and what failed and lost attempts cost. By the job only.

-- name: queue_waits
SELECT name, version, attempts, wait_ms, mean_wait_ms, p50_wait_ms, p95_wait_ms, max_wait_ms, run_ms, wait_share,
       retries, retry_cost_ms, lost, lost_cost_ms, released, released_cost_ms
FROM queue_waits WHERE job_no = ? ORDER BY wait_ms DESC, name, version
