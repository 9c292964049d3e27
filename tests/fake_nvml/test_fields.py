"""The double's field values, and NVLink, which is told both ways."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fake_nvml import Machine
from tests.fake_nvml.asking import ALL_LINKS, error_of, field, nvml

FIELDS_UINT = [82, 91, 94, *range(142, 146), 185, 186, 190, 230]
FIELDS_ULL = [*range(3, 7), *range(74, 80), 83, *range(138, 142), *range(161, 164)]
FIELDS_ULL += [197, 198, 202, 204, 269, 270, 271]


@pytest.mark.parametrize("scope", [0, ALL_LINKS])
def test_fields_have_the_type_of_nvml_with_and_without_a_scope(gpu: Any, scope: int) -> None:
    for value_type, ids in (
        (nvml.NVML_VALUE_TYPE_UNSIGNED_INT, FIELDS_UINT),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, FIELDS_ULL),
    ):
        values = nvml.nvmlDeviceGetFieldValues(gpu, [(field_id, scope) for field_id in ids])
        assert [(v.fieldId, v.nvmlReturn, v.valueType) for v in values] == [(i, 0, value_type) for i in ids]


def test_fields_and_getters_tell_the_same(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.power_mw": 650000, "remapped_pending": 1, "gpu0.total_energy_mj": 2**40})

    assert field(gpu, nvml.NVML_FI_DEV_POWER_AVERAGE).value.uiVal == 650000
    assert field(gpu, nvml.NVML_FI_DEV_REMAPPED_PENDING).value.uiVal == 1
    assert field(gpu, nvml.NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION).value.ullVal == 2**40


def test_a_field_has_the_scenarios_value_error_and_type(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.field.82": 95, "field.94.error": 999, "field.297": "-2.5", "field.297.type": 0})
    machine.update({"field.139": 5, "field.139.scope.4": 2**63})

    assert field(gpu, 82).value.uiVal == 95
    assert field(nvml.nvmlDeviceGetHandleByIndex(1), 82).value.uiVal == 52
    assert field(gpu, 94).nvmlReturn == 999
    assert (field(gpu, 297).valueType, field(gpu, 297).value.dVal) == (0, -2.5)
    assert [field(gpu, 139, link).value.ullVal for link in (3, 4)] == [5, 2**63]
    assert field(gpu, 306).nvmlReturn == nvml.NVML_ERROR_NOT_SUPPORTED


def test_links_are_up_down_or_beyond_the_count(machine: Machine, gpu: Any) -> None:
    machine.update({"gpu0.nvlinks": 4, "gpu0.nvlink.2.state": 0})

    assert [nvml.nvmlDeviceGetNvLinkState(gpu, link) for link in range(4)] == [1, 1, 0, 1]
    assert [field(gpu, nvml.NVML_FI_DEV_NVLINK_GET_STATE, link).value.uiVal for link in range(4)] == [
        1,
        1,
        0,
        1,
    ]
    assert error_of(nvml.nvmlDeviceGetNvLinkState, gpu, 4) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_GET_STATE, 4).nvmlReturn == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_LINK_COUNT).value.uiVal == 4


def test_a_gpu_without_nvlink_supports_nothing_of_it(machine: Machine, gpu: Any) -> None:
    machine.set("nvlinks", 0)

    assert error_of(nvml.nvmlDeviceGetNvLinkState, gpu, 0) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert field(gpu, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX).nvmlReturn == nvml.NVML_ERROR_NOT_SUPPORTED
