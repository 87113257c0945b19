/* A stand-in for NVIDIA's driver library, for tests without a GPU: libnvidia-ml.so.1 under the real pynvml.

   A scenario (NVML_STUB_SCENARIO names its file) says what the boards do; README.md lists its statements. Without one
   there is no driver. Time is CLOCK_MONOTONIC, counted from the scenario's epoch, or a virtual clock: a file of eight
   bytes, nanoseconds, which tests advance. The energy is known exactly: nvmlstub_true_joules. */

#include "stub.h"

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default"))) extern
#define NS 1e9
#define MIB 1048576.0
#define POWER_AVERAGE_S 1.0  /* Ampere and newer, but for GA100 */
#define POWER_INSTANT_S 0.025
#define UTILISATION_S (1 / 6.0) /* nvml.h: a mean of 1/6 s to 1 s */
#define SAMPLES_KEPT 120
#define ENGINE_MIB 2048.0

/* -- structures of nvml.h; tests compare their sizes with pynvml's */

typedef struct Device *Handle;
typedef struct {
    unsigned long long total, free, used;
} Memory;
typedef struct {
    unsigned version;
    unsigned long long total, reserved, free, used;
} MemoryV2;
typedef struct {
    char bus_id_legacy[16];
    unsigned domain, bus, device, device_id, subsystem_id;
    char bus_id[32];
} PciInfo;
typedef struct {
    unsigned pid;
    unsigned long long used_memory;
    unsigned gpu_instance, compute_instance;
} ProcessInfo;
typedef struct {
    unsigned pid;
    unsigned long long timestamp;
    unsigned sm, memory, encoder, decoder;
} ProcessUtilization;
typedef struct {
    unsigned gpu, memory;
} Utilization;
typedef union {
    double d;
    unsigned u;
    unsigned long ul;
    unsigned long long ull;
    long long ll;
    int i;
    unsigned short us;
} Value;
typedef struct {
    unsigned long long timestamp;
    Value value;
} Sample;
typedef struct {
    unsigned long long reference, violation;
} ViolationTime;
typedef struct {
    uint32_t field, scope;
    int64_t timestamp, latency_us;
    int type, result;
    Value value;
} FieldValue;
typedef struct {
    unsigned version;
    int sensor, temperature;
} Temperature;
typedef struct {
    unsigned version, supported;
} GpmSupport;
typedef struct {
    Board *board;
    double at;
} *GpmSample;
typedef struct {
    unsigned id;
    int result;
    double value;
    struct {
        const char *short_name, *long_name, *unit;
    } info;
} GpmMetric;
typedef struct {
    unsigned version, count;
    GpmSample first, second;
    GpmMetric metrics[];
} GpmMetrics;
typedef struct {
    Handle device;
    unsigned long long type, code;
    unsigned gpu_instance, compute_instance;
} EventData;
typedef struct {
    bool watched[MAX_BOARDS];
    double since[MAX_BOARDS];
} *EventSet;

enum { TYPE_UNSIGNED = 1, TYPE_UNSIGNED_LONG_LONG = 3 };
enum { XID_CRITICAL = 8 };
enum {
    FIELD_ECC_CURRENT = 1, FIELD_SBE = 3, FIELD_DBE = 4, FIELD_SBE_AGGREGATE = 5, FIELD_DBE_AGGREGATE = 6,
    FIELD_SW_POWER_CAP = 74, FIELD_SYNC_BOOST = 76, FIELD_MEMORY_TEMPERATURE = 82, FIELD_TOTAL_ENERGY = 83,
    FIELD_POWER_AVERAGE = 185, FIELD_POWER_INSTANT = 186, FIELD_POWER_MIN = 187, FIELD_POWER_MAX = 188,
    FIELD_POWER_DEFAULT = 189, FIELD_POWER_LIMIT = 190, FIELD_ENERGY = 191, FIELD_POWER_REQUESTED = 192,
    FIELD_SW_THERMAL = 269, FIELD_HW_THERMAL = 270, FIELD_POWER_BRAKE = 271,
};
static const unsigned long long REASON[] = {
    [SW_POWER_CAP] = 0x4, [HW_SLOWDOWN] = 0x8, [SYNC_BOOST] = 0x10, [SW_THERMAL] = 0x20, [HW_THERMAL] = 0x40,
    [POWER_BRAKE] = 0x80,
};

struct Device {
    Board *board;
    int instance; /* of MIG, or -1 */
};

static struct Device devices[MAX_BOARDS][MAX_MIG + 1];
static atomic_flag busy = ATOMIC_FLAG_INIT;
static int sessions;
static unsigned long long calls;
static _Atomic int64_t *virtual_ns;

/* -- time */

