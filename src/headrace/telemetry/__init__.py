"""The eyes: one trace from the request to the last side effect, logs that name it, and metrics.

Owns span names and attributes (`names`), the stored form of a trace context (`propagation`), the spans themselves
(`scope`, `spans`, `edges`), the set-up of a process (`setup`, `logs`) and Prometheus (`metrics`).
Telemetry may be lost, work may not: nothing here waits for a collector or raises into the work that it watches.
"""
