/* A stand-in for NVIDIA's driver library: what its three files share. nvml.c says what it is for, README.md how. */

#ifndef NVML_STUB_H
#define NVML_STUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Results, as nvml.h numbers them. */
enum {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    GPU_IS_LOST = 15,
    ARGUMENT_VERSION_MISMATCH = 25,
    NOT_READY = 27,
};

#define MAX_BOARDS 16
#define MAX_MIG 8
#define TEXT 96
#define FOREVER 1e300

/* A quantity over time: steps, or a straight line towards a point that is marked as a ramp. Times are in seconds since
   the epoch everywhere in these files. */
typedef struct {
    double at, value;
    bool ramp;
    double area; /* integral from the first point to this one */
} Point;

typedef struct {
    Point *points;
    size_t count, room;
} Series;

typedef struct {
    double period_s, duty, watts, phase_s;
} Wave;

typedef struct {
    double from, to;
} Span;

typedef enum { SW_POWER_CAP, HW_SLOWDOWN, SYNC_BOOST, SW_THERMAL, HW_THERMAL, POWER_BRAKE, THROTTLE_KINDS } Throttle;
typedef struct {
    Throttle kind;
    Span span;
    double share; /* of the time in which it really slowed the board down */
} ThrottleEvent;

typedef enum { COMPUTE, GRAPHICS, MPS } ProcessKind;
typedef struct {
    unsigned pid;
    ProcessKind kind;
    Span span;
    double mib;
    char name[TEXT];
} Process;

typedef struct {
    double at;
    unsigned code;
} Xid;

#define LIST(type, name) \
    struct {             \
        type *items;     \
        size_t count, room; \
    } name

typedef struct {
    int64_t ns;
    unsigned pid;
    double load;
} LoadRecord;

/* What a recording may hold beside joules or watts, in a column each. */
typedef enum {
    POWER_USAGE, POWER_AVERAGE, POWER_INSTANT, SM_CLOCK, MEMORY_CLOCK, TEMPERATURE, REASONS, UTILISATION, REPLAYED
} Replayed;

typedef struct {
    unsigned index;
    char name[TEXT], uuid[TEXT], vbios[TEXT];
    double total_mib, default_limit_w, max_sm_mhz, application_mhz;
    unsigned pcie_generation, pcie_width;
    bool persistence, ecc, gpm;
    unsigned mig; /* instances; 0 is MIG off */
    unsigned compute_mode, virtualization;

    Series power_w, temperature_c, sm_mhz, memory_mhz, limit_w, utilisation, used_mib, ecc_uncorrected;
    LIST(Wave, waves);
    LIST(ThrottleEvent, throttles);
    LIST(Process, processes);
    LIST(Xid, xids);
    LIST(double, resets);
    LIST(Span, stuck);
    LIST(Span, lost);

    double period_s, jitter, phase_s, gain;
    double sensor_s; /* of each period, at its end, that the sensor sees; 0: all of it */
    bool instant;    /* GetPowerUsage is instantaneous, as before Ampere */

    char load_path[512];
    double idle_w, busy_w;
    long load_read; /* bytes */
    LIST(LoadRecord, records);
    LIST(LoadRecord, engines); /* the last word of each */
    LIST(LoadRecord, ends);    /* of batches, that may yet turn out to be no pause */
    Series load;
    long long settled; /* the last update that was read, and what it was */
    double settled_joules;

    Series replay; /* watts over one pass */
    double *replay_ticks;
    double replay_s;
    Series told[REPLAYED]; /* what else was recorded in that time */

    long long tick_known; /* of a part-time sensor: joules summed up to this tick */
    double tick_joules;
} Board;

typedef struct {
    char symbol[TEXT]; /* without the prefix nvml; a * at its end stands for anything */
    int board;         /* -1: all */
    int error;
    Span span;
} Failure;

typedef struct {
    char symbol[TEXT];
    double seconds, jitter;
} Delay;

typedef struct {
    char driver[TEXT];
    int cuda;
    int init_error;
    uint64_t seed;
    int64_t epoch_ns;
    char clock_path[512];
    unsigned boards;
    Board board[MAX_BOARDS];
    LIST(Failure, failures);
    LIST(Delay, delays);
} Scenario;

extern Scenario scenario;

#define APPEND(list, item) (grow((void **)&(list).items, &(list).room, (list).count, sizeof *(list).items), \
                            (list).items[(list).count++] = (item))

void grow(void **items, size_t *room, size_t count, size_t size);

/* scenario.c: reads a scenario, or one more statement. Both return NULL, or what is wrong. */
const char *scenario_read(const char *path);
const char *scenario_say(const char *statement);
void scenario_free(void);
int error_named(const char *name); /* -1: there is none */
const char *error_name(int error);

/* board.c: what a board does. */
void series_add(Series *series, double at, double value, bool ramp);
double series_value(const Series *series, double at);
double series_area(const Series *series, double from, double to);
double unit_hash(uint64_t seed, uint64_t number); /* in [0, 1) */
bool within(Span span, double at);
double board_joules(Board *board, double at); /* truly, since the epoch */
uint64_t board_counter_mj(Board *board, double at);
double board_power_w(Board *board, double at, double window_s); /* as the sensor says: mean of a window before its update */
double board_told(const Board *board, Replayed column, double at, double otherwise); /* as recorded, where it was */
long long board_update(const Board *board, double at);          /* number of the last update; -1: none yet */
double board_update_at(const Board *board, long long number);
double board_throttled_s(const Board *board, Throttle kind, double at);
bool board_throttles(const Board *board, Throttle kind, double at);
double board_load_s(Board *board, double from, double to); /* integral of the load, 0 to 1 */
size_t board_engines(Board *board, unsigned *pids, size_t room);

/* nvml.c */
int64_t stub_now_ns(void);

#endif
