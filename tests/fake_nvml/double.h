/* What the parts of the double share; nvml.c describes the whole. */
#ifndef DOUBLE_H
#define DOUBLE_H

#include <stdint.h>

enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    INSUFFICIENT_RESOURCES = 23,
    ARGUMENT_VERSION_MISMATCH = 25,
};

/* A call is about the machine (device MACHINE), a GPU (instance WHOLE) or one of its MIG devices. */
enum { MACHINE = -1, WHOLE = -1, NO_INSTANCE_ID = -1, MAX_DEVICES = 256, VALUE_SIZE = 4096 };

typedef struct {
    int device, instance;
} target_t;

typedef char value_t[VALUE_SIZE];
typedef unsigned long long u64;

/* --- scenario.c: what the control file says ------------------------------------------------------------- */

/* Re-reads the control file if it has changed. Takes as long as opening the file takes; holds no lock. */
void refresh_scenario(void);

/* The value of `key` for a device, or for the machine; 0 when neither scenario nor defaults know it. */
int lookup(int device, const char *key, value_t found);

/* `lookup` of a key with a number in it, as in "field.82.error". */
int lookup_numbered(int device, const char *before, long long number, const char *after, value_t found);

int number(int device, const char *key, u64 *found); /* NOT_SUPPORTED when unknown or "n/a" */
int unsigned_number(int device, const char *key, unsigned *found);
u64 figure(int device, const char *key); /* the same, or 0 */
int text(int device, const char *key, char *buffer, unsigned size);

/* The line `<family><k> = value` of the least k above `after`; 0 when there is none. */
int next_in_family(const char *family, long long after, long long *k, value_t value);

/* --- calls.c: counting calls, and making them slow -------------------------------------------------------- */

/* To be called first in every function: counts the call, brings the scenario up to date, sleeps or hangs. */
void begin_call(target_t target, const char *function);

/* The error a scenario has for this call. */
int scripted_error(target_t target, const char *function);

void count(const char *name, int by);
long long counted(const char *name);
int nap_ms(int ms); /* 0 when the library is about to be unloaded, and nobody may wait any longer */

/* --- nvml.c: sessions and handles -------------------------------------------------------------------------- */
typedef void *device_t;

/* A session lasts from first init to last shutdown, or until the driver goes; handles belong to one. */
int session_state(unsigned *session);
device_t handle_of(unsigned session, target_t target);
int machine_check(const char *function);
int device_check(device_t handle, const char *function, target_t *target);

typedef struct {
    unsigned gpu_instance, compute_instance;
    char profile[32];
    u64 total_mib, used_bytes;
} instance_t;

int instance_of(target_t target, instance_t *instance); /* INVALID_ARGUMENT when there is no such MIG device */

#define RETURN_IF_ERROR(status)                                                                                        \
    do {                                                                                                               \
        int error = status;                                                                                            \
        if (error)                                                                                                     \
            return error;                                                                                              \
    } while (0)

#define MACHINE_CALL() RETURN_IF_ERROR(machine_check(__func__))

/* Declares `target`, the GPU or MIG device behind the handle, or returns the error the scenario has for this call. */
#define TARGET_CALL(handle)                                                                                            \
    target_t target;                                                                                                   \
    RETURN_IF_ERROR(device_check(handle, __func__, &target))

/* The same for what NVML tells of whole GPUs only; declares `device`, the GPU's index. */
#define DEVICE_CALL(handle)                                                                                            \
    TARGET_CALL(handle);                                                                                               \
    int device = target.device;                                                                                        \
    RETURN_IF_ERROR(target.instance == WHOLE ? SUCCESS : NOT_SUPPORTED)

#endif
