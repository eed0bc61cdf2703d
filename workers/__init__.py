"""One file, one process, one systemd unit; no logic here."""
