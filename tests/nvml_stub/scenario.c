/* Reads a scenario: one statement a line, `#` begins a comment. README.md lists the statements. */

#include "stub.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WORDS 16

Scenario scenario;
static char problem[512];

static const struct {
    const char *name;
    int error;
} ERRORS[] = {
    {"SUCCESS", 0}, {"UNINITIALIZED", 1}, {"INVALID_ARGUMENT", 2}, {"NOT_SUPPORTED", 3}, {"NO_PERMISSION", 4},
    {"ALREADY_INITIALIZED", 5}, {"NOT_FOUND", 6}, {"INSUFFICIENT_SIZE", 7}, {"INSUFFICIENT_POWER", 8},
    {"DRIVER_NOT_LOADED", 9}, {"TIMEOUT", 10}, {"IRQ_ISSUE", 11}, {"LIBRARY_NOT_FOUND", 12}, {"FUNCTION_NOT_FOUND", 13},
    {"CORRUPTED_INFOROM", 14}, {"GPU_IS_LOST", 15}, {"RESET_REQUIRED", 16}, {"OPERATING_SYSTEM", 17},
    {"LIB_RM_VERSION_MISMATCH", 18}, {"IN_USE", 19}, {"MEMORY", 20}, {"NO_DATA", 21}, {"VGPU_ECC_NOT_SUPPORTED", 22},
    {"INSUFFICIENT_RESOURCES", 23}, {"FREQ_NOT_SUPPORTED", 24}, {"ARGUMENT_VERSION_MISMATCH", 25}, {"DEPRECATED", 26},
    {"NOT_READY", 27}, {"GPU_NOT_FOUND", 28}, {"INVALID_STATE", 29}, {"UNKNOWN", 999},
};

int error_named(const char *name) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) {
        if (!strcmp(ERRORS[i].name, name)) return ERRORS[i].error;
    }
    return -1;
}

const char *error_name(int error) {
    for (size_t i = 0; i < sizeof ERRORS / sizeof *ERRORS; i++) {
        if (ERRORS[i].error == error) return ERRORS[i].name;
    }
    return "an error without a name";
}

/* -- words */

typedef struct {
    char *word[MAX_WORDS];
    int count;
    char *rest; /* the line from its second word on, for names with spaces */
} Line;

static bool wrong(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(problem, sizeof problem, format, arguments);
    va_end(arguments);
    return false;
}

static bool number(const char *text, double *value) {
    char *end;
    *value = strtod(text, &end);
    if (end == text || *end || !isfinite(*value)) return wrong("%s is not a number", text);
    return true;
}

static bool number_from(const char *text, double least, double *value) {
    if (!number(text, value)) return false;
    return *value >= least || wrong("%s is less than %g", text, least);
}

static bool whole(const char *text, unsigned *value) {
    double read;
    if (!number_from(text, 0, &read)) return false;
    if (read != floor(read) || read > 4294967295.0) return wrong("%s is not a whole number", text);
    *value = (unsigned)read;
    return true;
}

static bool copy(char *to, size_t size, const char *text) {
    if (strlen(text) >= size) return wrong("%s is longer than %zu bytes", text, size - 1);
    memcpy(to, text, strlen(text) + 1);
    return true;
}

static bool onoff(const char *text, bool *value) {
    *value = !strcmp(text, "on");
    return *value || !strcmp(text, "off") || wrong("%s is neither on nor off", text);
}

/* [FROM [TO]] from the word at `first` on; TO may be -. */
static bool span(const Line *line, int first, Span *span) {
    span->from = 0, span->to = FOREVER;
    if (line->count > first && !number(line->word[first], &span->from)) return false;
    if (line->count <= first + 1 || !strcmp(line->word[first + 1], "-")) return true;
    if (!number(line->word[first + 1], &span->to)) return false;
    return span->to > span->from || wrong("it ends before it begins");
}

static bool choice(const char *text, const char *const *names, int count, int *value) {
    for (*value = 0; *value < count; ++*value) {
        if (!strcmp(names[*value], text)) return true;
    }
    char known[200] = "";
    for (int i = 0; i < count; i++) {
        strncat(known, i ? ", " : "", sizeof known - strlen(known) - 1);
        strncat(known, names[i], sizeof known - strlen(known) - 1);
    }
    return wrong("%s is none of %s", text, known);
}

