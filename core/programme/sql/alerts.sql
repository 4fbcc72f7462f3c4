-------------------------------------------------------------------------------------------------------
-- Unread messages and alerts
-------------------------------------------------------------------------------------------------------

-- Unread messages per person: messages of others in the person's conversations, without a receipt, not archived, older
-- than a grace period, not private to other people, and written after the person joined.
create or replace function public.programme_unread(p_grace interval default '0')
returns table (user_id uuid, unread bigint, newest_message_id uuid, newest_at timestamptz, oldest_at timestamptz)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select b.user_id, count(*), (array_agg(m.id order by m.created_at desc, m.id desc))[1], max(m.created_at),
        min(m.created_at)
    from conversation_members b
    join messages m on m.conversation_id = b.conversation_id
    where m.sender_id <> b.user_id and m.created_at >= b.joined_at and m.created_at <= now() - p_grace
        and coalesce(m.metadata ->> 'private_to', '') in ('', b.user_id::text)
        and not exists (select from message_read_receipts r where r.message_id = m.id and r.user_id = b.user_id)
        and not exists (select from message_user_state s
            where s.message_id = m.id and s.user_id = b.user_id and s.archived_at is not null)
    group by b.user_id
$$;

-- Why a person no longer needs an alert about a message; null when they do.
create or replace function public.programme_alert_obstacle(p_person uuid, p_message uuid) returns text
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select case
        when exists (select from message_read_receipts r where r.message_id = m.id and r.user_id = p_person) then 'read'
        when exists (select from message_user_state s
            where s.message_id = m.id and s.user_id = p_person and s.archived_at is not null) then 'archived'
        when coalesce(m.metadata ->> 'private_to', '') not in ('', p_person::text) then 'private'
        when not exists (select from conversation_members b
            where b.conversation_id = m.conversation_id and b.user_id = p_person) then 'not_member' end
    from messages m where m.id = p_message
$$;

-------------------------------------------------------------------------------------------------------
-- Previews: what a run would find, for users who may enqueue it but may not see addresses. These functions have their
-- owner's rights and return masked addresses, shapes and counts. Runs read the tables with the worker's rights.
-------------------------------------------------------------------------------------------------------

-- The next people with unread messages, by id, with their addresses. p_grace and p_window are in minutes.
create or replace function public.programme_digest_due(
    p_roles text[], p_person uuid, p_after uuid, p_limit integer, p_grace integer, p_window integer, p_zone text
) returns table (id uuid, role text, full_name text, first_name text, email_on boolean, email text, email_ok boolean,
    sms_on boolean, mobile text, number text, unread bigint, newest_message_id uuid, oldest_minutes integer, day text,
    held boolean, email_fresh boolean, sms_fresh boolean, email_told boolean, sms_told boolean)
language sql stable
set search_path = public, pg_temp
as $$
    with due as (
        select p.*, u.unread, u.newest_message_id, u.oldest_at
        from programme_unread(make_interval(mins => p_grace)) u join profiles p on p.id = u.user_id
        where p.role::text = any (p_roles) and (p_person is null or p.id = p_person)
            and (p_after is null or p.id > p_after)
        order by p.id limit p_limit),
    noticed as (
        select d.*, n.email_at, n.sms_at,
            case when d.last_unread_alert_at > coalesce(n.accepted_at, '-infinity')
                then d.last_unread_alert_at end as mark_at
        from due d cross join lateral (
            select max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'email') as email_at,
                max(coalesce(m.accepted_at, m.updated_at)) filter (where m.channel = 'sms') as sms_at,
                max(m.accepted_at) as accepted_at
            from outbox_messages m
            where m.recipient_ref = d.id and m.kind = 'unread_alert'
                and m.state not in ('queued', 'failed', 'suppressed')) n)
    select n.id, n.role::text as role, n.full_name, n.first_name,
        n.email_alerts_enabled is not false as email_on, a.address as email,
        outbox_email_ok(a.address) as email_ok,
        n.sms_notifications_enabled is true as sms_on, trim(coalesce(n.mobile_number, '')) as mobile,
        outbox_e164(n.mobile_number) as number, n.unread, n.newest_message_id,
        floor(extract(epoch from now() - n.oldest_at) / 60)::integer as oldest_minutes,
        (now() at time zone p_zone)::date::text as day,
        coalesce(n.mark_at >= n.oldest_at
            and n.mark_at > now() - make_interval(mins => p_window), false) as held,
        coalesce(n.email_at < n.oldest_at, true) as email_fresh,
        coalesce(n.sms_at < n.oldest_at, true) as sms_fresh,
        exists (select from outbox_messages m
            where m.dedupe_key = 'unread_alert:email:' || n.id || ':' || n.newest_message_id
                and m.state not in ('queued', 'suppressed', 'sending')) as email_told,
        exists (select from outbox_messages m
            where m.dedupe_key = 'unread_alert:sms:' || n.id || ':' || n.newest_message_id
                and m.state not in ('queued', 'suppressed', 'sending')) as sms_told
    from noticed n cross join lateral (
        select coalesce(nullif(outbox_normal('email', n.email_alert_address), ''),
            outbox_normal('email', n.email), '') as address) a
    order by n.id
