-- jobdeck schema version 6
-- serves programs from 0.3.0
--
-- The queue, part by part. Run it with psql, from any folder:
--
--   psql --single-transaction --set ON_ERROR_STOP=1 -d DATABASE -f schema.sql
--
-- For anything else than psql (a driver, a migration of an application, a pasted text), `jobdeck init --print` prints the parts
-- as one text.
--
-- The way of a job: it is enqueued (07). If it is `after` another one, that is its blocker: the end of the blocker releases it
-- (17 calls 16). If it has a concurrency key, it waits in the line of the key until it is first (16). A claim (12) takes it once it
-- is due (11), its type has room (09), no hold keeps it (13) and its key has a place (13). Its report ends the run (17).
-- job_queue_why (27) says where a job is on this way.
--
-- Words that are easily taken for each other:
--   hold   keeps jobs with a value in their payload from starting (36); a queue that is held is another runner's (02)
--   lane   the pending jobs of one type and priority that a claim can find (09), or those in one line (16)
--   line   the jobs that wait for one concurrency key; those of them that a claim can find are not `in_line` (16)
--   place  what one running job takes of the limit of a type or a key; room is how many more may start (09, 13)
--   slot   a time at which a series is due (15); of a worker, one of the jobs that it runs at the same time (27); a row of
--          job_locks (04)
--   aside  of a type, left to another runner (02); of a job, refused by the database (12); of a member, cancelled (32)

-- Tables and indexes
\ir core/schema/sql/01_namespace.sql
\ir core/schema/sql/02_jobs.sql
\ir core/schema/sql/03_history.sql
\ir core/schema/sql/04_records.sql
\ir core/schema/sql/05_indexes.sql

-- Enqueueing, and the limits that a job meets
\ir core/schema/sql/06_rows.sql
\ir core/schema/sql/07_enqueue.sql
\ir core/schema/sql/08_rates.sql
\ir core/schema/sql/09_limits.sql
\ir core/schema/sql/10_unique.sql

-- The claim
\ir core/schema/sql/11_clauses.sql
\ir core/schema/sql/12_claim.sql
\ir core/schema/sql/13_claim_keys.sql

-- Runs and their end
\ir core/schema/sql/14_leases.sql
\ir core/schema/sql/15_slots.sql
\ir core/schema/sql/16_lines.sql
\ir core/schema/sql/17_finish.sql
\ir core/schema/sql/18_upkeep.sql

-- What operators do
\ir core/schema/sql/19_actions.sql
\ir core/schema/sql/20_restore.sql
\ir core/schema/sql/21_bulk.sql
\ir core/schema/sql/22_bulk_edit.sql
\ir core/schema/sql/23_cleanup.sql
\ir core/schema/sql/24_canaries.sql
\ir core/schema/sql/25_processing.sql
\ir core/schema/sql/25_queues.sql

-- What people read, and what is removed
\ir core/schema/sql/26_lists.sql
\ir core/schema/sql/27_why.sql
\ir core/schema/sql/28_retention.sql
\ir core/schema/sql/29_erasure.sql
\ir core/schema/sql/30_statistics.sql
\ir core/schema/sql/31_backlog.sql

-- Flows, series, holds, producers
\ir core/schema/sql/32_flows.sql
\ir core/schema/sql/33_flow_create.sql
\ir core/schema/sql/34_flow_members.sql
\ir core/schema/sql/35_schedules.sql
\ir core/schema/sql/36_holds.sql
\ir core/schema/sql/36_producers.sql

-- Rights
\ir core/schema/sql/37_functions.sql
\ir core/schema/sql/38_rights.sql