int64_t stub_now_ns(void) {
    if (virtual_ns) return atomic_load(virtual_ns);
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static double seconds_of(int64_t ns) { return (double)(ns - scenario.epoch_ns) / NS; }

static void pass(double seconds) {
    if (seconds <= 0) return;
    if (virtual_ns) {
        atomic_fetch_add(virtual_ns, (int64_t)(seconds * NS));
        return;
    }
    struct timespec rest = {(time_t)seconds, (long)((seconds - floor(seconds)) * NS)};
    nanosleep(&rest, NULL);
}

static unsigned long long stamp_us(double at) { return (unsigned long long)(((double)scenario.epoch_ns / NS + at) * 1e6); }

/* -- a call: it may be slow, and it may fail */

typedef struct {
    Board *board;
    int instance, error;
    double at, rest_s;
} Call;

static void lock(void) {
    while (atomic_flag_test_and_set(&busy)) sched_yield();
}

static void unlock(void) { atomic_flag_clear(&busy); }

static bool matches(const char *pattern, const char *symbol) {
    size_t length = strlen(pattern);
    if (length && pattern[length - 1] == '*') return !strncmp(pattern, symbol, length - 1);
    if (!strcmp(pattern, symbol)) return true;
    size_t plain = strlen(symbol); /* a version belongs to the symbol: Name means Name_v2 too */
    return plain == length + 3 && !strncmp(pattern, symbol, length) && symbol[length] == '_' && symbol[length + 1] == 'v';
}

static int failure_of(const char *symbol, const Board *board, double at) {
    for (size_t i = 0; i < scenario.failures.count; i++) {
        const Failure *failure = &scenario.failures.items[i];
        bool here = failure->board < 0 || !board || (unsigned)failure->board == board->index;
        if (here && within(failure->span, at) && matches(failure->symbol, symbol)) return failure->error;
    }
    return SUCCESS;
}

static Call begin_at(const char *function, Board *board, int instance) {
    const char *symbol = function + 4; /* without nvml */
    Call call = {board, instance, SUCCESS, 0, 0};
    lock();
    unsigned long long number = ++calls;
    double before = 0;
    for (size_t i = 0; sessions && i < scenario.delays.count; i++) {
        const Delay *delay = &scenario.delays.items[i];
        if (!matches(delay->symbol, symbol)) continue;
        double seconds = delay->seconds * (1 + delay->jitter * (2 * unit_hash(scenario.seed + 77, number) - 1));
        before = seconds * unit_hash(scenario.seed + 78, number); /* somewhere in the call the value is taken */
        call.rest_s = seconds - before;
        break;
    }
    if (before > 0) {
        unlock();
        pass(before);
        lock();
    }
    call.at = seconds_of(stub_now_ns());
    if (!sessions) call.error = UNINITIALIZED;
    else call.error = failure_of(symbol, board, call.at);
    return call;
}

static Call begin_system(const char *function) { return begin_at(function, NULL, -1); }

static Call begin_any(const char *function, Handle handle) {
    Call call = begin_at(function, sessions && handle ? handle->board : NULL, handle ? handle->instance : -1);
    if (call.error) return call;
    if (!call.board) call.error = INVALID_ARGUMENT;
    for (size_t i = 0; call.board && i < call.board->lost.count; i++) {
        if (within(call.board->lost.items[i], call.at)) call.error = GPU_IS_LOST;
    }
    return call;
}

/* A call that a MIG instance doesn't know. */
static Call begin(const char *function, Handle handle) {
    Call call = begin_any(function, handle);
    if (!call.error && call.instance >= 0) call.error = NOT_SUPPORTED;
    return call;
}

/* A call that knows nothing of a board while MIG is on. */
static Call begin_without_mig(const char *function, Handle handle) {
    Call call = begin(function, handle);
    if (!call.error && call.board->mig) call.error = NOT_SUPPORTED;
    return call;
}

static int end(const Call *call) {
    unlock();
    pass(call->rest_s);
    return call->error;
}

__attribute__((format(printf, 4, 5))) static int text(Call *call, char *to, unsigned size, const char *format, ...) {
    if (!call->error) {
        va_list arguments;
        va_start(arguments, format);
        if (vsnprintf(to, size, format, arguments) >= (int)size) call->error = INSUFFICIENT_SIZE;
        va_end(arguments);
    }
    return end(call);
}

static int number(Call *call, unsigned *to, double value) {
    if (!call->error) *to = (unsigned)llround(value);
    return end(call);
}

/* -- the stand-in itself */

EXPORT int nvmlstub_is_stub(void) { return 1; }

EXPORT double nvmlstub_true_joules(unsigned index, int64_t from_ns, int64_t to_ns) {
    if (index >= scenario.boards || !sessions) return NAN;
    lock();
    Board *board = &scenario.board[index];
    double joules = board_joules(board, seconds_of(to_ns)) - board_joules(board, seconds_of(from_ns));
    unlock();
    return joules;
}

EXPORT const char *nvmlstub_say(const char *statement) {
    lock();
    const char *error = sessions ? scenario_say(statement) : "no session is open";
    unlock();
    return error;
}

EXPORT int64_t nvmlstub_now_ns(void) { return stub_now_ns(); }

EXPORT size_t nvmlstub_size_of(const char *structure) {
    static const struct {
        const char *name;
        size_t size;
    } SIZES[] = {
        {"c_nvmlMemory_t", sizeof(Memory)}, {"c_nvmlMemory_v2_t", sizeof(MemoryV2)}, {"nvmlPciInfo_t", sizeof(PciInfo)},
        {"c_nvmlProcessInfo_v2_t", sizeof(ProcessInfo)}, {"c_nvmlUtilization_t", sizeof(Utilization)},
        {"c_nvmlProcessUtilizationSample_t", sizeof(ProcessUtilization)}, {"c_nvmlValue_t", sizeof(Value)},
        {"c_nvmlSample_t", sizeof(Sample)}, {"c_nvmlViolationTime_t", sizeof(ViolationTime)},
        {"c_nvmlFieldValue_t", sizeof(FieldValue)}, {"c_nvmlTemperature_v1_t", sizeof(Temperature)},
        {"c_nvmlGpmSupport_t", sizeof(GpmSupport)}, {"c_nvmlGpmMetric_t", sizeof(GpmMetric)},
        {"c_nvmlEventData_t", sizeof(EventData)},
    };
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++) {
        if (!strcmp(SIZES[i].name, structure)) return SIZES[i].size;
    }
    return 0;
}

