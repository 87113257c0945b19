/* Power, energy and sensors of a board, as functions of time alone: every process that asks gets the same answer. */

#include "stub.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void grow(void **items, size_t *room, size_t count, size_t size) {
    if (count < *room) return;
    *room = *room ? 2 * *room : 8;
    void *larger = realloc(*items, *room * size);
    if (!larger) abort();
    *items = larger;
}

/* -- series */

static double between(const Point *a, const Point *b, double at) {
    return b->ramp ? a->value + (b->value - a->value) * (at - a->at) / (b->at - a->at) : a->value;
}

static double area_between(const Point *a, const Point *b, double at) {
    return (a->value + between(a, b, at)) / 2 * (at - a->at);
}

void series_add(Series *series, double at, double value, bool ramp) {
    grow((void **)&series->points, &series->room, series->count, sizeof *series->points);
    Point point = {at, value, ramp, 0};
    if (series->count) {
        const Point *last = &series->points[series->count - 1];
        point.area = last->area + (at > last->at ? area_between(last, &point, at) : 0);
    }
    series->points[series->count++] = point;
}

static size_t last_before(const Series *series, double at) {
    size_t low = 0, high = series->count; /* points[low].at <= at, where there is one */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (series->points[middle].at <= at) low = middle;
        else high = middle;
    }
    return low;
}

double series_value(const Series *series, double at) {
    if (!series->count) return 0;
    size_t i = last_before(series, at);
    const Point *point = &series->points[i];
    if (at <= point->at || i + 1 == series->count) return point->value;
    return between(point, point + 1, at);
}

static double area_to(const Series *series, double at) {
    if (!series->count) return 0;
    size_t i = last_before(series, at);
    const Point *point = &series->points[i];
    if (at <= point->at || i + 1 == series->count) return point->area + point->value * (at - point->at);
    return point->area + area_between(point, point + 1, at);
}

double series_area(const Series *series, double from, double to) { return area_to(series, to) - area_to(series, from); }

/* splitmix64 */
double unit_hash(uint64_t seed, uint64_t number) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + number * 0xbf58476d1ce4e5b9u + 0x94d049bb133111ebu;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (double)((x ^ (x >> 31)) >> 11) / 9007199254740992.0;
}

bool within(Span span, double at) { return span.from <= at && at < span.to; }

#define LATE_NS 100000000

/* -- the load of engines, from the log that they append to: lines "PID NS LOAD" */

static void apply(Board *board, LoadRecord record) {
    size_t i = 0;
    while (i < board->engines.count && board->engines.items[i].pid != record.pid) i++;
    if (i == board->engines.count) APPEND(board->engines, record);
    board->engines.items[i] = record;
    double total = 0;
    for (i = 0; i < board->engines.count; i++) total += board->engines.items[i].load;
    series_add(&board->load, (double)(record.ns - scenario.epoch_ns) / 1e9, total > 1 ? 1 : total, false);
}

static void add_record(Board *board, LoadRecord record) {
    APPEND(board->records, record);
    size_t i = board->records.count - 1;
    bool late = i && board->records.items[i - 1].ns > record.ns;
    for (; i && board->records.items[i - 1].ns > record.ns; i--) board->records.items[i] = board->records.items[i - 1];
    board->records.items[i] = record;
    if (!late) {
        apply(board, record);
        return;
    }
    board->engines.count = 0; /* two engines wrote in another order than they read the clock */
    board->load.count = 1;
    for (i = 0; i < board->records.count; i++) apply(board, board->records.items[i]);
}

static bool gone(unsigned pid) { return !scenario.clock_path[0] && kill((pid_t)pid, 0) && errno == ESRCH; }

static bool loaded(const Board *board, unsigned pid) {
    for (size_t i = 0; i < board->engines.count; i++) {
        if (board->engines.items[i].pid == pid) return board->engines.items[i].load > 0;
    }
    return false;
}

/* In real time an engine may be held up between the word that a batch has ended and that the next one began at that
   instant: the end counts when its next word is there, or after a while. */
static void hear(Board *board, LoadRecord record) {
    for (size_t i = board->ends.count; i-- > 0;) {
        if (board->ends.items[i].pid != record.pid) continue;
        add_record(board, board->ends.items[i]);
        board->ends.items[i] = board->ends.items[--board->ends.count];
    }
    if (record.load > 0 || scenario.clock_path[0] || !loaded(board, record.pid)) add_record(board, record);
    else APPEND(board->ends, record);
}

static void settle_ends(Board *board) {
    for (size_t i = board->ends.count; i-- > 0;) {
        LoadRecord end = board->ends.items[i];
        if (stub_now_ns() - end.ns < LATE_NS && !gone(end.pid)) continue;
        add_record(board, end);
        board->ends.items[i] = board->ends.items[--board->ends.count];
    }
}

static void follow(Board *board) {
    if (!board->load_path[0]) return;
    if (!board->load.count) series_add(&board->load, -1e12, 0, false);
    FILE *log = fopen(board->load_path, "r");
    if (!log) return;
    char line[128];
    bool at_place = !fseek(log, board->load_read, SEEK_SET);
    while (at_place && fgets(line, sizeof line, log) && strchr(line, '\n')) { /* else it is still being written */
        LoadRecord record;
        long long ns;
        board->load_read += (long)strlen(line);
        if (sscanf(line, "%u %lld %lf", &record.pid, &ns, &record.load) != 3) continue;
        record.ns = ns;
        hear(board, record);
    }
    fclose(log);
    settle_ends(board);
    for (size_t i = 0; i < board->engines.count; i++) {
        LoadRecord last = board->engines.items[i];
        if (last.load > 0 && gone(last.pid)) add_record(board, (LoadRecord){stub_now_ns(), last.pid, 0});
    }
}

