-- The arithmetic of runs: slots of series, delays, groups of errors, bins of statistics.

-- The first slot of an interval after a time: anchor + k x interval, never before the anchor.
create or replace function job_next_slot(p_anchor timestamptz, p_interval interval, p_after timestamptz)
returns timestamptz
language sql immutable parallel safe
return case
    when p_anchor > p_after then p_anchor
    else date_bin(p_interval, p_after, p_anchor) + p_interval
end;

-- The due time of a cron series whose slots are used up, until a worker writes more: beyond all clocks.
create or replace function job_no_slot() returns timestamptz
language sql immutable parallel safe
return '9999-12-30 00:00+00'::timestamptz;

-- The first of these slots after a time.
create or replace function job_first_slot(p_slots timestamptz[], p_after timestamptz) returns timestamptz
language sql immutable parallel safe
return coalesce((select min(s) from unnest(p_slots) s where s > p_after), job_no_slot());

-- The next slot of a series after a time. None is before the anchor, so that a slot that was skipped does not come back, and
-- none is in a year that no row may have.
create or replace function job_series_slot(
    p_minutes integer, p_schedule jsonb, p_slots timestamptz[], p_anchor timestamptz, p_after timestamptz
) returns timestamptz
language sql immutable parallel safe
return case
    when p_slots is not null
        then job_first_slot(p_slots, greatest(p_after, nullif(p_anchor, job_no_slot()) - interval '1 microsecond'))
    else least(job_next_slot(p_anchor, coalesce(make_interval(mins => p_minutes),
        make_interval(secs => (p_schedule ->> 'seconds')::double precision)), p_after), job_no_slot())
end;

-- Whether each slot of a series is run, also those that were missed. Its runs are retried and put off past the next slot.
create or replace function job_series_runs_all(p_schedule jsonb) returns boolean
language sql immutable parallel safe
return coalesce(p_schedule ->> 'catch_up' = 'all', false);

-- Seconds to wait before the next attempt: doubling from the base up to the cap, 50 to 100 % of it.
create or replace function job_backoff(p_attempt integer, p_base double precision, p_cap double precision)
returns double precision
language sql volatile parallel safe
return least(p_cap, p_base * power(2::double precision, least(greatest(p_attempt, 1) - 1, 60))) * (0.5 + random() / 2);

-- The delay that a handler asked for, limited to 0 to 1 year.
create or replace function job_delay(p_seconds double precision) returns interval
language sql immutable parallel safe
return make_interval(secs => least(greatest(coalesce(p_seconds, 0), 0), 31536000));

-- The outcomes that count as failures; else those that count as successes. All others count as neither. An index
-- repeats the first list.
create or replace function job_outcomes(p_failures boolean) returns text[]
language sql immutable parallel safe
return case when p_failures then array['failed', 'retried', 'lost'] else array['succeeded', 'partial', 'continued'] end;

-- An error without ids, numbers, times and quoted text.
create or replace function job_error_pattern(p_error text) returns text
language sql immutable parallel safe
return regexp_replace(
    regexp_replace(left(coalesce(p_error, ''), 500), '"[^"]*"|''[^'']*''', '"?"', 'g'),
    '[0-9a-fA-F]{8}-[0-9a-fA-F-]{27}|[0-9a-fA-F]*[0-9][0-9a-fA-F]*', '#', 'g');

-- Groups errors that differ only in these.
create or replace function job_error_fingerprint(p_kind text, p_error text) returns text
language sql immutable parallel safe
return substr(md5(coalesce(p_kind, '') || ':' || job_error_pattern(p_error)), 1, 12);

-- The lower edges of the bins of waits and durations in seconds, each 1.41 times the one before, from 1 ms to 99 days.
create or replace function job_stat_edges() returns double precision[]
language sql immutable parallel safe
return (select array_agg(0.001 * 2 ^ (k / 2.0::double precision) order by k) from generate_series(0, 66) k);

-- The bins of a wait and a duration in one number, 128 times the first and the second. Bin 1 is below the first edge, and
-- each edge begins the next.
create or replace function job_stat_bins(p_wait interval, p_duration interval) returns smallint
language sql immutable parallel safe
return (width_bucket(date_part('epoch', p_wait), job_stat_edges()) * 128 + 129
    + width_bucket(date_part('epoch', p_duration), job_stat_edges()))::smallint;

-- A time in seconds. A run may start before its job is due, and a clock may step back: a sum of times never becomes smaller.
create or replace function job_stat_seconds(p_time interval) returns double precision
language sql immutable parallel safe
return greatest(date_part('epoch', p_time), 0);

-- The start of the bucket of this many minutes that has a time. There is one bucket of 0 minutes, for all times.
create or replace function job_stat_bucket(p_minutes integer, p_time timestamptz) returns timestamptz
language sql immutable parallel safe
return case when p_minutes = 0 then '2000-01-01 00:00+00'::timestamptz
    else date_bin(p_minutes * '1 minute'::interval, p_time, '2000-01-01 00:00+00'::timestamptz) end;

-- Whether a run changed nothing: its worker reports so, or its payload asked for it, which is all that is known of a lost
-- run and of one whose worker is older. Payloads may spell the field in both ways.
create or replace function job_run_is_dry(p_payload jsonb, p_details jsonb) returns boolean
language sql immutable parallel safe
return coalesce((p_details ->> 'dry_run')::boolean, false) or coalesce(p_payload -> 'dryRun' = 'true'::jsonb,
    p_payload -> 'dry_run' = 'true'::jsonb, false);