$$;

create or replace function public.programme_digest_ahead(
    p_roles text[], p_person uuid, p_after uuid, p_limit integer, p_grace integer, p_window integer, p_zone text
) returns table (id uuid, role text, full_name text, first_name text, email_on boolean, email text, email_ok boolean,
    sms_on boolean, mobile text, number text, unread bigint, newest_message_id uuid, oldest_minutes integer, day text,
    held boolean, email_fresh boolean, sms_fresh boolean, email_told boolean, sms_told boolean)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select d.id, d.role, '', '', d.email_on, outbox_mask('email', d.email), d.email_ok, d.sms_on,
        outbox_mask('sms', d.mobile), nullif(outbox_mask('sms', d.number), ''), d.unread, d.newest_message_id,
        d.oldest_minutes, d.day, d.held, d.email_fresh, d.sms_fresh, d.email_told, d.sms_told
    from programme_digest_due(p_roles, p_person, p_after, p_limit, p_grace, p_window, p_zone) d order by d.id
$$;

-- Admins with messages they must be alerted about, as a run would find them.
create or replace function public.programme_admin_alerts_ahead(p_people uuid[], p_roles text[])
returns table (id uuid, messages bigint, key text, email_on boolean, email text, email_ok boolean, sms_on boolean,
    mobile text, number text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    with open as (
        select q.recipient_id, count(*) as messages, case
            when bool_and(coalesce(o.state = 'queued', false)) and count(distinct o.id) = 1
            then min(o.dedupe_key) end as key
        from admin_alert_queue q join profiles p on p.id = q.recipient_id
        left join outbox_messages o on o.id = q.outbox_id
        where q.recipient_id = any (p_people) and q.sent_at is null and q.dropped_at is null
            and p.role::text = any (p_roles) and o.state is distinct from 'sending'
            and programme_alert_obstacle(q.recipient_id, q.message_id) is null
        group by 1)
    select p.id, o.messages, o.key, p.email_alerts_enabled is not false, outbox_mask('email', a.address),
        outbox_email_ok(a.address), p.instant_sms_enabled is true,
        outbox_mask('sms', trim(coalesce(p.mobile_number, ''))),
        nullif(outbox_mask('sms', outbox_e164(p.mobile_number)), '')
    from open o join profiles p on p.id = o.recipient_id cross join lateral (
        select coalesce(nullif(outbox_normal('email', p.email_alert_address), ''),
            outbox_normal('email', p.email), '') as address) a
    order by p.id
$$;

-- Why each form without a probe must not be probed; null when it may. p_stale is in hours, p_most in attempts.
create or replace function public.programme_probes_judged(p_stale double precision, p_most integer)
returns table (form uuid, reason text)
language sql stable
set search_path = public, pg_temp
as $$
    select a.id, case
        when c.is_18_or_over then 'not_minor'
        when a.metadata ->> 'mode' = 'print' or a.metadata ->> 'isPrintMode' = 'true' then 'print_mode'
        when coalesce(n.address, '') = '' then 'missing_parent_email'
        when c.parent_email_is_valid is false then 'already_invalid'
        when c.parent_email_is_valid then 'already_valid'
        when not outbox_email_ok(n.address) then 'invalid_email_format'
        when outbox_suppression('parent_probe', 'email', n.address) is not null
            then outbox_suppression('parent_probe', 'email', n.address)
        when a.recipient_email_verification_attempts >= p_most and m.state is distinct from 'queued'
            and a.recipient_email_verification_address = n.address then 'gave_up' end as reason
    from agreements a join competitors c on c.id = a.competitor_id
    left join outbox_messages m on m.id = a.recipient_email_verification_outbox_id
    cross join lateral (select outbox_normal('email', c.parent_email) as address) n
    where a.provider = 'zoho' and a.template_kind = 'minor' and a.status = 'sent'
        and a.created_at < now() - make_interval(secs => p_stale * 3600)
        and (a.recipient_email_verification_sent_at is null
            and coalesce(a.recipient_email_verification_status, 'pending') = 'pending'
            or a.recipient_email_verification_status = 'blocked'
            or a.recipient_email_verification_address <> n.address)
$$;

-- The number of forms without a probe that must not be probed, by reason.
create or replace function public.programme_probe_skips(p_stale double precision, p_most integer)
returns table (reason text, forms bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select reason, count(*) from programme_probes_judged(p_stale, p_most)
    where reason is not null group by 1 order by 1
$$;

-- The addresses to probe now, oldest form first, each once with all its waiting forms.
create or replace function public.programme_probes_due(
    p_stale double precision, p_most integer, p_limit integer, p_resend interval, p_reuse interval
) returns table (address text, masked text, forms uuid[], competitor_id uuid, key text, attempt integer,
    elsewhere bigint)
language sql stable
set search_path = public, pg_temp
as $$
    with open as (
        select a.id, a.competitor_id, a.created_at, n.address, m.state, m.dedupe_key,
            m.address_norm = n.address as bound,
            case when a.recipient_email_verification_address = n.address
                then a.recipient_email_verification_attempts else 0 end as attempts,
            s.anybody and not s.same as elsewhere
        from agreements a join competitors c on c.id = a.competitor_id
        left join outbox_messages m on m.id = a.recipient_email_verification_outbox_id
        cross join lateral (select outbox_normal('email', c.parent_email) as address) n
        cross join lateral (
            select count(*) > 0 as anybody,
                coalesce(bool_or(outbox_normal('email', e.signer ->> 'email') = n.address), false) as same
            from jsonb_array_elements(
                case when jsonb_typeof(a.signers) = 'array' then a.signers else '[]' end) as e (signer)
            where coalesce(e.signer ->> 'email', '') <> '') s
        where a.provider = 'zoho' and a.template_kind = 'minor' and a.status = 'sent'
            and a.created_at < now() - make_interval(secs => p_stale * 3600)
            and c.is_18_or_over is not true and c.parent_email_is_valid is null
            and coalesce(a.metadata ->> 'mode', '') <> 'print'
            and coalesce(a.metadata ->> 'isPrintMode', '') <> 'true'
            and outbox_email_ok(n.address) and outbox_suppression('parent_probe', 'email', n.address) is null
            and ((a.recipient_email_verification_address <> n.address
                    or a.recipient_email_verification_outbox_id is null
                        and a.recipient_email_verification_sent_at is null
                        and a.recipient_email_verification_status is null)
                    and not exists (select from outbox_messages k
                        where k.kind = 'parent_probe' and k.address_norm = n.address
                            and k.created_at > now() - p_reuse
                            and k.state not in ('failed', 'suppressed'))
                or m.state in ('queued', 'suppressed')
                or a.recipient_email_verification_attempts < p_most
                    and coalesce(a.recipient_email_verification_next_at, '-infinity') <= now() and (
                        a.recipient_email_verification_status = 'blocked'
                        or m.state = 'failed' and m.error_class is distinct from 'given_up'
                        or m.state = 'uncertain' and m.updated_at < now() - p_resend
                            and not exists (select from outbox_messages u
                                where u.kind = 'parent_probe' and u.address_norm = n.address
                                    and u.state = 'uncertain' and u.id <> m.id)))),
    grouped as (
        select address, array_agg(id order by created_at, id) as forms,
            (array_agg(competitor_id order by created_at, id))[1] as competitor_id,
            min(dedupe_key) filter (where state = 'queued' and bound) as key,
            (array_agg(attempts order by created_at, id))[1] + 1 as attempt,
            count(*) filter (where elsewhere) as elsewhere, min(created_at) as since
        from open group by address)
    select address, outbox_mask('email', address) as masked, forms, competitor_id, key, attempt, elsewhere
    from grouped order by since, address limit p_limit
$$;

create or replace function public.programme_probes_ahead(
    p_stale double precision, p_most integer, p_limit integer, p_resend interval, p_reuse interval
) returns table (address text, masked text, forms uuid[], competitor_id uuid, key text, attempt integer,
    elsewhere bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select d.masked, d.masked, d.forms, d.competitor_id, null::text, d.attempt, d.elsewhere
    from programme_probes_due(p_stale, p_most, p_limit, p_resend, p_reuse) d
$$;

-- The shape of a text: the same length, spaces, punctuation and validity, without its letters and digits.
create or replace function public.programme_shape(p_text text) returns text
language sql immutable
set search_path = public, pg_temp
as $$
    select regexp_replace(regexp_replace(p_text, '[A-Za-z0-9]', 'x', 'g'),
        '[^\u0001-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]', 'ü', 'g')
$$;

-- The values of a request for an account, as shapes.
create or replace function public.programme_competitors_ahead(p_ids uuid[])
returns table (id uuid, first_name text, last_name text, email_personal text, email_school text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select c.id, programme_shape(c.first_name), programme_shape(c.last_name), programme_shape(c.email_personal),
        programme_shape(c.email_school)
    from competitors c where c.id = any (p_ids)
$$;

create or replace function public.programme_coaches_ahead(p_ids uuid[])
returns table (id uuid, email text, full_name text, first_name text, last_name text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select p.id, programme_shape(p.email), programme_shape(p.full_name), programme_shape(p.first_name),
        programme_shape(p.last_name)
    from profiles p where p.id = any (p_ids)
$$;

-- Each competitor's status, derived from the completed fields, with and without an account on the platform.
create or replace function public.programme_statuses(p_ids uuid[], p_has_account boolean)
returns table (id uuid, status text)
language plpgsql stable security definer
set search_path = public, pg_temp
as $$
#variable_conflict use_column
begin
    perform job_refuse_outsiders();
    return query
        select c.id, case
            when not (core.filled and case when c.is_18_or_over then btrim(coalesce(c.email_school, '')) <> ''
                else btrim(coalesce(c.parent_name, '')) <> '' and btrim(coalesce(c.parent_email, '')) <> '' end)
                then 'pending'
            when not p_has_account then 'profile'
            when case when c.is_18_or_over then c.participation_agreement_date else c.media_release_date end is null
                then 'in_the_game_not_compliant'
            else 'complete' end
        from public.competitors c
        cross join lateral (
          select c.years_competing is not null and not exists (
            select from unnest(array[c.grade, c.gender, c.race, c.ethnicity, c.level_of_technology]) as given (value)
            where btrim(coalesce(given.value, '')) = '') as filled) core
        where c.id = any (p_ids);
end
$$;

-- Coaches whose name, school or id contains the text, by name. Addresses are not searched, because a person who
-- guesses one would learn whose it is.
create or replace function public.programme_find_coaches(p_text text, p_limit integer)
returns table (id uuid, name text, school text, on_platform boolean, competitors bigint)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select p.id, coalesce(nullif(p.full_name, ''), concat_ws(' ', p.first_name, p.last_name)), p.school_name,
        p.game_platform_user_id is not null, (select count(*) from competitors c where c.coach_id = p.id)
    from profiles p
    where p.role = 'coach' and (p_text = '' or position(lower(p_text) in lower(concat_ws(' ',
        p.full_name, p.first_name, p.last_name, p.school_name, p.id))) > 0)
    order by p.full_name, p.id limit least(p_limit, 100)
$$;

-- Queues an alert for each admin of a message's conversation. A message of high priority is alerted at once, by one job
-- for all messages that arrive until it runs. An error in here does not prevent the message from being written.
create or replace function public.programme_queue_admin_alerts() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
declare
    v_queued bigint;
begin
    insert into admin_alert_queue (recipient_id, message_id)
    select b.user_id, m.id
    from added m
    join conversation_members b on b.conversation_id = m.conversation_id and b.user_id <> m.sender_id
    join profiles p on p.id = b.user_id and p.role = 'admin'
    where coalesce(m.metadata ->> 'private_to', '') in ('', b.user_id::text)
    on conflict (recipient_id, message_id) do nothing;
    get diagnostics v_queued = row_count;
    if v_queued > 0 and exists (select from added where high_priority) and not exists (
        select from job_queue
        where task_type = 'admin_alert_dispatch' and status = 'pending' and run_at <= now())
    then
        perform job_queue_enqueue('admin_alert_dispatch',
            '{"roles": ["admin"], "allowSms": false, "force": true, "windowMinutes": 5}'::jsonb, now(), 5);
    end if;
    return null;
exception when others then
    raise warning 'Admin alerts for a message could not be queued (SQLSTATE %).', sqlstate;
    return null;
end
$$;
create or replace trigger programme_queue_admin_alerts after insert on public.messages
    referencing new table as added for each statement execute function public.programme_queue_admin_alerts();

-- An edited address is no longer validated, unless the same statement also sets whether it is. The validity alone does not
-- show that: the old and the new address can both be valid. The original sets the time of the check with it.
create or replace function public.programme_forget_parent_check() returns trigger
language plpgsql security definer
set search_path = public, pg_temp
as $$
begin
    if outbox_normal('email', new.parent_email) is distinct from outbox_normal('email', old.parent_email)
        and (new.parent_email_is_valid, new.parent_email_validated_at, new.parent_email_invalid_reason)
            is not distinct from
            (old.parent_email_is_valid, old.parent_email_validated_at, old.parent_email_invalid_reason)
    then
        new.parent_email_is_valid := null;
        new.parent_email_validated_at := null;
        new.parent_email_invalid_reason := null;
    end if;
    return new;
end
$$;
create or replace trigger programme_forget_parent_check before update of parent_email on public.competitors
    for each row execute function public.programme_forget_parent_check();
