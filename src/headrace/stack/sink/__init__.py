"""The world outside, as a stack on one machine needs it: mail server, warehouse and trace collector in one process."""
