-- Workers and dashboards of 0.1.0 read rates from this table; job_stats has them since.
drop table if exists job_throughput;
-- A report that began before the upgrade still calls this function.
drop function if exists job_queue_count_finished(text, bigint, bigint, bigint);
drop function if exists job_queue_count_finished(text, bigint, bigint, bigint, bigint, bigint);
