/* What NVML tells in structures of its own: NVLink and field values, GPM samples, XID events. */
#include "double.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- NVLink ----------------------------------------------------------------------------------------------- */
static int link_state(int device, unsigned link, unsigned *state) {
    value_t value;
    u64 links = figure(device, "nvlinks");
    if (!links)
        return NOT_SUPPORTED;
    if (link >= links)
        return INVALID_ARGUMENT;
    if (lookup_numbered(device, "nvlink.", link, ".error", value))
        return atoi(value);
    *state = lookup_numbered(device, "nvlink.", link, ".state", value) ? (unsigned)atoi(value) : 1;
    return SUCCESS;
}

int nvmlDeviceGetNvLinkState(device_t handle, unsigned link, unsigned *state) {
    DEVICE_CALL(handle);
    return link_state(device, link, state);
}

/* --- field values ------------------------------------------------------------------------------------------- */
enum { DOUBLE, UINT, ULONG, ULLONG, SLLONG, SINT, USHORT };              /* nvmlValueType_t */
enum { OF_DEVICE, OF_ECC, OF_NVLINK, STATE_OF_NVLINK, ALL_LINKS = -1 }; /* what a field is about */

static const struct {
    unsigned id, type, about;
    const char *key, *value; /* the figure's key in `defaults`, or a value where a field is all there is */
} fields[] = {
    {1, UINT, OF_DEVICE, "ecc_mode", NULL},
    {2, UINT, OF_DEVICE, "ecc_mode", NULL},
    {3, ULLONG, OF_ECC, "ecc_volatile_corrected", NULL},
    {4, ULLONG, OF_ECC, "ecc_volatile_uncorrected", NULL},
    {5, ULLONG, OF_ECC, "ecc_aggregate_corrected", NULL},
    {6, ULLONG, OF_ECC, "ecc_aggregate_uncorrected", NULL},
    {74, ULLONG, OF_DEVICE, NULL, "1250000000"}, /* ns throttled: power, thermal, sync boost, board, low use, … */
    {75, ULLONG, OF_DEVICE, NULL, "0"},
    {76, ULLONG, OF_DEVICE, NULL, "0"},
    {77, ULLONG, OF_DEVICE, NULL, "0"},
    {78, ULLONG, OF_DEVICE, NULL, "0"},
    {79, ULLONG, OF_DEVICE, NULL, "0"},
    {82, UINT, OF_DEVICE, "memory_temperature_celsius", NULL},
    {83, ULLONG, OF_DEVICE, "total_energy_mj", NULL},
    {91, UINT, OF_DEVICE, "nvlinks", NULL},
    {94, UINT, OF_DEVICE, "pcie_replays", NULL},
    {138, ULLONG, OF_NVLINK, NULL, "734003200"}, /* KiB: data tx and rx, raw tx and rx */
    {139, ULLONG, OF_NVLINK, NULL, "734003200"},
    {140, ULLONG, OF_NVLINK, NULL, "880803840"},
    {141, ULLONG, OF_NVLINK, NULL, "880803840"},
    {142, UINT, OF_DEVICE, "remapped_correctable", NULL},
    {143, UINT, OF_DEVICE, "remapped_uncorrectable", NULL},
    {144, UINT, OF_DEVICE, "remapped_pending", NULL},
    {145, UINT, OF_DEVICE, "remapped_failure", NULL},
    {161, ULLONG, OF_NVLINK, NULL, "0"}, /* replay, recovery and CRC errors */
    {162, ULLONG, OF_NVLINK, NULL, "0"},
    {163, ULLONG, OF_NVLINK, NULL, "0"},
    {165, UINT, STATE_OF_NVLINK, NULL, NULL},
    {185, UINT, OF_DEVICE, "power_mw", NULL},
    {186, UINT, OF_DEVICE, "power_mw", NULL},
    {187, UINT, OF_DEVICE, "power_limit_min_mw", NULL},
    {188, UINT, OF_DEVICE, "power_limit_max_mw", NULL},
    {189, UINT, OF_DEVICE, "power_limit_default_mw", NULL},
    {190, UINT, OF_DEVICE, "power_limit_mw", NULL},
    {197, ULLONG, OF_DEVICE, NULL, "91625968981"}, /* bytes: PCIe tx and rx */
    {198, ULLONG, OF_DEVICE, NULL, "366503875925"},
    {202, ULLONG, OF_NVLINK, NULL, "751619276800"}, /* bytes: NVLink tx and rx */
    {204, ULLONG, OF_NVLINK, NULL, "751619276800"},
    {230, UINT, OF_DEVICE, "recovery_action", NULL},
    {269, ULLONG, OF_DEVICE, NULL, "0"}, /* ns throttled: software thermal, hardware thermal, power brake */
    {270, ULLONG, OF_DEVICE, NULL, "0"},
    {271, ULLONG, OF_DEVICE, NULL, "0"},
};

