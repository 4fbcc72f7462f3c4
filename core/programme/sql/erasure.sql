-------------------------------------------------------------------------------------------------------
-- Erasure of a person, for the owner alone. In a transaction, competition_find_person, competition_identifiers and
-- competition_erase are called one after the other. Between them the program makes the keyed hashes, because the key is
-- not in the database.
-------------------------------------------------------------------------------------------------------

-- What the key makes of a constant text, so that a program with another key is noticed.
create table if not exists public.outbox_erasure_key (
    id integer primary key default 1 check (id = 1),
    check_value text not null,
    since timestamptz not null default now()
);

-- The addresses that people have now, in the form of the outbox.
create or replace function public.competition_addresses()
returns table (kind text, id uuid, whose text, channel text, address text)
language sql stable
set search_path = public, pg_temp
as $$
    select 'profile', p.id, 'own', a.channel, a.address from profiles p cross join lateral (values
        ('email', outbox_normal('email', p.email)), ('email', outbox_normal('email', p.email_alert_address)),
        ('sms', coalesce(outbox_e164(p.mobile_number), outbox_normal('sms', p.mobile_number)))) as a (channel, address)
    where a.address <> ''
    union all
    select 'competitor', c.id, a.whose, 'email', outbox_normal('email', a.address)
    from competitors c cross join lateral (values ('own', c.email_personal), ('own', c.email_school),
        ('own', c.game_platform_onboarding_email), ('parent', c.parent_email)) as a (whose, address)
    where outbox_normal('email', a.address) <> ''
$$;

-- The names that people have now, as they are written in texts. A parent's name has the parent's address.
create or replace function public.competition_names() returns table (id uuid, parent text, name text)
language sql stable
set search_path = public, pg_temp
as $$
    select p.id, null, n.name from profiles p cross join lateral (values
        (p.full_name), (p.first_name || ' ' || p.last_name), (p.last_name || ', ' || p.first_name)) as n (name)
    union all
    select c.id, null, n.name from competitors c cross join lateral (values
        (c.first_name || ' ' || c.last_name), (c.last_name || ', ' || c.first_name)) as n (name)
    union all
    select c.id, outbox_normal('email', coalesce(c.parent_email, '')), c.parent_name from competitors c
$$;

-- Finds and locks who is meant: `kind` is competitor, profile, parent (of the children with this address) or address
-- (nobody has it now, but the outbox knows it). p_kind is competitor, profile, email or phone.
create or replace function public.competition_find_person(
    p_kind text, p_value text, out kind text, out id uuid, out address text
)
language plpgsql volatile
set search_path = public, pg_temp set lock_timeout = '2s'
as $$
declare
    v_people text[];
begin
    kind := p_kind;
    if p_kind in ('email', 'phone') then
        address := case p_kind when 'email' then outbox_normal('email', p_value)
            else coalesce(outbox_e164(p_value), outbox_normal('sms', p_value)) end;
        v_people := array(select distinct a.kind || ' ' || a.id from competition_addresses() a
            where a.address = competition_find_person.address and a.whose = 'own' order by 1);
        if cardinality(v_people) > 1 then
            perform job_queue_refuse(format('%s people have this address: %s. Nothing was erased. Erase each by id, '
                'with --keep-shared until the last.', cardinality(v_people), array_to_string(v_people[1:5], ', ')));
        end if;
        kind := case when cardinality(v_people) = 1 then split_part(v_people[1], ' ', 1)
            when exists (select from competition_addresses() a where a.address = competition_find_person.address)
                then 'parent'
            when exists (select from outbox_messages m where m.address_norm = competition_find_person.address)
                or exists (select from email_suppressions s where s.address_norm = competition_find_person.address)
                or exists (select from sms_opt_outs o where o.phone_e164 = competition_find_person.address)
                or exists (select from provider_events e where e.address_norm = competition_find_person.address)
                then 'address' end;
        id := nullif(split_part(v_people[1], ' ', 2), '')::uuid;
    else
        id := p_value::uuid;
    end if;
    if kind = 'competitor' then
        perform from competitors c where c.id = competition_find_person.id for update;
    elsif kind = 'profile' then
        perform from profiles p where p.id = competition_find_person.id for update;
    end if;
    if kind is null or kind in ('competitor', 'profile') and not found then
        perform job_queue_refuse('Nobody was found. Nothing was erased. `jobdeck erase` also takes the id of a '
            'competitor or a profile.');
    end if;