/* -- init */

static bool map_clock(void) {
    const char *path = scenario.clock_path;
    if (!path[0]) return true;
    int file = open(path, O_RDWR);
    void *mapped = MAP_FAILED;
    if (file >= 0 && lseek(file, 0, SEEK_END) == 8) mapped = mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (mapped != MAP_FAILED) virtual_ns = mapped;
    else fprintf(stderr, "nvml stub: %s is no clock: a file of eight bytes\n", path);
    return mapped != MAP_FAILED;
}

static void unmap_clock(void) {
    if (virtual_ns) munmap((void *)virtual_ns, 8);
    virtual_ns = NULL;
}

static int start(void) {
    const char *path = getenv("NVML_STUB_SCENARIO");
    if (!path || !*path) return DRIVER_NOT_LOADED;
    calls = 0; /* the same scenario, the same delays */
    const char *error = scenario_read(path);
    if (error) fprintf(stderr, "nvml stub: %s\n", error);
    if (error || !map_clock()) {
        scenario_free();
        return INVALID_ARGUMENT;
    }
    for (unsigned i = 0; i < MAX_BOARDS; i++) {
        for (int instance = 0; instance <= MAX_MIG; instance++) {
            devices[i][instance] = (struct Device){&scenario.board[i], instance - 1};
        }
    }
    return scenario.init_error;
}

EXPORT int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    lock();
    int error = sessions ? SUCCESS : start();
    if (!error) sessions++;
    else if (!sessions) unmap_clock();
    unlock();
    return error;
}

EXPORT int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlInit(void) { return nvmlInitWithFlags(0); }

EXPORT int nvmlShutdown(void) {
    lock();
    int error = sessions ? SUCCESS : UNINITIALIZED;
    if (sessions && !--sessions) {
        unmap_clock();
        scenario_free();
    }
    unlock();
    return error;
}

EXPORT const char *nvmlErrorString(int error) { return error_name(error); }

/* -- the system */

EXPORT int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    Call call = begin_system(__func__);
    return text(&call, version, size, "%s", scenario.driver);
}

EXPORT int nvmlSystemGetNVMLVersion(char *version, unsigned size) {
    Call call = begin_system(__func__);
    return text(&call, version, size, "13.%s", scenario.driver);
}

EXPORT int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    Call call = begin_system(__func__);
    if (!call.error) *version = scenario.cuda;
    return end(&call);
}

EXPORT int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

EXPORT int nvmlSystemGetProcessName(unsigned pid, char *name, unsigned size) {
    Call call = begin_system(__func__);
    const char *found = NULL;
    for (unsigned b = 0; !call.error && b < scenario.boards; b++) {
        for (size_t i = 0; i < scenario.board[b].processes.count; i++) {
            const Process *process = &scenario.board[b].processes.items[i];
            if (process->pid == pid && process->name[0]) found = process->name;
        }
    }
    if (!call.error && !found) call.error = NOT_FOUND;
    return text(&call, name, size, "%s", found ? found : "");
}

/* -- handles and identity */

EXPORT int nvmlDeviceGetCount_v2(unsigned *count) {
    Call call = begin_system(__func__);
    return number(&call, count, scenario.boards);
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle *handle) {
    Call call = begin_system(__func__);
    if (!call.error && index >= scenario.boards) call.error = INVALID_ARGUMENT;
    if (!call.error) *handle = &devices[index][0];
    return end(&call);
}

static void instance_uuid(char *to, const Board *board, int instance) {
    if (instance < 0) snprintf(to, TEXT, "%s", board->uuid);
    else snprintf(to, TEXT, "MIG-00000000-0000-4000-8000-%06u%06d", board->index, instance);
}

EXPORT int nvmlDeviceGetHandleByUUID(const char *uuid, Handle *handle) {
    Call call = begin_system(__func__);
    Handle found = NULL;
    for (unsigned b = 0; !call.error && b < scenario.boards; b++) {
        for (int instance = -1; instance < (int)scenario.board[b].mig; instance++) {
            char name[TEXT];
            instance_uuid(name, &scenario.board[b], instance);
            if (!strcmp(name, uuid)) found = &devices[b][instance + 1];
        }
    }
    if (found) *handle = found;
    else if (!call.error) call.error = NOT_FOUND;
    return end(&call);
}

