/* The load tester `inferd bench serve`: an HTTP client of its own that measures a running server, with the
 * flags, printed block and JSON keys of vLLM's tool of that name. One thread; it opens no engine. */
#pragma once

/* argv[0] is "serve". Returns the exit code: 0 done, 1 failed (no request succeeded, no server, a file could
 * not be written), 2 wrong usage. */
int bench_serve_main(int argc, char **argv);
