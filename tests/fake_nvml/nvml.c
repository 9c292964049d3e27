/* A double of NVIDIA's libnvidia-ml.so.1 for machines without a GPU.
 *
 * Every call plays the scenario in the control file that $FAKE_NVML_CONTROL names; the file is read again when its
 * inode, size or modification time have changed, so a test changes the machine while the program under test runs.
 * A line is `key = value`; later lines win; a key with the prefix `gpuN.` counts for that device only, and before the
 * plain key. `defaults` in scenario.c lists the keys that hold a figure, with those of an H100; `n/a` as a value makes
 * the call that tells it return NOT_SUPPORTED. Without the variable the driver is unloaded.
 *
 *     devices = 2
 *     driver = unloaded                           every call fails until it is `loaded`, and init is due again
 *     gpu1.name = NVIDIA H100 PCIe
 *     gpu1.error = 15                             every call on this device returns 15 (GPU_IS_LOST)
 *     error.nvmlDeviceGetUtilizationRates = 3     this call returns 3 (NOT_SUPPORTED), on every device
 *     latency_us = 40                             every call takes so long; `latency_us.<function>` goes first
 *     gpu1.hang.nvmlDeviceGetTemperature = 60     this call takes 60 s, or until the line has gone
 *
 *     processes = 4711:1073741824 4712:-          pid:bytes[:gi[:ci]], `-` for bytes that NVML does not know;
 *                                                 likewise graphics_processes and mps_processes
 *     nvlinks = 18                                0 on a device without
 *     nvlink.3.state = 0
 *     nvlink.3.error = 3
 *     field.82 = 45                               a value of nvmlDeviceGetFieldValues, over what telemetry.c has for
 *     field.82.error = 3                          this id; also field.<id>.type, an nvmlValueType_t, and
 *     field.139.scope.4 = 7                       the value for one scopeId, a link as a rule
 *     gpm.5 = 18.5                                a metric of nvmlGpmMetricsGet; also gpm.<id>.error
 *     mig.3.gpm.5 = 80                            the same for GPU instance 3, before the plain one; also ….error
 *     event.0 = 1 79                              GPU 1 has XID 79, told once to a process; `x50` after it: 50 times.
 *                                                 Numbers ascend: once event.7 is told, those below are not.
 *
 *     gpu0.mig_mode = 1
 *     gpu0.mig.0 = 3 0 1g.10gb 9856 1073741824    MIG device 0: gi ci profile total_mib used_bytes
 *     gpu0.mig.0.uuid = MIG-…                     over the one derived from GPU, gi and ci
 *     gpu0.mig.0.error.nvmlDeviceGetName = 999    errors, hangs and latencies of one call on one MIG device
 *
 * Calls are counted by function; with $FAKE_NVML_CALLS in that file, see calls.c. To add a getter: its values into
 * `defaults`, and a TEXT_GETTER, a NUMBER_GETTER, or a function that begins with DEVICE_CALL, or with TARGET_CALL
 * if NVML answers it for MIG devices too. Signatures, struct layouts and error codes are those of nvml.h.
 *
 * The library may be used by many threads; nothing sleeps or waits with a lock held.
 */
#include "double.h"

#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* --- the life of the library ---------------------------------------------------------------------------- */
static const target_t machine = {MACHINE, WHOLE};
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned initializations; /* those not yet shut down */
static unsigned sessions;        /* their number since the library was loaded; the last may have ended */

static int driver_loaded(void) {
    value_t driver;
    return lookup(MACHINE, "driver", driver) && strcmp(driver, "loaded") == 0;
}

int session_state(unsigned *session) {
    int loaded = driver_loaded();
    pthread_mutex_lock(&lock);
    if (!loaded)
        initializations = 0;
    *session = sessions;
    int state = !loaded ? DRIVER_NOT_LOADED : !initializations ? UNINITIALIZED : SUCCESS;
    pthread_mutex_unlock(&lock);
    return state;
}

int machine_check(const char *function) {
    unsigned session;
    begin_call(machine, function);
    int state = session_state(&session);
    return state ? state : scripted_error(machine, function);
}

/* A handle is a number, so that one of another session is refused and not followed. */
device_t handle_of(unsigned session, target_t target) {
    return (device_t)(((uintptr_t)session << 24) | (uintptr_t)(target.instance + 1) << 16 |
                      (uintptr_t)(target.device + 1));
}