static void bus_id(char *to, size_t size, const Board *board) { snprintf(to, size, "00000000:%02X:00.0", board->index + 1); }

EXPORT int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Handle *handle) {
    Call call = begin_system(__func__);
    Handle found = NULL;
    for (unsigned b = 0; !call.error && b < scenario.boards; b++) {
        char name[32];
        bus_id(name, sizeof name, &scenario.board[b]);
        if (!strcmp(name, id)) found = &devices[b][0];
    }
    if (found) *handle = found;
    else if (!call.error) call.error = NOT_FOUND;
    return end(&call);
}

EXPORT int nvmlDeviceGetName(Handle handle, char *name, unsigned size) {
    Call call = begin_any(__func__, handle);
    if (!call.error && call.instance >= 0) return text(&call, name, size, "%s MIG 1g.10gb", call.board->name);
    return text(&call, name, size, "%s", call.error ? "" : call.board->name);
}

EXPORT int nvmlDeviceGetUUID(Handle handle, char *uuid, unsigned size) {
    Call call = begin_any(__func__, handle);
    char name[TEXT] = "";
    if (!call.error) instance_uuid(name, call.board, call.instance);
    return text(&call, uuid, size, "%s", name);
}

EXPORT int nvmlDeviceGetIndex(Handle handle, unsigned *index) {
    Call call = begin_any(__func__, handle);
    return number(&call, index, call.error ? 0 : call.instance < 0 ? (int)call.board->index : call.instance);
}

EXPORT int nvmlDeviceGetPciInfo_v3(Handle handle, PciInfo *info) {
    Call call = begin(__func__, handle);
    if (!call.error) {
        *info = (PciInfo){.bus = call.board->index + 1, .device_id = 0x233010de};
        bus_id(info->bus_id, sizeof info->bus_id, call.board);
        snprintf(info->bus_id_legacy, sizeof info->bus_id_legacy, "0000:%02X:00.0", (info->bus & 0xff));
    }
    return end(&call);
}

EXPORT int nvmlDeviceGetVbiosVersion(Handle handle, char *version, unsigned size) {
    Call call = begin(__func__, handle);
    return text(&call, version, size, "%s", call.error ? "" : call.board->vbios);
}

static double power_usage_w(Board *board, double at) {
    double watts = board_power_w(board, at, board->instant ? POWER_INSTANT_S : POWER_AVERAGE_S);
    return board_told(board, POWER_USAGE, at, watts);
}

static double temperature_c(const Board *board, double at) {
    return board_told(board, TEMPERATURE, at, series_value(&board->temperature_c, at));
}

#define CONSTANT(NAME, VALUE)                                  \
    EXPORT int NAME(Handle handle, unsigned *value) {          \
        Call call = begin(__func__, handle);                   \
        return number(&call, value, call.error ? 0 : (VALUE)); \
    }

CONSTANT(nvmlDeviceGetCurrPcieLinkGeneration, call.board->pcie_generation)
CONSTANT(nvmlDeviceGetCurrPcieLinkWidth, call.board->pcie_width)
CONSTANT(nvmlDeviceGetMaxPcieLinkGeneration, call.board->pcie_generation)
CONSTANT(nvmlDeviceGetMaxPcieLinkWidth, call.board->pcie_width)
CONSTANT(nvmlDeviceGetArchitecture, 9) /* Hopper */
CONSTANT(nvmlDeviceGetPersistenceMode, call.board->persistence)
CONSTANT(nvmlDeviceGetComputeMode, call.board->compute_mode)
CONSTANT(nvmlDeviceGetMaxMigDeviceCount, call.board->mig ? MAX_MIG - 1 : 0)
CONSTANT(nvmlDeviceGetRetiredPagesPendingStatus, 0)
CONSTANT(nvmlDeviceGetEnforcedPowerLimit, 1000 * series_value(&call.board->limit_w, call.at))
CONSTANT(nvmlDeviceGetPowerManagementLimit, 1000 * series_value(&call.board->limit_w, call.at))
CONSTANT(nvmlDeviceGetPowerManagementDefaultLimit, 1000 * call.board->default_limit_w)
CONSTANT(nvmlDeviceGetPowerUsage, 1000 * power_usage_w(call.board, call.at))

EXPORT int nvmlDeviceGetCudaComputeCapability(Handle handle, int *major, int *minor) {
    Call call = begin_any(__func__, handle);
    if (!call.error) *major = 9, *minor = 0;
    return end(&call);
}

/* Zeus asks for it: whether the board is a part of a Grace Hopper. */
EXPORT int nvmlDeviceGetC2cModeInfoV(Handle handle, void *info) {
    (void)info;
    Call call = begin(__func__, handle);
    if (!call.error) call.error = NOT_SUPPORTED;
    return end(&call);
}

EXPORT int nvmlDeviceGetVirtualizationMode(Handle handle, unsigned *mode) {
    Call call = begin(__func__, handle);
    return number(&call, mode, call.error ? 0 : call.board->virtualization);
}

/* -- energy and power */

EXPORT int nvmlDeviceGetTotalEnergyConsumption(Handle handle, unsigned long long *millijoules) {
    Call call = begin(__func__, handle);
    if (!call.error) *millijoules = board_counter_mj(call.board, call.at);
    return end(&call);
}

