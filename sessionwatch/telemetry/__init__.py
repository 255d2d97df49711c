"""What an installation tells OpenTelemetry: metrics in every mode; spans and log records in mode ``telemetry``."""