/* -- statements of a board */

static bool point(const Line *line, Series *series) {
    double at, value;
    bool ramp = line->count == 4;
    if (!number(line->word[1], &at) || !number_from(line->word[2], 0, &value)) return false;
    if (ramp && strcmp(line->word[3], "ramp")) return wrong("%s is not ramp", line->word[3]);
    if (series->count && at <= series->points[series->count - 1].at) return wrong("the times must rise");
    if (ramp && !series->count) return wrong("there is no point before to ramp from");
    series_add(series, at, value, ramp);
    return true;
}

typedef struct {
    const char *path;
    bool joules, ticks;
    int column[REPLAYED], columns; /* from the third on */
    size_t rows, room;             /* of joules or watts */
    double first, last, before;
} Recording;

static const char *const COLUMNS[] = {
    "power_usage", "power_average", "power_instant", "sm_clock", "memory_clock", "temperature", "reasons", "utilisation",
};

static bool recording_head(Recording *recording, char *text) {
    char *first = strsep(&text, ","), *second = strsep(&text, ",");
    recording->joules = second && !strcmp(second, "joules");
    if (strcmp(first, "seconds") || !second || (!recording->joules && strcmp(second, "watts"))) {
        return wrong("%s begins with neither seconds,joules nor seconds,watts", recording->path);
    }
    for (char *name; (name = strsep(&text, ","));) {
        if (recording->columns == REPLAYED) return wrong("%s has too many columns", recording->path);
        if (!choice(name, COLUMNS, REPLAYED, &recording->column[recording->columns++])) return false;
    }
    return true;
}

static bool recorded(Board *board, Recording *recording, double at, double value) {
    bool joules = recording->joules;
    if (recording->rows && (at <= recording->last || (joules && value < recording->before))) {
        return wrong("the times%s must rise", joules ? " and joules" : "");
    }
    if (!recording->rows) recording->first = at;
    double begin = recording->last - recording->first, length = at - recording->last;
    if (joules && recording->rows) series_add(&board->replay, begin, (value - recording->before) / length, false);
    if (!joules) series_add(&board->replay, at - recording->first, value, false);
    if (recording->ticks) {
        grow((void **)&board->replay_ticks, &recording->room, recording->rows, sizeof(double));
        board->replay_ticks[recording->rows] = at - recording->first;
    }
    recording->rows++, recording->last = at, recording->before = value;
    return true;
}

/* An empty cell was not read at this time. What else is told before the first joules is of no pass. */
static bool recording_row(Board *board, Recording *recording, char *text) {
    double at, value;
    char *first = strsep(&text, ","), *cell = strsep(&text, ",");
    if (!number(first, &at)) return false;
    if (!cell) return wrong("there is nothing but a time");
    if (*cell && (!number(cell, &value) || !recorded(board, recording, at, value))) return false;
    int column = 0;
    for (; (cell = strsep(&text, ",")); column++) {
        if (column == recording->columns) return wrong("it has more cells than the head");
        if (!*cell || !recording->rows) continue;
        Series *series = &board->told[recording->column[column]];
        if (!number_from(cell, 0, &value)) return false;
        at -= recording->first;
        if (series->count && at <= series->points[series->count - 1].at) return wrong("the times must rise");
        series_add(series, at, value, false);
        at += recording->first;
    }
    return true;
}

static bool replay(Board *board, const Line *line) {
    Recording recording = {.path = line->word[1], .ticks = line->count == 3};
    if (recording.ticks && strcmp(line->word[2], "ticks")) return wrong("%s is not ticks", line->word[2]);
    FILE *file = fopen(recording.path, "r");
    if (!file) return wrong("%s can't be opened", recording.path);
    char text[512], what[sizeof problem];
    bool fine = true, header = true;
    for (int row = 1; fine && fgets(text, sizeof text, file); row++) {
        text[strcspn(text, "\r\n")] = 0;
        if (!text[0] || text[0] == '#') continue;
        if (header) fine = recording_head(&recording, text);
        else if (!recording_row(board, &recording, text)) {
            snprintf(what, sizeof what, "%s", problem);
            fine = wrong("%.150s, row %d: %.250s", recording.path, row, what);
        }
        header = false;
    }
    fclose(file);
    if (!fine) return false;
    if (recording.rows < 2) return wrong("%s has fewer than two rows", recording.path);
    board->replay_s = recording.last - recording.first;
    return true;
}

