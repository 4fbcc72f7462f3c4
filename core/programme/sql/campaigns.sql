-------------------------------------------------------------------------------------------------------
-- Campaigns
-------------------------------------------------------------------------------------------------------

-- Whether a run still holds its campaign. If so, renews its lease.
create or replace function public.outbox_campaign_hold(
    p_campaign uuid, p_job uuid, p_token bigint, p_lease_seconds double precision
) returns boolean
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    update competitor_announcement_campaigns
    set lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
    where id = p_campaign and dispatch_job_id = p_job and dispatch_token = p_token and status = 'sending';
    return found;
end
$$;

-- Sets the normalised address of queued recipients that the original stored. Of several with the same address, one is
-- mailed, or none if the address was mailed before.
create or replace function public.outbox_campaign_adopt(p_campaign uuid) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    with ranked as (
        select id, row_number() over (partition by coalesce(email_norm, outbox_normal('email', email))
            order by status = 'queued', email_norm is null, created_at, id) as by_address,
            row_number() over (partition by competitor_id
            order by status = 'queued', email_norm is null, created_at, id) as by_person
        from competitor_announcement_recipients where campaign_id = p_campaign and status <> 'skipped')
    update competitor_announcement_recipients r
    set status = 'skipped', skip_reason = 'duplicate_email', updated_at = now()
    from ranked k
    where k.id = r.id and r.status = 'queued' and r.email_norm is null and greatest(k.by_address, k.by_person) > 1;
    update competitor_announcement_recipients r
    set email_norm = outbox_normal('email', r.email)
    where r.campaign_id = p_campaign and r.status = 'queued' and r.email_norm is null;
end
$$;

-- Gives a campaign to one run, which holds it until its lease ends. `verdict`: `started`, `resumed`, `not_found`,
-- `draft`, `busy` (another job holds it), `lost` (a later run of the same job holds it), `done` (no recipients are
-- left), `failed` (a person must reopen it with outbox_campaign_reopen, or retry the failed job). Messages that the
-- previous run left in flight become uncertain: only one run holds a campaign, so no process is sending them.
create or replace function public.outbox_campaign_start(
    p_campaign uuid, p_job uuid, p_token bigint, p_lease_seconds double precision,
    out verdict text, out status text, out subject text, out body_markdown text, out body_html text
)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_row competitor_announcement_campaigns;
begin
    perform job_refuse_outsiders();
    select * into v_row from competitor_announcement_campaigns where id = p_campaign for update;
    if not found then
        verdict := 'not_found';
        return;
    end if;
    status := v_row.status;
    subject := v_row.subject;
    body_markdown := v_row.body_markdown;
    body_html := v_row.body_html;
    verdict := case
        when v_row.status = 'draft' then 'draft'
        when v_row.dispatch_job_id = p_job and v_row.dispatch_token > p_token then 'lost'
        when v_row.dispatch_job_id <> p_job and v_row.lease_until > clock_timestamp() then 'busy' end;
    if verdict is not null then
        return;
    end if;
    perform outbox_campaign_orphans(p_campaign);
    if v_row.status = 'sent' or not exists (
        select from competitor_announcement_recipients r
        where r.campaign_id = p_campaign and r.status in ('queued', 'sending'))
    then
        update competitor_announcement_campaigns c set lease_until = null where c.id = p_campaign;
        status := outbox_campaign_close(p_campaign);
        verdict := 'done';
        return;
    end if;
    if v_row.status = 'failed' and v_row.dispatch_job_id is distinct from p_job then
        verdict := 'failed';
        return;
    end if;
    perform outbox_campaign_adopt(p_campaign);
    update competitor_announcement_campaigns c
    set status = 'sending', started_at = coalesce(c.started_at, now()), failed_reason = null, completed_at = null,
        dispatch_job_id = p_job, dispatch_token = p_token, send_attempt = c.send_attempt + 1,
        lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
    where c.id = p_campaign;
    verdict := case when v_row.started_at is null then 'started' else 'resumed' end;
end
$$;