typedef struct {
    unsigned id, scope;
    long long timestamp_us, latency_us;
    unsigned type;
    int status;
    union {
        double of_double;
        unsigned of_uint;
        unsigned long of_ulong;
        unsigned long long of_ullong;
        long long of_sllong;
        int of_sint;
        unsigned short of_ushort;
    } value;
} field_value_t;

static int store(field_value_t *field, const char *text) {
    field->value.of_ullong = 0;
    if (strcmp(text, "n/a") == 0)
        return NOT_SUPPORTED;
    switch (field->type) {
    case DOUBLE:
        field->value.of_double = strtod(text, NULL);
        break;
    case UINT:
        field->value.of_uint = (unsigned)strtoul(text, NULL, 0);
        break;
    case SLLONG:
        field->value.of_sllong = strtoll(text, NULL, 0);
        break;
    case SINT:
        field->value.of_sint = (int)strtol(text, NULL, 0);
        break;
    case USHORT:
        field->value.of_ushort = (unsigned short)strtoul(text, NULL, 0);
        break;
    default: /* ULONG too: as long as ULLONG on Linux */
        field->value.of_ullong = strtoull(text, NULL, 0);
    }
    return SUCCESS;
}

/* Why a device cannot tell a field at all. */
static int field_obstacle(int device, unsigned about, int link) {
    u64 links = figure(device, "nvlinks");
    if (about == OF_ECC)
        return figure(device, "ecc_mode") ? SUCCESS : NOT_SUPPORTED;
    if (about == OF_DEVICE)
        return SUCCESS;
    if (!links)
        return NOT_SUPPORTED;
    if (link == ALL_LINKS)
        return about == STATE_OF_NVLINK ? INVALID_ARGUMENT : SUCCESS;
    return (u64)link < links ? SUCCESS : INVALID_ARGUMENT;
}

static int read_field(int device, field_value_t *field) {
    value_t value;
    char scope[32];
    unsigned state;
    size_t i = 0, known = sizeof fields / sizeof *fields;
    while (i < known && fields[i].id != field->id)
        i++;
    field->type = i < known ? fields[i].type : ULLONG;
    if (lookup_numbered(device, "field.", field->id, ".type", value))
        field->type = (unsigned)atoi(value);
    if (lookup_numbered(device, "field.", field->id, ".error", value))
        return atoi(value);
    if (i < known)
        RETURN_IF_ERROR(field_obstacle(device, fields[i].about, (int)field->scope));
    snprintf(scope, sizeof scope, ".scope.%u", field->scope);
    if (lookup_numbered(device, "field.", field->id, scope, value) ||
        lookup_numbered(device, "field.", field->id, "", value))
        return store(field, value);
    if (i == known)
        return NOT_SUPPORTED;
    if (fields[i].about == STATE_OF_NVLINK) {
        RETURN_IF_ERROR(link_state(device, field->scope, &state));
        snprintf(value, sizeof value, "%u", state);
        return store(field, value);
    }
    return store(field, fields[i].key && lookup(device, fields[i].key, value) ? value : fields[i].value);
}

int nvmlDeviceGetFieldValues(device_t handle, int count, field_value_t *values) {
    struct timespec now;
    DEVICE_CALL(handle);
    if (count <= 0 || !values)
        return INVALID_ARGUMENT;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < count; i++) {
        values[i].timestamp_us = now.tv_sec * 1000000ll + now.tv_nsec / 1000;
        values[i].latency_us = 0;
        values[i].value.of_ullong = 0;
        values[i].status = read_field(device, &values[i]);
    }
    return SUCCESS;
}

/* --- what a program allocates: GPM samples and event sets ----------------------------------------------------
 * Their handles are numbers, so that one that was freed, or is of another session, is refused and not followed. */
typedef enum { FREE, SAMPLE, EVENT_SET } kind_t;

typedef struct {
    kind_t kind;
    unsigned ticket, session;
    int device, gpu_instance;           /* of a sample; device MACHINE: not filled */
    unsigned char xids_of[MAX_DEVICES]; /* of an event set: whether it wants them */
} object_t;

enum { OBJECTS = 2048 };

static const char *const live_entry[] = {NULL, "nvml_double_live_samples", "nvml_double_live_event_sets"};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static object_t objects[OBJECTS];
static unsigned tickets;

static int allocate(kind_t kind, void **handle) {
    unsigned session, i = 0;
    RETURN_IF_ERROR(session_state(&session));
    pthread_mutex_lock(&lock);
    while (i < OBJECTS && objects[i].kind != FREE)
        i++;
    if (i < OBJECTS) {
        objects[i] = (object_t){.kind = kind, .ticket = ++tickets, .session = session, .device = MACHINE};
        *handle = (void *)((uintptr_t)tickets << 16 | i);
    }
    pthread_mutex_unlock(&lock);
    if (i == OBJECTS)
        return INSUFFICIENT_RESOURCES;
    count(live_entry[kind], 1);
    return SUCCESS;
}