end
$$;

-- Everything that names the person: `what` is email, phone, id or name. An address that other people have too is
-- refused, or left out with p_keep_shared; a name that others have too is left out.
create or replace function public.competition_identifiers(p_kind text, p_id uuid, p_address text, p_keep_shared boolean)
returns table (what text, value text)
language plpgsql stable
set search_path = public, pg_temp
as $$
declare
    v_addresses text[] := competition_addresses_of(p_kind, p_id, p_address);
    v_shared text[];
    v_others bigint;
begin
    if p_id is not null then
        select array_agg(distinct a.address), count(distinct a.id) into v_shared, v_others
        from competition_addresses() a where a.address = any (v_addresses) and a.id <> p_id;
    end if;
    if v_others > 0 and not p_keep_shared then
        perform job_queue_refuse(format('%s of their addresses also belong to %s other people (%s). Nothing was '
            'erased. With --keep-shared these addresses stay; erasing the last of these people erases them.',
            cardinality(v_shared), v_others, (select string_agg(outbox_mask(
                case when s like '%@%' then 'email' else 'sms' end, s), ', ') from unnest(v_shared) s)));
    end if;
    return query
        select case when a.address like '%@%' then 'email' else 'phone' end, a.address
        from unnest(v_addresses) a (address)
        where a.address <> all (coalesce(v_shared, '{}'));
    return query
        select 'name', n.name from competition_names() n
        where length(n.name) >= 5 and n.name like '% %'
            and case p_kind when 'parent' then n.parent = p_address else n.id = p_id end
            and not exists (select from competition_names() o where lower(o.name) = lower(n.name)
                and case p_kind when 'parent' then o.parent is distinct from p_address else o.id <> p_id end)
        group by n.name;
    return query
        select 'id', i.id from (
            select p_id::text union all
            select unnest(array[p.game_platform_user_id]) from profiles p where p.id = p_id union all
            select unnest(array[c.game_platform_id]) from competitors c where c.id = p_id union all
            select unnest(array[g.synced_user_id, g.metactf_username]) from game_platform_profiles g
            where p_id in (g.coach_id, g.competitor_id) union all
            select o.synced_user_id from game_platform_onboarding o where o.person_id = p_id union all
            select unnest(array[a.id::text, a.request_id]) from agreements a where a.competitor_id = p_id) as i (id)
        where i.id <> '';
end
$$;

-- Longer texts of other people that contain one of these: joann@x.org has ann@x.org in it. They are left.
create or replace function public.competition_others(p_id uuid, p_texts text[]) returns table (value text)
language sql stable
set search_path = public, pg_temp
as $$
    select distinct o.value from (
        select a.address from competition_addresses() a where a.id is distinct from p_id
        union all select m.address_norm from outbox_messages m where m.recipient_ref is distinct from p_id
        union all select s.address_norm from email_suppressions s
        union all select r.email_norm from competitor_announcement_recipients r
            where r.competitor_id is distinct from p_id
        union all select e.address_norm from provider_events e where e.competitor_id is distinct from p_id
        union all select n.name from competition_names() n where n.id is distinct from p_id
        union all select p.game_platform_user_id from profiles p where p.id is distinct from p_id
        union all select c.game_platform_id from competitors c where c.id is distinct from p_id
        union all select unnest(array[g.synced_user_id, g.metactf_username]) from game_platform_profiles g
            where coalesce(g.coach_id, g.competitor_id) is distinct from p_id
    ) as o (value)
    where exists (select from unnest(p_texts) t where position(lower(t) in lower(o.value)) > 0)
        and not exists (select from unnest(p_texts) t where lower(t) = lower(o.value))
$$;

-- The addresses of a person now and before, as far as the outbox and the campaigns know.
create or replace function public.competition_addresses_of(p_kind text, p_id uuid, p_address text) returns text[]
language sql stable
set search_path = public, pg_temp
as $$
    select array(
        select distinct a.address from (
            select p_address
            union all select a.address from competition_addresses() a where a.id = p_id
            union all select m.address_norm from outbox_messages m where m.recipient_ref = p_id
            union all select outbox_normal('email', r.email) from competitor_announcement_recipients r
                where r.competitor_id = p_id
            union all select outbox_normal('email', g.recipient_email_verification_address) from agreements g
                where g.competitor_id = p_id
            union all select e.address_norm from provider_events e where e.competitor_id = p_id) as a (address)
        where a.address <> '' and a.address !~ '^erased-[0-9a-f]{64}$')
