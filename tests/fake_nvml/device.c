/* What NVML tells of one device: its figures, memory and processes. */
#include "double.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

/* --- getters by table ------------------------------------------------------------------------------------- */
/* The figure of the key that an enumerator of nvml.h, such as a kind of clock, stands for. */
static int chosen_number(int device, const char *const *keys, unsigned count, unsigned choice, unsigned *found) {
    return choice < count ? unsigned_number(device, keys[choice], found) : INVALID_ARGUMENT;
}

#define TEXT_GETTER(function, key)                                                                                     \
    int function(device_t handle, char *buffer, unsigned size) {                                                       \
        DEVICE_CALL(handle);                                                                                           \
        return text(device, key, buffer, size);                                                                        \
    }

#define NUMBER_GETTER(function, key)                                                                                   \
    int function(device_t handle, unsigned *found) {                                                                   \
        DEVICE_CALL(handle);                                                                                           \
        return unsigned_number(device, key, found);                                                                    \
    }

#define LONG_NUMBER_GETTER(function, key)                                                                              \
    int function(device_t handle, u64 *found) {                                                                        \
        DEVICE_CALL(handle);                                                                                           \
        return number(device, key, found);                                                                             \
    }

#define CHOICE_GETTER(function, ...)                                                                                   \
    int function(device_t handle, unsigned choice, unsigned *found) {                                                  \
        static const char *const keys[] = {__VA_ARGS__};                                                               \
        DEVICE_CALL(handle);                                                                                           \
        return chosen_number(device, keys, sizeof keys / sizeof *keys, choice, found);                                 \
    }

TEXT_GETTER(nvmlDeviceGetSerial, "serial")
TEXT_GETTER(nvmlDeviceGetVbiosVersion, "vbios")

NUMBER_GETTER(nvmlDeviceGetArchitecture, "architecture")
NUMBER_GETTER(nvmlDeviceGetPowerUsage, "power_mw")
NUMBER_GETTER(nvmlDeviceGetEnforcedPowerLimit, "power_limit_mw")
NUMBER_GETTER(nvmlDeviceGetPowerManagementLimit, "power_limit_mw")
NUMBER_GETTER(nvmlDeviceGetPowerManagementDefaultLimit, "power_limit_default_mw")
NUMBER_GETTER(nvmlDeviceGetCurrPcieLinkGeneration, "pcie_generation")
NUMBER_GETTER(nvmlDeviceGetCurrPcieLinkWidth, "pcie_width")
NUMBER_GETTER(nvmlDeviceGetMaxPcieLinkGeneration, "pcie_max_generation")
NUMBER_GETTER(nvmlDeviceGetMaxPcieLinkWidth, "pcie_max_width")
NUMBER_GETTER(nvmlDeviceGetGpuMaxPcieLinkGeneration, "pcie_gpu_max_generation")
NUMBER_GETTER(nvmlDeviceGetPcieReplayCounter, "pcie_replays")
NUMBER_GETTER(nvmlDeviceGetFanSpeed, "fan_percent")
NUMBER_GETTER(nvmlDeviceGetPerformanceState, "performance_state")
NUMBER_GETTER(nvmlDeviceGetPersistenceMode, "persistence_mode")
NUMBER_GETTER(nvmlDeviceGetComputeMode, "compute_mode")
NUMBER_GETTER(nvmlDeviceGetDisplayMode, "display_mode")
NUMBER_GETTER(nvmlDeviceGetDisplayActive, "display_active")

LONG_NUMBER_GETTER(nvmlDeviceGetTotalEnergyConsumption, "total_energy_mj")
LONG_NUMBER_GETTER(nvmlDeviceGetCurrentClocksEventReasons, "clocks_event_reasons")
LONG_NUMBER_GETTER(nvmlDeviceGetCurrentClocksThrottleReasons, "clocks_event_reasons")
LONG_NUMBER_GETTER(nvmlDeviceGetSupportedEventTypes, "event_types")

CHOICE_GETTER(nvmlDeviceGetTemperature, "temperature_celsius")
CHOICE_GETTER(nvmlDeviceGetTemperatureThreshold, "temperature_shutdown_celsius", "temperature_slowdown_celsius",
              "temperature_memory_max_celsius", "temperature_gpu_max_celsius")
CHOICE_GETTER(nvmlDeviceGetClockInfo, "clock_graphics_mhz", "clock_sm_mhz", "clock_memory_mhz", "clock_video_mhz")
CHOICE_GETTER(nvmlDeviceGetMaxClockInfo, "clock_graphics_max_mhz", "clock_sm_max_mhz", "clock_memory_max_mhz",
              "clock_video_max_mhz")
CHOICE_GETTER(nvmlDeviceGetPcieThroughput, "pcie_tx_kb_per_second", "pcie_rx_kb_per_second")