int device_check(device_t handle, const char *function, target_t *target) {
    uintptr_t word = (uintptr_t)handle;
    unsigned session;
    instance_t instance;
    *target = (target_t){(int)(word & 0xffff) - 1, (int)(word >> 16 & 0xff) - 1};
    begin_call(*target, function);
    RETURN_IF_ERROR(session_state(&session));
    if (word >> 24 != session || target->device < 0 || target->device >= MAX_DEVICES)
        return INVALID_ARGUMENT;
    RETURN_IF_ERROR(scripted_error(*target, function));
    return target->instance == WHOLE ? SUCCESS : instance_of(*target, &instance);
}

static int initialize(const char *function) {
    begin_call(machine, function);
    RETURN_IF_ERROR(driver_loaded() ? scripted_error(machine, function) : DRIVER_NOT_LOADED);
    pthread_mutex_lock(&lock);
    if (!initializations++)
        sessions++;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    return initialize(__func__);
}

int nvmlInit_v2(void) { return initialize(__func__); }

int nvmlShutdown(void) {
    MACHINE_CALL();
    pthread_mutex_lock(&lock);
    int state = initializations ? SUCCESS : UNINITIALIZED; /* another thread may have been faster */
    initializations -= state == SUCCESS;
    pthread_mutex_unlock(&lock);
    return state;
}

const char *nvmlErrorString(int code) {
    static __thread char sentence[32];
    snprintf(sentence, sizeof sentence, "error %d of the double", code);
    return sentence;
}

/* --- the machine ---------------------------------------------------------------------------------------- */
int nvmlSystemGetDriverVersion(char *buffer, unsigned size) {
    MACHINE_CALL();
    return text(MACHINE, "driver_version", buffer, size);
}

int nvmlSystemGetNVMLVersion(char *buffer, unsigned size) {
    MACHINE_CALL();
    return text(MACHINE, "nvml_version", buffer, size);
}

static int cuda_driver_version(const char *function, int *version) {
    RETURN_IF_ERROR(machine_check(function));
    *version = (int)figure(MACHINE, "cuda_driver_version");
    return SUCCESS;
}

int nvmlSystemGetCudaDriverVersion(int *version) { return cuda_driver_version(__func__, version); }

int nvmlSystemGetCudaDriverVersion_v2(int *version) { return cuda_driver_version(__func__, version); }

int nvmlDeviceGetCount_v2(unsigned *count) {
    MACHINE_CALL();
    *count = (unsigned)figure(MACHINE, "devices");
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, device_t *handle) {
    unsigned session;
    target_t target = {index < MAX_DEVICES ? (int)index : MACHINE, WHOLE};
    begin_call(target, __func__);
    RETURN_IF_ERROR(session_state(&session));
    RETURN_IF_ERROR(scripted_error(machine, __func__));
    if (index >= figure(MACHINE, "devices"))
        return INVALID_ARGUMENT;
    *handle = handle_of(session, target);
    return scripted_error(target, __func__);
}

/* --- MIG devices ------------------------------------------------------------------------------------------ */
int instance_of(target_t target, instance_t *instance) {
    value_t line;
    if (figure(target.device, "mig_mode") != 1 ||
        !lookup_numbered(target.device, "mig.", target.instance, "", line) ||
        sscanf(line, "%u %u %31s %llu %llu", &instance->gpu_instance, &instance->compute_instance, instance->profile,
               &instance->total_mib, &instance->used_bytes) != 5)
        return INVALID_ARGUMENT;
    return SUCCESS;
}

int nvmlDeviceGetMigMode(device_t handle, unsigned *current, unsigned *pending) {
    DEVICE_CALL(handle);
    int status = unsigned_number(device, "mig_mode", current);
    *pending = *current;
    return status;
}