-- Reopens a campaign for the recipients not mailed yet, with p_retry_failed also for refused ones, and with
-- p_include_uncertain also for those who may have been mailed. Returns the number of recipients to mail.
create or replace function public.outbox_campaign_reopen(
    p_campaign uuid, p_retry_failed boolean, p_include_uncertain boolean, p_actor text
) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_row competitor_announcement_campaigns;
    v_uncertain uuid[];
    v_left bigint;
begin
    perform job_refuse_outsiders();
    select * into v_row from competitor_announcement_campaigns where id = p_campaign for update;
    if not found then
        perform job_queue_refuse(format('There is no campaign %s.', p_campaign));
    elsif v_row.status = 'draft' then
        perform job_queue_refuse('The campaign is a draft, which nobody has sent off yet. Create a campaign from it.');
    elsif v_row.lease_until > clock_timestamp() then
        perform job_queue_refuse(format('Job %s is sending this campaign. Wait for it, or cancel it first.',
            v_row.dispatch_job_id));
    end if;
    perform outbox_campaign_orphans(p_campaign);
    if p_include_uncertain then
        select array_agg(m.id) into v_uncertain from outbox_messages m
        where m.campaign_id = p_campaign and m.state = 'uncertain';
        perform outbox_decide(v_uncertain, true, p_actor);
    end if;
    if p_retry_failed then
        update outbox_messages m set state = 'queued', next_attempt_at = now(), error_class = null, error_code = null,
            error_text = null, updated_at = now()
        where m.campaign_id = p_campaign and m.state = 'failed' and m.error_class is distinct from 'given_up';
        update competitor_announcement_recipients r set status = 'queued', error = null, updated_at = now()
        where r.campaign_id = p_campaign and r.status = 'failed'
            and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id);
    end if;
    select count(*) into v_left from competitor_announcement_recipients r
    where r.campaign_id = p_campaign and r.status = 'queued';
    if v_left = 0 then
        perform job_queue_refuse('Nobody is left to mail. Those who failed or are uncertain are mailed again only when '
            'asked for (--retry-failed, --include-uncertain).');
    end if;
    update competitor_announcement_campaigns c set status = 'pending', failed_reason = null, completed_at = null
    where c.id = p_campaign;
    perform job_queue_write_audit(p_actor, 'resume campaign', null, null, jsonb_build_object('campaign_id', p_campaign,
        'recipients', v_left, 'retry_failed', p_retry_failed, 'include_uncertain', p_include_uncertain), null);
    return v_left;
end
$$;

create or replace function public.outbox_campaign_orphans(p_campaign uuid) returns void
language sql volatile
set search_path = public, pg_temp
as $$
    update outbox_messages m set state = 'uncertain', lease_until = null, error_class = 'sender_died', updated_at = now()
    where m.campaign_id = p_campaign and m.state = 'sending';
    update send_batches b set state = 'uncertain', updated_at = now()
    where b.campaign_id = p_campaign and b.state = 'sending';
$$;

-- Why a queued recipient must no longer be mailed; null when they may.
create or replace function public.outbox_recipient_obstacle(p_norm text, p_active boolean) returns text
language sql stable
set search_path = public, pg_temp
as $$
    select case when coalesce(p_norm, '') = '' then 'no_email'
        when not outbox_email_ok(p_norm) then 'invalid_email_format'
        when p_active is false then 'inactive'
        else outbox_suppression('announcement', 'email', p_norm) end
$$;

-- Whether an address still belongs to a competitor. A campaign mails the approved list, except addresses that changed.
create or replace function public.outbox_has_address(p_competitor public.competitors, p_norm text) returns boolean
language sql stable
set search_path = public, pg_temp
as $$
    select coalesce(p_norm = any (array[outbox_normal('email', (p_competitor).game_platform_onboarding_email),
        outbox_normal('email', (p_competitor).email_personal), outbox_normal('email', (p_competitor).email_school)]), false)
$$;