/* --- figures in pairs and structures ------------------------------------------------------------------------ */
int nvmlDeviceGetMinorNumber(device_t handle, unsigned *minor) {
    value_t value;
    DEVICE_CALL(handle);
    if (lookup(device, "minor_number", value))
        return unsigned_number(device, "minor_number", minor);
    *minor = (unsigned)device;
    return SUCCESS;
}

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

int nvmlDeviceGetPciInfo_v3(device_t handle, pci_info_t *info) {
    TARGET_CALL(handle);
    memset(info, 0, sizeof *info);
    RETURN_IF_ERROR(text(target.device, "pci_bus_id", info->bus_id, sizeof info->bus_id));
    sscanf(info->bus_id, "%x:%x:%x", &info->domain, &info->bus, &info->device);
    snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "%04x:%02x:%02x.0", info->domain & 0xffff,
             info->bus & 0xff, info->device & 0xff);
    info->pci_device_id = 0x233010de; /* H100 SXM5 */
    info->pci_subsystem_id = 0x16c110de;
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(device_t handle, int *major, int *minor) {
    value_t value;
    TARGET_CALL(handle);
    RETURN_IF_ERROR(text(target.device, "cuda_compute_capability", value, sizeof value));
    return sscanf(value, "%d.%d", major, minor) == 2 ? SUCCESS : NOT_SUPPORTED;
}

typedef struct {
    unsigned version;
    u64 total, reserved, free, used;
} memory_v2_t;