static double throttled_ns(const Call *call, Throttle kind) { return NS * board_throttled_s(call->board, kind, call->at); }

static void put(FieldValue *value, double number) {
    value->type = TYPE_UNSIGNED;
    value->value.u = (unsigned)llround(number);
}

static void put_long(FieldValue *value, double number) {
    value->type = TYPE_UNSIGNED_LONG_LONG;
    value->value.ull = (unsigned long long)llround(number);
}

static void field(const Call *call, FieldValue *value) {
    Board *board = call->board;
    char symbol[24];
    snprintf(symbol, sizeof symbol, "field:%u", value->field);
    value->timestamp = (int64_t)stamp_us(call->at);
    value->latency_us = 0;
    value->value = (Value){.ull = 0};
    value->result = failure_of(symbol, board, call->at);
    if (value->result) return;
    bool whole_board = !value->scope;
    double watts;
    switch (value->field) {
    case FIELD_ECC_CURRENT: put(value, board->ecc); break;
    case FIELD_SBE:
    case FIELD_SBE_AGGREGATE: put_long(value, 0); break;
    case FIELD_DBE:
    case FIELD_DBE_AGGREGATE: put_long(value, series_value(&board->ecc_uncorrected, call->at)); break;
    case FIELD_SW_POWER_CAP: put_long(value, throttled_ns(call, SW_POWER_CAP)); break;
    case FIELD_SYNC_BOOST: put_long(value, throttled_ns(call, SYNC_BOOST)); break;
    case FIELD_SW_THERMAL: put_long(value, throttled_ns(call, SW_THERMAL)); break;
    case FIELD_HW_THERMAL: put_long(value, throttled_ns(call, HW_THERMAL)); break;
    case FIELD_POWER_BRAKE: put_long(value, throttled_ns(call, POWER_BRAKE)); break;
    case FIELD_MEMORY_TEMPERATURE: put(value, temperature_c(board, call->at) + 5); break;
    case FIELD_TOTAL_ENERGY:
    case FIELD_ENERGY: put_long(value, (double)board_counter_mj(board, call->at)); break;
    case FIELD_POWER_AVERAGE:
        watts = board_told(board, POWER_AVERAGE, call->at, board_power_w(board, call->at, POWER_AVERAGE_S));
        if (whole_board) put(value, 1000 * watts);
        break;
    case FIELD_POWER_INSTANT:
        watts = board_told(board, POWER_INSTANT, call->at, board_power_w(board, call->at, POWER_INSTANT_S));
        if (whole_board) put(value, 1000 * watts);
        break;
    case FIELD_POWER_MIN: put(value, 200e3); break;
    case FIELD_POWER_MAX:
    case FIELD_POWER_DEFAULT: put(value, 1000 * board->default_limit_w); break;
    case FIELD_POWER_LIMIT:
    case FIELD_POWER_REQUESTED: put(value, 1000 * series_value(&board->limit_w, call->at)); break;
    default: value->result = NOT_SUPPORTED;
    }
    if (!whole_board) value->result = NOT_SUPPORTED;
}

EXPORT int nvmlDeviceGetFieldValues(Handle handle, int count, FieldValue *values) {
    Call call = begin(__func__, handle);
    for (int i = 0; !call.error && i < count; i++) field(&call, &values[i]);
    return end(&call);
}

EXPORT int nvmlDeviceGetSamples(Handle handle, int type, unsigned long long after_us, int *value_type, unsigned *count,
                                Sample *samples) {
    Call call = begin(__func__, handle);
    if (!call.error && type != 0) call.error = NOT_SUPPORTED; /* power alone */
    if (call.error) return end(&call);
    *value_type = TYPE_UNSIGNED;
    long long last = board_update(call.board, call.at);
    long long first = last - SAMPLES_KEPT + 1 > 0 ? last - SAMPLES_KEPT + 1 : 0;
    while (first <= last && stamp_us(board_update_at(call.board, first)) <= after_us) first++;
    unsigned found = last < first ? 0 : (unsigned)(last - first + 1);
    if (!found) call.error = NOT_FOUND;
    for (unsigned i = 0; samples && i < found && i < *count; i++) {
        double at = board_update_at(call.board, first + i);
        samples[i].timestamp = stamp_us(at);
        samples[i].value.ull = 0;
        samples[i].value.u = (unsigned)llround(1000 * board_power_w(call.board, at, POWER_INSTANT_S));
    }
    *count = samples && *count < found ? *count : found;
    return end(&call);
}

EXPORT int nvmlDeviceGetPowerManagementLimitConstraints(Handle handle, unsigned *least, unsigned *most) {
    Call call = begin(__func__, handle);
    if (!call.error) *least = 200000, *most = (unsigned)(1000 * call.board->default_limit_w);
    return end(&call);
}

/* -- clocks, throttling, temperature, utilisation */