/* The object of a handle; call with the lock held. */
static object_t *object_of(kind_t kind, void *handle) {
    uintptr_t word = (uintptr_t)handle, i = word & 0xffff;
    return i < OBJECTS && objects[i].kind == kind && objects[i].ticket == word >> 16 ? &objects[i] : NULL;
}

/* A copy of the object, if it is of this session. */
static int object_now(kind_t kind, void *handle, object_t *copy) {
    unsigned session;
    RETURN_IF_ERROR(session_state(&session));
    pthread_mutex_lock(&lock);
    object_t *object = object_of(kind, handle);
    if (object)
        *copy = *object;
    pthread_mutex_unlock(&lock);
    return object && copy->session == session ? SUCCESS : INVALID_ARGUMENT;
}

/* Frees also what an ended session has left, though the call fails then. */
static int release(kind_t kind, void *handle, const char *function) {
    unsigned session;
    int error = machine_check(function), state = session_state(&session);
    if (error && !state)
        return error;
    pthread_mutex_lock(&lock);
    object_t *object = object_of(kind, handle);
    if (object)
        object->kind = FREE;
    pthread_mutex_unlock(&lock);
    if (object)
        count(live_entry[kind], -1);
    return state ? state : object ? SUCCESS : INVALID_ARGUMENT;
}

long long nvml_double_live_samples(void) { return counted(live_entry[SAMPLE]); }

/* --- GPM ---------------------------------------------------------------------------------------------------- */
typedef struct {
    unsigned version, supported;
} gpm_support_t;

typedef struct {
    unsigned id;
    int status;
    double value;
    const char *short_name, *long_name, *unit;
} gpm_metric_t;

typedef struct {
    unsigned version, count;
    void *sample1, *sample2;
    gpm_metric_t metrics[]; /* as many as `count` says: nvml.h has had arrays of several lengths */
} gpm_metrics_get_t;

