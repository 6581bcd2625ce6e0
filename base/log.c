#include "log.h"
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "buf.h"
#include "clock.h"

static _Atomic enum log_level max_level = LOG_INFO;
static _Atomic enum log_format line_format = LOG_TEXT;

void log_setup(enum log_level max, enum log_format format)
{
    max_level = max;
    line_format = format;
}

void log_write(enum log_level level, const char *fmt, ...)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    if (level > max_level) return;
    char msg[1024], line[2304];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof msg, fmt, ap);
    va_end(ap);

    struct timespec now;
    struct tm tm;
    char stamp[32];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof stamp, "%Y-%m-%dT%H:%M:%S", &tm);
    int n;
    if (line_format == LOG_JSON) {
        struct buf quoted = {0};
        buf_json(&quoted, msg, strlen(msg));
        n = snprintf(line, sizeof line, "{\"time\":\"%s.%03ldZ\",\"level\":\"%s\",\"message\":%s}\n", stamp,
                     now.tv_nsec / 1000000, names[level], quoted.failed ? "\"\"" : quoted.data);
        buf_free(&quoted);
    } else if (level == LOG_ERROR) {
        n = snprintf(line, sizeof line, "error: %s\n", msg);
    } else {
        n = snprintf(line, sizeof line, "%s.%03ldZ %s: %s\n", stamp, now.tv_nsec / 1000000, names[level],
                     msg);
    }
    if (n < 0) return;
    if ((size_t)n >= sizeof line) {
        n = (int)sizeof line - 1;
        line[n - 1] = '\n';
    }
    /* A closed or full stderr must not stop the service: the line is dropped. */
    if (write(STDERR_FILENO, line, (size_t)n) < 0) return;
}

void log_progress(const char *what, long long done, long long total)
{
    static const char *last_what;
    static int last_shown = -1;
    static int64_t last_time;
    if (max_level < LOG_INFO || total <= 0) return;
    int percent = (int)(done * 100 / total);
    if (what != last_what || percent < last_shown) last_shown = -1, last_time = 0;
    last_what = what;
    if (isatty(STDERR_FILENO) && line_format == LOG_TEXT) {
        if (percent == last_shown || (done < total && clock_ns() - last_time < 50000000)) return;
        last_time = clock_ns();
        char bar[31];
        for (int i = 0; i < 30; i++) bar[i] = i * 100 < percent * 30 ? '#' : '.';
        bar[30] = 0;
        fprintf(stderr, "\r%-20s [%s] %3d%%%s", what, bar, percent, done >= total ? "\n" : "");
    } else {
        if (percent / 10 == last_shown / 10 && last_shown >= 0) return;
        if (last_shown >= 0 || done >= total) log_info("%s %d%%", what, percent);
    }
    last_shown = done >= total ? -1 : percent;
}