static const char *const THROTTLES[] = {"sw_power_cap", "hw_slowdown", "sync_boost", "sw_thermal", "hw_thermal", "power_brake"};
static const char *const KINDS[] = {"compute", "graphics", "mps"};
static const char *const READINGS[] = {"average", "instant"};

static bool throttle(Board *board, const Line *line) {
    ThrottleEvent event = {.share = 1};
    int kind;
    if (!choice(line->word[1], THROTTLES, THROTTLE_KINDS, &kind) || !span(line, 2, &event.span)) return false;
    if (line->count == 5 && !number_from(line->word[4], 0, &event.share)) return false;
    event.kind = (Throttle)kind;
    APPEND(board->throttles, event);
    return true;
}

static bool process(Board *board, const Line *line) {
    Process process = {.mib = 1024};
    int kind = COMPUTE;
    if (!whole(line->word[1], &process.pid) || !span(line, 2, &process.span)) return false;
    if (line->count > 4 && !choice(line->word[4], KINDS, 3, &kind)) return false;
    if (line->count > 5 && !number_from(line->word[5], 0, &process.mib)) return false;
    if (!copy(process.name, sizeof process.name, line->count > 6 ? line->word[6] : "")) return false;
    process.kind = (ProcessKind)kind;
    APPEND(board->processes, process);
    return true;
}

static bool wave(Board *board, const Line *line) {
    Wave wave = {0};
    if (!number_from(line->word[1], 1e-9, &wave.period_s) || !number_from(line->word[2], 0, &wave.duty)) return false;
    if (wave.duty > 1) return wrong("a duty is a share, at most 1");
    if (!number(line->word[3], &wave.watts) || (line->count > 4 && !number(line->word[4], &wave.phase_s))) return false;
    APPEND(board->waves, wave);
    return true;
}

static bool load(Board *board, const Line *line) {
    if (!copy(board->load_path, sizeof board->load_path, line->word[1])) return false;
    return number_from(line->word[2], 0, &board->idle_w) && number_from(line->word[3], 0, &board->busy_w);
}

static bool period(Board *board, const Line *line) {
    if (!number_from(line->word[1], 1e-6, &board->period_s)) return false;
    if (line->count > 2 && !number_from(line->word[2], 0, &board->jitter)) return false;
    if (board->jitter >= 1) return wrong("the jitter is a share of the period, below 1");
    return line->count < 4 || number(line->word[3], &board->phase_s);
}

static bool span_of(const Line *line, Span **items, size_t *count, size_t *room) {
    Span read;
    if (!span(line, 1, &read)) return false;
    grow((void **)items, room, *count, sizeof read);
    (*items)[(*count)++] = read;
    return true;
}

static bool reset(Board *board, const Line *line) {
    double at;
    if (!number(line->word[1], &at)) return false;
    APPEND(board->resets, at);
    return true;
}

static bool xid(Board *board, const Line *line) {
    Xid event;
    if (!number(line->word[1], &event.at) || !whole(line->word[2], &event.code)) return false;
    APPEND(board->xids, event);
    return true;
}

static bool pcie(Board *board, const Line *line) {
    return whole(line->word[1], &board->pcie_generation) && whole(line->word[2], &board->pcie_width);
}

static bool reading(Board *board, const Line *line) {
    int kind;
    if (!choice(line->word[1], READINGS, 2, &kind)) return false;
    board->instant = kind == 1;
    return true;
}