static int clock_mhz(Call *call, int type, unsigned *mhz, bool most) {
    if (!call->error && (type < 0 || type > 3)) call->error = INVALID_ARGUMENT;
    if (call->error) return end(call);
    const Board *board = call->board;
    double sm = series_value(&board->sm_mhz, call->at), memory = series_value(&board->memory_mhz, call->at);
    sm = most ? board->max_sm_mhz : board_told(board, SM_CLOCK, call->at, sm);
    memory = most ? memory : board_told(board, MEMORY_CLOCK, call->at, memory);
    return number(call, mhz, type == 2 ? memory : sm);
}

EXPORT int nvmlDeviceGetClockInfo(Handle handle, int type, unsigned *mhz) {
    Call call = begin(__func__, handle);
    return clock_mhz(&call, type, mhz, false);
}

EXPORT int nvmlDeviceGetMaxClockInfo(Handle handle, int type, unsigned *mhz) {
    Call call = begin(__func__, handle);
    return clock_mhz(&call, type, mhz, true);
}

EXPORT int nvmlDeviceGetApplicationsClock(Handle handle, int type, unsigned *mhz) {
    Call call = begin(__func__, handle);
    int error = clock_mhz(&call, type, mhz, true);
    if (!error && type != 2 && call.board->application_mhz) *mhz = (unsigned)call.board->application_mhz;
    return error;
}

EXPORT int nvmlDeviceGetDefaultApplicationsClock(Handle handle, int type, unsigned *mhz) {
    Call call = begin(__func__, handle);
    return clock_mhz(&call, type, mhz, true);
}

static int reasons(Call *call, unsigned long long *mask) {
    if (!call->error) {
        *mask = 0;
        for (int kind = 0; kind < THROTTLE_KINDS; kind++) {
            if (board_throttles(call->board, (Throttle)kind, call->at)) *mask |= REASON[kind];
        }
        if (*mask & (REASON[HW_THERMAL] | REASON[POWER_BRAKE])) *mask |= REASON[HW_SLOWDOWN];
        *mask = (unsigned long long)board_told(call->board, REASONS, call->at, (double)*mask);
    }
    return end(call);
}

EXPORT int nvmlDeviceGetCurrentClocksEventReasons(Handle handle, unsigned long long *mask) {
    Call call = begin(__func__, handle);
    return reasons(&call, mask);
}

EXPORT int nvmlDeviceGetCurrentClocksThrottleReasons(Handle handle, unsigned long long *mask) {
    Call call = begin(__func__, handle);
    return reasons(&call, mask);
}

EXPORT int nvmlDeviceGetViolationStatus(Handle handle, int policy, ViolationTime *time) {
    Call call = begin(__func__, handle);
    if (!call.error && policy > 2) call.error = NOT_SUPPORTED;
    if (!call.error) {
        double ns = policy == 0   ? throttled_ns(&call, SW_POWER_CAP)
                    : policy == 1 ? throttled_ns(&call, SW_THERMAL) + throttled_ns(&call, HW_THERMAL)
                                  : throttled_ns(&call, SYNC_BOOST);
        *time = (ViolationTime){stamp_us(call.at) * 1000, (unsigned long long)llround(ns)};
    }
    return end(&call);
}

EXPORT int nvmlDeviceGetTemperatureV(Handle handle, Temperature *temperature) {
    Call call = begin(__func__, handle);
    if (!call.error && temperature->version != (sizeof(Temperature) | 1u << 24)) call.error = ARGUMENT_VERSION_MISMATCH;
    if (!call.error) temperature->temperature = (int)temperature_c(call.board, call.at);
    return end(&call);
}

EXPORT int nvmlDeviceGetTemperature(Handle handle, int sensor, unsigned *celsius) {
    Call call = begin(__func__, handle);
    if (!call.error && sensor != 0) call.error = INVALID_ARGUMENT;
    if (!call.error) *celsius = (unsigned)temperature_c(call.board, call.at);
    return end(&call);
}

EXPORT int nvmlDeviceGetTemperatureThreshold(Handle handle, int threshold, unsigned *celsius) {
    Call call = begin(__func__, handle);
    if (!call.error && threshold > 3) call.error = NOT_SUPPORTED;
    return number(&call, celsius, threshold == 0 ? 92 : 87);
}

static double utilisation(Board *board, double at) {
    if (!board->load_path[0]) return board_told(board, UTILISATION, at, series_value(&board->utilisation, at));
    return 100 * board_load_s(board, at - UTILISATION_S, at) / UTILISATION_S;
}

EXPORT int nvmlDeviceGetUtilizationRates(Handle handle, Utilization *rates) {
    Call call = begin_without_mig(__func__, handle);
    const Board *board = call.board;
    bool told = call.error || board->load_path[0] || board->utilisation.count || board->told[UTILISATION].count;
    if (!told) call.error = NOT_SUPPORTED;
    if (!call.error) {
        rates->gpu = (unsigned)llround(utilisation(call.board, call.at));
        rates->memory = rates->gpu / 2;
    }
    return end(&call);
}

/* -- GPM: averages between two samples */

EXPORT int nvmlGpmQueryDeviceSupport(Handle handle, GpmSupport *support) {
    Call call = begin_any(__func__, handle);
    if (!call.error) support->supported = call.board->gpm;
    return end(&call);
}

EXPORT int nvmlGpmSampleAlloc(GpmSample *sample) {
    Call call = begin_system(__func__);
    if (!call.error) *sample = calloc(1, sizeof **sample);
    return end(&call);
}

