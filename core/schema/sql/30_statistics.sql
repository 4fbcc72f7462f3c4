-- Statistics of runs: reports append, upkeep adds up, and views have both in one snapshot.

-- The counts of bins in two arrays, added. Bins above the last one in use are not stored.
create or replace function job_stat_add(p_one anyarray, p_other anyarray) returns anyarray
language sql immutable parallel safe
as $$
    select array_agg(coalesce(t.one, 0) + coalesce(t.other, 0) order by t.bin)
    from unnest(p_one, p_other) with ordinality as t (one, other, bin)
$$;

-- The counts of all bins, from the counts of some, or from bins with one run each; a bin may be in the list several times.
create or replace function job_stat_histogram(p_bins integer[], p_runs integer[] default null) returns bigint[]
language sql immutable parallel safe
return (
    with counted as (
        select t.bin, sum(coalesce(t.runs, 1))::bigint as runs from unnest(p_bins, p_runs) as t (bin, runs) group by t.bin)
    select array_agg(coalesce(c.runs, 0) order by g.bin)
    from generate_series(1, (select max(d.bin) from counted d)) as g (bin) left join counted c on c.bin = g.bin);

-- Adds up to p_limit rows of job_stat_delta to the tables of statistics and deletes them. Returns their number. The caller
-- holds the lock on the row 'stats' of job_upkeep, so nobody else writes these tables, except for what is too old.
create or replace function job_stats_compact(p_limit integer) returns bigint
language plpgsql volatile
set jit = off
as $$
declare
    v_taken job_stat_delta[];
begin
    with taken as (
        delete from job_stat_delta where ctid = any (array(select ctid from job_stat_delta limit p_limit)) returning *
    )
    select array_agg(t::job_stat_delta) into v_taken from taken t;
    if v_taken is null then
        return 0;
    end if;
    perform job_stats_add_runs(v_taken);
    perform job_stats_add_errors(v_taken);
    return cardinality(v_taken);
end
$$;

-- To the runs of each bucket.
create or replace function job_stats_add_runs(p_delta job_stat_delta[]) returns void
language sql volatile
as $$
    with delta as materialized (
        select job_stat_bucket(5, d.minute) as bucket, d.* from unnest(p_delta) d
    ), found as materialized (
        -- Counted once, because there is a number for each run, and then added up for the longer buckets.
        select d.bucket, d.task_type, d.outcome, d.dry_run, b.bins, count(*)::integer as runs
        from delta d cross join unnest(d.bins) as b (bins) group by 1, 2, 3, 4, 5
    ), added as (
        select l.minutes, job_stat_bucket(l.minutes, f.bucket) as bucket, f.task_type, f.outcome, f.dry_run,
            job_stat_histogram(array_agg(f.bins / 128), array_agg(f.runs)) as waits,
            job_stat_histogram(array_agg(f.bins % 128), array_agg(f.runs)) as durations
        from found f cross join (values (0), (5), (15), (120), (480)) as l (minutes) group by 1, 2, 3, 4, 5
    ), counted as (
        select l.minutes, job_stat_bucket(l.minutes, d.minute) as bucket, d.task_type, d.outcome, d.dry_run,
            sum(d.runs) as runs, sum(d.permanent) as permanent, min(d.first_at) as first_at, max(d.last_at) as last_at,
            sum(d.wait_seconds) as wait_seconds, sum(d.duration_seconds) as duration_seconds
        from delta d cross join (values (0), (1), (5), (15), (120), (480)) as l (minutes) group by 1, 2, 3, 4, 5
    )
    insert into job_stats as s (minutes, bucket, task_type, outcome, dry_run, runs, permanent, first_at, last_at,
        wait_seconds, duration_seconds, waits, durations)
    select c.minutes, c.bucket, c.task_type, c.outcome, c.dry_run, c.runs, c.permanent, c.first_at, c.last_at,
        c.wait_seconds, c.duration_seconds, a.waits, a.durations
    from counted c left join added a using (minutes, bucket, task_type, outcome, dry_run)
    on conflict (minutes, bucket, task_type, outcome, dry_run) do update set
        runs = s.runs + excluded.runs, permanent = s.permanent + excluded.permanent,
        first_at = least(s.first_at, excluded.first_at), last_at = greatest(s.last_at, excluded.last_at),
        wait_seconds = s.wait_seconds + excluded.wait_seconds,
        duration_seconds = s.duration_seconds + excluded.duration_seconds,
        waits = job_stat_add(s.waits, excluded.waits), durations = job_stat_add(s.durations, excluded.durations)
