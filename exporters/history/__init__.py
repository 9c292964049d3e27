"""What the service keeps: every step of every run, thinned with age, events, alerts, samples of GPUs."""