EXPORT int nvmlGpmSampleFree(GpmSample sample) {
    Call call = begin_system(__func__);
    free(sample);
    return end(&call);
}

EXPORT int nvmlGpmSampleGet(Handle handle, GpmSample sample) {
    Call call = begin_any(__func__, handle);
    if (!call.error && !call.board->gpm) call.error = NOT_SUPPORTED;
    if (!call.error) sample->board = call.board, sample->at = call.at;
    return end(&call);
}

EXPORT int nvmlGpmMetricsGet(GpmMetrics *asked) {
    Call call = begin_system(__func__);
    if (!call.error && asked->version != 1) call.error = ARGUMENT_VERSION_MISMATCH;
    if (!call.error && (!asked->first || !asked->second || !asked->first->board)) call.error = INVALID_ARGUMENT;
    if (call.error) return end(&call);
    Board *board = asked->first->board;
    double from = asked->first->at, to = asked->second->at;
    if (to - from < 0.1) call.error = NOT_READY; /* what a driver says is not known: nvml.h only asks for 100 ms */
    for (unsigned i = 0; !call.error && i < asked->count; i++) {
        GpmMetric *metric = &asked->metrics[i];
        double busy = board->load_path[0] ? 100 * board_load_s(board, from, to) : series_area(&board->utilisation, from, to);
        metric->result = metric->id <= 13 ? SUCCESS : NOT_SUPPORTED;
        metric->value = metric->id == 1 ? busy / (to - from) : 0.8 * busy / (to - from);
    }
    return end(&call);
}

/* -- memory and processes */

static size_t processes_at(Board *board, double at, ProcessKind kind, ProcessInfo *found, size_t room) {
    size_t count = 0;
    for (size_t i = 0; i < board->processes.count && count < room; i++) {
        const Process *process = &board->processes.items[i];
        if (process->kind != kind || !within(process->span, at)) continue;
        found[count++] = (ProcessInfo){process->pid, (unsigned long long)(process->mib * MIB), ~0u, ~0u};
    }
    unsigned engines[64];
    size_t running = kind == COMPUTE ? board_engines(board, engines, 64) : 0;
    for (size_t i = 0; i < running && count < room; i++) {
        found[count++] = (ProcessInfo){engines[i], (unsigned long long)(ENGINE_MIB * MIB), ~0u, ~0u};
    }
    return count;
}

static double used_mib(Board *board, double at) {
    ProcessInfo found[256];
    double mib = series_value(&board->used_mib, at);
    for (int kind = COMPUTE; kind <= MPS; kind++) {
        size_t count = processes_at(board, at, (ProcessKind)kind, found, 256);
        for (size_t i = 0; i < count; i++) mib += (double)found[i].used_memory / MIB;
    }
    return mib < board->total_mib ? mib : board->total_mib;
}

EXPORT int nvmlDeviceGetMemoryInfo(Handle handle, Memory *memory) {
    Call call = begin_any(__func__, handle);
    if (!call.error) {
        memory->total = (unsigned long long)(call.board->total_mib * MIB);
        memory->used = (unsigned long long)(used_mib(call.board, call.at) * MIB);
        memory->free = memory->total - memory->used;
    }
    return end(&call);
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(Handle handle, MemoryV2 *memory) {
    Call call = begin_any(__func__, handle);
    if (!call.error && memory->version != (sizeof(MemoryV2) | 2u << 24)) call.error = ARGUMENT_VERSION_MISMATCH;
    if (!call.error) {
        memory->total = (unsigned long long)(call.board->total_mib * MIB);
        memory->reserved = (unsigned long long)(512 * MIB);
        memory->used = (unsigned long long)(used_mib(call.board, call.at) * MIB);
        memory->free = memory->total > memory->used + memory->reserved ? memory->total - memory->used - memory->reserved : 0;
    }
    return end(&call);
}

static int running(Call *call, ProcessKind kind, unsigned *count, ProcessInfo *processes) {
    if (!call->error && call->board->mig && call->instance < 0) call->error = NO_PERMISSION;
    if (call->error) return end(call);
    ProcessInfo found[256];
    size_t there = processes_at(call->board, call->at, kind, found, 256);
    if (there > *count || (there && !processes)) call->error = INSUFFICIENT_SIZE;
    else if (there) memcpy(processes, found, there * sizeof *found);
    *count = (unsigned)there;
    return end(call);
}

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *processes) {
    Call call = begin_any(__func__, handle);
    return running(&call, COMPUTE, count, processes);
}

EXPORT int nvmlDeviceGetGraphicsRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *processes) {
    Call call = begin_any(__func__, handle);
    return running(&call, GRAPHICS, count, processes);
}

EXPORT int nvmlDeviceGetMPSComputeRunningProcesses_v3(Handle handle, unsigned *count, ProcessInfo *processes) {
    Call call = begin_any(__func__, handle);
    return running(&call, MPS, count, processes);
}