$$;

-- A group that is new in its type and 5 minutes, where there are 1,000 already, is counted as `other`.
create or replace function job_stats_add_errors(p_delta job_stat_delta[]) returns void
language sql volatile
as $$
    with found as materialized (
        select d.task_type, d.fingerprint, job_stat_bucket(5, d.minute) as bucket, sum(d.runs) as runs,
            min(d.first_at) as first_at, max(d.last_at) as last_at, max(d.sample_token) as sample_token
        from unnest(p_delta) d where d.fingerprint is not null group by 1, 2, 3
    ), held as (
        select e.task_type, e.bucket, count(*) as groups from job_stat_errors e
        where e.bucket in (select f.bucket from found f) and e.fingerprint <> 'other' group by 1, 2
    ), ranked as (
        select f.*, e.runs is null and coalesce(h.groups, 0) + row_number() over (
            partition by f.task_type, f.bucket, e.runs is null order by f.first_at, f.fingerprint) > 1000 as is_other
        from found f
        left join job_stat_errors e using (task_type, fingerprint, bucket)
        left join held h using (task_type, bucket)
    ), named as (
        select r.task_type, case when r.is_other then 'other' else r.fingerprint end as fingerprint, r.bucket,
            sum(r.runs) as runs, min(r.first_at) as first_at, max(r.last_at) as last_at,
            max(r.sample_token) as sample_token
        from ranked r group by 1, 2, 3
    ), counted as (
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        select n.task_type, n.fingerprint, n.bucket, n.runs from named n
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + excluded.runs
    ), grouped as (
        select n.task_type, n.fingerprint, min(n.first_at) as first_at, max(n.last_at) as last_at,
            max(n.sample_token) as sample_token
        from named n group by 1, 2
    )
    insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
    select n.task_type, n.fingerprint, case when n.fingerprint <> 'other' then r.error_kind end,
        case when n.fingerprint <> 'other' then job_error_pattern(r.error) end, n.sample_token, n.first_at, n.last_at
    from grouped n left join job_runs r on r.run_token = n.sample_token and not r.late
    on conflict (fingerprint, task_type) do update set
        error_kind = coalesce(g.error_kind, excluded.error_kind), pattern = coalesce(g.pattern, excluded.pattern),
        sample_token = greatest(g.sample_token, excluded.sample_token),
        first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at)
$$;

-- The runs that were counted, those in job_stats and those still in job_stat_delta: exact at any moment. For one value of
-- `minutes`; the sum over all lengths has each run several times. The counts of bins cost nothing where they are not read.
create or replace view job_stat_list as
select s.minutes, s.bucket, s.task_type, s.outcome, s.dry_run, s.runs, s.permanent, s.first_at, s.last_at, s.wait_seconds,
    s.duration_seconds, s.waits, s.durations
from job_stats s where (select job_may_read_views())
union all
select l.minutes, job_stat_bucket(l.minutes, d.minute), d.task_type, d.outcome, d.dry_run, d.runs::bigint,
    d.permanent::bigint, d.first_at, d.last_at, d.wait_seconds, d.duration_seconds,
    job_stat_histogram(array(select b / 128 from unnest(d.bins) b)),
    job_stat_histogram(array(select b % 128 from unnest(d.bins) b))
from job_stat_delta d cross join unnest(array[0, 1, 5, 15, 120, 480]::smallint[]) as l (minutes)
where (select job_may_read_views());

-- The same for failed runs by group of errors.
create or replace view job_stat_error_list as
select e.task_type, e.fingerprint, e.bucket, e.runs from job_stat_errors e where (select job_may_read_views())
union all
select d.task_type, d.fingerprint, job_stat_bucket(5, d.minute), d.runs::bigint
from job_stat_delta d where d.fingerprint is not null and (select job_may_read_views());