-- The people of an audience (`game_platform`: those on it; `all`), with the reason for those who would not be mailed.
-- An empty address counts as missing, so the next one is used. Of several people with one address, the first is mailed.
create or replace function public.outbox_audience(p_audience text, p_coach uuid)
returns table (competitor_id uuid, address_norm text, is_minor boolean, reason text, place bigint)
language sql stable
set search_path = public, pg_temp
as $$
    with chosen as (
        select c.id, coalesce(c.is_active, false) as active, c.is_18_or_over is not true as is_minor, c.created_at,
            coalesce(nullif(outbox_normal('email', c.game_platform_onboarding_email), ''),
                nullif(outbox_normal('email', c.email_personal), ''),
                nullif(outbox_normal('email', c.email_school), ''), '') as norm
        from competitors c
        where (p_audience = 'all' or c.game_platform_id is not null) and (p_coach is null or c.coach_id = p_coach)),
    judged as (
        select h.*, outbox_recipient_obstacle(h.norm, h.active) as obstacle from chosen h)
    select j.id, j.norm, j.is_minor, coalesce(j.obstacle, case when row_number() over (
            partition by j.norm, j.obstacle is null order by j.created_at, j.id) > 1 then 'duplicate_email' end),
        row_number() over (order by j.created_at, j.id)
    from judged j
$$;

-- An audience in numbers: the count per reason for exclusion ('' for those who would be mailed), and the first
-- p_samples with masked addresses.
create or replace function public.outbox_audience_outlook(p_audience text, p_coach uuid, p_samples integer)
returns table (reason text, people bigint, minors bigint, ids uuid[], masked text[])
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select coalesce(a.reason, ''), count(*), count(*) filter (where a.is_minor),
        (array_agg(a.competitor_id order by a.place))[1:p_samples],
        (array_agg(outbox_mask('email', a.address_norm) order by a.place))[1:p_samples]
    from outbox_audience(p_audience, p_coach) a group by 1 order by 1
$$;

-- Creates a campaign with its recipients and its excluded people. p_actor is recorded in the audit log.
create or replace function public.outbox_campaign_create(
    p_subject text, p_markdown text, p_html text, p_audience text, p_coach uuid, p_actor text
) returns uuid
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_campaign uuid;
    v_queued bigint;
    v_skipped bigint;
begin
    perform job_refuse_outsiders();
    insert into competitor_announcement_campaigns
        (subject, body_markdown, body_html, status, audience, coach_id, created_by_actor)
    values (p_subject, p_markdown, p_html, 'pending', p_audience, p_coach, p_actor) returning id into v_campaign;
    with made as (
        insert into competitor_announcement_recipients
            (campaign_id, competitor_id, email, email_norm, status, skip_reason)
        select v_campaign, a.competitor_id, a.address_norm, a.address_norm,
            case when a.reason is null then 'queued' else 'skipped' end, a.reason
        from outbox_audience(p_audience, p_coach) a order by a.place
        returning status)
    select count(*) filter (where status = 'queued'), count(*) filter (where status = 'skipped')
    into v_queued, v_skipped from made;
    perform job_queue_write_audit(p_actor, 'create campaign', null, null, jsonb_build_object('campaign_id', v_campaign,
        'audience', p_audience, 'coach_id', p_coach, 'recipients', v_queued, 'left_out', v_skipped), null);
    return v_campaign;
end
$$;

-- Previews a run for the queued recipients of a campaign: the count per reason for exclusion ('' for those who would be
-- mailed), the first ids, and masked addresses.
create or replace function public.outbox_campaign_outlook(p_campaign uuid, p_coach uuid)
returns table (reason text, people bigint, first uuid[], masked text[])
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    with queued as (
        select r.id, r.competitor_id, r.email, r.email_norm, c.is_active, n.norm,
            outbox_has_address(c, n.norm) as theirs
        from competitor_announcement_recipients r left join competitors c on c.id = r.competitor_id
        cross join lateral (select outbox_normal('email', r.email) as norm) n
        where r.campaign_id = p_campaign and r.status = 'queued' and (p_coach is null or c.coach_id = p_coach)),
    judged as (
        select q.*, coalesce(
            outbox_recipient_obstacle(q.norm, q.is_active),
            case when not q.theirs then 'address_changed' end,
            case when q.email_norm is null
                    and row_number() over (partition by q.norm order by q.id) > 1
                or exists (select from outbox_messages m where m.campaign_id = p_campaign
                    and m.address_norm = q.norm and m.state not in ('queued', 'suppressed')
                    and m.campaign_recipient_id <> q.id)
            then 'duplicate_email' end) as reason
        from queued q)
    select coalesce(j.reason, ''), count(*), (array_agg(j.competitor_id order by j.id))[1:10],
        (array_agg(outbox_mask('email', j.email) order by j.id))[1:3]
    from judged j group by 1
