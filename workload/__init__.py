"""The bundled fine-tuning workload: data, model, training."""
