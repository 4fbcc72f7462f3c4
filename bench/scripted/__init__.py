"""What the sweep, the incident and the cut-over share: a world of processes, and comparisons that are printed."""
