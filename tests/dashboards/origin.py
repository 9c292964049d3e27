"""The original dashboard's queries, which must go on working unmodified.

Of its panels on containers only cAdvisor's metrics and the choice of pods are known.
"""

from __future__ import annotations

QUERIES = (
    "training_epoch_current",
    "training_loss",
    "validation_loss",
    "nvidia_gpu_utilization_percent",
    "nvidia_gpu_memory_used_bytes / nvidia_gpu_memory_total_bytes * 100",
    "rate(training_batches_processed_total[5m])",
    "training_accuracy",
    "training_perplexity",
    "training_data_loading_time_seconds",
    "training_preprocessing_time_seconds",
)
CONTAINER_SELECTOR = 'pod=~"training-service.*"'
