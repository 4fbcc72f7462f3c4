"""The dashboard in a browser: a page with a terminal in it, and a process of the dashboard for each page."""
