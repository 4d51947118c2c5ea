-- Jobs as people name them on the command line.

-- name: newest_job_id
-- From the end of job_records_by_job_id_text: "g" comes after all hex digits.
SELECT job_id_text FROM job_records WHERE job_id_text < 'g' AND first_root_no IS NOT NULL
ORDER BY job_id_text DESC LIMIT 1

-- name: newest_job_id_of_name
-- Uses job_records_by_name.
SELECT job_id_text FROM job_records WHERE name = ? AND first_root_no IS NOT NULL ORDER BY submitted_ns DESC LIMIT 1

-- name: job_ids_between
-- Ids that begin with the same characters: a range of job_records_by_job_id_text.
SELECT job_id_text, name FROM job_records
WHERE job_id_text >= ? AND job_id_text < ? AND first_root_no IS NOT NULL
ORDER BY job_id_text LIMIT 10
