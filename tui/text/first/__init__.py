"""The first screen above its list: what is wrong now, and the plot of the last hour."""
