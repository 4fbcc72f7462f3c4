# The plugins of this machine's queue, for everybody who signs in. Copy to /etc/profile.d/jobdeck.sh, mode 0644.
export JOBDECK_PLUGINS=competition
