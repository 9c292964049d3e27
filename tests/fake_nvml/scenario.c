/* The scenario: the control file parsed into a table, over the figures of a healthy H100 that trains a little. */
#include "double.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What a scenario leaves unsaid; a `#` in a value becomes the device's index, two digits. */
static const struct {
    const char *key, *value;
} defaults[] = {
    {"driver", "loaded"},
    {"driver_version", "570.86.15"},
    {"nvml_version", "12.570.86.15"},
    {"cuda_driver_version", "12080"},
    {"devices", "1"},
    {"name", "NVIDIA H100 80GB HBM3"},
    {"uuid", "GPU-5a11ab1e-0000-4000-8000-0000000000#"},
    {"serial", "16530230000#"},
    {"vbios", "96.00.74.00.01"},
    {"pci_bus_id", "00000000:#:00.0"},
    {"cuda_compute_capability", "9.0"},
    {"architecture", "9"},
    {"mig_mode", "0"},
    {"mig_devices_max", "7"},
    {"memory_total_bytes", "85520809984"},
    {"memory_reserved_bytes", "577765376"},
    {"memory_used_bytes", "4294967296"},
    {"bar1_total_bytes", "137438953472"},
    {"bar1_used_bytes", "28311552"},
    {"utilization_percent", "37"},
    {"memory_controller_percent", "21"},
    {"encoder_percent", "0"},
    {"decoder_percent", "0"},
    {"processes", ""},
    {"graphics_processes", ""},
    {"mps_processes", ""},
    {"temperature_celsius", "46"},
    {"memory_temperature_celsius", "52"},
    {"temperature_shutdown_celsius", "92"},
    {"temperature_slowdown_celsius", "89"},
    {"temperature_memory_max_celsius", "95"},
    {"temperature_gpu_max_celsius", "87"},
    {"clock_graphics_mhz", "1980"},
    {"clock_sm_mhz", "1980"},
    {"clock_memory_mhz", "2619"},
    {"clock_video_mhz", "1545"},
    {"clock_graphics_max_mhz", "1980"},
    {"clock_sm_max_mhz", "1980"},
    {"clock_memory_max_mhz", "2619"},
    {"clock_video_max_mhz", "1545"},
    {"clocks_event_reasons", "0"},
    {"power_mw", "285431"},
    {"power_limit_mw", "700000"},
    {"power_limit_default_mw", "700000"},
    {"power_limit_min_mw", "200000"},
    {"power_limit_max_mw", "700000"},
    {"total_energy_mj", "512345678901"},
    {"fan_percent", "n/a"},
    {"performance_state", "0"},
    {"persistence_mode", "1"},
    {"compute_mode", "0"},
    {"display_mode", "0"},
    {"display_active", "0"},
    {"pcie_generation", "5"},
    {"pcie_width", "16"},
    {"pcie_max_generation", "5"},
    {"pcie_max_width", "16"},
    {"pcie_gpu_max_generation", "5"},
    {"pcie_tx_kb_per_second", "51200"},
    {"pcie_rx_kb_per_second", "204800"},
    {"pcie_replays", "0"},
    {"nvlinks", "18"},
    {"ecc_mode", "1"},
    {"ecc_volatile_corrected", "0"},
    {"ecc_volatile_uncorrected", "0"},
    {"ecc_aggregate_corrected", "2"},
    {"ecc_aggregate_uncorrected", "0"},
    {"remapped_correctable", "0"},
    {"remapped_uncorrectable", "0"},
    {"remapped_pending", "0"},
    {"remapped_failure", "0"},
    {"recovery_action", "0"},
    {"event_types", "8"},
    {"gpm_supported", "1"},
    {"gpm.1", "37"}, /* percent: graphics, SMs busy, SM occupancy, integer, any tensor */
    {"gpm.2", "35.5"},
    {"gpm.3", "22.25"},
    {"gpm.4", "4.5"},
    {"gpm.5", "18.5"},
    {"gpm.6", "0"}, /* tensor: DFMA, HMMA, DMMA, IMMA */
    {"gpm.7", "18.5"},
    {"gpm.8", "0"},
    {"gpm.9", "0"},
    {"gpm.10", "21"}, /* memory bandwidth, then FP64, FP32, FP16 */
    {"gpm.11", "0"},
    {"gpm.12", "9.75"},
    {"gpm.13", "1.25"},
    {"gpm.20", "50"}, /* MiB/s: PCIe tx and rx, NVLink rx and tx */
    {"gpm.21", "200"},
    {"gpm.60", "12000"},
    {"gpm.61", "12000"},
};

