"""Series by schedules: those that handlers declare, and the slots of cron expressions."""
