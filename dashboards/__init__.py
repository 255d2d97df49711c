"""The Grafana dashboard and the Prometheus alerts for what sessionwatch counts in production."""