$$;

-- Refuses where something is under way for the person that an erasure would break.
create or replace function public.competition_refuse_erasure(p_kind text, p_id uuid, p_marks jsonb) returns void
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_campaign uuid;
    v_competitors bigint;
    v_teams bigint;
begin
    select r.campaign_id into v_campaign
    from competitor_announcement_recipients r join competitor_announcement_campaigns c on c.id = r.campaign_id
    where c.status = 'sending' and r.status in ('queued', 'sending')
        and (r.competitor_id = p_id or p_marks ? outbox_normal('email', r.email))
    limit 1;
    if found then
        perform job_queue_refuse(format('The campaign %s, which is being sent, is still to reach them. Nothing was '
            'erased. Wait for its end, or cancel its job first.', v_campaign));
    end if;
    if exists (select from outbox_messages m where m.state = 'sending'
        and (m.recipient_ref = p_id or p_marks ? m.address_norm))
    then
        perform job_queue_refuse('A message to them is being sent. Nothing was erased. Try again in a minute.');
    end if;
    if exists (select from game_platform_onboarding o where o.person_id = p_id and o.state = 'creating') then
        perform job_queue_refuse('Their account on the game platform is being made. Nothing was erased. Wait for '
            'the end of the onboarding job.');
    end if;
    if p_kind = 'profile' then
        select count(*) into v_competitors from competitors c where c.coach_id = p_id;
        select count(*) into v_teams from teams t where t.coach_id = p_id;
        if v_competitors + v_teams > 0 then
            perform job_queue_refuse(format('This coach has %s competitors and %s teams, which would be deleted as '
                'well. Nothing was erased. Give them to another coach first.', v_competitors, v_teams));
        end if;
    end if;
end
$$;

-- Erases a person: removes their rows, and erases p_marks in all texts, where the keyed hash of an address takes its place.
-- Returns each place with its number of rows, and what remains. Writes an audit row that does not name the person.
create or replace function public.competition_erase(
    p_kind text, p_id uuid, p_address text, p_marks jsonb, p_actor text
) returns table (place text, rows bigint, remains boolean)
language plpgsql volatile
set search_path = public, pg_temp set lock_timeout = '2s'
as $$
#variable_conflict use_column
declare
    v_table text;
    v_constraint text;
    v_theirs constant jsonb := jsonb_strip_nulls(p_marks);
begin
    perform competition_refuse_erasure(p_kind, p_id, v_theirs);
    return query select e.place, e.rows, false from job_erase_texts(p_marks, p_actor) e;
    return query select e.place, e.rows, false from competition_erase_messages(p_id, v_theirs) e where e.rows > 0;
    if p_kind = 'competitor' then
        return query select e.place, e.rows, false from competition_erase_competitor(p_id) e where e.rows > 0;
    elsif p_kind = 'profile' then
        return query select e.place, e.rows, false from competition_erase_profile(p_id) e where e.rows > 0;
    elsif p_kind = 'parent' then
        return query select e.place, e.rows, false from competition_erase_parent(p_address) e where e.rows > 0;
    end if;
    return query select s.place, s.rows, false from job_scrub(array(select competition_tables()), p_marks) s;
    return query select l.place, l.rows, true
        from job_erase_left(job_tables_with_texts() || array(select competition_tables()), p_marks) l;
    perform job_queue_write_audit(p_actor, 'erase', null, null, jsonb_build_object('kind', p_kind), null);
exception when foreign_key_violation then
    get stacked diagnostics v_table = table_name, v_constraint = constraint_name;
    perform job_queue_refuse(format('The table %s, which is not Jobdeck''s, refers to this person (%s). Nothing was '
        'erased. Remove its rows first.', v_table, v_constraint));
end
$$;

-- All tables that the competition has.
create or replace function public.competition_tables() returns setof text
language plpgsql stable
set search_path = public, pg_temp
as $$
begin
    return query select t from job_programme_tables() t;
    return query select t from outbox_programme_tables() t;
    return query select unnest(array['outbox_messages', 'send_batches', 'outbox_left_out', 'email_suppressions',
        'sms_opt_outs', 'provider_events', 'provider_requests', 'provider_rates', 'outbox_erasure_key']);