$$;

-- Takes up to p_size queued recipients for one request, only those of p_coach if given. Their messages are `sending`
-- and their batch is recorded before anything is sent. Empty when no recipient is left or the run no longer holds the
-- campaign; outbox_campaign_hold tells which.
create or replace function public.outbox_campaign_batch(
    p_campaign uuid, p_job uuid, p_token bigint, p_size integer, p_lease_seconds double precision, p_coach uuid
) returns table (id uuid, attempt integer, batch uuid, recipient_id uuid, competitor_id uuid, address text)
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_ids uuid[];
    v_batch uuid;
    v_size integer;
begin
    perform job_refuse_outsiders();
    if not outbox_campaign_hold(p_campaign, p_job, p_token, p_lease_seconds) then
        return;
    end if;
    loop
        select array_agg(t.id) into v_ids from (
            select r.id from competitor_announcement_recipients r
            where r.campaign_id = p_campaign and r.status = 'queued' and (p_coach is null
                or exists (select from competitors c where c.id = r.competitor_id and c.coach_id = p_coach))
            order by r.id limit p_size for update of r) t;
        exit when v_ids is null;
        with judged as (
            select r.id as recipient, coalesce(outbox_recipient_obstacle(r.email_norm, c.is_active),
                case when not outbox_has_address(c, r.email_norm) then 'address_changed' end) as reason
            from competitor_announcement_recipients r left join competitors c on c.id = r.competitor_id
            where r.id = any (v_ids)),
        messages as (
            update outbox_messages m set state = 'suppressed', error_class = j.reason, updated_at = now()
            from judged j where m.campaign_recipient_id = j.recipient and j.reason is not null and m.state = 'queued')
        update competitor_announcement_recipients r set status = 'skipped', skip_reason = j.reason, updated_at = now()
        from judged j where j.recipient = r.id and j.reason is not null;
        insert into outbox_messages (kind, channel, recipient_ref, address, address_norm, dedupe_key, campaign_id,
            campaign_recipient_id, job_id, run_token)
        select 'announcement', 'email', r.competitor_id, r.email_norm, r.email_norm,
            'announcement:' || p_campaign || ':' || r.email_norm, p_campaign, r.id, p_job, p_token
        from competitor_announcement_recipients r where r.id = any (v_ids) and r.status = 'queued'
        order by r.id
        on conflict (dedupe_key) do nothing;
        -- The outbox has the address under another recipient, so it has been mailed.
        update competitor_announcement_recipients r
        set status = 'skipped', skip_reason = 'duplicate_email', updated_at = now()
        where r.id = any (v_ids) and r.status = 'queued'
            and not exists (select from outbox_messages m where m.campaign_recipient_id = r.id and m.state = 'queued');
        select count(*) into v_size from outbox_messages m
        where m.campaign_recipient_id = any (v_ids) and m.state = 'queued';
        continue when v_size = 0;
        insert into send_batches (campaign_id, size, job_id, run_token) values (p_campaign, v_size, p_job, p_token)
        returning send_batches.id into v_batch;
        return query
            with taken as (
                update outbox_messages m
                set state = 'sending', attempts = m.attempts + 1, batch_id = v_batch, job_id = p_job,
                    run_token = p_token, updated_at = now(),
                    lease_until = clock_timestamp() + make_interval(secs => p_lease_seconds)
                where m.campaign_recipient_id = any (v_ids) and m.state = 'queued'
                returning m.*)
            select t.id, t.attempts, v_batch, t.campaign_recipient_id, t.recipient_ref, t.address
            from taken t order by t.campaign_recipient_id;
        return;
    end loop;
end
$$;

-- Records the result of a request: `accepted`, `returned` (not sent, may be sent again), `failed`, `uncertain`. It has
-- an effect while the batch is in flight, or when it has become uncertain.
create or replace function public.outbox_settle_batch(
    p_batch uuid, p_outcome text, p_provider_message_id text, p_http_status integer, p_error_class text,
    p_error_text text
) returns bigint
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_count bigint;
    v_campaign uuid;
