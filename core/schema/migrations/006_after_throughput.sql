-- Workers and dashboards of 0.1.0 read rates from this table; job_stats has them since.
drop table if exists job_throughput;