double board_load_s(Board *board, double from, double to) {
    follow(board);
    return board->load_path[0] ? series_area(&board->load, from, to) : 0;
}

size_t board_engines(Board *board, unsigned *pids, size_t room) {
    size_t found = 0;
    follow(board);
    for (size_t i = 0; i < board->engines.count && found < room; i++) {
        if (!gone(board->engines.items[i].pid)) pids[found++] = board->engines.items[i].pid;
    }
    return found;
}

/* -- energy */

static double wave_on_s(const Wave *wave, double at) {
    double turns = (at - wave->phase_s) / wave->period_s, whole = floor(turns);
    double on = wave->duty * wave->period_s, into = (turns - whole) * wave->period_s;
    return whole * on + (into < on ? into : on);
}

static double replay_joules(const Board *board, double at) {
    double passes = floor(at / board->replay_s);
    double pass = series_area(&board->replay, 0, board->replay_s);
    return passes * pass + series_area(&board->replay, 0, at - passes * board->replay_s);
}

double board_told(const Board *board, Replayed column, double at, double otherwise) {
    const Series *series = &board->told[column];
    return series->count ? series_value(series, at - floor(at / board->replay_s) * board->replay_s) : otherwise;
}

static double joules_between(Board *board, double from, double to) {
    double joules = series_area(&board->power_w, from, to);
    for (size_t i = 0; i < board->waves.count; i++) {
        const Wave *wave = &board->waves.items[i];
        joules += wave->watts * (wave_on_s(wave, to) - wave_on_s(wave, from));
    }
    if (board->load_path[0]) {
        joules += board->idle_w * (to - from) + (board->busy_w - board->idle_w) * series_area(&board->load, from, to);
    }
    if (board->replay_s > 0) joules += replay_joules(board, to) - replay_joules(board, from);
    return joules;
}

double board_joules(Board *board, double at) {
    follow(board);
    return at > 0 ? joules_between(board, 0, at) : 0;
}

/* -- the sensor: it is updated now and then, and sees all or the last part of each period */

double board_update_at(const Board *board, long long number) {
    if (board->replay_ticks) {
        long long rows = (long long)board->replay.count;
        return (double)(number / rows) * board->replay_s + board->replay_ticks[number % rows];
    }
    double wobble = board->jitter * (unit_hash(scenario.seed + board->index, (uint64_t)number) - 0.5);
    return board->phase_s + board->period_s * ((double)number + wobble);
}

long long board_update(const Board *board, double at) {
    long long number;
    if (board->replay_ticks) {
        long long rows = (long long)board->replay.count;
        number = (long long)floor(at / board->replay_s) * rows + rows;
    } else number = (long long)floor((at - board->phase_s) / board->period_s) + 1;
    while (number >= 0 && board_update_at(board, number) > at) number--;
    return number;
}

static double raw_joules(Board *board, double at) {
    long long number = board_update(board, at);
    if (number < 0) return 0;
    if (board->sensor_s <= 0) {
        double updated = board_update_at(board, number);
        return updated > 0 ? joules_between(board, 0, updated) : 0;
    }
    if (number < board->tick_known) board->tick_known = -1, board->tick_joules = 0;
    for (; board->tick_known < number; board->tick_known++) {
        double to = board_update_at(board, board->tick_known + 1);
        double from = board->tick_known < 0 ? 0 : board_update_at(board, board->tick_known);
        if (to <= from) continue;
        double seen = board->sensor_s < to - from ? board->sensor_s : to - from;
        board->tick_joules += joules_between(board, to - seen, to) / seen * (to - from);
    }
    return board->tick_joules;
}

/* An engine's word of its load may come a little late. What was read once of an update stays, and nothing goes back: the
   next update makes up for it. */
static double settled(Board *board, long long number, double joules) {
    if (!board->load_path[0] || number < board->settled) return joules;
    if (number > board->settled && joules > board->settled_joules) board->settled_joules = joules;
    board->settled = number;
    return board->settled_joules;
}

uint64_t board_counter_mj(Board *board, double at) {
    follow(board);
    for (size_t i = 0; i < board->stuck.count; i++) {
        if (within(board->stuck.items[i], at)) at = board->stuck.items[i].from;
    }
    double zero = -1;
    for (size_t i = 0; i < board->resets.count; i++) {
        if (board->resets.items[i] <= at && board->resets.items[i] > zero) zero = board->resets.items[i];
    }
    double before = zero < 0 ? 0 : raw_joules(board, zero);
    double joules = board->gain * (settled(board, board_update(board, at), raw_joules(board, at)) - before);
    return joules > 0 ? (uint64_t)(joules * 1000 + 1e-3) : 0;
}

double board_power_w(Board *board, double at, double window_s) {
    follow(board);
    long long number = board_update(board, at);
    double to = number < 0 ? at : board_update_at(board, number);
    double from = to - window_s > 0 ? to - window_s : 0;
    return to > from ? board->gain * joules_between(board, from, to) / (to - from) : 0;
}

/* -- throttling */

bool board_throttles(const Board *board, Throttle kind, double at) {
    for (size_t i = 0; i < board->throttles.count; i++) {
        if (board->throttles.items[i].kind == kind && within(board->throttles.items[i].span, at)) return true;
    }
    return false;
}

double board_throttled_s(const Board *board, Throttle kind, double at) {
    double seconds = 0;
    for (size_t i = 0; i < board->throttles.count; i++) {
        const ThrottleEvent *event = &board->throttles.items[i];
        if (event->kind != kind || at <= event->span.from) continue;
        seconds += event->share * ((at < event->span.to ? at : event->span.to) - event->span.from);
    }
    return seconds;
}