end
$$;

-- Messages that wait are removed. Those that were sent stay without the person, so that nobody is mailed twice.
create or replace function public.competition_erase_messages(p_id uuid, p_marks jsonb)
returns table (place text, rows bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    return query
        with gone as (delete from outbox_messages m where m.state = 'queued'
            and (m.recipient_ref = p_id or p_marks ? m.address_norm) returning 1)
        select 'outbox_messages (queued)', count(*) from gone;
    return query
        with kept as (update outbox_messages m
            set recipient_ref = nullif(m.recipient_ref, p_id), data = '{}', error_text = null,
                campaign_recipient_id = case when m.recipient_ref = p_id then null else m.campaign_recipient_id end
            where m.recipient_ref = p_id or p_marks ? m.address_norm returning 1)
        select 'outbox_messages', count(*) from kept;
    return query
        with gone as (delete from outbox_left_out l where l.recipient_ref = p_id returning 1)
        select 'outbox_left_out', count(*) from gone;
    -- What is signed cannot be changed.
    return query
        with gone as (delete from provider_requests r where p_marks ?| r.about or p_id::text = any (r.about) returning 1)
        select 'provider_requests', count(*) from gone;
    -- An address that was erased before may have been blocked again since.
    delete from email_suppressions s using email_suppressions n
    where s.address_norm = p_marks ->> n.address_norm and s.reason = n.reason and s.scope = n.scope;
    delete from sms_opt_outs s using sms_opt_outs n where s.phone_e164 = p_marks ->> n.phone_e164;
    update outbox_messages m set dedupe_key = m.dedupe_key || ':' || m.id
    where p_marks ? m.address_norm
        and exists (select from outbox_messages o where o.dedupe_key = job_scrub_replaced(m.dedupe_key,
            job_scrub_rules(p_marks)));
    update provider_events e set competitor_id = null where e.competitor_id = p_id;
    update provider_events e set agreement_id = null
    where e.agreement_id in (select a.id from agreements a where a.competitor_id = p_id);
end
$$;

create or replace function public.competition_erase_competitor(p_id uuid) returns table (place text, rows bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
declare
    v_accounts text[] := array(
        select c.game_platform_id from competitors c where c.id = p_id and c.game_platform_id is not null
        union select g.synced_user_id from game_platform_profiles g where g.competitor_id = p_id
            and g.synced_user_id is not null
        union select o.synced_user_id from game_platform_onboarding o where o.competitor_id = p_id);
begin
    return query
        with recipients as (delete from competitor_announcement_recipients r where r.competitor_id = p_id returning 1),
        solves as (
            delete from game_platform_challenge_solves s where s.synced_user_id = any (v_accounts) returning 1),
        ctfs as (delete from game_platform_flash_ctf_events f where f.synced_user_id = any (v_accounts) returning 1),
        syncs as (delete from game_platform_sync_state s where s.synced_user_id = any (v_accounts) returning 1),
        doubles as (delete from game_platform_stats_duplicates d where d.competitor_id = p_id returning 1),
        logs as (delete from activity_logs l where l.entity_id = p_id returning 1),
        members as (delete from team_members t where t.competitor_id = p_id returning 1),
        accounts as (delete from game_platform_profiles g where g.competitor_id = p_id returning 1),
        stats as (delete from game_platform_stats s where s.competitor_id = p_id returning 1),
        boarding as (delete from game_platform_onboarding o where o.competitor_id = p_id returning 1),
        forms as (delete from agreements a where a.competitor_id = p_id returning 1)
        select 'competitor_announcement_recipients', count(*) from recipients
        union all select 'game_platform_challenge_solves', count(*) from solves
        union all select 'game_platform_flash_ctf_events', count(*) from ctfs
        union all select 'game_platform_sync_state', count(*) from syncs
        union all select 'game_platform_stats_duplicates', count(*) from doubles
        union all select 'activity_logs', count(*) from logs
        union all select 'team_members', count(*) from members
        union all select 'game_platform_profiles', count(*) from accounts
        union all select 'game_platform_stats', count(*) from stats
        union all select 'game_platform_onboarding', count(*) from boarding
        union all select 'agreements', count(*) from forms;
    return query
        with people as (delete from competitors c where c.id = p_id returning 1)
        select 'competitors', count(*) from people;
end
$$;

create or replace function public.competition_erase_profile(p_id uuid) returns table (place text, rows bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    update competitor_announcement_campaigns c set created_by = nullif(c.created_by, p_id),
        coach_id = nullif(c.coach_id, p_id) where p_id in (c.created_by, c.coach_id);
    update game_platform_sync_runs r set coach_id = null where r.coach_id = p_id;
    return query
        with logs as (delete from activity_logs l where p_id in (l.user_id, l.entity_id) returning 1),
        receipts as (delete from message_read_receipts r where r.user_id = p_id returning 1),
        states as (delete from message_user_state s where s.user_id = p_id returning 1),
        queued as (delete from admin_alert_queue q where q.recipient_id = p_id returning 1),
        alerts as (delete from alert_log l where l.coach_id = p_id returning 1),
        members as (delete from conversation_members m where m.user_id = p_id returning 1),
        accounts as (delete from game_platform_profiles g where g.coach_id = p_id returning 1),
        boarding as (delete from game_platform_onboarding o where o.coach_id = p_id returning 1)
        select 'activity_logs', count(*) from logs
        union all select 'message_read_receipts', count(*) from receipts
        union all select 'message_user_state', count(*) from states
        union all select 'admin_alert_queue', count(*) from queued
        union all select 'alert_log', count(*) from alerts
        union all select 'conversation_members', count(*) from members
        union all select 'game_platform_profiles', count(*) from accounts
        union all select 'game_platform_onboarding', count(*) from boarding;
    return query
        with written as (delete from messages m where m.sender_id = p_id returning 1)
        select 'messages', count(*) from written;
    return query
        with people as (delete from profiles p where p.id = p_id returning 1)
        select 'profiles', count(*) from people;
end
$$;

-- A parent is known only by their children's rows and forms.
create or replace function public.competition_erase_parent(p_address text) returns table (place text, rows bigint)
language plpgsql volatile
set search_path = public, pg_temp
as $$
begin
    return query
        with forms as (update agreements a set signers = null from competitors c
            where c.id = a.competitor_id and outbox_normal('email', c.parent_email) = p_address
                and a.signers is not null returning 1)
        select 'agreements', count(*) from forms;
    return query
        with children as (update competitors c set parent_name = null, parent_email = null,
                parent_email_is_valid = null, parent_email_validated_at = null, parent_email_invalid_reason = null
            where outbox_normal('email', c.parent_email) = p_address returning 1)
        select 'competitors', count(*) from children;
end
$$;

-- Which of these keyed hashes must not be written to, with the reason: the address was blocked, or was mailed by this
-- campaign, before it was erased.
create or replace function public.outbox_erased(p_kind text, p_channel text, p_campaign uuid, p_marks text[])
returns table (mark text, reason text)
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select m.mark, r.reason from unnest(p_marks) as m (mark) cross join lateral (
        select coalesce(outbox_suppression(p_kind, p_channel, m.mark), case when exists (select from outbox_messages o
            where o.address_norm = m.mark and o.campaign_id = p_campaign) then 'duplicate_email' end) as reason) r
    where r.reason is not null
$$;

-- Which of these keyed hashes the outbox has in the place of an address. It answers about no address: an operator, who may
-- call it, would learn whom we wrote to.
create or replace function public.outbox_erased_known(p_marks text[]) returns setof text
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select m.mark from unnest(p_marks) as m (mark)
    where m.mark ~ '^erased-[0-9a-f]{64}$' and (
        exists (select from outbox_messages o where o.address_norm = m.mark)
        or exists (select from email_suppressions s where s.address_norm = m.mark)
        or exists (select from sms_opt_outs s where s.phone_e164 = m.mark))
$$;

-- Skips queued recipients of a campaign whose run holds it.
create or replace function public.outbox_campaign_skip(p_campaign uuid, p_recipients uuid[], p_reasons text[])
returns void
language sql volatile security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    update competitor_announcement_recipients r set status = 'skipped', skip_reason = s.reason, updated_at = now()
    from unnest(p_recipients, p_reasons) as s (id, reason)
    where r.id = s.id and r.campaign_id = p_campaign and r.status = 'queued'
$$;

-- What the key that was used makes of a constant text; null if nobody was erased.
create or replace function public.outbox_erasure_check() returns text
language sql stable security definer
set search_path = public, pg_temp
as $$
    select job_refuse_outsiders();
    select check_value from outbox_erasure_key where id = 1
$$;
