"""GPUs by NVML, the library beneath nvidia-smi: no root, no daemon, no DCGM.

Each collector here is one file with one source of its own cadence; all share the session of `nvml.py`:
device (memory, utilization, power, clocks, bytes), profile (GPM), health (ECC, links, limits), mig, processes
(which rank trains on which GPU) and xid. None of the calls made waits for a sample.
"""