begin
    perform job_refuse_outsiders();
    update send_batches b
    set state = p_outcome, provider_message_id = coalesce(p_provider_message_id, b.provider_message_id),
        http_status = p_http_status, error_class = p_error_class, updated_at = now()
    where b.id = p_batch and b.state in ('sending', 'uncertain')
    returning b.campaign_id into v_campaign;
    update outbox_messages m
    set state = case when m.state not in ('sending', 'uncertain') then m.state
            when p_outcome = 'returned' then 'queued' else p_outcome end,
        lease_until = null,
        next_attempt_at = case when p_outcome = 'returned' then now() else m.next_attempt_at end,
        accepted_at = case when p_outcome = 'accepted' then coalesce(m.accepted_at, now()) else m.accepted_at end,
        provider_message_id = coalesce(p_provider_message_id, m.provider_message_id),
        error_class = p_error_class, error_code = p_http_status::text, error_text = left(p_error_text, 500),
        updated_at = now()
    where m.batch_id = p_batch and (m.state in ('sending', 'uncertain')
        or p_outcome = 'accepted' and m.state in ('delivered', 'blocked', 'dropped', 'bounced'));
    get diagnostics v_count = row_count;
    if v_campaign is not null then
        perform outbox_campaign_close(v_campaign);
    end if;
    return v_count;
end
$$;

-- Updates the status of a campaign that no run holds from the states of its recipients.
create or replace function public.outbox_campaign_close(p_campaign uuid) returns text
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
declare
    v_open bigint;
    v_failed bigint;
    v_uncertain bigint;
    v_mailed bigint;
    v_status text;
begin
    perform job_refuse_outsiders();
    select status into v_status from competitor_announcement_campaigns
    where id = p_campaign and status <> 'draft' and (lease_until is null or lease_until <= clock_timestamp())
    for update;
    if not found then
        return null;
    end if;
    select count(*) filter (where status in ('queued', 'sending')), count(*) filter (where status = 'failed'),
        count(*) filter (where status = 'uncertain'),
        count(*) filter (where status in ('unconfirmed', 'delivered', 'blocked', 'dropped', 'bounced'))
    into v_open, v_failed, v_uncertain, v_mailed
    from competitor_announcement_recipients where campaign_id = p_campaign;
    v_status := case
        when v_open > 0 then case when v_status in ('pending', 'sending', 'failed') then v_status
            else 'partially_failed' end
        when v_failed > 0 and v_mailed = 0 and v_uncertain = 0 then 'failed'
        when v_failed + v_uncertain > 0 then 'partially_failed'
        else 'sent' end;
    update competitor_announcement_campaigns c
    set status = v_status,
        completed_at = case when v_open > 0 then null else coalesce(c.completed_at, now()) end,
        failed_reason = case when v_status = 'sent' then null else c.failed_reason end
    where c.id = p_campaign;
    return v_status;
end
$$;

-- Releases a campaign. p_status is its status if recipients are left: null keeps it `sending` for the next run;
-- `partially_failed` or `failed` waits for a person. Returns its status; null when the run no longer held it.
create or replace function public.outbox_campaign_release(
    p_campaign uuid, p_job uuid, p_token bigint, p_status text, p_reason text
) returns text
language plpgsql volatile security definer
set search_path = public, pg_temp
as $$
begin
    perform job_refuse_outsiders();
    update competitor_announcement_campaigns
    set lease_until = null, status = coalesce(p_status, status), failed_reason = p_reason
    where id = p_campaign and dispatch_job_id = p_job and dispatch_token = p_token and status = 'sending';
    if not found then
        return null;
    end if;
    return outbox_campaign_close(p_campaign);
end
$$;

-- The number of a campaign's recipients by status.
create or replace function public.outbox_campaign_stats(p_campaign uuid)
returns table (status text, skip_reason text, people bigint, opened bigint, clicked bigint)
language sql stable
set search_path = public, pg_temp
as $$
    select r.status, case when r.status = 'skipped' then r.skip_reason end, count(*), count(r.opened_at),
        count(r.clicked_at)
    from competitor_announcement_recipients r where r.campaign_id = p_campaign group by 1, 2 order by 1, 2
$$;
