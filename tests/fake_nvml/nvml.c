/* A double of NVIDIA's libnvidia-ml.so.1 for machines without a GPU.
 *
 * Every call reads the scenario afresh from the control file that $FAKE_NVML_CONTROL names, so a test changes
 * the machine while the program under test runs. A line is `key = value`; later lines win; a key with the
 * prefix `gpuN.` counts for that device only, and before the plain key.
 *
 *     devices = 2
 *     driver = unloaded                           every call fails until it is `loaded`, and init is due again
 *     gpu1.name = NVIDIA H100 PCIe
 *     gpu1.error = 15                             every call on this device returns 15 (GPU_IS_LOST)
 *     error.nvmlDeviceGetUtilizationRates = 3     this call returns 3 (NOT_SUPPORTED), on every device
 *
 * `defaults` below holds what a scenario leaves unsaid; a `#` in a value becomes the device's index, two digits.
 * To add a getter: its values into `defaults`, and a TEXT_GETTER, or a function that begins with DEVICE_CALL.
 * Signatures, struct layouts and error codes are those of nvml.h; without the variable the driver is unloaded.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    ARGUMENT_VERSION_MISMATCH = 25,
};

static const struct {
    const char *key, *value;
} defaults[] = {
    {"driver", "loaded"},
    {"driver_version", "570.86.15"},
    {"devices", "1"},
    {"name", "NVIDIA H100 80GB HBM3"},
    {"uuid", "GPU-5a11ab1e-0000-4000-8000-0000000000#"},
    {"serial", "16530230000#"},
    {"vbios", "96.00.74.00.01"},
    {"pci_bus_id", "00000000:#:00.0"},
    {"mig_mode", "0"},
    {"memory_total_bytes", "85520809984"},
    {"memory_reserved_bytes", "577765376"},
    {"memory_used_bytes", "4294967296"},
    {"utilization_percent", "37"},
    {"memory_controller_percent", "21"},
};

enum { MACHINE = -1, VALUE_SIZE = 256 };

typedef char value_t[VALUE_SIZE];

static int trimmed_line(char *line, char **key, char **value) {
    char *equals = strchr(line, '=');
    if (line[0] == '#' || !equals)
        return 0;
    *equals = '\0';
    *key = line + strspn(line, " \t");
    (*key)[strcspn(*key, " \t")] = '\0';
    *value = equals + 1 + strspn(equals + 1, " \t");
    (*value)[strcspn(*value, "\r\n")] = '\0';
    return 1;
}

static int read_control(const char *wanted, value_t found) {
    const char *path = getenv("FAKE_NVML_CONTROL");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[1024], *key, *value;
    int present = 0;
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file))
        if (trimmed_line(line, &key, &value) && strcmp(key, wanted) == 0) {
            snprintf(found, VALUE_SIZE, "%s", value);
            present = 1;
        }
    fclose(file);
    return present;
}

/* The value of `key` for a device, or for the machine; 0 when neither scenario nor defaults know it. */
static int lookup(int device, const char *key, value_t found) {
    char own_key[VALUE_SIZE];
    snprintf(own_key, sizeof own_key, "gpu%d.%s", device, key);
    if ((device != MACHINE && read_control(own_key, found)) || read_control(key, found))
        return 1;
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (strcmp(defaults[i].key, key) == 0) {
            const char *hash = strchr(defaults[i].value, '#');
            if (hash)
                snprintf(found, VALUE_SIZE, "%.*s%02d%s", (int)(hash - defaults[i].value), defaults[i].value, device,
                         hash + 1);
            else
                snprintf(found, VALUE_SIZE, "%s", defaults[i].value);
            return 1;
        }
    return 0;
}

static unsigned long long number(int device, const char *key) {
    value_t value;
    return lookup(device, key, value) ? strtoull(value, NULL, 10) : 0;
}