static bool board_statement(Board *board, const char *verb, const Line *line) {
    const char *first = line->word[1];
    struct {
        const char *verb;
        Series *series;
    } points[] = {
        {"power", &board->power_w}, {"temperature", &board->temperature_c}, {"sm_clock", &board->sm_mhz},
        {"memory_clock", &board->memory_mhz}, {"power_limit", &board->limit_w}, {"utilisation", &board->utilisation},
        {"memory_used", &board->used_mib}, {"ecc_uncorrected", &board->ecc_uncorrected},
    };
    for (size_t i = 0; i < sizeof points / sizeof *points; i++) {
        if (!strcmp(verb, points[i].verb)) return point(line, points[i].series);
    }
    if (!strcmp(verb, "name")) return copy(board->name, TEXT, line->rest);
    if (!strcmp(verb, "uuid")) return copy(board->uuid, TEXT, first);
    if (!strcmp(verb, "vbios")) return copy(board->vbios, TEXT, first);
    if (!strcmp(verb, "memory_total")) return number_from(first, 1, &board->total_mib);
    if (!strcmp(verb, "default_power_limit")) return number_from(first, 1, &board->default_limit_w);
    if (!strcmp(verb, "max_sm_clock")) return number_from(first, 1, &board->max_sm_mhz);
    if (!strcmp(verb, "application_clock")) return number_from(first, 1, &board->application_mhz);
    if (!strcmp(verb, "pcie")) return pcie(board, line);
    if (!strcmp(verb, "persistence")) return onoff(first, &board->persistence);
    if (!strcmp(verb, "ecc")) return onoff(first, &board->ecc);
    if (!strcmp(verb, "gpm")) return onoff(first, &board->gpm);
    if (!strcmp(verb, "compute_mode")) return whole(first, &board->compute_mode);
    if (!strcmp(verb, "virtualization")) return whole(first, &board->virtualization);
    if (!strcmp(verb, "mig")) {
        return whole(first, &board->mig) && (board->mig <= MAX_MIG || wrong("at most %d instances", MAX_MIG));
    }
    if (!strcmp(verb, "wave")) return wave(board, line);
    if (!strcmp(verb, "load")) return load(board, line);
    if (!strcmp(verb, "replay")) return replay(board, line);
    if (!strcmp(verb, "period")) return period(board, line);
    if (!strcmp(verb, "gain")) return number_from(first, 1e-6, &board->gain);
    if (!strcmp(verb, "sensor")) return number_from(first, 1e-6, &board->sensor_s);
    if (!strcmp(verb, "reading")) return reading(board, line);
    if (!strcmp(verb, "throttle")) return throttle(board, line);
    if (!strcmp(verb, "process")) return process(board, line);
    if (!strcmp(verb, "reset")) return reset(board, line);
    if (!strcmp(verb, "xid")) return xid(board, line);
    if (!strcmp(verb, "stuck")) return span_of(line, &board->stuck.items, &board->stuck.count, &board->stuck.room);
    return span_of(line, &board->lost.items, &board->lost.count, &board->lost.room);
}

/* -- statements of the driver */

static bool fail(const Line *line, int board) {
    Failure failure = {.board = board, .error = error_named(line->word[2])};
    if (failure.error < 0) return wrong("%s is no error of NVML", line->word[2]);
    const char *symbol = line->word[1];
    if (!copy(failure.symbol, TEXT, strncmp(symbol, "nvml", 4) ? symbol : symbol + 4)) return false;
    if (!span(line, 3, &failure.span)) return false;
    APPEND(scenario.failures, failure);
    return true;
}

static bool delay(const Line *line) {
    Delay delay = {.jitter = 0};
    const char *symbol = line->word[1];
    if (!copy(delay.symbol, TEXT, strncmp(symbol, "nvml", 4) ? symbol : symbol + 4)) return false;
    if (!number_from(line->word[2], 0, &delay.seconds)) return false;
    if (line->count > 3 && !number_from(line->word[3], 0, &delay.jitter)) return false;
    if (delay.jitter > 1) return wrong("the jitter is a share of the delay, at most 1");
    APPEND(scenario.delays, delay);
    return true;
}

static bool init_error(const Line *line) {
    scenario.init_error = error_named(line->word[1]);
    return scenario.init_error > 0 || wrong("%s is no error of NVML", line->word[1]);
}

static bool boards(const Line *line) {
    if (!whole(line->word[1], &scenario.boards)) return false;
    return scenario.boards <= MAX_BOARDS || wrong("at most %d boards", MAX_BOARDS);
}

static bool seed(const Line *line) {
    unsigned read;
    if (!whole(line->word[1], &read)) return false;
    scenario.seed = read;
    return true;
}