typedef struct {
    int device, is_default;
    const char *key, *value; /* key is NULL in a free slot */
} line_t;

typedef struct {
    dev_t filesystem;
    ino_t inode;
    off_t size;
    struct timespec modified;
} stamp_t;

typedef struct {
    char *path, *content;
    stamp_t stamp;
    line_t *slots;
    size_t mask, lines;
} scenario_t;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static scenario_t *current; /* never changed, only replaced; both under `lock` */

/* --- the table ------------------------------------------------------------------------------------------- */
static line_t *slot_of(const scenario_t *scenario, int device, const char *key) {
    size_t hash = (size_t)(device + 2) * 0x9e3779b97f4a7c15u;
    for (const char *c = key; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001b3u;
    for (hash ^= hash >> 32;; hash++) {
        line_t *slot = &scenario->slots[hash & scenario->mask];
        if (!slot->key || (slot->device == device && strcmp(slot->key, key) == 0))
            return slot;
    }
}

static void insert(scenario_t *scenario, line_t line) {
    line_t *slot = slot_of(scenario, line.device, line.key);
    if (!slot->key)
        scenario->lines++;
    *slot = line;
}

/* Cuts `gpuN.` off a key, and returns N. */
static int device_of(const char **key) {
    char *end;
    if (strncmp(*key, "gpu", 3) != 0 || (*key)[3] < '0' || (*key)[3] > '9')
        return MACHINE;
    long device = strtol(*key + 3, &end, 10);
    if (*end != '.' || device >= MAX_DEVICES)
        return MACHINE;
    *key = end + 1;
    return (int)device;
}

static int trimmed_line(char *line, const char **key, const char **value) {
    char *equals = strchr(line, '='), *start = line + strspn(line, " \t");
    if (*start == '#' || !equals)
        return 0;
    *equals = '\0';
    start[strcspn(start, " \t")] = '\0';
    char *rest = equals + 1 + strspn(equals + 1, " \t");
    rest[strcspn(rest, "\r")] = '\0';
    *key = start;
    *value = rest;
    return 1;
}

static void parse(scenario_t *scenario) {
    size_t lines = sizeof defaults / sizeof *defaults, slots = 64;
    for (const char *c = scenario->content; *c; c++)
        lines += *c == '\n';
    while (slots < 2 * (lines + 2))
        slots *= 2;
    scenario->slots = calloc(slots, sizeof *scenario->slots);
    scenario->mask = slots - 1;
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        insert(scenario, (line_t){MACHINE, 1, defaults[i].key, defaults[i].value});
    if (!scenario->path)
        insert(scenario, (line_t){MACHINE, 0, "driver", "unloaded"});
    for (char *rest = scenario->content, *line; (line = strsep(&rest, "\n"));) {
        const char *key, *value;
        if (trimmed_line(line, &key, &value)) {
            int device = device_of(&key);
            insert(scenario, (line_t){device, 0, key, value});
        }
    }
}

/* --- the file -------------------------------------------------------------------------------------------- */
static stamp_t stamp_of(const struct stat *status) {
    return (stamp_t){status->st_dev, status->st_ino, status->st_size, status->st_mtim};
}

static int same(const stamp_t *a, const stamp_t *b) {
    return a->filesystem == b->filesystem && a->inode == b->inode && a->size == b->size &&
           a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec;
}

static char *content_of(int file) {
    size_t length = 0, room = 1 << 14;
    char *content = malloc(room);
    for (ssize_t got = 1; got > 0; length += got > 0 ? (size_t)got : 0) {
        if (room - length < 2)
            content = realloc(content, room *= 2);
        got = file < 0 ? 0 : read(file, content + length, room - length - 1);
    }
    content[length] = '\0';
    return content;
}

static scenario_t *read_scenario(const char *path) {
    scenario_t *scenario = calloc(1, sizeof *scenario);
    struct stat status;
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    scenario->path = path ? strdup(path) : NULL;
    if (file >= 0 && fstat(file, &status) == 0)
        scenario->stamp = stamp_of(&status);
    scenario->content = content_of(file);
    if (file >= 0)
        close(file);
    parse(scenario);
    return scenario;
}

static void free_scenario(scenario_t *scenario) {
    if (!scenario)
        return;
    free(scenario->slots);
    free(scenario->content);
    free(scenario->path);
    free(scenario);
}

void refresh_scenario(void) {
    const char *path = getenv("FAKE_NVML_CONTROL");
    stamp_t stamp = {0};
    struct stat status;
    if (path && stat(path, &status) == 0)
        stamp = stamp_of(&status);
    pthread_mutex_lock(&lock);
    int fresh = current && !path == !current->path && (!path || strcmp(path, current->path) == 0) &&
                same(&stamp, &current->stamp);
    pthread_mutex_unlock(&lock);
    if (fresh)
        return;
    scenario_t *next = read_scenario(path), *last;
    pthread_mutex_lock(&lock);
    last = current;
    current = next;
    pthread_mutex_unlock(&lock);
    free_scenario(last);
}

/* --- what the other parts ask ------------------------------------------------------------------------------ */
static void copy_value(const line_t *line, int device, value_t found) {
    const char *hash = line->is_default ? strchr(line->value, '#') : NULL;
    if (hash)
        snprintf(found, VALUE_SIZE, "%.*s%02d%s", (int)(hash - line->value), line->value, device, hash + 1);
    else
        *stpncpy(found, line->value, strnlen(line->value, VALUE_SIZE - 1)) = '\0';
}

int lookup(int device, const char *key, value_t found) {
    pthread_mutex_lock(&lock);
    const line_t *line = device == MACHINE ? NULL : slot_of(current, device, key);
    if (!line || !line->key)
        line = slot_of(current, MACHINE, key);
    int known = line->key != NULL;
    if (known)
        copy_value(line, device, found);
    pthread_mutex_unlock(&lock);
    return known;
}

int lookup_numbered(int device, const char *before, long long number, const char *after, value_t found) {
    char key[128], digits[24], *end = digits + sizeof digits - 1;
    u64 rest = (u64)number;
    *end = '\0';
    do
        *--end = (char)('0' + rest % 10);
    while (rest /= 10);
    if (strlen(before) + strlen(end) + strlen(after) >= sizeof key)
        return 0;
    stpcpy(stpcpy(stpcpy(key, before), end), after);
    return lookup(device, key, found);
}

int number(int device, const char *key, u64 *found) {
    value_t value;
    if (!lookup(device, key, value) || strcmp(value, "n/a") == 0)
        return NOT_SUPPORTED;
    *found = strtoull(value, NULL, 0);
    return SUCCESS;
}

int unsigned_number(int device, const char *key, unsigned *found) {
    u64 value = 0;
    int status = number(device, key, &value);
    *found = (unsigned)value;
    return status;
}

u64 figure(int device, const char *key) {
    u64 found = 0;
    number(device, key, &found);
    return found;
}

int text(int device, const char *key, char *buffer, unsigned size) {
    value_t value;
    if (!lookup(device, key, value) || strcmp(value, "n/a") == 0)
        return NOT_SUPPORTED;
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(buffer, value);
    return SUCCESS;
}

int next_in_family(const char *family, long long after, long long *k, value_t value) {
    size_t length = strlen(family);
    const line_t *next = NULL;
    pthread_mutex_lock(&lock);
    for (size_t i = 0; i <= current->mask; i++) {
        const line_t *line = &current->slots[i];
        if (!line->key || line->device != MACHINE || strncmp(line->key, family, length) != 0)
            continue;
        long long here = strtoll(line->key + length, NULL, 10);
        if (here > after && (!next || here < *k)) {
            next = line;
            *k = here;
        }
    }
    if (next)
        copy_value(next, MACHINE, value);
    pthread_mutex_unlock(&lock);
    return next != NULL;
}