int nvmlDeviceGetMaxMigDeviceCount(device_t handle, unsigned *count) {
    u64 mode;
    DEVICE_CALL(handle);
    *count = number(device, "mig_mode", &mode) == SUCCESS ? (unsigned)figure(device, "mig_devices_max") : 0;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(device_t handle, unsigned index, device_t *found) {
    instance_t instance;
    unsigned session;
    DEVICE_CALL(handle);
    RETURN_IF_ERROR(session_state(&session));
    if (figure(device, "mig_mode") != 1)
        return NOT_SUPPORTED;
    if (index >= figure(device, "mig_devices_max"))
        return INVALID_ARGUMENT;
    target.instance = (int)index;
    *found = handle_of(session, target);
    return instance_of(target, &instance) == SUCCESS ? SUCCESS : NOT_FOUND;
}

int nvmlDeviceIsMigDeviceHandle(device_t handle, unsigned *answer) {
    TARGET_CALL(handle);
    *answer = target.instance != WHOLE;
    return SUCCESS;
}

int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(device_t handle, device_t *parent) {
    unsigned session;
    TARGET_CALL(handle);
    RETURN_IF_ERROR(session_state(&session));
    *parent = handle_of(session, (target_t){target.device, WHOLE});
    return target.instance == WHOLE ? INVALID_ARGUMENT : SUCCESS;
}

static int instance_id(target_t target, unsigned *gpu_instance, unsigned *compute_instance) {
    instance_t instance;
    if (target.instance == WHOLE)
        return NOT_SUPPORTED;
    RETURN_IF_ERROR(instance_of(target, &instance));
    *gpu_instance = instance.gpu_instance;
    *compute_instance = instance.compute_instance;
    return SUCCESS;
}

int nvmlDeviceGetGpuInstanceId(device_t handle, unsigned *id) {
    unsigned compute_instance;
    TARGET_CALL(handle);
    return instance_id(target, id, &compute_instance);
}

int nvmlDeviceGetComputeInstanceId(device_t handle, unsigned *id) {
    unsigned gpu_instance;
    TARGET_CALL(handle);
    return instance_id(target, &gpu_instance, id);
}

typedef struct {
    unsigned multiprocessors, copy_engines, decoders, encoders, jpegs, ofas, gpu_slices, compute_slices;
    u64 memory_mib;
} attributes_t;

int nvmlDeviceGetAttributes_v2(device_t handle, attributes_t *attributes) {
    instance_t instance;
    unsigned compute = 0, slices = 1;
    TARGET_CALL(handle);
    if (target.instance == WHOLE)
        return NOT_SUPPORTED;
    RETURN_IF_ERROR(instance_of(target, &instance));
    if (sscanf(instance.profile, "%uc.%ug.", &compute, &slices) != 2) /* "1c.2g.20gb", or "2g.20gb" */
        sscanf(instance.profile, "%ug.", &slices);
    *attributes = (attributes_t){
        .multiprocessors = slices * 16,
        .copy_engines = slices,
        .decoders = slices,
        .jpegs = slices,
        .ofas = slices == 7,
        .gpu_slices = slices,
        .compute_slices = compute && compute < slices ? compute : slices,
        .memory_mib = instance.total_mib,
    };
    return SUCCESS;
}

/* --- names ------------------------------------------------------------------------------------------------ */
static int name_of(target_t target, char *buffer, unsigned size) {
    instance_t instance;
    value_t name;
    RETURN_IF_ERROR(text(target.device, "name", name, sizeof name));
    if (target.instance == WHOLE)
        return text(target.device, "name", buffer, size);
    RETURN_IF_ERROR(instance_of(target, &instance));
    return (unsigned)snprintf(buffer, size, "%s MIG %s", name, instance.profile) < size ? SUCCESS : INSUFFICIENT_SIZE;
}

static int uuid_of(target_t target, char *buffer, unsigned size) {
    instance_t instance;
    value_t uuid;
    if (target.instance == WHOLE)
        return text(target.device, "uuid", buffer, size);
    RETURN_IF_ERROR(instance_of(target, &instance));
    if (!lookup_numbered(target.device, "mig.", target.instance, ".uuid", uuid))
        snprintf(uuid, sizeof uuid, "MIG-5a11ab1e-%04x-5000-8000-%06x%06x", (unsigned)target.device,
                 instance.gpu_instance & 0xffffff, instance.compute_instance & 0xffffff);
    return (unsigned)snprintf(buffer, size, "%s", uuid) < size ? SUCCESS : INSUFFICIENT_SIZE;
}

int nvmlDeviceGetName(device_t handle, char *buffer, unsigned size) {
    TARGET_CALL(handle);
    return name_of(target, buffer, size);
}

int nvmlDeviceGetUUID(device_t handle, char *buffer, unsigned size) {
    TARGET_CALL(handle);
    return uuid_of(target, buffer, size);
}

int nvmlDeviceGetHandleByUUID(const char *uuid, device_t *handle) {
    unsigned session;
    char candidate[128];
    target_t target;
    MACHINE_CALL();
    RETURN_IF_ERROR(session_state(&session));
    for (target.device = 0; target.device < (int)figure(MACHINE, "devices"); target.device++)
        for (target.instance = WHOLE; target.instance < (int)figure(target.device, "mig_devices_max");
             target.instance++)
            if (uuid_of(target, candidate, sizeof candidate) == SUCCESS && strcmp(candidate, uuid) == 0) {
                *handle = handle_of(session, target);
                return scripted_error(target, __func__);
            }
    return NOT_FOUND;
}

int nvmlDeviceGetIndex(device_t handle, unsigned *index) {
    TARGET_CALL(handle);
    *index = (unsigned)(target.instance == WHOLE ? target.device : target.instance);
    return SUCCESS;
}