static bool epoch(const Line *line) {
    char *end;
    scenario.epoch_ns = strtoll(line->word[1], &end, 10);
    return !*end || wrong("%s is no number of nanoseconds", line->word[1]);
}

static bool cuda(const Line *line) {
    unsigned read;
    if (!whole(line->word[1], &read)) return false;
    scenario.cuda = (int)read;
    return true;
}

static const struct {
    const char *verb;
    int least, most; /* words, the verb included */
    bool of_board;
} VERBS[] = {
    {"driver", 2, 2, false}, {"cuda", 2, 2, false}, {"init", 2, 2, false}, {"boards", 2, 2, false},
    {"seed", 2, 2, false}, {"epoch", 2, 2, false}, {"clock", 2, 2, false}, {"delay", 3, 4, false},
    {"board", 2, 2, false}, {"fail", 3, 5, false}, {"missing", 2, 2, false},
    {"name", 2, MAX_WORDS, true}, {"uuid", 2, 2, true}, {"vbios", 2, 2, true}, {"memory_total", 2, 2, true},
    {"default_power_limit", 2, 2, true}, {"max_sm_clock", 2, 2, true}, {"application_clock", 2, 2, true},
    {"pcie", 3, 3, true},
    {"persistence", 2, 2, true}, {"ecc", 2, 2, true}, {"gpm", 2, 2, true}, {"compute_mode", 2, 2, true},
    {"virtualization", 2, 2, true}, {"mig", 2, 2, true}, {"wave", 4, 5, true}, {"load", 4, 4, true},
    {"replay", 2, 3, true}, {"period", 2, 4, true}, {"gain", 2, 2, true}, {"sensor", 2, 2, true},
    {"reading", 2, 2, true}, {"throttle", 2, 5, true}, {"process", 2, 7, true}, {"reset", 2, 2, true},
    {"xid", 3, 3, true}, {"stuck", 2, 3, true}, {"lost", 2, 3, true},
    {"power", 3, 4, true}, {"temperature", 3, 4, true}, {"sm_clock", 3, 4, true}, {"memory_clock", 3, 4, true},
    {"power_limit", 3, 4, true}, {"utilisation", 3, 4, true}, {"memory_used", 3, 4, true},
    {"ecc_uncorrected", 3, 4, true},
};

static bool statement(Line *line, int *current) {
    const char *verb = line->word[0];
    size_t i = 0, known = sizeof VERBS / sizeof *VERBS;
    while (i < known && strcmp(VERBS[i].verb, verb)) i++;
    if (i == known) return wrong("there is no statement %s", verb);
    if (line->count < VERBS[i].least) return wrong("%s needs %d words more", verb, VERBS[i].least - line->count);
    if (line->count > VERBS[i].most) return wrong("%s has %d words too many", verb, line->count - VERBS[i].most);
    if (VERBS[i].of_board) {
        for (unsigned b = 0; b < MAX_BOARDS; b++) {
            if ((*current < 0 || (unsigned)*current == b) && !board_statement(&scenario.board[b], verb, line)) return false;
        }
        return true;
    }
    if (!strcmp(verb, "driver")) return copy(scenario.driver, TEXT, line->word[1]);
    if (!strcmp(verb, "clock")) return copy(scenario.clock_path, sizeof scenario.clock_path, line->word[1]);
    if (!strcmp(verb, "cuda")) return cuda(line);
    if (!strcmp(verb, "init")) return init_error(line);
    if (!strcmp(verb, "boards")) return boards(line);
    if (!strcmp(verb, "seed")) return seed(line);
    if (!strcmp(verb, "epoch")) return epoch(line);
    if (!strcmp(verb, "delay")) return delay(line);
    if (!strcmp(verb, "fail")) return fail(line, *current);
    if (!strcmp(verb, "missing")) {
        line->word[2] = "FUNCTION_NOT_FOUND";
        line->count = 3;
        return fail(line, -1);
    }
    unsigned index;
    if (!whole(line->word[1], &index)) return false;
    *current = (int)index;
    return index < scenario.boards || wrong("there are %u boards, numbered from 0: say boards first", scenario.boards);
}

/* -- the file */

