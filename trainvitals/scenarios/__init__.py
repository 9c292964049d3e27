"""Scenarios: what a Prometheus would have recorded of a small fleet in some hours, made in a minute or two.

Trainings write recordings in the hook's own format, the service's own collectors read them by a clock that is
given, simulated GPUs stand beside, and the shipped rules judge it all. Made up are how a training goes, what
other exporters publish, and of what the service publishes the MIG instances, the ranks' host memory and the
volume of the recordings: the simulation of GPUs knows no MIG, and the others would be of this machine.
"""
