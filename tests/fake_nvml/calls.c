/* Every call begins here: it is counted, and sleeps or hangs if the scenario says so. */
#include "double.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

/* --- counting -------------------------------------------------------------------------------------------- */

/* The layout of the file that $FAKE_NVML_CALLS names, an open hash table by name; tests/fake_nvml reads it too. */
typedef struct {
    char name[56];
    long long calls;
} entry_t;

enum { ENTRIES = 256 };

static entry_t own_entries[ENTRIES];
static entry_t *entries; /* the file's, or our own without the variable */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int shared_file = -1;

static void open_entries(void) {
    const char *path = getenv("FAKE_NVML_CALLS");
    size_t size = sizeof own_entries;
    entries = own_entries;
    shared_file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644) : -1;
    if (shared_file < 0 || ftruncate(shared_file, (off_t)size) != 0)
        return;
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, shared_file, 0);
    if (mapped != MAP_FAILED)
        entries = mapped;
}

/* The entry of a name, or the free one where it belongs. */
static entry_t *entry_of(const char *name) {
    unsigned hash = 2166136261u;
    for (const char *c = name; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 16777619u;
    for (unsigned i = 0; i < ENTRIES; i++) {
        entry_t *entry = &entries[(hash + i) % ENTRIES];
        char first = __atomic_load_n(&entry->name[0], __ATOMIC_ACQUIRE);
        if (!first || strncmp(entry->name, name, sizeof entry->name - 1) == 0)
            return entry;
    }
    abort(); /* more functions than entries: a fault of the double */
}

/* Other threads and processes may want the same entry; the first byte of a name is written last. */
static entry_t *claim(const char *name) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    flock(shared_file, LOCK_EX);
    entry_t *entry = entry_of(name);
    if (!entry->name[0]) {
        strncpy(entry->name + 1, name + 1, sizeof entry->name - 2);
        __atomic_store_n(&entry->name[0], name[0], __ATOMIC_RELEASE);
    }
    flock(shared_file, LOCK_UN);
    pthread_mutex_unlock(&lock);
    return entry;
}

void count(const char *name, int by) {
    pthread_once(&once, open_entries);
    entry_t *entry = entry_of(name);
    if (!entry->name[0])
        entry = claim(name);
    __atomic_fetch_add(&entry->calls, by, __ATOMIC_RELAXED);
}

long long counted(const char *name) {
    pthread_once(&once, open_entries);
    return __atomic_load_n(&entry_of(name)->calls, __ATOMIC_RELAXED);
}

/* --- slow and hanging calls ------------------------------------------------------------------------------ */
static int inside;   /* calls that sleep */
static int released; /* and may not any longer */

static void add_ns(struct timespec *time, long long ns) {
    ns += time->tv_nsec;
    time->tv_sec += ns / 1000000000;
    time->tv_nsec = ns % 1000000000;
}

static void sleep_ns(long long ns) {
    static __thread int exact;
    struct timespec end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    add_ns(&end, ns);
    if (!exact)
        exact = prctl(PR_SET_TIMERSLACK, 1) == 0;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, NULL) == EINTR)
        ;
}

int nap_ms(int ms) {
    __atomic_add_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&released, __ATOMIC_SEQ_CST))
        sleep_ns(ms * 1000000ll);
    __atomic_sub_fetch(&inside, 1, __ATOMIC_SEQ_CST);
    return !__atomic_load_n(&released, __ATOMIC_SEQ_CST);
}

/* What a scenario says of a call: `mig.I.<what>.<function>` for a MIG device, else `<what>.<function>`. */
static int scripted(target_t target, const char *what, const char *function, value_t value) {
    char key[128];
    if (strlen(what) + strlen(function) + 3 > sizeof key)
        return 0;
    stpcpy(stpcpy(stpcpy(stpcpy(key, "."), what), "."), function);
    return (target.instance != WHOLE && lookup_numbered(target.device, "mig.", target.instance, key, value)) ||
           lookup(target.device, key + 1, value);
}

int scripted_error(target_t target, const char *function) {
    value_t value;
    if (scripted(target, "error", function, value) ||
        (target.device != MACHINE && lookup(target.device, "error", value)))
        return atoi(value);
    return SUCCESS;
}

static double seconds_since(const struct timespec *began) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - began->tv_sec) + (double)(now.tv_nsec - began->tv_nsec) / 1e9;
}

void begin_call(target_t target, const char *function) {
    value_t value;
    struct timespec began;
    count(function, 1);
    refresh_scenario();
    if (scripted(target, "latency_us", function, value) || lookup(target.device, "latency_us", value))
        sleep_ns(atoll(value) * 1000);
    clock_gettime(CLOCK_MONOTONIC, &began);
    while (scripted(target, "hang", function, value) && seconds_since(&began) < atof(value) && nap_ms(10))
        refresh_scenario();
}

/* For a test that unloads the library while threads may be in it: wakes those that hang or wait, and returns how
 * many are still inside. */
int nvml_double_release(void) {
    __atomic_store_n(&released, 1, __ATOMIC_SEQ_CST);
    for (int ms = 0; ms < 1000 && __atomic_load_n(&inside, __ATOMIC_SEQ_CST); ms++)
        sleep_ns(1000000);
    sleep_ns(1000000); /* those awake are still to return */
    return __atomic_load_n(&inside, __ATOMIC_SEQ_CST);
}