static void default_board(Board *board, unsigned index) {
    board->index = index;
    snprintf(board->name, TEXT, "NVIDIA H100 80GB HBM3");
    snprintf(board->uuid, TEXT, "GPU-00000000-0000-4000-8000-%012u", index);
    snprintf(board->vbios, TEXT, "96.00.74.00.01");
    board->total_mib = 81559;
    board->default_limit_w = 700;
    board->max_sm_mhz = 1980;
    board->pcie_generation = 5, board->pcie_width = 16;
    board->persistence = board->ecc = board->gpm = true;
    board->period_s = 0.1;
    board->gain = 1;
    board->tick_known = board->settled = -1;
}

static void fill(Series *series, double value) {
    if (!series->count) series_add(series, 0, value, false);
}

static void fill_board(Board *board) {
    bool told = board->load_path[0] || board->replay_s > 0;
    fill(&board->power_w, told ? 0 : 100);
    fill(&board->temperature_c, 55);
    fill(&board->sm_mhz, board->max_sm_mhz);
    fill(&board->memory_mhz, 2619);
    fill(&board->limit_w, board->default_limit_w);
    fill(&board->used_mib, 4);
    fill(&board->ecc_uncorrected, 0);
}

static const char *read_line(char *text, int *current) {
    Line line = {.count = 0};
    text[strcspn(text, "#\r\n")] = 0;
    char *trimmed = text + strspn(text, " \t");
    static char rest[512];
    snprintf(rest, sizeof rest, "%s", trimmed + strcspn(trimmed, " \t"));
    line.rest = rest + strspn(rest, " \t");
    for (size_t end = strlen(rest); end && strchr(" \t", rest[end - 1]); end--) rest[end - 1] = 0;
    char *place = NULL;
    for (char *word = strtok_r(trimmed, " \t", &place); word; word = strtok_r(NULL, " \t", &place)) {
        if (line.count == MAX_WORDS) return "too many words";
        line.word[line.count++] = word;
    }
    return !line.count || statement(&line, current) ? NULL : problem;
}

const char *scenario_say(const char *statement) {
    char text[1024];
    int every = -1;
    return copy(text, sizeof text, statement) ? read_line(text, &every) : problem;
}

const char *scenario_read(const char *path) {
    scenario_free();
    snprintf(scenario.driver, TEXT, "580.65.06");
    scenario.cuda = 13000;
    scenario.boards = 1;
    for (unsigned i = 0; i < MAX_BOARDS; i++) default_board(&scenario.board[i], i);
    FILE *file = fopen(path, "r");
    if (!file) {
        wrong("%s: can't be opened", path);
        return problem;
    }
    char text[1024], what[512];
    const char *error = NULL;
    int current = -1;
    for (int number = 1; !error && fgets(text, sizeof text, file); number++) {
        if (!strchr(text, '\n') && !feof(file)) error = "the line is too long";
        else error = read_line(text, &current);
        if (!error) continue;
        snprintf(what, sizeof what, "%s", error);
        wrong("%.200s, line %d: %.250s", path, number, what);
        error = problem;
    }
    fclose(file);
    for (unsigned i = 0; i < MAX_BOARDS; i++) fill_board(&scenario.board[i]);
    return error;
}

void scenario_free(void) {
    for (unsigned i = 0; i < MAX_BOARDS; i++) {
        Board *board = &scenario.board[i];
        Series *series[] = {
            &board->power_w, &board->temperature_c, &board->sm_mhz, &board->memory_mhz, &board->limit_w,
            &board->utilisation, &board->used_mib, &board->ecc_uncorrected, &board->load, &board->replay,
        };
        for (size_t s = 0; s < sizeof series / sizeof *series; s++) free(series[s]->points);
        for (int column = 0; column < REPLAYED; column++) free(board->told[column].points);
        free(board->waves.items), free(board->throttles.items), free(board->processes.items), free(board->xids.items);
        free(board->resets.items), free(board->stuck.items), free(board->lost.items);
        free(board->records.items), free(board->engines.items), free(board->ends.items), free(board->replay_ticks);
    }
    free(scenario.failures.items), free(scenario.delays.items);
    memset(&scenario, 0, sizeof scenario);
}
