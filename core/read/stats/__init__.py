"""Statistics of runs, from the tables that upkeep adds up and from what it has not added up yet.

Every figure is exact at any moment, at a cost that does not depend on the length of the history. Dry runs count neither
as successes nor as failures.
"""
