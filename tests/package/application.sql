-- An application of somebody else: tables, a type and a function whose names a queue must leave alone.
create type user_role as enum ('owner', 'member');
create table profiles (id uuid primary key default gen_random_uuid(), name text not null, role user_role not null);
create table teams (id bigint generated always as identity primary key, name text not null unique);
create table team_members (id bigint generated always as identity primary key, team_id bigint references teams, user_id uuid);
create table conversations (id serial primary key, subject text);
create table messages (id serial primary key, conversation_id int references conversations, body text not null, sent boolean);
create table agreements (id serial primary key, signed_on date);
create table activity_logs (id bigserial primary key, what text not null, at timestamptz not null default now());
create index activity_logs_at on activity_logs (at);

create function job_board_search(term text) returns setof teams
    language sql stable as $$ select * from teams where name ilike '%' || term || '%' $$;
create function count_members() returns trigger
    language plpgsql as $$ begin insert into activity_logs (what) values ('a member joined'); return new; end $$;
create trigger joined after insert on team_members for each row execute function count_members();

insert into profiles (name, role) values ('Ada', 'owner'), ('Grace', 'member');
insert into teams (name) values ('North'), ('South');
insert into team_members (team_id, user_id) select 1, id from profiles, generate_series(1, 4);
insert into conversations (subject) values ('Invoices');
insert into agreements (signed_on) values ('2026-01-01');
