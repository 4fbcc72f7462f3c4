-- Statements that began before the upgrade still call these functions.
drop function if exists job_queue_joins_line(text, integer, timestamptz);
drop function if exists job_clause_key_free(text);
drop function if exists job_queue_take_keys(uuid[]);
drop function if exists job_queue_take_keys(tid[]);
drop function if exists job_next_slot(timestamptz, integer, timestamptz);
drop function if exists job_queue_first_in_line(text, timestamptz);