static int memory_of(target_t target, memory_v2_t *memory) {
    instance_t instance;
    if (target.instance != WHOLE) {
        RETURN_IF_ERROR(instance_of(target, &instance));
        memory->total = instance.total_mib << 20;
        memory->reserved = 0;
        memory->used = instance.used_bytes;
    } else {
        RETURN_IF_ERROR(number(target.device, "memory_total_bytes", &memory->total));
        memory->reserved = figure(target.device, "memory_reserved_bytes");
        RETURN_IF_ERROR(number(target.device, "memory_used_bytes", &memory->used));
    }
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(device_t handle, memory_v2_t *memory) {
    TARGET_CALL(handle);
    if (memory->version != (sizeof(memory_v2_t) | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    return memory_of(target, memory);
}

typedef struct {
    u64 total, free, used;
} memory_t;

/* The first version counts what is reserved as used. */
int nvmlDeviceGetMemoryInfo(device_t handle, memory_t *memory) {
    memory_v2_t now;
    TARGET_CALL(handle);
    RETURN_IF_ERROR(memory_of(target, &now));
    *memory = (memory_t){now.total, now.free, now.reserved + now.used};
    return SUCCESS;
}

int nvmlDeviceGetBAR1MemoryInfo(device_t handle, memory_t *memory) {
    DEVICE_CALL(handle);
    RETURN_IF_ERROR(number(device, "bar1_total_bytes", &memory->total));
    RETURN_IF_ERROR(number(device, "bar1_used_bytes", &memory->used));
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

typedef struct {
    unsigned gpu, memory;
} utilization_t;

int nvmlDeviceGetUtilizationRates(device_t handle, utilization_t *utilization) {
    DEVICE_CALL(handle);
    if (figure(device, "mig_mode") == 1)
        return NOT_SUPPORTED;
    RETURN_IF_ERROR(unsigned_number(device, "utilization_percent", &utilization->gpu));
    return unsigned_number(device, "memory_controller_percent", &utilization->memory);
}

#define CODEC_GETTER(function, key)                                                                                    \
    int function(device_t handle, unsigned *percent, unsigned *period_us) {                                            \
        DEVICE_CALL(handle);                                                                                           \
        *period_us = 167000;                                                                                           \
        return unsigned_number(device, key, percent);                                                                  \
    }

CODEC_GETTER(nvmlDeviceGetEncoderUtilization, "encoder_percent")
CODEC_GETTER(nvmlDeviceGetDecoderUtilization, "decoder_percent")

int nvmlDeviceGetPowerManagementLimitConstraints(device_t handle, unsigned *least, unsigned *most) {
    DEVICE_CALL(handle);
    RETURN_IF_ERROR(unsigned_number(device, "power_limit_min_mw", least));
    return unsigned_number(device, "power_limit_max_mw", most);
}

int nvmlDeviceGetEccMode(device_t handle, unsigned *current, unsigned *pending) {
    DEVICE_CALL(handle);
    int status = unsigned_number(device, "ecc_mode", current);
    *pending = *current;
    return status;
}

int nvmlDeviceGetTotalEccErrors(device_t handle, unsigned uncorrected, unsigned aggregate, u64 *errors) {
    static const char *const keys[2][2] = {{"ecc_volatile_corrected", "ecc_volatile_uncorrected"},
                                           {"ecc_aggregate_corrected", "ecc_aggregate_uncorrected"}};
    DEVICE_CALL(handle);
    if (uncorrected > 1 || aggregate > 1)
        return INVALID_ARGUMENT;
    return figure(device, "ecc_mode") ? number(device, keys[aggregate][uncorrected], errors) : NOT_SUPPORTED;
}

int nvmlDeviceGetRemappedRows(device_t handle, unsigned *correctable, unsigned *uncorrectable, unsigned *pending,
                              unsigned *failure) {
    DEVICE_CALL(handle);
    RETURN_IF_ERROR(unsigned_number(device, "remapped_correctable", correctable));
    RETURN_IF_ERROR(unsigned_number(device, "remapped_uncorrectable", uncorrectable));
    RETURN_IF_ERROR(unsigned_number(device, "remapped_pending", pending));
    return unsigned_number(device, "remapped_failure", failure);
}

/* --- processes -------------------------------------------------------------------------------------------- */
typedef struct {
    unsigned pid;
    u64 used_bytes;
    unsigned gpu_instance, compute_instance;
} process_t;

enum { MAX_PROCESSES = 256 };

/* Reads one word, `pid:bytes[:gi[:ci]]`. */
static process_t process_in(const char *word) {
    process_t process = {0, UINT64_MAX, (unsigned)NO_INSTANCE_ID, (unsigned)NO_INSTANCE_ID};
    if (sscanf(word, "%u:-:%u:%u", &process.pid, &process.gpu_instance, &process.compute_instance) < 2)
        sscanf(word, "%u:%llu:%u:%u", &process.pid, &process.used_bytes, &process.gpu_instance,
               &process.compute_instance);
    return process;
}

/* The processes of a GPU, or those of one of its MIG devices. */
static int processes_of(target_t target, const char *key, process_t *found, unsigned *count) {
    value_t list;
    instance_t instance;
    char *rest;
    *count = 0;
    if (!lookup(target.device, key, list) || strcmp(list, "n/a") == 0)
        return NOT_SUPPORTED;
    if (target.instance != WHOLE)
        RETURN_IF_ERROR(instance_of(target, &instance));
    for (char *word = strtok_r(list, " ", &rest); word && *count < MAX_PROCESSES; word = strtok_r(NULL, " ", &rest)) {
        process_t process = process_in(word);
        if (target.instance == WHOLE ||
            (process.gpu_instance == instance.gpu_instance && process.compute_instance == instance.compute_instance))
            found[(*count)++] = process;
    }
    return SUCCESS;
}

static int list_processes(target_t target, const char *key, unsigned *count, process_t *infos) {
    process_t processes[MAX_PROCESSES];
    unsigned room = *count;
    RETURN_IF_ERROR(processes_of(target, key, processes, count));
    if (*count > room)
        return INSUFFICIENT_SIZE;
    if (*count)
        memcpy(infos, processes, *count * sizeof *processes);
    return SUCCESS;
}

#define PROCESSES_GETTER(function, key)                                                                                \
    int function(device_t handle, unsigned *count, process_t *infos) {                                                 \
        TARGET_CALL(handle);                                                                                           \
        return list_processes(target, key, count, infos);                                                              \
    }

PROCESSES_GETTER(nvmlDeviceGetComputeRunningProcesses_v2, "processes")
PROCESSES_GETTER(nvmlDeviceGetComputeRunningProcesses_v3, "processes")
PROCESSES_GETTER(nvmlDeviceGetGraphicsRunningProcesses_v2, "graphics_processes")
PROCESSES_GETTER(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")
PROCESSES_GETTER(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps_processes")

typedef struct {
    unsigned pid;
    u64 timestamp_us;
    unsigned sm, memory, encoder, decoder;
} process_utilization_t;

/* Every compute process has the utilization of its GPU. */
int nvmlDeviceGetProcessUtilization(device_t handle, process_utilization_t *samples, unsigned *count, u64 since_us) {
    process_t processes[MAX_PROCESSES];
    struct timespec now;
    unsigned room = *count;
    DEVICE_CALL(handle);
    (void)since_us;
    if (figure(device, "mig_mode") == 1)
        return NOT_SUPPORTED;
    RETURN_IF_ERROR(processes_of(target, "processes", processes, count));
    if (!*count)
        return NOT_FOUND;
    if (!samples || *count > room)
        return INSUFFICIENT_SIZE;
    clock_gettime(CLOCK_REALTIME, &now);
    for (unsigned i = 0; i < *count; i++)
        samples[i] = (process_utilization_t){
            .pid = processes[i].pid,
            .timestamp_us = (u64)now.tv_sec * 1000000 + (u64)now.tv_nsec / 1000,
            .sm = (unsigned)figure(device, "utilization_percent"),
            .memory = (unsigned)figure(device, "memory_controller_percent"),
        };
    return SUCCESS;
}