int nvmlGpmQueryDeviceSupport(device_t handle, gpm_support_t *support) {
    DEVICE_CALL(handle);
    if (support->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    support->supported = (unsigned)figure(device, "gpm_supported");
    return SUCCESS;
}

int nvmlGpmSampleAlloc(void **sample) {
    MACHINE_CALL();
    return allocate(SAMPLE, sample);
}

int nvmlGpmSampleFree(void *sample) { return release(SAMPLE, sample, __func__); }

static int fill(void *sample, int device, int gpu_instance) {
    object_t found;
    RETURN_IF_ERROR(object_now(SAMPLE, sample, &found));
    if (!figure(device, "gpm_supported"))
        return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    object_t *object = object_of(SAMPLE, sample);
    if (object) {
        object->device = device;
        object->gpu_instance = gpu_instance;
    }
    pthread_mutex_unlock(&lock);
    return object ? SUCCESS : INVALID_ARGUMENT;
}

int nvmlGpmSampleGet(device_t handle, void *sample) {
    DEVICE_CALL(handle);
    return fill(sample, device, NO_INSTANCE_ID);
}

int nvmlGpmMigSampleGet(device_t handle, unsigned gpu_instance, void *sample) {
    instance_t instance;
    DEVICE_CALL(handle);
    if (figure(device, "mig_mode") != 1)
        return NOT_SUPPORTED;
    for (target.instance = 0; target.instance < (int)figure(device, "mig_devices_max"); target.instance++)
        if (instance_of(target, &instance) == SUCCESS && instance.gpu_instance == gpu_instance)
            return fill(sample, device, (int)gpu_instance);
    return INVALID_ARGUMENT;
}

/* `what` is "" or ".error". */
static int gpm_lookup(const object_t *sample, unsigned id, const char *what, value_t value) {
    char key[64];
    snprintf(key, sizeof key, ".gpm.%u%s", id, what);
    return (sample->gpu_instance != NO_INSTANCE_ID &&
            lookup_numbered(sample->device, "mig.", sample->gpu_instance, key, value)) ||
           lookup(sample->device, key + 1, value);
}

static int gpm_metric(const object_t *sample, gpm_metric_t *metric) {
    value_t value;
    metric->value = 0;
    metric->short_name = metric->long_name = metric->unit = NULL;
    if (gpm_lookup(sample, metric->id, ".error", value))
        return atoi(value);
    if (!gpm_lookup(sample, metric->id, "", value) || strcmp(value, "n/a") == 0)
        return NOT_SUPPORTED;
    metric->value = strtod(value, NULL);
    return SUCCESS;
}

/* The device a sample is of, MACHINE if there is none. */
static target_t target_of(void *sample) {
    pthread_mutex_lock(&lock);
    object_t *object = object_of(SAMPLE, sample);
    target_t target = {object ? object->device : MACHINE, WHOLE};
    pthread_mutex_unlock(&lock);
    return target;
}

int nvmlGpmMetricsGet(gpm_metrics_get_t *get) {
    unsigned session;
    object_t first, second;
    target_t target = target_of(get->sample1);
    begin_call(target, __func__);
    RETURN_IF_ERROR(session_state(&session));
    RETURN_IF_ERROR(scripted_error(target, __func__));
    if (get->version != 1)
        return ARGUMENT_VERSION_MISMATCH;
    RETURN_IF_ERROR(object_now(SAMPLE, get->sample1, &first));
    RETURN_IF_ERROR(object_now(SAMPLE, get->sample2, &second));
    if (!get->count || first.device == MACHINE || first.device != second.device ||
        first.gpu_instance != second.gpu_instance)
        return INVALID_ARGUMENT;
    for (unsigned i = 0; i < get->count; i++)
        get->metrics[i].status = gpm_metric(&second, &get->metrics[i]);
    return SUCCESS;
}

/* --- events ------------------------------------------------------------------------------------------------- */
enum { XID = 8, POLL_MS = 5 };

static long long last_event = -1;                     /* the greatest told as often as it was to be */
static long long repeated_event = -1, repetitions = 0; /* one told less often so far */

typedef struct {
    device_t device;
    u64 type, data;
    unsigned gpu_instance, compute_instance;
} event_data_t;

int nvmlEventSetCreate(void **set) {
    MACHINE_CALL();
    return allocate(EVENT_SET, set);
}

int nvmlEventSetFree(void *set) { return release(EVENT_SET, set, __func__); }

int nvmlDeviceRegisterEvents(device_t handle, u64 types, void *set) {
    object_t found;
    DEVICE_CALL(handle);
    RETURN_IF_ERROR(object_now(EVENT_SET, set, &found));
    if (types & ~figure(device, "event_types"))
        return NOT_SUPPORTED;
    pthread_mutex_lock(&lock);
    object_t *object = object_of(EVENT_SET, set);
    if (object && types & XID)
        object->xids_of[device] = 1;
    pthread_mutex_unlock(&lock);
    return object ? SUCCESS : INVALID_ARGUMENT;
}

/* Takes the next event of the scenario that the set wants; 0 when there is none. */
static int take_event(const object_t *set, event_data_t *data) {
    value_t line;
    int taken = 0, device;
    pthread_mutex_lock(&lock);
    for (long long k = last_event; !taken && next_in_family("event.", k, &k, line);) {
        long long xid = 0, times = 1;
        if (sscanf(line, "%d %lld x%lld", &device, &xid, &times) < 2 || device < 0 || device >= MAX_DEVICES ||
            !set->xids_of[device])
            continue;
        taken = 1;
        repetitions = repeated_event == k ? repetitions + 1 : 1;
        repeated_event = k;
        if (repetitions >= times)
            last_event = k;
        *data = (event_data_t){handle_of(set->session, (target_t){device, WHOLE}), XID, (u64)xid,
                               (unsigned)NO_INSTANCE_ID, (unsigned)NO_INSTANCE_ID};
    }
    pthread_mutex_unlock(&lock);
    return taken;
}

/* What a scenario has for this call on one of the set's devices, once its events are told. */
static int registered_error(const object_t *set, const char *function) {
    value_t value;
    char key[64];
    snprintf(key, sizeof key, "error.%s", function);
    for (int device = 0; device < MAX_DEVICES; device++)
        if (set->xids_of[device] && lookup(device, key, value))
            return atoi(value);
    return SUCCESS;
}

int nvmlEventSetWait_v2(void *set, event_data_t *data, unsigned timeout_ms) {
    object_t now;
    struct timespec began, at;
    MACHINE_CALL();
    clock_gettime(CLOCK_MONOTONIC, &began);
    for (;;) {
        RETURN_IF_ERROR(object_now(EVENT_SET, set, &now));
        if (take_event(&now, data))
            return SUCCESS;
        RETURN_IF_ERROR(registered_error(&now, __func__));
        clock_gettime(CLOCK_MONOTONIC, &at);
        long long passed_ns = (at.tv_sec - began.tv_sec) * 1000000000ll + (at.tv_nsec - began.tv_nsec);
        long long left_ms = timeout_ms - passed_ns / 1000000;
        if (left_ms <= 0 || !nap_ms(left_ms < POLL_MS ? (int)left_ms : POLL_MS))
            return TIMEOUT;
        refresh_scenario();
    }
}
