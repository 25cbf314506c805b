"""The strategies side by side on one workload: measured, judged, drawn."""