-- The groups of errors, with those that are only in job_stat_delta yet. A group may have several lines.
create or replace view job_error_group_list as
select g.task_type, g.fingerprint, g.error_kind, g.pattern, g.sample_token, g.first_at, g.last_at
from job_error_groups g where (select job_may_read_views())
union all
select d.task_type, d.fingerprint, null::text, null::text, d.sample_token, d.first_at, d.last_at
from job_stat_delta d where d.fingerprint is not null and (select job_may_read_views());

-- The runs of each type in the 15 minutes before p_at (full minutes and the present one), how many of them failed, and after
-- how many the job failed permanently; the runs of the 7 days before the last hour; the failures since the newest success of
-- a day (of the minute of that success at least one, if it had some later); the shares from which health warns. Dry runs do
-- not count. Types of which a run ended in the last day; with p_types, those of them that are named.
create or replace function job_failure_shares(p_at timestamptz, p_types text[] default null)
returns table (task_type text, last_at timestamptz, last_failed_at timestamptz, runs bigint, failed bigint, lost bigint,
    usual_runs bigint, usual_failed bigint, failed_in_a_row bigint, usual double precision, warning_share double precision,
    critical_share double precision)
language sql stable
set jit = off
as $$
    with kinds as (
        select job_outcomes(true) as failures, job_outcomes(true) || job_outcomes(false) as counted
    ), recent as materialized (
        select s.task_type, sum(s.runs)::bigint as runs, sum(s.permanent)::bigint as lost,
            coalesce(sum(s.runs) filter (where s.outcome = any (k.failures)), 0)::bigint as failed
        from job_stat_list s, kinds k
        where s.minutes = 1 and s.bucket >= job_stat_bucket(1, p_at - interval '15 minutes') and s.bucket <= p_at
            and not s.dry_run and s.outcome = any (k.counted) and (p_types is null or s.task_type = any (p_types))
        group by s.task_type
    ), day as materialized (
        select s.task_type, max(s.last_at) as last_at,
            max(s.last_at) filter (where s.outcome = any (k.failures)) as last_failed_at,
            greatest(max(s.last_at) filter (where s.outcome <> all (k.failures)), p_at - interval '1 day') as good_at
        from job_stat_list s, kinds k
        where s.minutes = 15 and s.bucket > p_at - interval '1 day' and s.bucket <= p_at and not s.dry_run
            and s.outcome = any (k.counted) and (p_types is null or s.task_type = any (p_types))
        group by s.task_type
    ), usual as materialized (
        select s.task_type, sum(s.runs)::bigint as runs,
            coalesce(sum(s.runs) filter (where s.outcome = any (k.failures)), 0)::bigint as failed
        from job_stat_list s, kinds k
        where (s.minutes = 120 and s.bucket >= job_stat_bucket(120, p_at - interval '7 days')
                and s.bucket < job_stat_bucket(120, p_at - interval '1 hour')
            or s.minutes = 5 and s.bucket >= job_stat_bucket(120, p_at - interval '1 hour')
                and s.bucket < job_stat_bucket(5, p_at - interval '1 hour'))
            and not s.dry_run and s.outcome = any (k.counted) and (p_types is null or s.task_type = any (p_types))
        group by s.task_type
    )
    select d.task_type, d.last_at, d.last_failed_at, coalesce(r.runs, 0), coalesce(r.failed, 0), coalesce(r.lost, 0),
        coalesce(u.runs, 0), coalesce(u.failed, 0), a.runs, w.usual,
        coalesce(t.warning_share, greatest(0.05, 2 * w.usual, w.usual + 0.1)),
        coalesce(t.critical_share, greatest(0.5, w.usual + 0.3, t.warning_share))
    from day d
    left join recent r using (task_type)
    left join usual u using (task_type)
    left join job_types t using (task_type)
    cross join lateral (
        select least((coalesce(u.failed, 0) + 1.0) / (coalesce(u.runs, 0) + 2.0), 0.5)::double precision as usual
    ) w
    cross join lateral (
        select coalesce(sum(case when s.first_at > d.good_at then s.runs when s.last_at > d.good_at then 1 else 0 end),
            0)::bigint as runs
        from job_stat_list s
        where s.task_type = d.task_type and not s.dry_run and s.outcome = any (job_outcomes(true))
            and (s.minutes = 15 and s.bucket > d.good_at and s.bucket <= p_at
                or s.minutes = 1 and s.bucket >= job_stat_bucket(15, d.good_at)
                    and s.bucket < job_stat_bucket(15, d.good_at) + interval '15 minutes')
    ) a
    order by d.task_type