EXPORT int nvmlDeviceGetProcessUtilization(Handle handle, ProcessUtilization *samples, unsigned *count,
                                           unsigned long long after_us) {
    (void)after_us;
    Call call = begin_without_mig(__func__, handle);
    if (call.error) return end(&call);
    ProcessInfo found[256];
    unsigned there = (unsigned)processes_at(call.board, call.at, COMPUTE, found, 256);
    if (!there) call.error = NOT_FOUND;
    else if (there > *count || !samples) call.error = INSUFFICIENT_SIZE;
    for (unsigned i = 0; !call.error && i < there; i++) {
        unsigned share = (unsigned)(utilisation(call.board, call.at) / there);
        samples[i] = (ProcessUtilization){found[i].pid, stamp_us(call.at), share, share / 2, 0, 0};
    }
    *count = there;
    return end(&call);
}

/* -- health */

EXPORT int nvmlDeviceGetTotalEccErrors(Handle handle, int type, int counter, unsigned long long *errors) {
    (void)counter;
    Call call = begin(__func__, handle);
    if (!call.error && !call.board->ecc) call.error = NOT_SUPPORTED;
    if (!call.error) *errors = type == 1 ? (unsigned long long)series_value(&call.board->ecc_uncorrected, call.at) : 0;
    return end(&call);
}

EXPORT int nvmlDeviceGetEccMode(Handle handle, int *current, int *pending) {
    Call call = begin(__func__, handle);
    if (!call.error) *current = *pending = call.board->ecc;
    return end(&call);
}

EXPORT int nvmlDeviceGetRemappedRows(Handle handle, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                                     unsigned *failed) {
    Call call = begin_without_mig(__func__, handle);
    if (!call.error) *corrected = *uncorrected = *pending = *failed = 0;
    return end(&call);
}

EXPORT int nvmlDeviceGetSupportedEventTypes(Handle handle, unsigned long long *types) {
    Call call = begin(__func__, handle);
    if (!call.error) *types = XID_CRITICAL;
    return end(&call);
}

EXPORT int nvmlEventSetCreate(EventSet *set) {
    Call call = begin_system(__func__);
    if (!call.error) *set = calloc(1, sizeof **set);
    return end(&call);
}

EXPORT int nvmlDeviceRegisterEvents(Handle handle, unsigned long long types, EventSet set) {
    Call call = begin(__func__, handle);
    if (!call.error && types & ~(unsigned long long)XID_CRITICAL) call.error = NOT_SUPPORTED;
    if (!call.error) set->watched[call.board->index] = true, set->since[call.board->index] = call.at;
    return end(&call);
}

EXPORT int nvmlEventSetWait_v2(EventSet set, EventData *event, unsigned timeout_ms) {
    for (double left = timeout_ms / 1e3;; left -= 0.001) {
        Call call = begin_system(__func__);
        const Xid *first = NULL;
        for (unsigned b = 0; !call.error && b < scenario.boards; b++) {
            for (size_t i = 0; set->watched[b] && i < scenario.board[b].xids.count; i++) {
                const Xid *xid = &scenario.board[b].xids.items[i];
                if (xid->at <= set->since[b] || xid->at > call.at || (first && first->at <= xid->at)) continue;
                first = xid;
                *event = (EventData){&devices[b][0], XID_CRITICAL, xid->code, ~0u, ~0u};
            }
        }
        if (first) set->since[event->device->board->index] = first->at;
        else if (!call.error) call.error = TIMEOUT;
        if (end(&call) != TIMEOUT || left <= 0) return call.error;
        pass(0.001);
    }
}

EXPORT int nvmlEventSetFree(EventSet set) {
    Call call = begin_system(__func__);
    free(set);
    return end(&call);
}

/* -- MIG */

EXPORT int nvmlDeviceGetMigMode(Handle handle, unsigned *current, unsigned *pending) {
    Call call = begin(__func__, handle);
    if (!call.error) *current = *pending = call.board->mig > 0;
    return end(&call);
}

EXPORT int nvmlDeviceGetMigDeviceHandleByIndex(Handle handle, unsigned index, Handle *instance) {
    Call call = begin(__func__, handle);
    if (!call.error && index >= call.board->mig) call.error = NOT_FOUND;
    if (!call.error) *instance = &devices[call.board->index][index + 1];
    return end(&call);
}

EXPORT int nvmlDeviceIsMigDeviceHandle(Handle handle, unsigned *is_instance) {
    Call call = begin_any(__func__, handle);
    return number(&call, is_instance, call.instance >= 0);
}

EXPORT int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(Handle handle, Handle *board) {
    Call call = begin_any(__func__, handle);
    if (!call.error && call.instance < 0) call.error = INVALID_ARGUMENT;
    if (!call.error) *board = &devices[call.board->index][0];
    return end(&call);
}

static int instance_id(Call *call, unsigned *id) {
    if (!call->error && call->instance < 0) call->error = NOT_SUPPORTED;
    return number(call, id, call->instance);
}

EXPORT int nvmlDeviceGetGpuInstanceId(Handle handle, unsigned *id) {
    Call call = begin_any(__func__, handle);
    return instance_id(&call, id);
}

EXPORT int nvmlDeviceGetComputeInstanceId(Handle handle, unsigned *id) {
    Call call = begin_any(__func__, handle);
    return number(&call, id, 0);
}
