/* Levelled log lines on stderr, text or JSON, one write per line, from any thread. No prompt text, answers or
 * keys are ever passed to it. */
#pragma once
enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };
void log_setup(enum log_level max, enum log_format format);
void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_write(LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_write(LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_write(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_DEBUG, __VA_ARGS__)

/* Progress of long work (loading, benchmarks): a bar on a terminal, a line each 10 % otherwise.
 * done <= total; the bar ends when done == total. One thread at a time. */
void log_progress(const char *what, long long done, long long total);