$$;

-- The last 20 runs of a type that are at most a day old, and how many of them failed. Which runs of a minute were its last is
-- not known, so of the oldest minute that is needed the share of failures counts. The quarters of an hour are added up from
-- the newest one on, and the oldest one that is needed minute by minute.
create or replace function job_last_runs(p_task_type text, p_at timestamptz, out runs bigint, out failed bigint)
language sql stable
as $$
    with quarters as (
        select * from (
            select s.bucket, sum(s.runs) as runs,
                coalesce(sum(s.runs) filter (where s.outcome = any (job_outcomes(true))), 0) as failed,
                sum(sum(s.runs)) over (order by s.bucket desc) - sum(s.runs) as newer
            from job_stat_list s
            where s.task_type = p_task_type and s.minutes = 15 and s.bucket > p_at - interval '1 day'
                and s.bucket <= p_at and not s.dry_run and s.outcome = any (job_outcomes(true) || job_outcomes(false))
            group by s.bucket
        ) q where q.newer < 20
    ), oldest as (
        select q.bucket, q.newer from quarters q order by q.bucket limit 1
    ), minutes as (
        select sum(s.runs) as runs, coalesce(sum(s.runs) filter (where s.outcome = any (job_outcomes(true))), 0) as failed,
            sum(sum(s.runs)) over (order by s.bucket desc) - sum(s.runs) + o.newer as newer
        from oldest o join job_stat_list s on s.bucket >= o.bucket and s.bucket < o.bucket + interval '15 minutes'
        where s.task_type = p_task_type and s.minutes = 1 and s.bucket <= p_at and not s.dry_run
            and s.outcome = any (job_outcomes(true) || job_outcomes(false))
        group by s.bucket, o.newer
    ), chosen as (
        select q.runs, q.failed, q.newer from quarters q, oldest o where q.bucket > o.bucket
        union all
        select m.runs, m.failed, m.newer from minutes m where m.newer < 20
    )
    select coalesce(sum(least(c.runs, 20 - c.newer)), 0)::bigint,
        coalesce(round(sum(c.failed * least(c.runs, 20 - c.newer) / c.runs)), 0)::bigint
    from chosen c
$$;

-- The group of errors of a type that is new: first seen in the last hour, with 20 runs or more, and not muted. Of several,
-- the one with the most runs.
create or replace function job_new_error(p_task_type text, p_at timestamptz, out runs bigint, out first_at timestamptz)
language sql stable
as $$
    select e.runs, g.first_at
    from (
        select l.fingerprint, min(l.first_at) as first_at from job_error_group_list l
        where l.task_type = p_task_type and l.last_at > p_at - interval '1 hour'
            and l.fingerprint <> 'other' and not exists (
                select from job_error_group_list o
                where o.task_type = l.task_type and o.fingerprint = l.fingerprint
                    and o.first_at <= p_at - interval '1 hour')
        group by l.fingerprint
    ) g
    cross join lateral (
        select sum(s.runs)::bigint as runs from job_stat_error_list s
        where s.task_type = p_task_type and s.fingerprint = g.fingerprint
    ) e
    where e.runs >= 20 and not exists (
        select from job_error_mutes m
        where m.task_type = p_task_type and m.fingerprint = g.fingerprint and m.until > p_at)
    order by e.runs desc, g.first_at limit 1
$$;

-- Gives failed runs, and the jobs whose newest failed run is one of them, the fingerprint that their error has after the
-- erasure by these rules (null: of the whole error), and counts them in that group.
create or replace function job_erase_fingerprints(p_tokens bigint[], p_rules jsonb) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_run job_runs;
    v_bucket timestamptz;
    v_after text;