static int text(int device, const char *key, char *buffer, unsigned size) {
    value_t value;
    if (!lookup(device, key, value))
        return INVALID_ARGUMENT;
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

/* --- the life of the library ---------------------------------------------------------------------------- */
static unsigned initializations; /* those not yet shut down */
static unsigned session;         /* handles belong to one session: from first init to last shutdown */

static int driver_loaded(void) {
    value_t driver;
    lookup(MACHINE, "driver", driver);
    if (getenv("FAKE_NVML_CONTROL") && strcmp(driver, "loaded") == 0)
        return 1;
    initializations = 0;
    return 0;
}

static int scripted_error(int device, const char *function) {
    char key[VALUE_SIZE];
    value_t value;
    snprintf(key, sizeof key, "error.%s", function);
    if (lookup(device, key, value) || (device != MACHINE && lookup(device, "error", value)))
        return atoi(value);
    return SUCCESS;
}

static int machine_check(const char *function) {
    if (!driver_loaded())
        return DRIVER_NOT_LOADED;
    if (!initializations)
        return UNINITIALIZED;
    return scripted_error(MACHINE, function);
}

typedef void *device_t;

static device_t handle_of(int device) { return (device_t)(uintptr_t)((session << 16) | (unsigned)(device + 1)); }

static int device_check(device_t handle, const char *function, int *device) {
    int error = machine_check(function);
    uintptr_t word = (uintptr_t)handle;
    *device = (int)(word & 0xffff) - 1;
    if (error)
        return error;
    if (word >> 16 != session || *device < 0)
        return INVALID_ARGUMENT;
    return scripted_error(*device, function);
}

#define MACHINE_CALL()                                                                                                 \
    do {                                                                                                               \
        int error = machine_check(__func__);                                                                           \
        if (error)                                                                                                     \
            return error;                                                                                              \
    } while (0)

/* Declares `device`, the index behind the handle, or returns the error the scenario has for this call. */
#define DEVICE_CALL(handle)                                                                                            \
    int device;                                                                                                        \
    do {                                                                                                               \
        int error = device_check(handle, __func__, &device);                                                           \
        if (error)                                                                                                     \
            return error;                                                                                              \
    } while (0)

#define TEXT_GETTER(function, key)                                                                                     \
    int function(device_t handle, char *buffer, unsigned size) {                                                       \
        DEVICE_CALL(handle);                                                                                           \
        return text(device, key, buffer, size);                                                                        \
    }

int nvmlInitWithFlags(unsigned flags) {
    int error = driver_loaded() ? scripted_error(MACHINE, __func__) : DRIVER_NOT_LOADED;
    (void)flags;
    if (error)
        return error;
    if (!initializations++)
        session++;
    return SUCCESS;
}

int nvmlShutdown(void) {
    MACHINE_CALL();
    initializations--;
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    static char sentence[32];
    snprintf(sentence, sizeof sentence, "error %d of the double", code);
    return sentence;
}

/* --- the machine ---------------------------------------------------------------------------------------- */
int nvmlSystemGetDriverVersion(char *buffer, unsigned size) {
    MACHINE_CALL();
    return text(MACHINE, "driver_version", buffer, size);
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    MACHINE_CALL();
    *count = (unsigned)number(MACHINE, "devices");
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *handle) {
    MACHINE_CALL();
    if (index >= number(MACHINE, "devices"))
        return INVALID_ARGUMENT;
    *handle = handle_of((int)index);
    return scripted_error((int)index, __func__);
}

/* --- one device ----------------------------------------------------------------------------------------- */
TEXT_GETTER(nvmlDeviceGetName, "name")
TEXT_GETTER(nvmlDeviceGetUUID, "uuid")
TEXT_GETTER(nvmlDeviceGetSerial, "serial")
TEXT_GETTER(nvmlDeviceGetVbiosVersion, "vbios")

typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
} pci_info_t;

int nvmlDeviceGetPciInfo_v3(device_t handle, pci_info_t *info) {
    DEVICE_CALL(handle);
    memset(info, 0, sizeof *info);
    return text(device, "pci_bus_id", info->bus_id, sizeof info->bus_id);
}

int nvmlDeviceGetMigMode(device_t handle, unsigned *current, unsigned *pending) {
    DEVICE_CALL(handle);
    *current = *pending = (unsigned)number(device, "mig_mode");
    return SUCCESS;
}

typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} memory_v2_t;

int nvmlDeviceGetMemoryInfo_v2(device_t handle, memory_v2_t *memory) {
    DEVICE_CALL(handle);
    if (memory->version != (sizeof(memory_v2_t) | 2u << 24))
        return ARGUMENT_VERSION_MISMATCH;
    memory->total = number(device, "memory_total_bytes");
    memory->reserved = number(device, "memory_reserved_bytes");
    memory->used = number(device, "memory_used_bytes");
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

typedef struct {
    unsigned gpu, memory;
} utilization_t;

int nvmlDeviceGetUtilizationRates(device_t handle, utilization_t *utilization) {
    DEVICE_CALL(handle);
    utilization->gpu = (unsigned)number(device, "utilization_percent");
    utilization->memory = (unsigned)number(device, "memory_controller_percent");
    return SUCCESS;
}
