"""Scenarios: what a Prometheus would have recorded of a small fleet in some hours, made in seconds.

Trainings write recordings in the hook's own format, the service's own collectors read them by a clock that is
given, simulated GPUs stand beside, and the shipped rules judge it all: only what other exporters publish, and
how a training goes, is made up.
"""
