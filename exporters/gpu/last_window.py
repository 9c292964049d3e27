"""What people are shown of a GPU's last window: the API, the terminal's table, dcgm-exporter's gauges.

These travel with a collector's other samples, so that they are gone with them when it hangs; they are not
published under names of ours, since a query takes the exact mean over any window from the counters.
"""

from __future__ import annotations

from exporters.catalog import GPU, Metric


def _shown(name: str, help: str, *labels: str) -> Metric:
    return Metric(name, "gauge", help, GPU + labels, "window")


SM_ACTIVE = _shown("sm_active_ratio", "Share of SMs at work, 0 to 1.")
TENSOR_ACTIVE = _shown("tensor_active_ratio", "Tensor core activity, 0 to 1.")
DRAM_ACTIVE = _shown("dram_active_ratio", "Use of the memory's bandwidth, 0 to 1.")
GRAPHICS_ACTIVE = _shown("graphics_active_ratio", "Share of time with any work, 0 to 1.")
PCIE_TRANSMIT = _shown("pcie_transmit_bytes_per_second", "Bytes a second sent over PCIe.")
PCIE_RECEIVE = _shown("pcie_receive_bytes_per_second", "Bytes a second received over PCIe.")
THROTTLED = _shown("throttled", "1 for a reason for which clocks were held down.", "reason")
ENCODER = _shown("encoder_percent", "Use of the video encoder, 0 to 100.")
DECODER = _shown("decoder_percent", "Use of the video decoder, 0 to 100.")