begin
    -- Nobody else adds up now, and no run is counted by its fingerprint of before later.
    perform from job_upkeep u where u.part = 'stats' for update;
    while job_stats_compact(1000) > 0 loop
        null;
    end loop;
    for v_run in select r.* from job_runs r where r.run_token = any (p_tokens) and r.fingerprint is not null
        order by r.run_token
    loop
        v_after := job_error_fingerprint(v_run.error_kind, case when p_rules is null then job_erased_mark()
            else job_scrub_text(v_run.error, p_rules) end);
        v_bucket := job_stat_bucket(5, v_run.finished_at);
        update job_stat_errors e set runs = e.runs - 1
        where e.fingerprint = v_run.fingerprint and e.task_type = v_run.task_type and e.bucket = v_bucket;
        -- Without a row, the run was counted as `other`, and stays there.
        if found and v_run.fingerprint <> v_after then
            insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
            values (v_run.task_type, v_after, v_bucket, 1)
            on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + 1;
            insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
            values (v_run.task_type, v_after, v_run.error_kind, job_error_pattern(job_erased_mark()), v_run.run_token,
                v_run.finished_at, v_run.finished_at)
            on conflict (fingerprint, task_type) do update set last_at = greatest(g.last_at, excluded.last_at),
                sample_token = greatest(g.sample_token, excluded.sample_token), first_at = least(g.first_at, excluded.first_at);
        end if;
        update job_runs r set fingerprint = v_after where r.run_token = v_run.run_token and r.late = v_run.late;
        -- The order of the tokens leaves the fingerprint of the newest run.
        update job_queue q set fingerprint = v_after where q.id = v_run.job_id and q.fingerprint is not null;
    end loop;
    delete from job_stat_errors e where e.runs <= 0;
    delete from job_error_groups g where not exists (
        select from job_stat_errors e where e.fingerprint = g.fingerprint and e.task_type = g.task_type);
end
$$;

-- The same for groups of which the history no longer has a run, by their pattern, in which # is in the place of digits.
-- Groups that become one are added up.
create or replace function job_erase_groups(p_marks jsonb) returns void
language plpgsql volatile
set jit = off
as $$
declare
    v_group job_error_groups;
    v_pattern text;
    v_after text;
    v_rules constant jsonb := job_scrub_rules(p_marks || (
        select coalesce(jsonb_object_agg(job_error_pattern(m.key), m.value), '{}') from jsonb_each(p_marks) m
        where m.key like '%@%' and jsonb_typeof(m.value) = 'string'));
begin
    for v_group in select g.* from job_error_groups g where job_scrub_hit(g.pattern, v_rules) loop
        v_pattern := job_error_pattern(job_scrub_text(v_group.pattern, v_rules));
        v_after := job_error_fingerprint(v_group.error_kind, v_pattern);
        delete from job_error_groups g where g.fingerprint = v_group.fingerprint and g.task_type = v_group.task_type;
        insert into job_error_groups as g (task_type, fingerprint, error_kind, pattern, sample_token, first_at, last_at)
        values (v_group.task_type, v_after, v_group.error_kind, v_pattern, v_group.sample_token, v_group.first_at,
            v_group.last_at)
        on conflict (fingerprint, task_type) do update set sample_token = greatest(g.sample_token, excluded.sample_token),
            first_at = least(g.first_at, excluded.first_at), last_at = greatest(g.last_at, excluded.last_at);
        insert into job_stat_errors as e (task_type, fingerprint, bucket, runs)
        select o.task_type, v_after, o.bucket, o.runs from job_stat_errors o
        where o.fingerprint = v_group.fingerprint and o.task_type = v_group.task_type and v_after <> v_group.fingerprint
        on conflict (fingerprint, task_type, bucket) do update set runs = e.runs + excluded.runs;
        delete from job_stat_errors e where e.fingerprint = v_group.fingerprint and e.task_type = v_group.task_type
            and v_after <> v_group.fingerprint;
    end loop;
end
$$;
